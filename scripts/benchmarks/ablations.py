"""How many sequences and network calls does a schedule need, and how many steps does it save?

Exact denoisers of a CountDown chain (V = 12, L = 32), analytic sampler. Schedules of JYS and of
cost tables, by default averaged over neighboring times, are judged by a large table of other
sequences against uniform steps; and the same says how many optimal steps are as good as N uniform
ones, and after how many samples their 96 network calls on 256 sequences have paid. Prints tables
and writes docs/results/ablations.json; finished cells are kept, so an interrupted run goes on where
it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

from ddm import CostTable, OptimalSteps
from ddm.denoisers import Denoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import JumpYourSteps, SamplingSchedule

from _report import finish, over_seeds, parse, resume, show
from problems import KERNELS, RIGID, VOCAB_SIZE, chains, data_of, exact, table_of

NUM_STEPS = (4, 8, 16)
CHAIN = chains()[RIGID]
METHODS: dict[str, OptimalSteps | JumpYourSteps] = {
    "96 calls": OptimalSteps(),
    "48 calls": OptimalSteps(num_times=36, pilot_times=12),
    "24 calls": OptimalSteps(num_times=18, pilot_times=6),
    "JYS": JumpYourSteps(),
}


def setting(kernel: str, num_judge: int) -> tuple[Denoiser, CostTable]:
    """Return the denoiser, and the table that judges: as measured, which favors no average."""
    denoiser = exact(KERNELS[kernel](VOCAB_SIZE), LogLinear(), CHAIN)
    return denoiser, replace(table_of(denoiser, CHAIN, num_judge, 1000), width=0.0)


def costs(kernel: str, size: int, num_judge: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the cost of every method's schedules over that of uniform steps, by N."""
    denoiser, judge = setting(kernel, num_judge)
    found = {}
    for name, method in METHODS.items():
        x_0, generator = data_of(CHAIN, size, seed)
        result = method(denoiser, Analytic(), x_0, NUM_STEPS, generator=generator)
        found[name] = result.schedules
        if name == "96 calls" and result.table is not None:
            table = replace(result.table, width=0.0)
            found[f"{name}, as measured"] = {n: table.schedule(n) for n in NUM_STEPS}
    uniform = {n: judge.evaluate(SamplingSchedule.uniform(n).times) for n in NUM_STEPS}
    return {
        name: {str(n): judge.evaluate(x[n].times) / uniform[n] for n in NUM_STEPS}
        for name, x in found.items()
    }


def savings(kernel: str, num_judge: int) -> dict[str, tuple[int, float | None]]:
    """Return by N how many optimal steps cost what N uniform ones do, and when they have paid."""
    _, judge = setting(kernel, num_judge)
    instead = {
        n: judge.steps_for(judge.evaluate(SamplingSchedule.uniform(n).times))
        for n in (*NUM_STEPS, 32)
    }
    return {str(n): (m, 96 * 256 / (n - m) if m < n else None) for n, m in instead.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        seeds=(3, "data sets per cell"),
        sizes=([16, 64, 256], "sequences of a data set"),
        num_judge=(1536, "sequences for the table that judges"),
    )
    seeds, judge = range(options.seeds), options.num_judge
    names = list(product(("absorbing", "uniform"), options.sizes))
    measures: dict[str, Callable[[], Any]] = {
        f"{kernel}, {size}, {seed}": partial(costs, kernel, size, judge, seed)
        for (kernel, size), seed in product(names, seeds)
    } | {kernel: partial(savings, kernel, judge) for kernel in KERNELS}
    cells = resume("ablations", {"num_judge": judge}, measures)
    tables = {
        f"{kernel}, {size} sequences": over_seeds([cells[f"{kernel}, {size}, {s}"] for s in seeds])
        for kernel, size in names
    }
    for title, rows in tables.items():
        show(f"{title}: cost over that of uniform steps, mean ± s.e.", rows)
    saved = {kernel: cells[kernel] for kernel in KERNELS}
    print("\nuniform steps: optimal steps of the same cost, samples after which they have paid")
    for kernel, rows in saved.items():
        print(f"{kernel:10s}", rows)
    finish("ablations", {"num_judge": judge, "costs": tables, "savings": saved}, seed=0)


if __name__ == "__main__":
    main()
