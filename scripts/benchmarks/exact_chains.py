"""Which schedule is best when the denoiser is exact? CountDown chains, all kernels, 3 seeds.

Every schedule is found from the same sequences and judged by the fraction of adjacent pairs that
break the CountDown rule in samples of the analytic sampler; all pairs count. Prints tables, draws
the main figure and writes docs/results/exact_chains.{json,png}. Finished cells are kept, so an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ddm import Absorbing, Kernel, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain
from ddm.files import read_json
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import JumpYourSteps, SamplingSchedule

import torch
from _released_jys import released_jys
from _report import RESULTS, draw_curves, finish, over_seeds, parse, resume, show
from problems import data_of, discretized_gaussian, exact, violations


@dataclass(frozen=True)
class Case:
    """A chain, a kernel, and the numbers of steps to compare at."""

    task: str
    vocab_size: int
    length: int
    smoothing: float
    kernel: Callable[[int], Kernel]
    num_steps: tuple[int, ...] = (2, 4, 8, 16, 32)


CASES = {
    "absorbing": Case("CountDown", 32, 256, 0.0, Absorbing, (2, 3, 4, 6, 8, 12, 16, 32)),
    "uniform": Case("smoothed CountDown", 16, 64, 0.002, Uniform),
    "gaussian": Case("smoothed CountDown", 16, 64, 0.002, discretized_gaussian),
}
SCHEDULES = ("uniform", "cosine", "JYS as released", "JYS", "optimal")


def run(
    case: Case, names: Sequence[str], seed: int, num_samples: int, num_data: int
) -> dict[str, dict[str, float]]:
    """Return the errors of one case and seed, by schedule and N."""
    chain, numbers = countdown_chain(case.vocab_size, case.smoothing), case.num_steps
    denoiser = exact(case.kernel(case.vocab_size), LogLinear(), chain)
    x_0, _ = data_of(chain, num_data, seed, case.length)
    few = x_0[: num_data // 8]  # 651 network calls and more, against 96
    errors: dict[str, dict[str, float]] = {}
    for name in names:
        generator = torch.Generator().manual_seed(2000 + seed)
        if name == "uniform":
            schedules = {n: SamplingSchedule.uniform(n) for n in numbers}
        elif name == "cosine":
            schedules = {n: SamplingSchedule.cosine(n) for n in numbers}
        elif name == "JYS as released":  # powers of two alone
            schedules = {n: released_jys(denoiser, few, n, generator) for n in (2, 4, 8, 16)}
        else:
            method = JumpYourSteps() if name == "JYS" else OptimalSteps()
            x = few if name == "JYS" else x_0
            schedules = method(denoiser, Analytic(), x, numbers, generator=generator).schedules
        setting = {"length": case.length, "batch_size": 256, "seed": 1000 + seed}
        errors[name] = {
            str(n): violations(denoiser, schedule, num_samples, **setting)
            for n, schedule in schedules.items()
        }
    return errors


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    options = parse(
        __doc__,
        args,
        cases=(list(CASES), "chains and kernels"),
        schedules=(list(SCHEDULES), "measure these alone, keep other results"),
        seeds=(3, "number of seeds"),
        num_samples=(512, "samples per cell and seed"),
        num_data=(1024, "sequences for the cost table"),
    )
    names, settings = options.schedules, {k: vars(options)[k] for k in ("num_samples", "num_data")}
    measures = {
        f"{name}|{seed}": partial(run, CASES[name], names, seed, **settings)
        for name in options.cases
        for seed in range(options.seeds)
    }
    cells = resume("exact_chains", {**settings, "schedules": names}, measures)
    some = set(names) < set(SCHEDULES)
    tables: dict[str, Any] = read_json(RESULTS / "exact_chains.json")["tables"] if some else {}
    drawn = {}
    for name in options.cases:
        found = over_seeds([cells[f"{name}|{seed}"] for seed in range(options.seeds)])
        tables[name] = tables.get(name, {}) | found
        case = CASES[name]
        title = f"{case.task}\nV = {case.vocab_size}, L = {case.length}, {name}"
        drawn[title] = tables[name]
        show(f"{title}: pairs that break the rule, mean ± s.e.", tables[name])
    figure = draw_curves(drawn, ["pairs that break the rule"] * len(drawn))
    content = {"settings": settings, "tables": tables}
    finish("exact_chains", content, figure, seed=options.seeds)


if __name__ == "__main__":
    main()
