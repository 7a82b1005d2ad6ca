"""What data modules keep of files that take long to read."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BufferedIOBase
from pathlib import Path

from ddm.files import replacing


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that change with the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(files: Sequence[Path], folder: Path, *settings: object) -> str:
    """Return a digest that changes with the names, sizes and times of files, and with settings.

    The time of the last change of a file's entry counts, too: a file that was replaced by another
    of equal size and equal time of writing (`cp -p`, `rsync`, `tar`) is a new one.
    """
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    times = [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for name, s in stats]
    return digest(json.dumps([*settings, times]))


def visible(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder with these suffixes, in any case, at any depth and sorted.

    What is hidden is left out, for instance copies in `.ipynb_checkpoints`, and so are broken
    links, pipes and devices.
    """
    return sorted(
        file
        for file in folder.rglob("*")
        if file.name.lower().endswith(suffixes)
        and not any(part.startswith(".") for part in file.relative_to(folder).parts)
        and file.is_file()
    )


@contextmanager
def reading_cache(file: Path, source: Path) -> Iterator[BufferedIOBase]:
    """Open a file of a cache that nobody can have put there who could not change the data.

    It must be no link, belong to the user, the owner of the data or root, and not be writable for
    everybody.

    Args:
        file: The file of the cache.
        source: The file or folder of the data.

    Raises:
        OSError: It is not there, or not to be trusted.
    """
    # Not blocking: a pipe would wait for somebody to write.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
    with open(os.open(file, flags), "rb") as stream:
        found = os.fstat(stream.fileno())
        owners = {0, os.geteuid(), source.stat().st_uid}
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"'{file}' is no file")
        if found.st_uid not in owners or found.st_mode & stat.S_IWOTH:
            raise PermissionError(f"'{file}' belongs to somebody else, or all may write it")
        yield stream


def write_cache(file: Path, write: Callable[[BufferedIOBase], object]) -> None:
    """Write a file of a cache, whole or not at all.

    Raises:
        ValueError: The folder cannot be written.
    """
    try:
        with replacing(file) as unfinished, unfinished.open("wb") as stream:
            write(stream)
            os.fchmod(stream.fileno(), os.fstat(stream.fileno()).st_mode & ~stat.S_IWOTH)
    except OSError as error:
        raise ValueError(
            f"`cache` must be a folder that can be written, got '{file.parent}' ({error}); name "
            "another one."
        ) from error
