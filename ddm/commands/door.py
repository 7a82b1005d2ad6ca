"""The one door out of a command: what can be foreseen to fail ends in one line, not a traceback."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import NoReturn, TypeVar

import torch

T = TypeVar("T")


class Parser(argparse.ArgumentParser):
    """A parser that explains a command by the docstring of its module, and errs in one line.

    Args:
        name: The name of the command.
        text: What it does: the docstring of its module.
    """

    def __init__(self, name: str, text: str | None) -> None:
        super().__init__(prog=f"ddm {name}", description=text, allow_abbrev=False)
        self.add_argument(
            "--debug", action="store_true", help="show the traceback where something fails"
        )

    def error(self, message: str) -> NoReturn:
        """End the program with status 2."""
        message = re.sub(r"^argument \S+: (?=`)", "", message)  # then it names itself
        refuse(f"{message}\n`{self.prog} --help` explains the arguments.")


def command(run: Callable[[list[str]], T]) -> Callable[[Sequence[str] | None], T]:
    """Make the `main` of a command from the function that runs it.

    Errors that the library raises on purpose, about arguments and files, end the program with
    status 2 and `error: ARGUMENT rule, value, remedy`. All others keep their traceback, and with
    `--debug` all do.
    """

    @wraps(run)
    def main(args: Sequence[str] | None = None) -> T:
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given
        given = [argument for argument in given if argument != "--debug"]
        try:
            return run(given)
        except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError) as error:
            if debug:
                raise
            refuse(explain(error))

    return main


def refuse(message: str) -> NoReturn:
    """End the program with status 2 and a message, which may hold names that are no text."""
    print("error:", message.encode(errors="backslashreplace").decode(), file=sys.stderr)
    raise SystemExit(2)


def explain(error: BaseException) -> str:
    """Return the line that says what to change."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return "`batch_size` must be so small that a batch fits into memory; lower it."
    if isinstance(error, OSError) and error.filename is not None:
        reason = error.strerror or type(error).__name__
        return (
            f"'{error.filename}' cannot be read or written ({reason}); check its path, its "
            "permissions and the space that is left."
        )
    text = str(error) or type(error).__name__
    # What the library refuses begins with the argument; anything else may be a fault of ours.
    return text if text.startswith("`") else f"{text} (`--debug` shows where this comes from)"
