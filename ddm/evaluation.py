"""Evaluations: samples of several schedules, measured with the metrics of the data."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ddm.datamodules import SequenceDataModule
from ddm.estimate import RatioEstimate
from ddm.files import reading, replacing
from ddm.functional import require_number
from ddm.held_out import JUDGED
from ddm.likelihood import sampler_nats
from ddm.module import DiscreteDiffusion
from ddm.schedules import SamplingSchedule, sampler_of

Cells = dict[str, dict[str, dict[str, float]]]
"""Metric values by "schedule/num_steps" and seed."""

ERROR = "_standard_error"
"""What the name of a metric ends with where the value is its error."""


def measure(
    module: DiscreteDiffusion,
    data: SequenceDataModule,
    schedule: SamplingSchedule,
    num_samples: int,
    seed: int,
    batch_size: int,
) -> dict[str, float]:
    """Draw samples, beside held-out sequences, and return the values of the data's metrics.

    And the bits per token of the sampler with this schedule (`sampler_bits`).
    """
    generator = torch.Generator(module.device).manual_seed(seed)
    held_out = data.test_tokens
    index = torch.arange(num_samples) % len(held_out)
    reference = held_out[index].long().to(module.device)
    free = None if data.free is None else data.free.expand(held_out.shape)[index].to(module.device)
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
    values |= sampler_bits(module, data, schedule, min(num_samples, JUDGED), seed, batch_size)
    # Samples without a word have no share of words, and JSON has no NaN.
    return {name: float(value) for name, value in values.items() if value.isfinite()}


def sampler_bits(
    module: DiscreteDiffusion,
    data: SequenceDataModule,
    schedule: SamplingSchedule,
    num_sequences: int,
    seed: int,
    batch_size: int,
) -> dict[str, Tensor]:
    """Return `-log2 p_sampler(x_0)` per token of held-out sequences, with its standard error.

    See `sampler_nats`: exact, or a bound, by one call per step. Every seed has other sequences, and
    all schedules have the same. Empty for samplers with several stages per step, and where nobody
    knows how prompts go on.
    """
    held_out = data.test_tokens
    known = torch.arange(len(held_out))[... if data.known is None else data.known]
    sampler = sampler_of(schedule, module.sampler)
    if not len(known) or not sampler.single_stage:
        return {}
    index = known[(seed * num_sequences + torch.arange(num_sequences)) % len(known)]
    everywhere = torch.ones_like(held_out[:1], dtype=torch.bool)
    where = (everywhere if data.free is None else data.free).expand(held_out.shape)
    estimate = RatioEstimate()
    for rows in index.split(batch_size):
        x_0, free = held_out[rows].long().to(module.device), where[rows].to(module.device)
        generator = torch.Generator(module.device).manual_seed(seed)
        nats = sampler_nats(module.denoiser, sampler, x_0, schedule, free=free, generator=generator)
        estimate.update(nats / math.log(2), free.sum(-1))
    name, (bits, error) = "sampler_bits_per_token", estimate.compute()
    return {name: torch.tensor(bits), f"{name}{ERROR}": torch.tensor(error)}


def check_cells(content: Mapping[str, Any], path: str | Path) -> None:
    """Refuse a file of an evaluation whose cells are no numbers, or have names that no file can.

    Args:
        content: What was read from the file.
        path: Its path.

    Raises:
        ValueError: Something else is in its place.
    """
    with reading(str(path), "the cells of an evaluation", "ddm evaluate"):
        for key, seeds in content["cells"].items():
            for seed, values in seeds.items():
                for metric, value in values.items():
                    require_number(metric, value, -math.inf, math.inf, "delete it")
                names = f"{key}/{seed}/{' '.join(values)}"
                if not re.fullmatch(r"[^/\0]+/\d{1,9}/\d{1,9}/[^/\\\0]*", names):
                    rule = "`cells` must be named by SCHEDULE/N, seed and metric"
                    raise ValueError(f"{rule}, got {names!r:.80}")


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan
    from scipy.stats import t as student  # slow to import

    return mean, float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def summarize(cells: Cells) -> list[dict[str, Any]]:
    """Return one row per metric, schedule and N, with the paired difference to uniform.

    The interval is that over seeds; of one seed that over its sequences, where it is known.
    """
    rows: list[dict[str, Any]] = []
    for key, seeds in cells.items():
        schedule, n = key.split("/")
        names = dict.fromkeys(metric for values in seeds.values() for metric in values)
        for metric in (name for name in names if not name.endswith(ERROR)):
            having = {seed: values[metric] for seed, values in seeds.items() if metric in values}
            mean, half = interval(list(having.values()))
            if len(having) == 1 and f"{metric}{ERROR}" in (own := next(iter(seeds.values()))):
                half = 1.96 * own[f"{metric}{ERROR}"]
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
