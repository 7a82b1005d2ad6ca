"""Files that are written whole or not at all, and JSON that says when it is damaged."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

JSON_FORMAT = 1
"""The format of the JSON files that `write_json` writes."""

_STALE = 24 * 60 * 60  # seconds since the last write, after which a run is taken for dead
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield another name to write under; it becomes `path` if nothing went wrong.

    So a reader sees the old file or the new one, never a part, and a run that is stopped leaves no
    half of a file under the name. The folder is made. The other name is hidden, ends like `path`,
    and is new: two runs share none, and no link is followed. The file is on the disk before it gets
    its name. What killed runs left behind is deleted a day later.

    Raises:
        OSError: The folder cannot be written, or has no room for the file.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _delete_leftovers(path.parent)
    unfinished = path.with_name(f".{secrets.token_hex(8)}.tmp.{path.name}")
    # Not `tempfile`, whose files nobody else may read.
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield unfinished
        _flush(unfinished)
        unfinished.replace(path)
        with suppress(OSError):  # not every file system lets a folder be flushed
            _flush(path.parent)
    except (OSError, RuntimeError) as error:
        # torch says no more than that it could not write.
        full = isinstance(error, RuntimeError) and shutil.disk_usage(path.parent).free < 2**20
        if full or getattr(error, "errno", None) in _NO_ROOM:
            free = shutil.disk_usage(path.parent).free / 1e6
            raise OSError(
                getattr(error, "errno", errno.ENOSPC),
                f"the disk of '{path.parent.resolve()}' has no room for '{path.name}' ({free:.1f} "
                "MB are free); free some space, raise the quota, or write to another disk",
            ) from error
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink()


@contextmanager
def alone(path: str | Path) -> Iterator[None]:
    """Hold the lock of a file that several runs read and write again, `.NAME.lock` beside it.

    The lock ends with its process, however that ends. Where the file system or the platform knows
    none, nothing is locked.
    """
    path = Path(path)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        if fcntl is not None:
            with suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a JSON file with its format and its checksum, whole or not at all.

    Raises:
        ValueError: A number is NaN or infinite, which JSON has no word for.
    """
    text = json.dumps(content, allow_nan=False)
    marked = {"format": JSON_FORMAT, "checksum": _checksum(json.loads(text)), **content}
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(marked, separators=(",", ":")), encoding="utf-8")


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object, without the marks of `write_json`; files without any are read, too.

    Raises:
        ValueError: There is no such file, or it is damaged, edited, or of a later format.
    """
    path = Path(path)
    if not path.is_file():  # a pipe or a device would never end
        raise ValueError(f"`{path}` must be an existing JSON file; check the spelling.")
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_whole,
        )
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`{path}` must be a JSON file, but it is damaged or cut off ({error}); write it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    if not {"format", "checksum"} & content.keys():
        return content
    version, checksum = content.pop("format", None), content.pop("checksum", None)
    if version != JSON_FORMAT:
        raise ValueError(
            f"`{path}` must have the format {JSON_FORMAT}, got {version!r}; read it with the "
            "version of ddm that wrote it."
        )
    if checksum != _checksum(content):
        raise ValueError(
            f"`{path}` must hold what its checksum says, but it is damaged or was edited; write it "
            "again, or delete its `format` and `checksum` if the content is as you want it."
        )
    return content


@contextmanager
def reading(path: str, kind: str, writer: str) -> Iterator[None]:
    """Name the file, and the place in it, in the error about anything that is wrong there.

    Args:
        path: Path of the file, or place in it.
        kind: What it has to hold, in the words of the message.
        writer: The method that writes such files.

    Raises:
        ValueError: An entry is missing or refused.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = f"the key {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(
            f"`{path}` must hold {kind}, but {reason.rstrip('.')}; write it with `{writer}`."
        ) from error


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def _whole(text: str) -> int:
    _finite(text)  # whatever reads it may need it as a float
    return int(text)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@lru_cache(maxsize=256)  # once per run: a folder of many samples is not listed for each of them
def _delete_leftovers(folder: Path) -> None:
    for file in folder.glob(f".{16 * '[0-9a-f]'}.tmp.*"):
        with suppress(OSError):  # somebody else's, or deleted meanwhile
            if time.time() - file.lstat().st_mtime > _STALE:
                file.unlink()
