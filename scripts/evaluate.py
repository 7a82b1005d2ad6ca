"""Measure a checkpoint with several schedules: `python scripts/evaluate.py CKPT --num-steps 4 8`.

Draws samples for every schedule, number of steps and seed, from the same initial noise for all
schedules, and measures them with the metrics of the data. Writes `evaluation.json` after every
cell, so that an interrupted evaluation goes on where it stopped, then `evaluation.csv` and plots of
the metrics and of the schedules.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule, Text
from ddm.files import read_json, write_json
from ddm.module import DiscreteDiffusion
from ddm.schedules import (
    JumpYourSteps,
    OptimalSteps,
    Optimised,
    SamplingSchedule,
    ScheduleOptimizer,
)
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.plots import plot_schedules

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import t as student
from tqdm.auto import tqdm

SCHEDULES = ("uniform", "cosine", "jys", "optimal")
Cells = dict[str, dict[str, dict[str, float]]]
"""Metric values by "schedule/num_steps" and seed."""


def find_schedules(
    names: Sequence[str],
    num_steps: Sequence[int],
    module: DiscreteDiffusion,
    data: SequenceDataModule,
    checkpoint: Path,
    num_sequences: int,
    batch_size: int,
) -> dict[str, dict[int, SamplingSchedule]]:
    """Return the schedules by name and number of steps; only `jys` and `optimal` call the network.

    The optimal ones are those that training has left beside the checkpoint, if it has. A method
    that cannot be used with the model is left out, with a word on the screen.
    """
    generator = torch.Generator().manual_seed(0)
    which = torch.randperm(len(data.train_tokens), generator=generator)[:num_sequences]
    x_0 = data.train_tokens[which].long().to(module.device)
    beside = schedules_beside(checkpoint)
    found: dict[str, dict[int, SamplingSchedule]] = {}
    for name in names:
        generator = torch.Generator(module.device).manual_seed(0)
        if name == "uniform":
            found[name] = {n: SamplingSchedule.uniform(n) for n in num_steps}
            continue
        if name == "cosine":
            found[name] = {n: SamplingSchedule.cosine(n) for n in num_steps}
            continue
        kept = Optimised.load(beside) if name == "optimal" and beside.is_file() else None
        if kept is not None and kept.table is not None:
            kept.table.check(module.process, module.sampler)
        schedules = {} if kept is None else {n: kept.schedule(n) for n in num_steps}
        if None in schedules.values() or not schedules:
            method = OptimalSteps if name == "optimal" else JumpYourSteps
            optimizer: ScheduleOptimizer = method(batch_size=batch_size)
            try:
                result = optimizer(
                    module.denoiser,
                    module.sampler,
                    x_0,
                    num_steps,
                    free=None if data.free is None else data.free.to(x_0.device).expand_as(x_0),
                    generator=generator,
                    progress=True,
                )
            except ValueError as error:
                print(f"`{name}` is left out: {error}")
                continue
            found[name] = result.schedules
        else:
            found[name] = {n: s for n, s in schedules.items() if s is not None}
    return found


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
    reference = held_out[torch.arange(num_samples) % len(held_out)].long().to(module.device)
    batches = [
        module.sample(
            len(rows),
            schedule,
            tokens=None if data.free is None else rows,
            free=None if data.free is None else data.free.to(rows.device).expand_as(rows),
            generator=generator,
        ).tokens
        for rows in reference.split(batch_size)
    ]
    values = data.measure(torch.cat(batches), reference)
    # Samples without a word have no share of words, and JSON has no NaN.
    return {name: float(value) for name, value in values.items() if not value.isnan()}


def sha256(path: Path) -> str:
    """Return the digest of a file, which tells whether finished cells still hold."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean over seeds and half the width of its 95 % interval (Student's t)."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return mean, math.nan
    return mean, float(student.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))


def summarise(cells: Cells) -> list[dict[str, Any]]:
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


def show(row: Mapping[str, Any] | None) -> str:
    """Return a cell of the printed table; one seed has no interval."""
    if row is None:
        return ""
    half = row["half_width_95"]
    return f"{row['mean']:.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")


def draw(rows: Sequence[Mapping[str, Any]], metric: str) -> Figure:
    """Draw one metric against the number of steps, a line with error bars per schedule."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    mine = [row for row in rows if row["metric"] == metric]
    for name in dict.fromkeys(row["schedule"] for row in mine):
        line = [row for row in mine if row["schedule"] == name]
        steps, means = [row["num_steps"] for row in line], [row["mean"] for row in line]
        bars = np.nan_to_num([row["half_width_95"] for row in line])
        axes.errorbar(steps, means, bars, marker=".", capsize=2, label=name)
    axes.set_xscale("log", base=2)
    steps = sorted({row["num_steps"] for row in mine})
    axes.set_xticks(steps, labels=[str(n) for n in steps])
    axes.set(xlabel="sampling steps", ylabel=metric)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="checkpoint written by scripts/train.py")
    add("--num-steps", type=int, nargs="+", default=[4, 8, 16, 32], help="numbers of steps")
    add("--schedules", nargs="+", choices=SCHEDULES, default=list(SCHEDULES), help="default: all")
    add("--num-samples", type=int, default=256, help="samples per cell (default: 256)")
    add("--seeds", type=int, default=3, help="number of seeds (default: 3)")
    add("--num-sequences", type=int, default=512, help="to find schedules with (default: 512)")
    add("--batch-size", type=int, default=64, help="samples drawn at once (default: 64)")
    add(
        "--language-model",
        help="folder, GGUF file or name of a causal language model, for the perplexity of text",
    )
    add("--out", type=Path, help="folder to write to (default: `<name>.evaluation` beside it)")
    add("--device", help="default: cuda if there is one, else cpu")
    return parser


def main(args: Sequence[str] | None = None) -> Cells:
    """Run the command line; return the values of all cells."""
    parser = make_parser()
    options = parser.parse_args(args)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    out = options.out or options.checkpoint.with_suffix(".evaluation")
    path = out / "evaluation.json"
    try:  # all that can be wrong, before the first network call
        least = {"num_samples": 1, "seeds": 1, "num_sequences": 8, "batch_size": 1}
        for name, number in least.items():
            if getattr(options, name) < number:
                value = getattr(options, name)
                raise ValueError(f"`{name}` must be at least {number}, got {value}.")
        if min(options.num_steps) < 1:
            raise ValueError(f"`num_steps` must be at least 1, got {min(options.num_steps)}.")
        module, data = load_model(options.checkpoint).to(device), load_data(options.checkpoint)
        if not isinstance(data, SequenceDataModule):
            raise ValueError(
                f"`checkpoint` must say what data it was trained on, but '{options.checkpoint}' "
                "does not, or they cannot be read (a warning above says why); train it with "
                "scripts/train.py, or bring its data back."
            )
        if options.language_model is not None:
            if not isinstance(data, Text):
                raise ValueError(
                    f"`language_model` measures text, got a checkpoint of {type(data).__name__}; "
                    "leave it out."
                )
            data.language_model = options.language_model
            data.metrics()  # loads it, once for all cells
        data.prepare_data()
        data.setup("test")
        setting = {
            "checkpoint": options.checkpoint.name,
            "sha256": sha256(options.checkpoint),
            "num_samples": options.num_samples,
            "num_sequences": options.num_sequences,
            "batch_size": options.batch_size,
        }
        if (beside := schedules_beside(options.checkpoint)).is_file():
            setting["schedules_sha256"] = sha256(beside)
        if options.language_model is not None:
            setting["language_model"] = options.language_model
        content = read_json(path) if path.is_file() else {"setting": setting, "cells": {}}
        if content.get("setting") != setting:
            raise ValueError(
                f"`out` must be a folder without results of another evaluation, but '{path}' was "
                f"made with {content.get('setting')}, not {setting}; name another folder."
            )
        out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))

    cells: Cells = content["cells"]
    missing = [
        (name, n, seed)
        for seed in range(options.seeds)
        for n in options.num_steps
        for name in options.schedules
        if str(seed) not in cells.get(f"{name}/{n}", {})
    ]
    if missing:
        try:
            found = find_schedules(
                options.schedules,
                options.num_steps,
                module,
                data,
                options.checkpoint,
                options.num_sequences,
                options.batch_size,
            )
        except ValueError as error:
            parser.error(str(error))
        missing = [cell for cell in missing if cell[0] in found]
        for n in options.num_steps:
            figure = plot_schedules({name: schedules[n] for name, schedules in found.items()})
            figure.savefig(out / f"schedules_{n}_steps.png", dpi=120)
    for name, n, seed in (bar := tqdm(missing, desc="cells")):
        bar.set_postfix_str(f"{name}, {n} steps, seed {seed}")
        values = measure(
            module, data, found[name][n], options.num_samples, seed, options.batch_size
        )
        cells.setdefault(f"{name}/{n}", {})[str(seed)] = values
        write_json(path, content)

    rows = summarise(cells)
    columns = dict.fromkeys(column for row in rows for column in row)
    with (out / "evaluation.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(columns))
        writer.writeheader()
        writer.writerows(rows)
    shown = list(dict.fromkeys(row["schedule"] for row in rows))
    for metric in dict.fromkeys(row["metric"] for row in rows):
        draw(rows, metric).savefig(out / f"{metric}.png", dpi=120)
        num_seeds = max(map(len, cells.values()))
        print(f"\n{metric} (mean ± half of the 95 % interval, {num_seeds} seed(s))")
        print(f"{'N':>4s}", *(f"{name:>19s}" for name in shown))
        table = {(r["num_steps"], r["schedule"]): r for r in rows if r["metric"] == metric}
        for n in sorted({n for n, _ in table}):
            line = [table.get((n, name)) for name in shown]
            print(f"{n:4d}", *(f"{show(row):>19s}" for row in line))
    print("\nwritten:", path, out / "evaluation.csv", f"{out}/*.png")
    return cells


if __name__ == "__main__":
    main()
