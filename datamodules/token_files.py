"""Tokens in files that are mapped into memory, and checked before that."""

import zlib
from collections.abc import Callable, Iterable
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Integer
from torch import Tensor

_BLOCK = 2**22  # tokens that are checked at a time


class Written(NamedTuple):
    """What was written: where each document ends, and the checksum of the tokens."""

    ends: Int[np.ndarray, " D"]
    checksum: int


def write_tokens(
    stream: BufferedIOBase,
    documents: Iterable[Iterable[str]],
    encode: Callable[[str], Int[Tensor, " L"]],
    vocab_size: int,
) -> Written:
    """Write the tokens of documents in a row, of two bytes if these suffice, else of four.

    Args:
        stream: Where the file begins; its beginning is written twice.
        documents: The pieces of each document.
        encode: Gives the tokens of a piece.
        vocab_size: The number V of tokens.

    Raises:
        ValueError: If a token is not in 0..V-1.
    """
    # The header, whose length is that of any other, is written again when the number is known.
    _write_header(stream, vocab_size, 0)
    ends, total, checksum = [], 0, 0
    for document in documents:
        for piece in document:
            tokens = encode(piece)
            if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
                raise ValueError(
                    f"`vocabulary` must give tokens in 0..{vocab_size - 1}, got "
                    f"{int(tokens.min())} to {int(tokens.max())}; mend its `encode`."
                )
            content = tokens.numpy().astype(_dtype(vocab_size)).tobytes()
            stream.write(content)
            total += len(tokens)
            checksum = zlib.crc32(content, checksum)
        ends.append(total)
    stream.seek(0)
    _write_header(stream, vocab_size, total)
    return Written(np.array(ends), checksum)


def map_tokens(file: Path, num: int, vocab_size: int, checksum: int) -> Integer[np.ndarray, " T"]:
    """Return the tokens of a file, mapped: read where looked at, after one look at all of them.

    Args:
        file: What `write_tokens` wrote.
        num: The number T of tokens.
        vocab_size: The number V of tokens that there may be.
        checksum: The checksum of the tokens.

    Raises:
        ValueError: The tokens are not those that were written.
    """
    # Copy on write: torch warns of arrays that cannot be written, and the file stays as it is.
    tokens = np.load(file, mmap_mode="c")
    if tokens.shape != (num,) or tokens.dtype != _dtype(vocab_size):
        raise ValueError(f"'{file}' holds other tokens")
    found = 0
    for start in range(0, num, _BLOCK):
        block = tokens[start : start + _BLOCK]
        if block.min() < 0 or block.max() >= vocab_size:
            raise ValueError(f"'{file}' holds tokens outside of 0..{vocab_size - 1}")
        found = zlib.crc32(block, found)
    if found != checksum:
        raise ValueError(f"'{file}' is damaged")
    return tokens


def _dtype(vocab_size: int) -> type[np.integer]:
    return np.uint16 if vocab_size <= 2**16 else np.int32


def _write_header(stream: BufferedIOBase, vocab_size: int, num: int) -> None:
    descr = np.dtype(_dtype(vocab_size)).str
    header = {"descr": descr, "fortran_order": False, "shape": (num,)}
    np.lib.format.write_array_header_1_0(stream, header)
