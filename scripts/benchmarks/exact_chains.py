"""Which schedule is best when the denoiser is exact? CountDown chains, all kernels, 3 seeds.

Every schedule is found from the same sequences and judged by the share of adjacent pairs that
break the CountDown rule in samples of the analytic sampler; all pairs count. Prints tables, draws
the main figure and writes docs/results/exact_chains.{json,png}. Finished cells are kept, so an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ddm import Absorbing, DenseKernel, ForwardProcess, Kernel, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import MarkovChainDenoiser
from ddm.files import read_json
from ddm.metrics import CountDownError
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import JumpYourSteps, SamplingSchedule

import numpy as np
import torch
from _released_jys import released_jys
from _report import RESULTS, finish, resume
from matplotlib.figure import Figure
from tqdm import tqdm


@dataclass(frozen=True)
class Case:
    """A chain, a kernel, and the numbers of steps to compare at."""

    title: str
    vocab_size: int
    length: int
    smoothing: float
    kernel: Callable[[int], Kernel]
    num_steps: tuple[int, ...]


def discretised_gaussian(vocab_size: int, width: float | None = None) -> DenseKernel:
    """Return the kernel `exp(-(i - j)^2 / (2 width^2))`, V / 10 by default; largest exit rate 4."""
    width = vocab_size / 10 if width is None else width
    i = torch.arange(vocab_size, dtype=torch.float64)
    rate = torch.exp(-((i[:, None] - i) ** 2) / (2 * width**2)).fill_diagonal_(0)
    rate *= 4 / rate.sum(-1).max()
    return DenseKernel(rate - torch.diag(rate.sum(-1)), ordinal=True)


CASES = {
    "absorbing": Case(
        "CountDown, V = 32, L = 256, absorbing",
        32,
        256,
        0.0,
        Absorbing,
        (2, 3, 4, 6, 8, 12, 16, 32),
    ),
    "uniform": Case(
        "smoothed CountDown, V = 16, L = 64, uniform", 16, 64, 0.002, Uniform, (2, 4, 8, 16, 32)
    ),
    "gaussian": Case(
        "smoothed CountDown, V = 16, L = 64, Gaussian",
        16,
        64,
        0.002,
        discretised_gaussian,
        (2, 4, 8, 16, 32),
    ),
}


SCHEDULES = ("uniform", "cosine", "JYS as released", "JYS", "optimal")


def run(
    case: Case,
    names: Sequence[str],
    seed: int,
    num_samples: int,
    num_data: int,
) -> dict[str, dict[str, float]]:
    """Return the errors of one case and seed, by schedule and N."""
    initial, transition = countdown_chain(case.vocab_size, case.smoothing)
    process = ForwardProcess(case.kernel(case.vocab_size), LogLinear())
    denoiser = MarkovChainDenoiser(process, initial, transition)
    data = torch.Generator().manual_seed(seed)
    x_0 = sample_chain(initial, transition, num_data, case.length, data)
    few = x_0[: num_data // 8]  # 651 network calls and more, against 96
    numbers, powers = case.num_steps, (2, 4, 8, 16)
    found: dict[str, dict[int, SamplingSchedule]] = {}
    for name in names:
        generator = torch.Generator().manual_seed(2000 + seed)
        if name == "uniform":
            found[name] = {n: SamplingSchedule.uniform(n) for n in numbers}
        elif name == "cosine":
            found[name] = {n: SamplingSchedule.cosine(n) for n in numbers}
        elif name == "JYS as released":
            found[name] = {n: released_jys(denoiser, few, n, generator) for n in powers}
        else:
            method = JumpYourSteps() if name == "JYS" else OptimalSteps()
            x = few if name == "JYS" else x_0
            found[name] = method(denoiser, Analytic(), x, numbers, generator=generator).schedules
    errors: dict[str, dict[str, float]] = {name: {} for name in names}
    for n in tqdm(numbers, desc=f"{case.title}, seed {seed}"):
        for name in names:
            schedule = found[name].get(n)
            if schedule is None:
                continue
            noise = torch.Generator().manual_seed(1000 + seed)  # the same for all schedules
            metric = CountDownError(case.vocab_size)
            for _ in range(num_samples // 256):
                x = process.kernel.sample_prior((256, case.length), noise)
                metric.update(Analytic()(denoiser, x, schedule.times, generator=noise).tokens)
            errors[name][str(n)] = float(metric.compute())
    return errors


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard error over seeds; 0 of a single one."""
    num = len(values)
    return float(np.mean(values)), float(np.std(values, ddof=1) / num**0.5) if num > 1 else 0.0


def summary(seeds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Return mean and standard error over seeds, by schedule and N."""
    return {
        name: {n: mean_and_error([errors[name][n] for errors in seeds]) for n in row}
        for name, row in seeds[0].items()
    }


def draw(tables: dict[str, dict[str, dict[str, tuple[float, float]]]]) -> Figure:
    """Draw error against the number of network calls, one panel per kernel."""
    figure = Figure(figsize=(4 * len(tables), 3.6), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, (name, table) in zip(panels, tables.items(), strict=True):
        for schedule, row in table.items():
            n = [int(k) for k in row]
            mean, error = np.array(list(row.values())).T
            axes.errorbar(n, mean, error, label=schedule, marker=".", linewidth=1.2, capsize=2)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(n, labels=[str(k) for k in n])
        axes.set(
            title=CASES[name].title.replace(", ", "\n", 1),
            xlabel="network calls",
            ylabel="pairs that break the rule",
        )
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument(
        "--schedules", nargs="+", choices=SCHEDULES, help="measure these alone, keep other results"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-samples", type=int, default=512, help="samples per cell and seed")
    parser.add_argument("--num-data", type=int, default=1024, help="sequences for the cost table")
    options = parser.parse_args()
    names = options.schedules or SCHEDULES
    settings = {"num_samples": options.num_samples, "num_data": options.num_data}
    measures = {
        f"{name}|{seed}": partial(run, CASES[name], names, seed, **settings)
        for name in options.cases
        for seed in range(options.seeds)
    }
    cells = resume("exact_chains", {**settings, "schedules": names}, measures)
    tables = read_json(RESULTS / "exact_chains.json")["tables"] if options.schedules else {}
    for name in options.cases:
        found = summary([cells[f"{name}|{seed}"] for seed in range(options.seeds)])
        tables[name] = tables.get(name, {}) | found
        print(f"\n{CASES[name].title}: share of pairs that break the rule, mean +- s.e.")
        for schedule, row in tables[name].items():
            numbers = "  ".join(f"N={n}: {m:.4f} +- {e:.4f}" for n, (m, e) in row.items())
            print(f"{schedule:16s} {numbers}")
    content = {"settings": settings, "tables": tables}
    finish("exact_chains", content, draw(tables), seed=options.seeds)


if __name__ == "__main__":
    main()
