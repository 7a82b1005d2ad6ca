"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield another name to write under; it becomes `path` if nothing went wrong.

    So a reader sees the old file or the new one, never a part, and a run that is stopped leaves no
    half of a file under the name. The folder is made.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not `tempfile`, whose files nobody else may read.
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink()


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a JSON file so that a reader sees the old file or the new one, never a part."""
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(content, separators=(",", ":")))


def read_json(path: str | Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ValueError: The file is damaged.
    """
    try:
        content = json.loads(Path(path).read_text())
    except json.JSONDecodeError as error:
        raise ValueError(
            f"`{path}` must be a JSON file, but it is damaged or cut off ({error}); write it again."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"`{path}` must hold a JSON object, got {type(content).__name__}.")
    return content
