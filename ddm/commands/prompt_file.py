"""Files of prompts: a line for each, as text or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

FORMS = (
    '{"prompt": "..."}, {"text": "..."}, both of them, or {"infill": ["before", "after"]}, where a '
    "list of token ids may stand for a text"
)


class Piece(NamedTuple):
    """A part of a sequence.

    Attributes:
        content: Text or token ids; None for a gap of unknown tokens.
        free: Whether it is generated.
    """

    content: str | list[int] | None
    free: bool


Line = tuple[Piece, ...]
"""What a line of a file says: the parts of one sequence."""


def prompt(text: Any) -> Line:  # noqa: ANN401 (of a file; `_is_piece` looks at it)
    """Return a text to continue."""
    return Piece(text, False), Piece(None, True)


def infill(pieces: list[Any]) -> Line:
    """Return texts with a gap after each but the last."""
    line = [part for piece in pieces for part in (Piece(piece, False), Piece(None, True))]
    return tuple(line[:-1])


def read_prompts(path: Path) -> list[Line]:
    r"""Read a file: a prompt a line, or a JSON object a line if it ends in `.jsonl`.

    An object holds `"prompt"` (a text to continue), `"text"` (a whole text, which is data: with a
    prompt, its continuation), or `"infill"` (texts with gaps between them).

    Raises:
        ValueError: There is no such file, no line, or one that says something else.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"`prompts` must be a text file in UTF-8, got '{path}' ({error}); write a prompt a "
            "line."
        ) from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"`prompts` must hold at least one line, got none in '{path}'.")
    if path.suffix != ".jsonl":
        return [prompt(line) for _, line in numbered]
    return [_parse(line, f"line {number} of '{path}'") for number, line in numbered]


def _parse(line: str, where: str) -> Line:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`prompts` must hold JSON, got {where} ({error}); use {FORMS}."
        ) from error
    parsed = _line(content) if isinstance(content, Mapping) else None
    if parsed is None or not all(_is_piece(piece.content) for piece in parsed):
        raise ValueError(f"`prompts` must hold {FORMS}, got {line[:80]!r} in {where}.")
    return parsed


def _line(content: Mapping[str, Any]) -> Line | None:
    """Return the parts that an object names, None if it names others."""
    if None in content.values():  # a null would be read as a gap
        return None
    if content.keys() == {"prompt"}:
        return prompt(content["prompt"])
    if content.keys() == {"text"}:
        return (Piece(content["text"], True),)
    if content.keys() == {"prompt", "text"}:
        return Piece(content["prompt"], False), Piece(content["text"], True)
    pieces = content.get("infill")
    if len(content) > 1 or not isinstance(pieces, list) or len(pieces) < 2 or None in pieces:
        return None
    return infill(pieces)


def _is_piece(content: Any) -> bool:  # noqa: ANN401 (of a file)
    ids = isinstance(content, list) and all(type(i) is int and i >= 0 for i in content)
    return content is None or isinstance(content, str) or ids
