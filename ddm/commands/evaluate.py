"""Measure a model with several schedules; `ddm evaluate --help` says more."""

from __future__ import annotations

import argparse
import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddm.commands import parsers
from ddm.commands.compared import find_schedules, schedules_of_files
from ddm.commands.door import command
from ddm.commands.options import make_folder
from ddm.commands.subject import check_steps, folder_of, load, name_of
from ddm.datamodules import SequenceDataModule, Text
from ddm.evaluation import Cells, check_cells, measure, plot_metric, summarize, write_rows
from ddm.files import alone, read_json, write_json
from ddm.module import DiscreteDiffusion
from ddm.pictures import save_figure
from ddm.progress import progress_bar
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.plots import plot_schedules


def prepare(options: argparse.Namespace) -> tuple[DiscreteDiffusion, SequenceDataModule]:
    """Return the model, on its device, and its data, with the metrics ready.

    Raises:
        ValueError: The checkpoint has no data, or they do not fit what is asked for.
    """
    module, data = load(options)
    if not isinstance(data, SequenceDataModule):
        raise ValueError(
            f"`checkpoint` must say what data it was trained on, but '{options.checkpoint}' does "
            "not, or they cannot be read (a warning above says why); train it with `ddm train`, or "
            "bring its data back."
        )
    check_steps(module, data, options.num_steps)
    if options.language_model is not None and options.model is None:
        if not isinstance(data, Text):
            raise ValueError(
                f"`language_model` measures text, got a checkpoint of {type(data).__name__}; leave "
                "it out."
            )
        data.language_model = options.language_model
    if options.language_model is not None:
        data.metrics()  # loads it, once for all cells
    data.prepare_data()
    data.setup("test")
    return module, data


def sha256(path: Path) -> str:
    """Return the digest of a file, which tells whether finished cells still hold."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def finished(path: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what an evaluation with the same setting has left at `path`, or its beginning.

    Raises:
        ValueError: There are results of another setting, or something else.
    """
    setting: dict[str, Any] = {
        "num_samples": options.num_samples,
        "num_sequences": options.num_sequences,
        "batch_size": options.batch_size,
    }
    if options.model is not None:
        setting["model"], setting["order"] = name_of(options), options.order
        setting["num_tokens"] = options.num_tokens
        if options.prompts is not None:
            setting["prompts_sha256"] = sha256(options.prompts)
    else:
        setting["checkpoint"] = options.checkpoint.name
        setting["sha256"] = sha256(options.checkpoint)
        if (beside := schedules_beside(options.checkpoint)).is_file():
            setting["schedules_sha256"] = sha256(beside)
    for name in (name for name in options.schedules if name.endswith(".json")):
        setting.setdefault("files_sha256", {})[Path(name).name] = sha256(Path(name))
    if options.language_model is not None:
        setting["language_model"] = options.language_model
    content = read_json(path) if path.is_file() else {"setting": setting, "cells": {}}
    if content.get("setting") != setting:
        raise ValueError(
            f"`out` must be a folder without results of another evaluation, but '{path}' was made "
            f"with {content.get('setting')}, not {setting}; name another folder."
        )
    check_cells(content, path)
    return content


def show(row: Mapping[str, Any] | None) -> str:
    """Return a cell of the printed table; one seed has no interval."""
    if row is None:
        return ""
    half = row["half_width_95"]
    return f"{row['mean']:.4f}" + ("" if math.isnan(half) else f" ± {half:.4f}")


def report(
    rows: Sequence[Mapping[str, Any]],
    num_seeds: int,
    out: Path,
    data: SequenceDataModule,
    num_samples: int,
) -> None:
    """Print a table for every metric, and draw it beside the value of held-out data."""
    shown = list(dict.fromkeys(row["schedule"] for row in rows))
    better = {name: metric.higher_is_better for name, metric in data.metrics().items()}
    better["sampler_bits_per_token"] = False
    held_out, reference = data.val_tokens[:num_samples], data.test_tokens[:num_samples]
    num = min(len(held_out), len(reference))
    real = data.measure(held_out[:num].long(), reference[:num].long())
    words = {True: "higher is better; ", False: "lower is better; ", None: ""}
    for metric in dict.fromkeys(row["metric"] for row in rows):
        value = float(real.get(metric, math.nan))
        figure = plot_metric(
            rows,
            metric,
            higher_is_better=better.get(metric),
            real=None if math.isnan(value) else value,
        )
        save_figure(figure, out / f"{metric}.png")
        known = "" if math.isnan(value) else f"held-out data {value:.4f}; "
        print(
            f"\n{metric} ({words[better.get(metric)]}{known}mean ± half of the 95 % interval, "
            f"{num_seeds} seed(s))"
        )
        print(f"{'N':>4s}", *(f"{name:>19s}" for name in shown))
        table = {(r["num_steps"], r["schedule"]): r for r in rows if r["metric"] == metric}
        for n in sorted({n for n, _ in table}):
            line = [table.get((n, name)) for name in shown]
            print(f"{n:4d}", *(f"{show(row):>19s}" for row in line))


@command
def main(args: list[str]) -> Cells:
    """Run the command line; return the values of all cells."""
    options = parsers.evaluate().parse_args(args)
    # All that can be wrong, before the first network call.
    module, data = prepare(options)
    files = schedules_of_files(module, options)
    out = make_folder(options.out or folder_of(options) / f"{name_of(options)}.evaluation")
    path = out / "evaluation.json"
    content = finished(path, options)

    cells: Cells = content["cells"]
    missing = [
        (name, n, seed)
        for seed in range(options.seeds)
        for n in options.num_steps
        for name in [*(x for x in options.schedules if not x.endswith(".json")), *files]
        if str(seed) not in cells.get(f"{name}/{n}", {})
    ]
    found = find_schedules(module, data, options) | files if missing else {}
    for n in options.num_steps if found else ():
        figure = plot_schedules({name: schedules[n] for name, schedules in found.items()})
        save_figure(figure, out / f"schedules_{n}_steps.png")
    todo = [cell for cell in missing if cell[0] in found]
    with progress_bar(total=len(todo), desc="cells") as bar:
        for name, n, seed in todo:
            bar.set_postfix_str(f"{name}, {n} steps, seed {seed}")
            values = measure(
                module, data, found[name][n], options.num_samples, seed, options.batch_size
            )
            with alone(path):
                # Another evaluation may have left cells there meanwhile.
                cells.update(finished(path, options)["cells"])
                cells.setdefault(f"{name}/{n}", {})[str(seed)] = values
                write_json(path, content)
            bar.update()  # by hand: a loop counts when it draws, and the line would lag behind

    rows = summarize(cells)
    write_rows(out / "evaluation.csv", rows)
    report(rows, max(map(len, cells.values()), default=0), out, data, options.num_samples)
    print("\nwritten:", path, out / "evaluation.csv", f"{out}/*.png")
    return cells
