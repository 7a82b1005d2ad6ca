"""What the commands share: arguments of the same meaning, and the checks before long work."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from ddm.commands.shipped import find_checkpoint

MAX_STEPS = 10_000
"""More steps than this are more than any use: sequences have some thousand tokens at most."""

ORDERS = ("random", "spaced", "confidence", "entropy", "margin", "left-to-right")
"""Names of the orders in which masked tokens are revealed."""

MANY = 1_000_000
"""Bound of other numbers, which stand for what is kept in memory."""


def whole(name: str, least: int = 1, most: int = MANY) -> Callable[[str], int]:
    """Return a parser of whole numbers in a range."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"`{name}` must be a whole number from {least} to {most}, got {text!r}."
            )
        return number

    return parse


def real(name: str, least: float, most: float) -> Callable[[str], float]:
    """Return a parser of numbers in a range."""

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"`{name}` must be a number from {least:g} to {most:g}, got {text!r}."
            )
        return number

    return parse


def add_checkpoint(parser: argparse.ArgumentParser) -> argparse.Action:
    """Add the checkpoint, by path or by name; return its argument."""
    checkpoint = parser.add_argument(
        "checkpoint",
        type=_checkpoint,
        help="file that training wrote, or the name of a shipped model, for instance digits",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="package whose classes the checkpoint may name, beside ddm; may be repeated",
    )
    return checkpoint


def add_model(parser: argparse.ArgumentParser, checkpoint: argparse.Action) -> None:
    """Add a model that somebody else trained, which may stand in place of the checkpoint."""

    class Model(argparse.Action):
        """Takes the model, and demands no checkpoint any more."""

        def __call__(
            self, _: object, namespace: argparse.Namespace, value: object, *__: object
        ) -> None:
            """Take the model."""
            namespace.model = value
            checkpoint.required = False

    group = parser.add_argument_group("models of others (docs/your_model.md)")
    add = group.add_argument
    add(
        "--model",
        action=Model,
        metavar="FOLDER_OR_ID",
        help="in place of a checkpoint: folder of a model, or its name at Hugging Face",
    )
    add(
        "--prompts",
        type=Path,
        metavar="FILE",
        help="a prompt a line; in a .jsonl file a line holds a prompt, a text, or infill (texts "
        "with gaps between them); without it all is generated",
    )
    add(
        "--num-tokens",
        type=whole("num_tokens", most=2**20),
        default=64,
        help="tokens behind a prompt or in a gap, and of a text at most (default: 64)",
    )
    add(
        "--order",
        choices=ORDERS,
        help="which masked tokens first (default: chance decides how many, and which)",
    )
    add(
        "--adapter",
        choices=("MaskedLM", "LLaDA", "ShiftedLM"),
        help="conventions of the model, where its config.json does not say them",
    )
    add("--tokenizer", metavar="FOLDER_OR_ID", help="(default: the one in the model's folder)")
    add(
        "--trust-remote-code",
        action="store_true",
        help="run Python code that comes with the model; read it before",
    )


def add_running(parser: argparse.ArgumentParser, batch_size: int, seed: str | None = None) -> None:
    """Add how the network is run: batch size, device and, where `seed` says what of, a seed."""
    add = parser.add_argument
    add(
        "--batch-size",
        type=whole("batch_size"),
        default=batch_size,
        help=f"sequences per network call (default: {batch_size})",
    )
    if seed is not None:
        add("--seed", type=whole("seed", 0, 2**63 - 1), default=0, help=f"{seed} (default: 0)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one, else cpu)")


def find_device(name: str | None) -> torch.device:
    """Return the device to run on.

    Raises:
        ValueError: There is no such device, or it has no float64.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        # Probabilities meet draws in float64, and `item` fails where nothing is computed (meta).
        torch.zeros(1, dtype=torch.float64, device=device).item()
    except (RuntimeError, AssertionError, TypeError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"`device` must be one that this machine has and torch can use, with float64, got "
            f"{name!r} ({reason}); leave it out, or use cpu."
        ) from error
    return device


def make_folder(path: Path, name: str = "out") -> Path:
    """Make a folder and find out whether files can be written there; return it.

    Raises:
        ValueError: It is something else, or cannot be written.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as file:
            file.write(bytes(4096))
    except (OSError, ValueError) as error:  # of a null byte: ValueError
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"`{name}` must be a folder that can be written, got '{path}' ({reason}); name another "
            "one, or make room."
        ) from error
    return path


def _checkpoint(name: str) -> Path:
    try:
        return find_checkpoint(name)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
