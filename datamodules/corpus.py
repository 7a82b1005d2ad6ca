"""The documents of a text: read piece by piece, turned into tokens once, kept in mapped files."""

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from io import BufferedIOBase
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Integer
from torch import Tensor

from ddm.datamodules.cache import digest, fingerprint, reading_cache, visible, write_cache
from ddm.datamodules.reading import UnreadableError, pieces, read_text
from ddm.datamodules.token_files import map_tokens, write_tokens
from ddm.progress import progress_bar

_FORMAT = 2  # of the cache; raise it when the same files give other tokens
_EMPTY = "empty"  # the fault of a file that is left out without a word
_progress = partial(progress_bar, unit="characters", unit_scale=True, leave=False, delay=2)


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
        self, encode: Callable[[str], Int[Tensor, " L"]], vocab_size: int, key: str
    ) -> Tokens:
        """Return the tokens of all documents, of two bytes if these suffice, else of four.

        Args:
            encode: Gives the tokens of a piece of a document.
            vocab_size: The number V of tokens.
            key: Whatever the tokens depend on besides the text; a text in files keeps them.
        """
        stream = io.BytesIO()
        made = write_tokens(stream, self.documents(), encode, vocab_size)
        stream.seek(0)
        return Tokens(np.load(stream), made.ends)


class Files(Corpus):
    """Documents in text files, of which no more than a few pieces are in memory at a time.

    What is made of the text stays in `cache`, in a folder named after the names, sizes and times
    of the files. It is written under another name first: a run that is stopped leaves no half of
    a cache. What is read from it has to have its checksum, tokens also their range, or it is made
    again. Old caches are not deleted.

    Args:
        path: A UTF-8 text file, or a folder of `*.txt` and `*.txt.gz` files; see `Text`.
        cache: The folder of the caches; `.cache` inside of the folder of the files by default.

    Attributes:
        left_out: What is wrong with the files that are left out, by name.

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
            files, folder = visible(path, ".txt", ".txt.gz"), path
        elif not path.is_file():
            raise ValueError(
                f"`path` must name a file or a folder, got '{path}', a pipe or a device, which "
                "cannot be read twice; write its content to a file."
            )
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
                f"{len(self.left_out)} file(s) of '{path}' are no UTF-8 text, or copies of others, "
                f"and are left out: {'; '.join(few)}.",
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
        with suppress(OSError, ValueError, RecursionError):  # not there, or damaged: made again
            return json.loads(self._content(file))
        made = make()
        write_cache(file, partial(_seal, json.dumps(made).encode()))
        return made

    def tokens(
        self, encode: Callable[[str], Int[Tensor, " L"]], vocab_size: int, key: str
    ) -> Tokens:
        """Return the tokens of all documents, mapped from the cache: read where looked at."""
        file, ends = (self._cache / f"{name}-{digest(key)}.npy" for name in ("tokens", "ends"))
        with suppress(OSError, ValueError, EOFError):  # not there, or damaged: made again
            return self._mapped(file, ends, vocab_size)

        def write(stream: BufferedIOBase) -> None:
            made = write_tokens(stream, self.documents(), encode, vocab_size)
            content = io.BytesIO()
            np.save(content, np.append(made.ends, made.checksum))
            write_cache(ends, partial(_seal, content.getvalue()))

        write_cache(file, write)
        return self._mapped(file, ends, vocab_size)

    def _mapped(self, file: Path, ends: Path, vocab_size: int) -> Tokens:
        """Return the tokens of the cache, or raise what an absent or damaged file raises."""
        *made, checksum = np.load(io.BytesIO(self._content(ends))).tolist()
        with reading_cache(file, self.path):
            tokens = map_tokens(file, made[-1], vocab_size, checksum)
        return Tokens(tokens, np.array(made))

    def _content(self, file: Path) -> bytes:
        with reading_cache(file, self.path) as stream:
            checksum, content = stream.read(64), stream.read()
        if checksum.decode() != hashlib.sha256(content).hexdigest():
            raise ValueError(f"'{file}' is damaged")
        return content

    def _pieces(self, file: Path, report: Callable[[int], object]) -> Iterator[str]:
        for piece in pieces(chain(read_text(file), [self._end])):
            yield piece
            report(len(piece))

    def _check(self) -> dict[str, str]:
        # Before anything is made of the text, so that no half of a damaged file gets into it.
        faults, seen = {}, dict[bytes, str]()
        folder = self.path if self.path.is_dir() else self.path.parent
        with _progress(desc=f"checking {self.path.name}") as bar:
            for file in self._files:
                fault, size, content = "", 0, hashlib.sha256()
                name = file.relative_to(folder).as_posix()
                try:
                    for block in read_text(file):
                        size += len(block)
                        content.update(block.encode())
                        bar.update(len(block))
                except UnreadableError as error:
                    if not self.path.is_dir():
                        raise ValueError(
                            f"`path` must hold UTF-8 text, but '{file}' has {error}; {error.remedy}"
                        ) from error
                    fault = str(error)
                # A copy would stand in the training text and in the held-out one.
                first = name if fault else seen.setdefault(content.digest(), name)
                fault = fault if first == name else f"a copy of {first}"
                faults[name] = fault if size else fault or _EMPTY
        return faults


def _seal(content: bytes, stream: BufferedIOBase) -> None:
    """Write a content behind its checksum."""
    stream.write(hashlib.sha256(content).hexdigest().encode() + content)
