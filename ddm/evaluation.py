"""Evaluations: samples of several schedules, measured with the metrics of the data."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from ddm.datamodules import SequenceDataModule
from ddm.files import replacing
from ddm.module import DiscreteDiffusion
from ddm.schedules import SamplingSchedule

Cells = dict[str, dict[str, dict[str, float]]]
"""Metric values by "schedule/num_steps" and seed."""


def measure(
    module: DiscreteDiffusion,
    data: SequenceDataModule,
    schedule: SamplingSchedule,
    num_samples: int,
    seed: int,
    batch_size: int,
) -> dict[str, float]:
    """Draw samples, beside held-out sequences, and return the values of the data's metrics."""
    generator = torch.Generator(module.device).manual_seed(seed)
    held_out = data.test_tokens
    index = torch.arange(num_samples) % len(held_out)
    reference = held_out[index].long().to(module.device)
    free = None if data.free is None else data.free.expand_as(held_out)[index].to(module.device)
    batches = [
        module.sample(
            len(rows),
            schedule,
            tokens=None if free is None else reference[rows],
            free=None if free is None else free[rows],
            generator=generator,
        ).tokens
        for rows in torch.arange(num_samples).split(batch_size)
    ]
    values = data.measure(torch.cat(batches), reference)
    # Samples without a word have no share of words, and JSON has no NaN.
    return {name: float(value) for name, value in values.items() if not value.isnan()}


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan
    from scipy.stats import t as student  # slow to import

    return mean, float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def summarize(cells: Cells) -> list[dict[str, Any]]:
    """Return one row per metric, schedule and N, with the paired difference to uniform."""
    rows: list[dict[str, Any]] = []
    for key, seeds in cells.items():
        schedule, n = key.split("/")
        for metric in dict.fromkeys(metric for values in seeds.values() for metric in values):
            having = {seed: values[metric] for seed, values in seeds.items() if metric in values}
            mean, half = interval(list(having.values()))
            row = {"metric": metric, "schedule": schedule, "num_steps": int(n)}
            row |= {"mean": mean, "half_width_95": half}
            uniform = {
                s: v[metric] for s, v in cells.get(f"uniform/{n}", {}).items() if metric in v
            }
            if difference := [having[s] - uniform[s] for s in having if s in uniform]:
                row["minus_uniform"], row["minus_uniform_half_width_95"] = interval(difference)
            rows.append(row)
    return sorted(rows, key=lambda row: (row["metric"], row["num_steps"]))


def plot_metric(
    rows: Sequence[Mapping[str, Any]],
    metric: str,
    *,
    higher_is_better: bool | None = None,
    real: float | None = None,
) -> Figure:
    """Draw one metric against the number of steps, a line with error bars per schedule.

    Args:
        rows: See `summarize`.
        metric: Its name.
        higher_is_better: What the axis says; nothing for None.
        real: The value of held-out data, a horizontal line.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    mine = [row for row in rows if row["metric"] == metric]
    names = list(dict.fromkeys(row["schedule"] for row in mine))
    for place, name in enumerate(names):
        line = [row for row in mine if row["schedule"] == name]
        # Side by side, or error bars would hide each other.
        steps = [row["num_steps"] * 1.04 ** (place - (len(names) - 1) / 2) for row in line]
        means = [row["mean"] for row in line]
        bars = np.nan_to_num([row["half_width_95"] for row in line])
        axes.errorbar(steps, means, bars, marker=".", capsize=2, label=name)
    if real is not None:
        axes.axhline(real, color="0.5", linewidth=1, linestyle="--", label="held-out data")
    axes.set_xscale("log", base=2)
    ticks = sorted({row["num_steps"] for row in mine})
    axes.set_xticks(ticks, labels=[str(n) for n in ticks])
    better = {True: " (higher is better)", False: " (lower is better)", None: ""}
    axes.set(xlabel="sampling steps", ylabel=metric + better[higher_is_better])
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows of `summarize` as a CSV file."""
    columns = dict.fromkeys(column for row in rows for column in row)
    with replacing(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
