"""What every benchmark does with its numbers: options, timers, runs, means, files, figures."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ddm.denoisers import Denoiser, Prediction
from ddm.files import read_json, write_json

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator
from torch import Tensor
from tqdm import tqdm

COLUMNS = 4
"""Panels beside one another in a figure of curves."""
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


def parse(doc: str | None, args: Sequence[str] | None = None, **options: Any) -> argparse.Namespace:  # noqa: ANN401
    """Read the command line, options with their default and help.

    A list takes several values, of the default ones if these are names; False is a switch.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    for name, (default, text) in options.items():
        first = default[0] if isinstance(default, list) else default
        kind: dict[str, Any] = {"type": type(first), "default": default}
        if default is False:
            kind = {"action": "store_true"}
        elif isinstance(default, list):
            kind |= {"nargs": "+", "choices": default if isinstance(first, str) else None}
        shown = f"{text} (default: {'all' if kind.get('choices') else '%(default)s'})"
        parser.add_argument(f"--{name.replace('_', '-')}", help=shown, **kind)
    return parser.parse_args(args)


class Timed(Denoiser):
    """A denoiser that adds up the time of its network calls, by the given clock."""

    def __init__(self, denoiser: Denoiser, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.clock = clock
        self.seconds = 0.0

    def forward(self, x_t: Tensor, t: Tensor, free: Tensor | None = None) -> Prediction:
        """Make one timed call."""
        begin = self.clock()
        prediction: Prediction = self.denoiser(x_t, t, free)
        self.seconds += self.clock() - begin
        return prediction


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Return command, commit, hardware, versions and seed of this run."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    code = ("ddm", "datamodules", "callbacks", "scripts")
    changed = subprocess.run([*git, "status", "--porcelain", *code], capture_output=True, text=True)
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "command": " ".join(["python", str(shown), *map(_short, sys.argv[1:])]),
        "commit": commit.stdout.strip() + (" + changes" if changed.stdout.strip() else ""),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), GPU: {gpu}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "seed": seed,
    }


def _short(argument: str) -> str:
    """Return an argument; of a file elsewhere only its name, which alone means something here."""
    path = Path(argument)
    return path.name if path.is_absolute() and path.exists() else argument


def resume(
    name: str, settings: Mapping[str, Any], cells: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    """Measure what has not been measured yet, in order, and return these cells by key.

    An interrupted run goes on where it stopped, until `finish`.

    Args:
        name: Name of the benchmark.
        settings: What cells depend on; those measured with other settings are forgotten.
        cells: How to measure every cell, as numbers, strings, lists and dictionaries.
    """
    path = RESULTS / f"{name}.part.json"
    # What is returned must not depend on whether it was read from the file.
    content: dict[str, Any] = {"settings": json.loads(json.dumps(settings)), "cells": {}}
    if path.exists():
        kept = read_json(path)
        if kept["settings"] == content["settings"]:
            content = kept
    for key, measure in (bar := tqdm(cells.items(), desc=name)):
        bar.set_postfix_str(key)
        if key not in content["cells"]:
            content["cells"][key] = json.loads(json.dumps(measure()))
            write_json(path, content)
    return {key: content["cells"][key] for key in cells}


def finish(
    name: str, content: dict[str, Any], figure: Figure | None = None, seed: int | None = None
) -> None:
    """Write `docs/results/<name>.{json,png}`, six digits and how to get them again."""
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=120)
    path = RESULTS / f"{name}.json"
    write_json(path, {"provenance": provenance(seed), **rounded(content)})
    (RESULTS / f"{name}.part.json").unlink(missing_ok=True)  # what `resume` kept
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")


def rounded(content: Any) -> Any:  # noqa: ANN401
    """Return the same lists and dictionaries with six significant digits of every float."""
    if isinstance(content, Mapping):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [rounded(value) for value in content]
    return float(f"{content:.6g}") if isinstance(content, float) else content


def over_seeds(rows: Sequence[Any]) -> Any:  # noqa: ANN401
    """Return mean and standard error of every number, in the dictionaries that it stands in.

    The error of a single number is 0.
    """
    if isinstance(rows[0], Mapping):
        return {key: over_seeds([row[key] for row in rows]) for key in rows[0]}
    error = np.std(rows, ddof=1) / len(rows) ** 0.5 if len(rows) > 1 else 0.0
    return [float(np.mean(rows)), float(error)]


def show(title: str, table: Mapping[str, Mapping[Any, Sequence[float]]]) -> None:
    """Print means and errors by row and number of steps as a table in Markdown."""
    numbers = list(dict.fromkeys(n for row in table.values() for n in row))
    print(f"\n{title}\n\n| |" + "".join(f" N = {n} |" for n in numbers))
    print("|---" * (len(numbers) + 1) + "|")
    for name, row in table.items():
        cells = (f"{row[n][0]:.4f} ± {row[n][1]:.4f}" if n in row else "" for n in numbers)
        print("|", " | ".join([name, *cells]), "|")


def draw_curves(
    tables: Mapping[str, Mapping[str, Mapping[Any, Sequence[float]]]], labels: Sequence[str]
) -> Figure:
    """Draw means and errors against the number of network calls, one panel per table.

    Args:
        tables: By title, name of the curve and number of calls.
        labels: What is drawn, by panel.
    """
    columns = min(len(tables), COLUMNS)
    rows = -(-len(tables) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.4 * rows + 0.4), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    for panel in axes[len(tables) :]:
        panel.set_axis_off()
    panels = zip(axes[: len(tables)], tables.items(), labels, strict=True)
    for panel, (title, table), label in panels:
        for name, row in table.items():
            numbers, (mean, error) = [int(n) for n in row], np.array(list(row.values())).T
            panel.errorbar(numbers, mean, error, label=name, marker=".", capsize=2)
        numbers = sorted({int(n) for row in table.values() for n in row})
        panel.set(xscale="log", yscale="log", xlabel="network calls", title=title, ylabel=label)
        panel.set_xticks(numbers, labels=[str(n) for n in numbers])
        panel.xaxis.set_minor_locator(NullLocator())
        # Several numbers also where all lie within a decade.
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter("{x:.3g}")
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.spines[["top", "right"]].set_visible(False)
    curves, names = max((x.get_legend_handles_labels() for x in axes), key=lambda x: len(x[1]))
    figure.legend(curves, names, loc="outside lower center", ncols=len(names), frameon=False)
    return figure
