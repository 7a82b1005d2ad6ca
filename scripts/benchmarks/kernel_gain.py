"""Which kernel gains most from an optimal schedule, and why? Exact denoisers of four chains.

A short step from t to s costs about `(F(t) - F(s))^2` with `F(t) = int_0^t sqrt(w kappa)`. By this
law the best N steps advance F equally and cost `F(1)^2 / N`, and N equal steps cost more by

    N sum_k (F(t_k) - F(t_k+1))^2 / F(1)^2  ->  1 + (coefficient of variation of sqrt(w kappa))^2,

so that what there is to gain follows from where the density of cost lies in t. The script sets this
prediction, from the density of one cost table, beside the gain at N = 4, 8, 16 as judged by another
table of independent sequences; with CountDown also beside the rule violations of samples. Writes
docs/results/kernel_gain.json.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product
from typing import Any

from ddm import CostTable
from ddm.denoisers import Denoiser
from ddm.noise import Cosine, Geometric, LogLinear, NoiseSchedule
from ddm.schedules import SamplingSchedule

import numpy as np
from _report import finish, parse, resume
from problems import KERNELS, VOCAB_SIZE, Chain, chains, exact, table_of, violations
from scipy.stats import spearmanr

NUM_STEPS = (4, 8, 16)
NOISES: dict[str, Callable[[], NoiseSchedule]] = {
    "LogLinear": LogLinear,
    "Cosine": Cosine,
    "Geometric": Geometric,
}


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
        uniform = SamplingSchedule.uniform(n)
        optimal = [table.schedule(n) for table in tables]
        found[f"uniform, N = {n}"] = [table.evaluate(uniform.times) for table in tables]
        found[f"optimal, N = {n}"] = [tables[1 - k].evaluate(optimal[k].times) for k in (0, 1)]
        if num_samples:
            broken = [violations(denoiser, grid, num_samples) for grid in (uniform, optimal[0])]
            found[f"violations, N = {n}"] = broken
    return found


def gain(cell: Mapping[str, Any], num_steps: int) -> float:
    """Return the cost of uniform over that of optimal steps, nats over nats."""
    uniform, optimal = (cell[f"{name}, N = {num_steps}"] for name in ("uniform", "optimal"))
    return float(np.mean(uniform) / np.mean(optimal))


def dependent(key: str) -> bool:
    """Return whether the tokens of this cell depend on each other, so that steps cost something."""
    return not key.endswith("independent")


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        num_data=(256, "sequences per cost table"),
        num_samples=(2048, "samples per schedule"),
    )
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
    cells = resume("kernel_gain", vars(options), cases)
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
        mine = [gains[k][n] for k in cells if dependent(k) and k.startswith(kernel)]
        rank.setdefault(kernel, {})[n] = float(spearmanr(*zip(*mine, strict=True)).statistic)
    print("rank correlation of predicted and measured gain:", rank)
    for found in cells.values():
        del found["density"]  # long, and its gains are there
    content = {"settings": vars(options), "rank_correlation": rank, "gains": gains, "cells": cells}
    finish("kernel_gain", content, seed=0)


if __name__ == "__main__":
    main()
