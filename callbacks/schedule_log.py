"""What the loggers of a run show of its schedules: numbers, one overview, decisions in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from matplotlib.figure import Figure
from PIL import Image

from ddm.callbacks.overview import plot_overview
from ddm.schedules import CostTable
from ddm.schedules.plots import plot_costs

# Sorts before "samples", so that the schedules stand first.
SECTION = "optimized_schedule"


def log_numbers(trainer: Trainer, numbers: Mapping[str, float]) -> None:
    """Write numbers to all loggers, under names of one section."""
    metrics = {f"{SECTION}/{name}": value for name, value in numbers.items()}
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


def log_pictures(trainer: Trainer, updates: Sequence[Mapping[str, Any]], table: CostTable) -> None:
    """Show how schedules have moved, what numbers of steps cost, and the last decisions."""
    makers = {
        "overview": lambda: plot_overview(updates),
        "cost": lambda: plot_costs(table, [2, 4, 8, 16, 32, 64]),
    }
    for logger in trainer.loggers:
        for name, make in makers.items():
            log_figure(logger, f"{SECTION}/{name}", make, trainer.global_step)
        if isinstance(logger, TensorBoardLogger):
            words = decisions(updates[-1])
            logger.experiment.add_text(f"{SECTION}/decisions", words, trainer.global_step)


def log_figure(logger: Logger, tag: str, make: Any, step: int) -> None:  # noqa: ANN401
    """Give a figure to a logger that shows figures: TensorBoard, or any with `log_image` (W&B)."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_figure(tag, make(), step)
    elif hasattr(logger, "log_image"):
        logger.log_image(tag, [to_image(make())], step=step)


def to_image(figure: Figure) -> Image.Image:
    """Return the pixels of a figure."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer)


def decisions(update: Mapping[str, Any]) -> str:
    """Return what an update decided, as a table in Markdown."""
    names = sorted({name for row in update["schedules"] for name in row["costs"]})
    lines = [
        f"Step {update['step']}: costs in weighted nats per sequence, on held-out sequences.",
        "",
        f"| steps | kept | gain over uniform | {' | '.join(names)} | times |",
        "|" + "---|" * (4 + len(names)),
    ]
    for row in update["schedules"]:
        costs = [f"{row['costs'][n]:.4g}" if n in row["costs"] else "" for n in names]
        times = " ".join(f"{t:.3f}" for t in row["times"])
        cells = [str(row["num_steps"]), row["winner"], gain_in_words(row), *costs, times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def summary(update: Mapping[str, Any]) -> str:
    """Return what an update decided, in one line."""
    rows = (
        f"{row['num_steps']}: {row['winner']} ({gain_in_words(row)})" for row in update["schedules"]
    )
    return "kept per number of steps, with the gain over uniform steps: " + ", ".join(rows)


def gain_in_words(row: Mapping[str, Any]) -> str:
    """Return the gain with its standard error, where there is one."""
    gain, error = row["gain"], row["gain_error"]
    return f"{gain:.1%} +- {error:.1%}" if gain else "no gain"
