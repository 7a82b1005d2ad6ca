"""What data modules keep of files that take long to read."""

import hashlib
import json
from collections.abc import Callable, Sequence
from io import BufferedIOBase
from pathlib import Path

from ddm.files import replacing


def digest(text: str) -> str:
    """Return 16 hexadecimal digits that change with the text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fingerprint(files: Sequence[Path], folder: Path, *settings: object) -> str:
    """Return a digest that changes with the names, sizes and times of files, and with settings."""
    stats = [(file.relative_to(folder).as_posix(), file.stat()) for file in files]
    return digest(json.dumps([*settings, [(n, s.st_size, s.st_mtime_ns) for n, s in stats]]))


def write_cache(file: Path, write: Callable[[BufferedIOBase], object]) -> None:
    """Write a file of a cache, whole or not at all.

    Raises:
        ValueError: The folder cannot be written.
    """
    try:
        with replacing(file) as unfinished, unfinished.open("wb") as stream:
            write(stream)
    except OSError as error:
        raise ValueError(
            f"`cache` must be a folder that can be written, got '{file.parent}' ({error}); name "
            "another one."
        ) from error
