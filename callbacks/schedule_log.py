"""What the loggers of a run show of its schedules: numbers, pictures, decisions in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from ddm.callbacks.cost_picture import plot_update_costs
from ddm.callbacks.overview import plot_overview
from ddm.callbacks.panel import lay_out, log_settings, settings_of, show
from ddm.callbacks.sample_logger import SampleLogger
from ddm.denoisers import Denoiser
from ddm.module import DiscreteDiffusion
from ddm.pictures import pixels
from ddm.schedules import CostTable

# Sorts before "samples", so that the schedules stand first.
SECTION = "optimized_schedule"
DPI = 120
"""Figures of five inches then fill the narrow cards of TensorBoard, with legible letters."""


def open_panel(
    trainer: Trainer,
    module: LightningModule,
    denoiser: Denoiser,
    settings: Mapping[str, Any],
    num_steps: Sequence[int],
) -> None:
    """Log what distinguishes the run, with the metrics it is judged by, and lay out the charts.

    Args:
        trainer: Its loggers are given all.
        module: The module that is trained.
        denoiser: Its denoiser.
        settings: Further hyperparameters.
        num_steps: Numbers of steps with schedules.
    """
    if not trainer.loggers:
        return
    data = trainer.datamodule  # type: ignore[attr-defined]
    own = [c for c in trainer.callbacks if isinstance(c, SampleLogger)]  # type: ignore[attr-defined]
    samples = own[0].tags(data) if own else {}
    metrics = [f"samples/{metric}_{n}" for metric, numbers in samples.items() for n in numbers]
    metrics += [f"{SECTION}/gain_{n}" for n in num_steps]
    if isinstance(module, DiscreteDiffusion):
        metrics.insert(0, "val/bits_per_token")
    log_settings(trainer, settings_of(trainer, module, denoiser) | dict(settings), metrics)
    lay_out(trainer, num_steps, samples)


def log_numbers(trainer: Trainer, numbers: Mapping[str, float]) -> None:
    """Write numbers to all loggers, under names of one section."""
    metrics = {f"{SECTION}/{name}": value for name, value in numbers.items()}
    for logger in trainer.loggers:
        logger.log_metrics(metrics, step=trainer.global_step)


def log_pictures(trainer: Trainer, updates: Sequence[Mapping[str, Any]], table: CostTable) -> None:
    """Show how schedules have moved, what they cost, and the last decisions."""
    if not trainer.loggers:
        return
    shown: dict[str, np.ndarray | str] = {
        "overview": pixels(plot_overview(updates), DPI),
        "cost": pixels(plot_update_costs(updates, table), DPI),
        "decisions": decisions(updates[-1]),
    }
    for name, content in shown.items():
        show(trainer.loggers, f"{SECTION}/{name}", content, trainer.global_step)


def decisions(update: Mapping[str, Any]) -> str:
    """Return what an update decided, as a table in Markdown, and the times that are kept."""
    names = sorted({name for row in update["schedules"] for name in row["costs"]})
    lines = [
        f"Step {update['step']}: costs in weighted nats per sequence, on held-out sequences.",
        "",
        f"| steps | kept | gain over uniform | {' | '.join(names)} |",
        "|" + "---|" * (3 + len(names)),
    ]
    times = ["", "Times that are kept:", ""]
    for row in update["schedules"]:
        costs = [f"{row['costs'][n]:.4g}" if n in row["costs"] else "" for n in names]
        cells = [str(row["num_steps"]), row["winner"], gain_in_words(row), *costs]
        lines.append(f"| {' | '.join(cells)} |")
        numbers = [f"{t:.3f}" for t in row["times"]]
        for k in range(0, len(numbers), 12):
            number = "" if k else f"{row['num_steps']} steps"
            times.append(f"    {number:10s}{' '.join(numbers[k : k + 12])}")
    if "evidence" in update:
        lines += ["", f"Chosen by samples: {update['evidence']}."]
    return "\n".join([*lines, *times])


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
