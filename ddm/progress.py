"""Progress bars: drawn in a terminal, in a log a line now and then."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm

SECONDS = 30.0
"""Between the lines of a log, and before the first one: shorter work has no line."""


def progress_bar(
    iterable: Iterable[Any] | None = None,
    desc: str | None = None,
    **settings: Any,  # noqa: ANN401
) -> tqdm[Any]:
    """Return a bar of tqdm; what it would redraw is a line of its own where nothing is redrawn.

    Args:
        iterable: What is gone through, if anything.
        desc: What the bar says first.
        settings: Further arguments of tqdm.
    """
    # A notebook draws, too, and is no terminal.
    if not sys.stderr.isatty() and not hasattr(builtins, "__IPYTHON__"):
        seconds = dict.fromkeys(("delay", "mininterval", "maxinterval"), SECONDS)
        settings |= {"file": _Log(), **seconds}
    return tqdm(iterable, desc, **settings)


class _Log:
    """A file that gets a whole line for every string, also for one that would be drawn over."""

    def write(self, text: str) -> None:
        if line := text.strip():
            print(line, file=sys.stderr, flush=True)

    def flush(self) -> None:
        """Nothing waits."""
