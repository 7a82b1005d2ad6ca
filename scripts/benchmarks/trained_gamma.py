"""Which exponent gamma do trained networks ask for? Errors of samples for several of them.

The weights of the errors, r^gamma, were chosen with exact denoisers (regret.py). Here the shipped
models of the uniform and the Gaussian kernel sample with the schedules that the cost tables beside
them give for several gamma, from the same noise, 3 seeds. Prints tables, mean and half of the 95 %
interval, and writes docs/results/trained_gamma.json; finished models are kept, so an interrupted
run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ddm import SamplingSchedule
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule
from ddm.evaluation import interval, measure
from ddm.schedules import Optimized
from ddm.schedules.optimizer import schedules_beside

from _report import ROOT, finish, parse, resume, show
from tqdm import tqdm

MODELS = {
    "countdown_uniform": "countdown_error",
    "countdown_gaussian": "countdown_error",
    "digits_uniform": "frechet_pca32",
    "digits": "frechet_pca32",
}
"""Metrics by model; `digits` has the Gaussian kernel."""
GAMMAS = (0.0, 0.25, 0.5, 0.7, 1.0, 2.0)
NUM_STEPS = (4, 8, 16)


def run(model: str, num_samples: int, seeds: int) -> dict[str, dict[str, tuple[float, float]]]:
    """Return mean and half of the 95 % interval, by schedule and N."""
    checkpoint = ROOT / "checkpoints" / f"{model}.ckpt"
    module, data = load_model(checkpoint), load_data(checkpoint)
    table = Optimized.load(schedules_beside(checkpoint)).table
    assert isinstance(data, SequenceDataModule)
    assert table is not None
    data.prepare_data()
    data.setup("test")
    schedules = {"uniform": {n: SamplingSchedule.uniform(n) for n in NUM_STEPS}}
    for gamma in GAMMAS:
        weighted = replace(table, gamma=gamma)
        schedules[f"gamma {gamma}"] = {n: weighted.schedule(n) for n in NUM_STEPS}
    cells: dict[str, dict[str, tuple[float, float]]] = {}
    for name, by_steps in tqdm(schedules.items(), desc=f"{model}, samples"):
        for n, schedule in by_steps.items():
            values = [
                measure(module, data, schedule, num_samples, seed, batch_size=128)[MODELS[model]]
                for seed in range(seeds)
            ]
            cells.setdefault(name, {})[str(n)] = interval(values)
    return cells


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse(
        __doc__,
        args,
        models=(list(MODELS), "names in checkpoints/"),
        num_samples=(256, "samples per cell"),
        seeds=(3, "number of seeds"),
    )
    setting = {name: vars(options)[name] for name in ("num_samples", "seeds")}
    measures = {model: partial(run, model, **setting) for model in options.models}
    results = resume("trained_gamma", setting, measures)
    for model, table in results.items():
        show(f"{model}, {MODELS[model]}", table)
    finish("trained_gamma", {**setting, "results": results}, seed=options.seeds)


if __name__ == "__main__":
    main()
