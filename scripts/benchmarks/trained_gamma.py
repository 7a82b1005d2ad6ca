"""Which exponent gamma do trained networks ask for? Errors of samples for several of them.

The weights of the errors, r^gamma, were chosen with exact denoisers (regret.py). Here the shipped
models of the uniform and the Gaussian kernel sample with the schedules that the cost tables beside
them give for several gamma, from the same noise, 3 seeds. Prints tables and writes
docs/results/trained_gamma.json; finished models are kept, so an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from functools import partial
from typing import Any

from ddm import CostTable, SamplingSchedule
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule
from ddm.module import DiscreteDiffusion
from ddm.schedules import Optimised
from ddm.schedules.optimizer import schedules_beside

from _report import ROOT, finish, resume
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "scripts"))
from evaluate import interval, measure

MODELS = {
    "countdown_uniform": "countdown_error",
    "countdown_gaussian": "countdown_error",
    "digits_uniform": "frechet_pca32",
    "digits": "frechet_pca32",
}
"""Metrics by model; `digits` has the Gaussian kernel."""
GAMMAS = (0.0, 0.25, 0.5, 0.7, 1.0, 2.0)
NUM_STEPS = (4, 8, 16)


def shipped(name: str) -> tuple[DiscreteDiffusion, SequenceDataModule, CostTable]:
    """Return a model of checkpoints/, its data and the cost table beside it."""
    checkpoint = ROOT / "checkpoints" / f"{name}.ckpt"
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("test")
    table = Optimised.load(schedules_beside(checkpoint)).table
    assert table is not None
    return module, data, table


def run(model: str, num_samples: int, seeds: int) -> dict[str, Any]:
    """Return mean and half of the 95 % interval, by schedule and N."""
    module, data, table = shipped(model)
    schedules = {"uniform": {n: SamplingSchedule.uniform(n) for n in NUM_STEPS}}
    for gamma in GAMMAS:
        weighted = replace(table, gamma=gamma)
        schedules[f"gamma {gamma}"] = {n: weighted.schedule(n) for n in NUM_STEPS}
    cells: dict[str, Any] = {}
    for name, by_steps in tqdm(schedules.items(), desc=f"{model}, samples"):
        for n, schedule in by_steps.items():
            values = []
            for seed in range(seeds):
                measured = measure(module, data, schedule, num_samples, seed, batch_size=128)
                values.append(measured[MODELS[model]])
            mean, half = interval(values)
            cells.setdefault(name, {})[str(n)] = {"mean": mean, "half_width_95": half}
    return cells


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--num-samples", type=int, default=128, help="samples per cell")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    setting = {name: vars(options)[name] for name in ("num_samples", "seeds")}
    measures = {model: partial(run, model, **setting) for model in options.models}
    results = resume("trained_gamma", setting, measures)
    for model, rows in results.items():
        print(f"\n{model}\n\n| schedule |" + "".join(f" N = {n} |" for n in NUM_STEPS))
        print("|---" * len(NUM_STEPS) + "|---|")
        for name, row in rows.items():
            cells = (f" {c['mean']:.4f} ± {c['half_width_95']:.4f} |" for c in row.values())
            print(f"| {name} |" + "".join(cells))
    finish("trained_gamma", {**setting, "results": results}, seed=options.seeds)


if __name__ == "__main__":
    main()
