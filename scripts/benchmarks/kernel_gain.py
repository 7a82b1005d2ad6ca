"""Which kernel gains most from an optimal schedule, and why? Exact denoisers of four chains.

A short step from t to s costs about `(F(t) - F(s))^2` with `F(t) = int_0^t sqrt(w kappa)`. By this
law the best N steps advance F equally and cost `F(1)^2 / N`, and N equal steps cost more by

    N sum_k (F(t_k) - F(t_k+1))^2 / F(1)^2  ->  1 + (coefficient of variation of sqrt(w kappa))^2,

so that what there is to gain follows from where the density of cost lies in t. The script sets this
prediction, from the density of one cost table, beside the gain at N = 4, 8, 16 as judged by another
table of independent sequences; with CountDown also beside the rule violations of samples. Writes
docs/results/kernel_gain.{json,png}.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from ddm import Absorbing, CostTable, ForwardProcess, Gaussian, Kernel, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import Denoiser, MarkovChainDenoiser
from ddm.metrics import CountDownError
from ddm.noise import Cosine, Geometric, LogLinear, NoiseSchedule
from ddm.samplers import Analytic, Sampler
from ddm.schedules import SamplingSchedule

import numpy as np
import torch
from _report import finish, resume
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

VOCAB_SIZE, LENGTH = 12, 32
NUM_STEPS = (4, 8, 16)
GRID = {"num_times": 40, "pilot_times": 16}
"""Fewer grid times than the defaults of `OptimalSteps`: up to 16 steps and 64 tables."""
Chain = tuple[Tensor, Tensor]
"""Initial law (V,) and transition matrix (V, V)."""

KERNELS: dict[str, Callable[[int], Kernel]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "Gaussian": Gaussian,
}
NOISES: dict[str, Callable[[], NoiseSchedule]] = {
    "LogLinear": LogLinear,
    "Cosine": Cosine,
    "Geometric": Geometric,
}


def chains(vocab_size: int = VOCAB_SIZE) -> dict[str, Chain]:
    """Return the chains by name: rigid, smooth, slow to mix, and independent tokens."""
    v = vocab_size
    flat = torch.full((v,), 1 / v, dtype=torch.float64)
    same = torch.eye(v, dtype=torch.float64)
    skewed = 0.8 ** torch.arange(v, dtype=torch.float64)
    skewed /= skewed.sum()
    return {
        "CountDown, smoothing .002": countdown_chain(v, 0.002),
        "CountDown, smoothing .2": countdown_chain(v, 0.2),
        "stays with .95": (flat, torch.lerp(same, flat.expand(v, -1), 0.05)),
        "independent": (skewed, skewed.expand(v, -1)),
    }


def exact(kernel: Kernel, noise: NoiseSchedule, chain: Chain) -> MarkovChainDenoiser:
    """Return the exact denoiser of a chain."""
    return MarkovChainDenoiser(ForwardProcess(kernel, noise), *chain)


def table_of(denoiser: Denoiser, chain: Chain, num_data: int, seed: int) -> CostTable:
    """Return a cost table from fresh sequences of a chain."""
    generator = torch.Generator().manual_seed(seed)
    x_0 = sample_chain(*chain, num_data, LENGTH, generator)
    return OptimalSteps(**GRID).table(denoiser, Analytic(), x_0, generator=generator)


def violations(
    denoiser: Denoiser,
    times: Sequence[float],
    num_samples: int,
    sampler: Sampler | None = None,
) -> float:
    """Return the share of pairs that break the CountDown rule, always from the same noise."""
    noise = torch.Generator().manual_seed(1)
    kernel = denoiser.process.kernel
    x = kernel.sample_prior((num_samples, LENGTH), noise)
    metric = CountDownError(kernel.vocab_size)
    metric.update((sampler or Analytic())(denoiser, x, times, generator=noise).tokens)
    return float(metric.compute())


def predicted_gain(times: Sequence[float], density: Sequence[float], num_steps: int) -> float:
    """Return the cost of N equal steps over that of the optimal ones, by the law of short steps.

    Args:
        times: Increasing grid from 0 to 1, (M + 1,).
        density: `sqrt(w kappa)` in its cells, (M,).
        num_steps: The number N of steps.
    """
    level = np.concatenate([[0.0], (np.asarray(density) * np.diff(times)).cumsum()])
    steps = np.diff(np.interp(np.linspace(0, 1, num_steps + 1), times, level)) / level[-1]
    return num_steps * float((steps**2).sum())


def quartiles(table: CostTable) -> list[float]:
    """Return the times below which 1/4, 1/2 and 3/4 of the optimal steps lie."""
    mass = (table.density * np.diff(table.times)).cumsum()
    level = np.concatenate([[0.0], mass / mass[-1]])
    return [float(t) for t in np.interp([0.25, 0.5, 0.75], level, table.times)]


def measure(denoiser: Denoiser, chain: Chain, num_data: int, num_samples: int) -> dict[str, Any]:
    """Return prediction and outcome for one kernel, noise and chain.

    Two tables judge each other's schedules; both outcomes are kept. No violations are counted
    where `num_samples` is 0.
    """
    tables = [table_of(denoiser, chain, num_data, seed) for seed in (0, 1)]
    found: dict[str, Any] = {
        "quartiles": np.mean([quartiles(table) for table in tables], 0).tolist(),
        "density": {"times": tables[0].times.tolist(), "density": tables[0].density.tolist()},
    }
    for n in NUM_STEPS:
        uniform = SamplingSchedule.uniform(n).times
        optimal = [table.schedule(n).times for table in tables]
        found[f"uniform, N = {n}"] = [table.evaluate(uniform) for table in tables]
        found[f"optimal, N = {n}"] = [tables[1 - k].evaluate(optimal[k]) for k in (0, 1)]
        if num_samples:
            broken = [violations(denoiser, times, num_samples) for times in (uniform, optimal[0])]
            found[f"violations, N = {n}"] = broken
    return found


def gain(cell: Mapping[str, Any], num_steps: int) -> float:
    """Return the cost of uniform over that of optimal steps, nats over nats."""
    uniform, optimal = (cell[f"{name}, N = {num_steps}"] for name in ("uniform", "optimal"))
    return float(np.mean(uniform) / np.mean(optimal))


def draw(cells: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw where the steps should be, and measured against predicted gains."""
    figure = Figure(figsize=(11, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    first = next(iter(chains()))
    for axes, noise in zip(panels, ("LogLinear", "Geometric"), strict=False):
        for k, kernel in enumerate(KERNELS):
            cell = cells.get(f"{kernel}/{noise}/{first}")
            if cell is None:
                continue
            times, density = (np.array(cell["density"][key]) for key in ("times", "density"))
            mass = np.concatenate([[0.0], (density * np.diff(times)).cumsum()])
            axes.plot(times, mass / mass[-1], color=f"C{k}", label=kernel)
        axes.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
        axes.set(title=f"{first}\n{noise}", xlabel="t", ylabel="share of optimal steps below t")
    panels[0].legend(frameon=False)
    axes = panels[2]
    for n, marker in zip(NUM_STEPS, "osv", strict=True):
        for k, kernel in enumerate(KERNELS):
            mine = [c for key, c in cells.items() if key.startswith(kernel) and c["dependent"]]
            axes.plot(
                [predicted_gain(**c["density"], num_steps=n) for c in mine],
                [gain(c, n) for c in mine],
                marker,
                color=f"C{k}",
                markersize=4,
                alpha=0.7,
                label=f"N = {n}" if k == 0 else None,
            )
    axes.axline((1, 1), (10, 10), color="0.6", linewidth=0.8)
    axes.set(xscale="log", yscale="log", xlabel="predicted gain", ylabel="measured gain")
    axes.legend(frameon=False)
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--num-data", type=int, default=256, help="sequences per cost table")
    parser.add_argument("--num-samples", type=int, default=2048, help="samples per schedule")
    options = parser.parse_args()
    settings = {"num_data": options.num_data, "num_samples": options.num_samples}
    laws = chains()

    def cell(kernel: str, noise: str, chain: str) -> Callable[[], dict[str, Any]]:
        denoiser = exact(KERNELS[kernel](VOCAB_SIZE), NOISES[noise](), laws[chain])
        num_samples = options.num_samples if chain.startswith("CountDown") else 0
        return lambda: measure(denoiser, laws[chain], options.num_data, num_samples)

    cases = {
        "/".join(case): cell(*case)
        for case in product(KERNELS, NOISES, laws)
        if case[1] == "LogLinear" or case[2] != "independent"  # a control of the noise, once
    }
    cells = resume("kernel_gain", settings, cases)
    for key, found in cells.items():
        found["dependent"] = not key.endswith("independent")
    gains = {
        key: {
            n: (predicted_gain(**found["density"], num_steps=n), gain(found, n)) for n in NUM_STEPS
        }
        for key, found in cells.items()
    }
    print(f"{'kernel/noise/chain':48s} predicted/measured gain, N = 4, 8, 16   quartiles of t")
    for key, found in cells.items():
        shown = "  ".join(f"{a:5.2f}/{b:5.2f}" for a, b in gains[key].values())
        where = " ".join(f"{t:.3f}" for t in found["quartiles"])
        print(f"{key:48s} {shown}   {where}")
    rank: dict[str, dict[int, float]] = {}
    for kernel, n in product(KERNELS, NUM_STEPS):
        mine = [gains[k][n] for k, c in cells.items() if c["dependent"] and k.startswith(kernel)]
        rank.setdefault(kernel, {})[n] = float(spearmanr(*zip(*mine, strict=True)).statistic)
    print("rank correlation of predicted and measured gain:", rank)
    content = {"settings": settings, "rank_correlation": rank, "gains": gains, "cells": cells}
    finish("kernel_gain", content, draw(cells), seed=0)


if __name__ == "__main__":
    main()
