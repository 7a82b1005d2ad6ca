"""How many sequences and network calls does a schedule need, and how many steps does it save?

Exact denoisers of a CountDown chain (V = 12, L = 32), analytic sampler. Schedules of JYS and of
cost tables, by default averaged over neighboring times and with the noise taken off that the
prediction does not expect, all at the same number of calls for single sequences, are judged by a
large table of other sequences against uniform steps; and the same says how many optimal steps are
as good as N uniform ones, and after how many samples 48 calls on 512 sequences have paid. Prints
tables and writes docs/results/ablations.json; finished cells are kept, so an interrupted run goes
on where it stopped.
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
from ddm.schedules import JumpYourSteps, SamplingSchedule, StepCosts, measure_step_costs
from ddm.schedules.optimal.excess import control_coefficient, sequence_excess

import numpy as np
import torch
from _report import finish, over_seeds, parse, resume, show
from problems import KERNELS, RIGID, VOCAB_SIZE, chains, data_of, exact, table_of

NUM_STEPS = (4, 8, 16)
CHAIN = chains()[RIGID]


class Uncontrolled(OptimalSteps):
    """`OptimalSteps` that does not ask what the prediction expects."""

    @staticmethod
    def measure(*args: Any, **settings: Any) -> StepCosts:  # noqa: ANN401
        """Return the costs without an expectation of their own."""
        costs = measure_step_costs(*args, **settings)
        return replace(costs, expected=costs.nats)


METHODS: dict[str, tuple[int, OptimalSteps | JumpYourSteps]] = {
    "96 calls": (96, OptimalSteps(num_times=72, pilot_times=24)),
    "48 calls": (48, OptimalSteps(num_times=36, pilot_times=12)),
    "24 calls": (24, OptimalSteps(num_times=18, pilot_times=6)),
    "48 calls, no control": (48, Uncontrolled(num_times=36, pilot_times=12)),
    "JYS": (255, JumpYourSteps()),
}


def setting(kernel: str, num_judge: int) -> tuple[Denoiser, CostTable]:
    """Return the denoiser, and the table that judges: as measured, which favors no average."""
    denoiser = exact(KERNELS[kernel](VOCAB_SIZE), LogLinear(), CHAIN)
    return denoiser, replace(table_of(denoiser, CHAIN, num_judge, 1000), width=0.0)


def costs(kernel: str, budget: int, num_judge: int, seed: int) -> dict[str, dict[str, float]]:
    """Return the cost of every method's schedules over that of uniform steps, by N.

    All methods make `budget` calls for single sequences.
    """
    denoiser, judge = setting(kernel, num_judge)
    found = {}
    for name, (num_calls, method) in METHODS.items():
        x_0, generator = data_of(CHAIN, max(8, budget // num_calls), seed)
        result = method(denoiser, Analytic(), x_0, NUM_STEPS, generator=generator)
        found[name] = result.schedules
        if name == "48 calls" and result.table is not None:
            table = replace(result.table, width=0.0)
            found[f"{name}, as measured"] = {n: table.schedule(n) for n in NUM_STEPS}
    uniform = {n: judge.evaluate(SamplingSchedule.uniform(n).times) for n in NUM_STEPS}
    return {
        name: {str(n): judge.evaluate(x[n].times) / uniform[n] for n in NUM_STEPS}
        for name, x in found.items()
    }


def noise(kernel: str, num_judge: int) -> dict[str, float]:
    """Return how many times smaller the control makes the variance of costs.

    Of single entries of the table, 5 %, median and 95 %, and of what optimal steps save.
    """
    denoiser, judge = setting(kernel, num_judge)
    x_0, generator = data_of(CHAIN, num_judge, 2000)
    measured = measure_step_costs(denoiser, x_0, torch.from_numpy(judge.times), generator=generator)
    controlled = measured.controlled(control_coefficient(measured))
    excess = [sequence_excess(costs).numpy() for costs in (measured, controlled)]
    entries = np.tril_indices(len(judge.times), -2)
    variance = [x.var(0)[entries] for x in excess]
    low, median, high = np.quantile(variance[0] / variance[1], [0.05, 0.5, 0.95]).tolist()
    found = {"5 %": low, "median": median, "95 %": high}
    tables = [replace(judge, held_out=x) for x in excess]
    for n in NUM_STEPS:
        uniform, optimal = SamplingSchedule.uniform(n).times, judge.schedule(n).times
        saved = [table.sequence_costs(uniform) - table.sequence_costs(optimal) for table in tables]
        found[f"N = {n}"] = float(saved[0].var() / saved[1].var())
    return found


def savings(kernel: str, num_judge: int) -> dict[str, tuple[int, float | None]]:
    """Return by N how many optimal steps cost what N uniform ones do, and when they have paid."""
    _, judge = setting(kernel, num_judge)
    instead = {
        n: judge.steps_for(judge.evaluate(SamplingSchedule.uniform(n).times))
        for n in (*NUM_STEPS, 32)
    }
    return {str(n): (m, 48 * 512 / (n - m) if m < n else None) for n, m in instead.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        seeds=(3, "data sets per cell"),
        budgets=([3072, 12288, 49152], "calls for single sequences, of every method"),
        num_judge=(1536, "sequences for the table that judges"),
    )
    seeds, judge = range(options.seeds), options.num_judge
    names = list(product(KERNELS, options.budgets))
    measures: dict[str, Callable[[], Any]] = {
        f"{kernel}, {budget}, {seed}": partial(costs, kernel, budget, judge, seed)
        for (kernel, budget), seed in product(names, seeds)
    }
    measures |= {kernel: partial(savings, kernel, judge) for kernel in KERNELS}
    measures |= {f"{kernel}, noise": partial(noise, kernel, judge) for kernel in KERNELS}
    cells = resume("ablations", {"num_judge": judge}, measures)
    tables = {
        f"{kernel}, {budget} calls": over_seeds([cells[f"{kernel}, {budget}, {s}"] for s in seeds])
        for kernel, budget in names
    }
    for title, rows in tables.items():
        show(f"{title}: cost over that of uniform steps, mean ± s.e.", rows)
    saved = {kernel: cells[kernel] for kernel in KERNELS}
    print("\nuniform steps: optimal steps of the same cost, samples after which they have paid")
    for kernel, rows in saved.items():
        print(f"{kernel:10s}", rows)
    quieter = {kernel: cells[f"{kernel}, noise"] for kernel in KERNELS}
    print("\nvariance of measured costs over that of controlled ones")
    for kernel, row in quieter.items():
        print(f"{kernel:10s}", row)
    content = {"num_judge": judge, "costs": tables, "savings": saved, "noise": quieter}
    finish("ablations", content, seed=0)


if __name__ == "__main__":
    main()
