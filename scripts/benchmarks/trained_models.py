"""Do the schedules help trained networks? The shipped models, on the metrics of their data.

Runs scripts/evaluate.py on checkpoints of checkpoints/ whose data are at hand: uniform, cosine,
JYS and optimal schedules from the same initial noise, 3 seeds. The optimal schedules are
those beside the checkpoints. Prints tables, draws one panel per model and writes
docs/results/trained_models.{json,png}. Finished cells are kept in runs/, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping
from typing import Any

from ddm.checkpoint import load_data

import numpy as np
from _report import RESULTS, ROOT, save
from matplotlib.figure import Figure
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "scripts"))
from evaluate import SCHEDULES, summarise
from evaluate import main as evaluate

FINISHED = ROOT / "runs" / "benchmarks" / "trained"
"""Where the cells of an unfinished run are."""
NUM_STEPS = (4, 8, 16)
MEASURED = {
    "countdown": ("countdown_error", 128),
    "digits": ("frechet_pca32", 256),
    "fashion": ("frechet_pca32", 64),
    "folk": ("note_hellinger", 32),  # it does not see the number of steps
    "pydoc": ("word_share", 64),
}
"""The metric that is drawn and the samples per cell, by the first word of a checkpoint's name.

The tables have all metrics.
"""


def table(rows: list[dict[str, Any]], metric: str) -> str:
    """Return the values of one metric as a table in Markdown."""
    numbers = sorted({row["num_steps"] for row in rows})
    lines = [
        "| schedule |" + "".join(f" N = {n} |" for n in numbers),
        "|---" * len(numbers) + "|---|",
    ]
    for name in SCHEDULES:
        cells = {
            row["num_steps"]: f"{row['mean']:.4f} ± {row['half_width_95']:.4f}"
            for row in rows
            if (row["schedule"], row["metric"]) == (name, metric)
        }
        if cells:
            lines.append(f"| {name} |" + "".join(f" {cells[n]} |" for n in numbers))
    return "\n".join(lines)


def draw(results: Mapping[str, list[dict[str, Any]]]) -> Figure:
    """Draw the main metric of every model against the number of steps."""
    columns = min(4, len(results))
    lines = -(-len(results) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.8 * lines), layout="constrained")
    panels = np.atleast_1d(figure.subplots(lines, columns)).flat
    for (model, rows), axes in zip(results.items(), panels, strict=False):
        metric = MEASURED[model.partition("_")[0]][0]
        for color, name in enumerate(SCHEDULES):
            line = [r for r in rows if (r["schedule"], r["metric"]) == (name, metric)]
            if not line:
                continue
            steps, means = [r["num_steps"] for r in line], [r["mean"] for r in line]
            bars = [r["half_width_95"] for r in line]
            style = {"marker": ".", "capsize": 2, "color": f"C{color}"}
            axes.errorbar(steps, means, bars, label=name, **style)
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, labels=[str(n) for n in steps])
        axes.set(title=model, xlabel="network calls", ylabel=metric)
        if metric != "word_share":
            axes.set_yscale("log")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels):
        axes.set_visible(False)
    figure.axes[0].legend(frameon=False)
    return figure


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", help="names in checkpoints/ (default: all)")
    parser.add_argument("--num-sequences", type=int, default=48, help="for the search of JYS")
    options = parser.parse_args()
    found = {path.stem: path for path in sorted((ROOT / "checkpoints").glob("*.ckpt"))}
    results: dict[str, list[dict[str, Any]]] = {}
    for model in (bar := tqdm(options.models or found)):
        bar.set_postfix_str(model)
        try:
            data = load_data(found[model])
            if data is None:
                raise ValueError("its data cannot be read, see the warning.")
            data.prepare_data()
        except ValueError as error:  # they are not at hand
            print(f"{model} is left out: {error}")
            continue
        cells = evaluate(
            [
                str(found[model]),
                f"--num-samples={MEASURED[model.partition('_')[0]][1]}",
                f"--num-sequences={options.num_sequences}",
                f"--out={FINISHED / model}",
                "--num-steps",
                *map(str, NUM_STEPS),
            ]
        )
        results[model] = summarise(cells)
    for model, rows in results.items():
        for metric in dict.fromkeys(row["metric"] for row in rows):
            print(f"\n{model}, {metric}\n\n{table(rows, metric)}")
    draw(results).savefig(RESULTS / "trained_models.png", dpi=120)
    num_samples = {model: num for model, (_, num) in MEASURED.items()}
    setting = {"num_samples": num_samples, "num_sequences": options.num_sequences}
    save("trained_models", {**setting, "results": results}, seed=3)
    for model in results:  # another run measures anew
        shutil.rmtree(FINISHED / model)


if __name__ == "__main__":
    main()
