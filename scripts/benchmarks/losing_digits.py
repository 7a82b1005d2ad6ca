"""Why do optimised schedules lose on digits with the uniform kernel? Coarse and fine errors.

Digits drawn with uniform steps and with the schedules of the cost table beside each model, with the
weights r^0.5 of the errors (the default) and without them, from the same noise, 3 seeds. Their
Frechet distance to all training digits is split into principal components from coarse to fine,
beside the Hellinger distance of the laws of neighbouring pixels, the finest of all. Prints tables
and writes docs/results/losing_digits.json; finished models are kept, so an interrupted run goes on
where it stopped.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

from ddm import SamplingSchedule
from ddm.callbacks.jys_schedule import schedules_beside
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import Images
from ddm.metrics import PCA, FrechetDistance
from ddm.schedules import Optimised

import numpy as np
import torch
from _report import ROOT, finish, resume
from torch import Tensor, nn

MODELS = ("digits_uniform", "digits")
NUM_STEPS = (4, 8)
EDGES = (0, 4, 16, 64)
"""Ends of the blocks of principal components, the coarsest first."""


class Block(nn.Module):
    """Some of the principal components, counted from the largest."""

    def __init__(self, components: PCA, first: int, last: int) -> None:
        super().__init__()
        self.components, self.first, self.last = components, first, last

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the coordinates (B, last - first)."""
        return self.components(tokens).flip(-1)[:, self.first : self.last]


def pair_law(tokens: Tensor, vocab_size: int) -> Tensor:
    """Return the joint law of horizontally adjacent pixels of 8 x 8 images, (V^2,)."""
    rows = tokens.reshape(-1, 8, 8)
    index = rows[..., :-1] * vocab_size + rows[..., 1:]
    counts = torch.bincount(index.flatten(), minlength=vocab_size**2).double()
    return counts / counts.sum()


def run(model: str, num_samples: int, seeds: int) -> dict[str, Any]:
    """Return the mean and standard error over seeds, by schedule, N and measure."""
    checkpoint = ROOT / "checkpoints" / f"{model}.ckpt"
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, Images)
    data.prepare_data()
    data.setup("fit")
    real = data.train_tokens.long()
    components = PCA(real, EDGES[-1], scale=1 / (data.vocab_size - 1))
    table = Optimised.load(schedules_beside(checkpoint)).table
    assert table is not None
    cells: dict[str, Any] = {}
    for n in NUM_STEPS:
        schedules = {
            "uniform steps": SamplingSchedule.uniform(n),
            "optimal, r^0.5": table.schedule(n),
            "optimal, no weights": replace(table, gamma=0.0).schedule(n),
        }
        for name, schedule in schedules.items():
            values: dict[str, list[float]] = {}
            for seed in range(seeds):
                noise = torch.Generator().manual_seed(seed)
                tokens = module.sample(num_samples, schedule, generator=noise).tokens
                for first, last in pairwise(EDGES):
                    metric = FrechetDistance(real, Block(components, first, last))
                    metric.update(tokens)
                    key = f"components {first + 1} to {last}"
                    values.setdefault(key, []).append(float(metric.compute()))
                laws = (pair_law(x, data.vocab_size).sqrt() for x in (tokens, real))
                hellinger = float((next(laws) - next(laws)).norm() / 2**0.5)
                values.setdefault("neighbouring pixels", []).append(hellinger)
            cells.setdefault(name, {})[str(n)] = {
                key: [float(np.mean(v)), float(np.std(v, ddof=1) / len(v) ** 0.5)]
                for key, v in values.items()
            }
    return cells


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--num-samples", type=int, default=512, help="samples per cell")
    parser.add_argument("--seeds", type=int, default=3)
    setting = vars(parser.parse_args())
    results = resume(
        "losing_digits", setting, {model: partial(run, model, **setting) for model in MODELS}
    )
    for model, rows in results.items():
        for n in map(str, NUM_STEPS):
            measures = next(iter(rows.values()))[n]
            print(f"\n{model}\n\n| N = {n} |" + "".join(f" {key} |" for key in measures))
            print("|---" * len(measures) + "|---|")
            for name, row in rows.items():
                shown = (f" {mean:.4f} ± {error:.4f} |" for mean, error in row[n].values())
                print(f"| {name} |" + "".join(shown))
    finish("losing_digits", {**setting, "results": results}, seed=setting["seeds"])


if __name__ == "__main__":
    main()
