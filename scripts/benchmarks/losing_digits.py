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
from ddm.metrics import PCA, FrechetDistance

import numpy as np
import torch
from _report import finish, resume
from torch import Tensor, nn
from trained_gamma import shipped

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
    module, data, table = shipped(model)
    real = data.train_tokens.long()
    components = PCA(real, EDGES[-1], scale=1 / (data.vocab_size - 1))
    metrics = {
        f"components {first + 1} to {last}": FrechetDistance(real, Block(components, first, last))
        for first, last in pairwise(EDGES)
    }
    real_pairs = pair_law(real, data.vocab_size)
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
                for key, metric in metrics.items():
                    values.setdefault(key, []).append(float(metric(tokens)))
                    metric.reset()
                pairs = pair_law(tokens, data.vocab_size)
                hellinger = float((pairs.sqrt() - real_pairs.sqrt()).norm() / 2**0.5)
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
