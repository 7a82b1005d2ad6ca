"""Which exponent gamma do trained networks ask for? Errors of samples for several of them.

The weights of the errors, r^gamma, were chosen with exact denoisers (regret.py). Here the shipped
models of the uniform and the Gaussian kernel sample with the optimal schedules of several gamma,
from the same noise, 3 seeds. Prints tables and writes docs/results/trained_gamma.json; finished
models are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import Any

from ddm import OptimalSteps, SamplingSchedule
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule

import torch
from _report import ROOT, finish, resume
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "scripts"))
from evaluate import interval, measure

MODELS = ("countdown_uniform", "countdown_gaussian")
GAMMAS = (0.0, 0.5, 0.75, 1.0, 2.0)
NUM_STEPS = (4, 8, 16)
METRIC = "countdown_error"


def run(model: str, num_samples: int, num_sequences: int, seeds: int) -> dict[str, Any]:
    """Return mean and half of the 95 % interval, by schedule and N."""
    checkpoint = ROOT / "checkpoints" / f"{model}.ckpt"
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("test")
    x_0 = data.train_tokens[:num_sequences].long()
    schedules: dict[str, dict[int, SamplingSchedule]] = {
        "uniform": {n: SamplingSchedule.uniform(n) for n in NUM_STEPS}
    }
    for gamma in tqdm(GAMMAS, desc=f"{model}, tables"):
        generator = torch.Generator().manual_seed(0)
        optimizer = OptimalSteps(gamma, batch_size=128)
        found = optimizer(module.denoiser, module.sampler, x_0, NUM_STEPS, generator=generator)
        schedules[f"gamma {gamma}"] = found.schedules
    cells: dict[str, Any] = {}
    for name, by_steps in tqdm(schedules.items(), desc=f"{model}, samples"):
        for n, schedule in by_steps.items():
            values = []
            for seed in range(seeds):
                measured = measure(module, data, schedule, num_samples, seed, batch_size=64)
                values.append(measured[METRIC])
            mean, half = interval(values)
            cells.setdefault(name, {})[str(n)] = {"mean": mean, "half_width_95": half}
    return cells


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--num-samples", type=int, default=256, help="samples per cell")
    parser.add_argument("--num-sequences", type=int, default=128, help="to measure tables with")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    setting = {name: vars(options)[name] for name in ("num_samples", "num_sequences", "seeds")}
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
