"""The documents of a text: read piece by piece, turned into tokens once, kept in mapped files."""

import codecs
import gzip
import io
import json
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer
from torch import Tensor
from tqdm.auto import tqdm

from ddm.datamodules.cache import digest, fingerprint, write_cache

_FORMAT = 1  # of the cache; raise it when the same files give other tokens
_EMPTY = "empty"  # the fault of a file that is left out without a word
_PIECE = 2**20  # characters; a piece has at most twice as many
_progress = partial(tqdm, unit="characters", unit_scale=True, leave=False, delay=2)
# Before a blank between two letters of text8: no token of a byte-level encoding spans such a place,
# and no run of characters that text8 makes one blank.
_CUT = re.compile(r"(?<=[a-zA-Z])(?=[ \n][a-zA-Z])")


class Tokens(NamedTuple):
    """The tokens of all documents in a row, and where each document ends."""

    tokens: Integer[np.ndarray, " T"]
    ends: Int[np.ndarray, " D"]


class Corpus:
    """Documents of a text, held in memory; iterating gives their text in pieces.

    Args:
        documents: The documents, none of which is empty.
    """

    def __init__(self, documents: Sequence[str]) -> None:
        self._texts = documents

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        """Yield the text, piece by piece."""
        return chain.from_iterable(self.documents())

    def documents(self) -> Iterator[Iterator[str]]:
        """Yield the pieces of each document, whose tokens are those of the document."""
        return (pieces([text]) for text in self._texts)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return what `make` makes of the text, a JSON value; files keep it under `name`."""
        return make()

    def tokens(
        self, encode: Callable[[str], Int[Tensor, " L"]], dtype: type[np.integer], key: str
    ) -> Tokens:
        """Return the tokens of all documents.

        Args:
            encode: Gives the tokens of a piece of a document.
            dtype: The type of the array.
            key: Whatever the tokens depend on besides the text; a text in files keeps them.
        """
        stream = io.BytesIO()
        ends = self._write_tokens(stream, encode, dtype)
        stream.seek(0)
        return Tokens(np.load(stream), ends)

    def _write_tokens(
        self,
        stream: BufferedIOBase,
        encode: Callable[[str], Int[Tensor, " L"]],
        dtype: type[np.integer],
    ) -> Int[np.ndarray, " D"]:
        # The header, whose length is that of any other, is written again when the number is known.
        _write_header(stream, dtype, 0)
        ends, total = [], 0
        for document in self.documents():
            for piece in document:
                tokens = encode(piece).numpy().astype(dtype)
                stream.write(tokens.tobytes())
                total += len(tokens)
            ends.append(total)
        stream.seek(0)
        _write_header(stream, dtype, total)
        return np.array(ends)


class Files(Corpus):
    """Documents in text files, of which no more than a few pieces are in memory at a time.

    What is made of the text stays in `cache`, in a folder named after the names, sizes and times
    of the files. It is written under another name first: a run that is stopped leaves no half of
    a cache. Old caches are not deleted.

    Args:
        path: A UTF-8 text file, or a folder of `*.txt` and `*.txt.gz` files; see `Text`.
        cache: The folder of the caches; `.cache` inside of the folder of the files by default.

    Attributes:
        left_out: What is wrong with the files that cannot be read, by name.

    Raises:
        ValueError: If there is no text, a file that stands alone cannot be read, or `cache` cannot
            be written.
    """

    def __init__(self, path: Path, cache: Path | None = None) -> None:
        if not path.exists():
            raise ValueError(
                f"`path` must name an existing file or folder, got '{path}'; check the spelling "
                f"and the working folder ('{Path.cwd()}')."
            )
        files, folder = [path], path.parent
        if path.is_dir():
            found = sorted([*path.rglob("*.txt"), *path.rglob("*.txt.gz")])
            files, folder = [file for file in found if file.is_file()], path
        if not files:
            raise ValueError(
                f"`path` must name a folder with `*.txt` or `*.txt.gz` files, got '{path}' with "
                "none; rename the files, or name one file."
            )
        names = [file.relative_to(folder).as_posix() for file in files]
        key = fingerprint(files, folder, _FORMAT, path.is_dir())
        self.path = path
        self._cache = (folder / ".cache" if cache is None else cache) / f"text-{key}"
        # Lines of different documents may not run together.
        self._end = "\n" if len(files) > 1 else ""
        self._files = files
        checked = self.remember("files", self._check)
        self._files = [file for file, name in zip(files, names, strict=True) if not checked[name]]
        self.left_out = {
            name: fault for name, fault in checked.items() if fault and fault != _EMPTY
        }
        if self.left_out:
            few = [f"{name} ({fault})" for name, fault in list(self.left_out.items())[:3]]
            warnings.warn(
                f"{len(self.left_out)} file(s) of '{path}' cannot be read as UTF-8 text and are "
                f"left out: {'; '.join(few)}.",
                stacklevel=3,
            )
        if not self._files:
            raise ValueError(
                f"`path` must hold text, got '{path}', which is empty or cannot be read; give "
                "other files."
            )

    def __len__(self) -> int:
        return len(self._files)

    def documents(self) -> Iterator[Iterator[str]]:
        """Yield the pieces of each document, whose tokens are those of the document."""
        with _progress(desc=f"reading {self.path.name}") as bar:
            for file in self._files:
                yield self._pieces(file, bar.update)

    def remember(self, name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return what `make` makes of the text, a JSON value; from the cache if it is there."""
        file = self._cache / f"{name}.json"
        with suppress(OSError, ValueError):  # not there, or damaged: made again
            return json.loads(file.read_bytes())
        made = make()
        write_cache(file, lambda stream: stream.write(json.dumps(made).encode()))
        return made

    def tokens(
        self, encode: Callable[[str], Int[Tensor, " L"]], dtype: type[np.integer], key: str
    ) -> Tokens:
        """Return the tokens of all documents, mapped from the cache: read where looked at."""
        file, ends = (self._cache / f"{name}-{digest(key)}.npy" for name in ("tokens", "ends"))
        with suppress(OSError, ValueError, EOFError):  # not there, or damaged: made again
            return Tokens(_map(file), np.load(ends))

        def write(stream: BufferedIOBase) -> None:
            made = self._write_tokens(stream, encode, dtype)
            write_cache(ends, lambda stream: np.save(stream, made))

        write_cache(file, write)
        return Tokens(_map(file), np.load(ends))

    def _pieces(self, file: Path, report: Callable[[int], object]) -> Iterator[str]:
        for piece in pieces(chain(_read(file), [self._end])):
            yield piece.replace("\r\n", "\n")
            report(len(piece))

    def _check(self) -> dict[str, str]:
        # Before anything is made of the text, so that no half of a damaged file gets into it.
        faults = {}
        folder = self.path if self.path.is_dir() else self.path.parent
        with _progress(desc=f"checking {self.path.name}") as bar:
            for file in self._files:
                fault, size = "", 0
                try:
                    for block in _read(file):
                        size += len(block)
                        bar.update(len(block))
                except _UnreadableError as error:
                    if not self.path.is_dir():
                        raise ValueError(
                            f"`path` must hold UTF-8 text, but '{file}' has {error}; convert it, "
                            "for instance with `iconv -t UTF-8`, or fetch it again."
                        ) from error
                    fault = str(error)
                name = file.relative_to(folder).as_posix()
                faults[name] = fault if fault or size else _EMPTY
        return faults


class _UnreadableError(Exception):
    """What is wrong with a file."""


def pieces(blocks: Iterable[str], size: int = _PIECE) -> Iterator[str]:
    """Yield a text in pieces of at least `size` and at most twice as many characters.

    They are cut where no vocabulary sees it: the tokens of the pieces are those of the text. Only
    where so many characters have no blank between two letters a-z is the cut just anywhere.

    Args:
        blocks: The text, cut anywhere.
        size: The least number of characters of a piece but the last.
    """
    rest = ""
    for block in blocks:
        rest, start = rest + block, 0
        while len(rest) - start >= 2 * size:
            cut = _CUT.search(rest, start + size, start + 2 * size)
            end = start + 2 * size if cut is None else cut.end()
            yield rest[start:end]
            start = end
        rest = rest[start:]
    if rest:
        yield rest


def _read(file: Path, size: int = 2**20) -> Iterator[str]:
    """Yield the text of a file in blocks that are cut anywhere."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        try:
            while block := stream.read(size):
                yield decoder.decode(block)
            yield decoder.decode(b"", final=True)
        except UnicodeDecodeError as error:
            # What was decoded last, including bytes that the decoder had kept, ends here.
            position = stream.tell() - len(error.object) + error.start
            byte = error.object[error.start]
            raise _UnreadableError(f"byte 0x{byte:02x} at position {position}") from error
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise _UnreadableError(f"damaged gzip data: {error}") from error


def _map(file: Path) -> np.ndarray:
    # Copy on write: torch warns of arrays that cannot be written, and the file stays as it is.
    return np.load(file, mmap_mode="c")


def _write_header(stream: BufferedIOBase, dtype: type[np.integer], num: int) -> None:
    header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": (num,)}
    np.lib.format.write_array_header_1_0(stream, header)
