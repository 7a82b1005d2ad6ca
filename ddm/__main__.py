"""The command line: `ddm COMMAND ...`, or `python -m ddm COMMAND ...`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version

from ddm.commands import COMMANDS, parsers


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of what stands before the name of a command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}s}  {text}" for name, text in COMMANDS.items()]
    parser = argparse.ArgumentParser(
        prog="ddm",
        description="Discrete diffusion models with sampling schedules that are worth their steps.",
        epilog="\n".join(
            ["commands:", *lines, "", "`ddm COMMAND --help` explains the arguments of a command."]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="ddm [--help] [--version] COMMAND ...",
    )
    parser.add_argument("--version", action="version", version=version("discrete-diffusion"))
    parser.add_argument("command", choices=COMMANDS, help=argparse.SUPPRESS)
    return parser


def main(args: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names."""
    args = sys.argv[1:] if args is None else args
    command = make_parser().parse_args(args[:1]).command
    # Before the command imports Lightning; the options of `ddm train fit` are Lightning's own.
    if {"-h", "--help"} & set(args[1:2] if command == "train" else args[1:]):
        getattr(parsers, command)().print_help()
    else:
        importlib.import_module(f"ddm.commands.{command}").main(args[1:])


if __name__ == "__main__":
    main()
