"""Do the schedules help trained networks? The shipped models, on the metrics of their data.

Runs scripts/evaluate.py on checkpoints of checkpoints/ whose data are at hand: uniform, cosine,
JYS and optimal schedules from the same initial noise, 3 seeds. The optimal schedules are
those beside the checkpoints. Prints tables, draws one panel per model and writes
docs/results/trained_models.{json,png}. Finished cells are kept in runs/, so an interrupted run goes
on where it stopped.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence

from ddm.checkpoint import load_data
from ddm.commands.evaluate import main as evaluate
from ddm.evaluation import Cells, summarize

from _report import ROOT, draw_curves, finish, parse, show
from matplotlib.figure import Figure
from tqdm import tqdm

FINISHED = ROOT / "runs" / "benchmarks" / "trained"
"""Where the cells of an unfinished run are."""
MODELS = sorted(path.stem for path in (ROOT / "checkpoints").glob("*.ckpt"))
NUM_STEPS = ("4", "8", "16")
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
Table = dict[str, dict[int, list[float]]]
"""Mean and half of the 95 % interval, by schedule and N."""


def tables_of(cells: Cells) -> dict[str, Table]:
    """Return the tables of an evaluation by metric."""
    tables: dict[str, Table] = {}
    for row in summarize(cells):
        table = tables.setdefault(row["metric"], {})
        cell = [row["mean"], row["half_width_95"]]
        table.setdefault(row["schedule"], {})[row["num_steps"]] = cell
    return tables


def report(results: Mapping[str, Mapping[str, Table]]) -> Figure:
    """Print all tables, and draw the main metric of every model."""
    for model, tables in results.items():
        for metric, table in tables.items():
            show(f"{model}, {metric}", table)
    metrics = {model: MEASURED[model.partition("_")[0]][0] for model in results}
    drawn = {model: results[model][metric] for model, metric in metrics.items()}
    return draw_curves(drawn, list(metrics.values()))


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse(
        __doc__,
        args,
        models=(MODELS, "names in checkpoints/"),
        num_sequences=(48, "sequences for the search of JYS"),
    )
    results: dict[str, dict[str, Table]] = {}
    for model in (bar := tqdm(options.models)):
        bar.set_postfix_str(model)
        checkpoint = ROOT / "checkpoints" / f"{model}.ckpt"
        try:
            data = load_data(checkpoint)
            if data is None:
                raise ValueError("its data cannot be read, see the warning.")
            data.prepare_data()
        except ValueError as error:  # they are not at hand
            print(f"{model} is left out: {error}")
            continue
        num_samples = MEASURED[model.partition("_")[0]][1]
        sizes = [f"--num-samples={num_samples}", f"--num-sequences={options.num_sequences}"]
        steps = ["--num-steps", *NUM_STEPS]
        cells = evaluate([str(checkpoint), *sizes, f"--out={FINISHED / model}", *steps])
        results[model] = tables_of(cells)
    figure = report(results)
    setting = {"num_samples": {name: num for name, (_, num) in MEASURED.items()}}
    setting["num_sequences"] = options.num_sequences
    finish("trained_models", {**setting, "results": results}, figure, seed=3)
    for model in results:  # another run measures anew
        shutil.rmtree(FINISHED / model)


if __name__ == "__main__":
    main()
