"""How much proof should a guard over counts and orders ask for? Enumerated laws, exact nats.

Counts are found from a few sequences in random and in spaced order, a quarter of which judges
them against uniform and cosine counts, and both orders against one another. What each rule keeps is
compared with what needs no proof, in nats of the sampler's exact law over that of the data: counts
with uniform ones, orders with random order. Prints a table and writes docs/results/guards.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from ddm import Absorbing, ForwardProcess, SamplingSchedule
from ddm.denoisers import ExactDenoiser
from ddm.likelihood import sampler_nats
from ddm.noise import LogLinear
from ddm.orders import Random, RevealOrder, Spaced
from ddm.samplers import Reveal
from ddm.schedules import OptimalCounts
from ddm.schedules.optimal.guard import keep_best
from ddm.schedules.optimal.optimal_counts import counts_grid
from ddm.schedules.optimal.shortest_path import shortest_paths

import numpy as np
import torch
from _held_out_joints import first_nine, second_nine
from _report import finish, parse, resume
from problems import Law, joints, sequences

ORDERS: dict[str, RevealOrder] = {"random": Random(), "spaced": Spaced(jitter=0.0)}
COUNTS = ("uniform", "cosine", "found")
Costs = Mapping[str, np.ndarray]
"""Nats of every sequence that judges, by the name of a candidate; the first needs no proof."""


def two_errors(costs: Costs) -> str:
    """Return the cheapest that saves two standard errors or more."""
    first = winner = next(iter(costs))
    for name, cost in costs.items():
        saved = costs[first] - cost
        error = saved.std(ddof=1) / math.sqrt(len(saved))
        if saved.mean() > 2 * error and cost.mean() < costs[winner].mean():
            winner = name
    return winner


RULES: dict[str, tuple[Callable[[Costs], str], Callable[[Costs], str]]] = {
    "two standard errors": (two_errors, two_errors),
    "t-test, 84 %": (lambda c: keep_best(c, [next(iter(c))]),) * 2,
    "what was found stays if cheaper": (
        lambda c: keep_best(c, ["uniform", "found"]),
        lambda c: keep_best(c, list(c)),
    ),
    "the cheapest stays": (lambda c: keep_best(c, list(c)),) * 2,
}
"""For counts, and for orders with their counts."""


def candidates(
    denoiser: ExactDenoiser, order: RevealOrder, x_0: torch.Tensor, n: int, seed: int
) -> dict[str, tuple[SamplingSchedule, np.ndarray]]:
    """Return counts and what they cost every sequence that judges, by name."""
    search, judge = OptimalCounts().teachers(denoiser, Reveal(order), x_0, None, seed)
    grid = counts_grid(search.length, 64)
    _, paths = shortest_paths(search.table(grid), n)
    found = SamplingSchedule(search.times(grid[paths[n]] / search.length))
    schedules = (SamplingSchedule.uniform(n), SamplingSchedule.cosine(n), found)
    return {
        name: (schedule, judge.nats(schedule))
        for name, schedule in zip(COUNTS, schedules, strict=True)
    }


def measure(law: Law, n: int, num_data: int, seeds: int) -> dict[str, dict[str, list[float]]]:
    """Return nats over those of what needs no proof for every data set, by rule and question."""
    denoiser = ExactDenoiser(ForwardProcess(Absorbing(law.shape[0]), LogLinear()), law)
    every, p = sequences(law.shape[0], law.ndim), law.flatten()
    known: dict[tuple[str, tuple[float, ...]], float] = {}

    def nats(order: str, schedule: SamplingSchedule) -> float:
        if (key := (order, tuple(schedule.times))) not in known:
            # Random order is a mean over orders; its error is the same for all that use it.
            repeats = max(1, 256 // len(every)) if order == "random" else 1
            value = sampler_nats(
                denoiser,
                Reveal(ORDERS[order]),
                every.repeat(repeats, 1),
                schedule,
                generator=torch.Generator().manual_seed(99),
            ).double()
            mean = value.reshape(repeats, -1).mean(0)
            known[key] = float((mean * p).where(p > 0, 0.0).sum())
        return known[key]

    found: dict[str, dict[str, list[float]]] = {rule: {} for rule in RULES}
    for seed in range(seeds):
        generator = torch.Generator().manual_seed(seed)
        x_0 = every[torch.multinomial(p, num_data, True, generator=generator)]
        cells = {o: candidates(denoiser, order, x_0, n, seed) for o, order in ORDERS.items()}
        for rule, (of_counts, of_orders) in RULES.items():
            kept, judged = {}, {}
            for order, cell in cells.items():
                name = of_counts({k: costs for k, (_, costs) in cell.items()})
                kept[order], judged[order] = nats(order, cell[name][0]), cell[name][1]
            start = {order: nats(order, cell["uniform"][0]) for order, cell in cells.items()}
            chosen = kept[of_orders(judged)]
            differences = {
                "counts, random order": kept["random"] - start["random"],
                "counts, spaced order": kept["spaced"] - start["spaced"],
                "order against random order": chosen - kept["random"],
                "both": chosen - start["random"],
            }
            for question, difference in differences.items():
                found[rule].setdefault(question, []).append(difference)
    return found


def summary(cells: Sequence[Mapping[str, Any]], rule: str, question: str) -> dict[str, float]:
    """Return mean and worst cell, and how many are lost by more than two standard errors."""
    rows = [np.asarray(cell[rule][question]) for cell in cells]
    means = [float(row.mean()) for row in rows]
    errors = [float(row.std(ddof=1)) / math.sqrt(len(row)) for row in rows]
    lost = sum(mean > 2 * error + 1e-6 for mean, error in zip(means, errors, strict=True))
    return {"mean": sum(means) / len(means), "worst": max(means), "lost": lost, "of": len(rows)}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse(
        __doc__,
        args,
        num_data=(64, "sequences, a quarter of which judges"),
        seeds=(8, "data sets"),
        laws=(22, "laws, every second one of those of regret.py and held_out.py"),
    )
    laws = {name: law for name, (_, law) in joints().items()} | first_nine() | second_nine()
    some = dict(list(laws.items())[::2][: options.laws])
    measures = {
        f"{name}, N = {n}": partial(measure, law, n, options.num_data, options.seeds)
        for name, law in some.items()
        for n in (2, 3, 4)
        if n <= law.ndim
    }
    cells = list(resume("guards", vars(options), measures).values())
    tables = {rule: {q: summary(cells, rule, q) for q in cells[0][rule]} for rule in RULES}
    for rule, table in tables.items():
        print(f"{rule}:")
        for question, row in table.items():
            values = "{mean:+.3f}  worst {worst:+.3f}  lost {lost} of {of}".format(**row)
            print(f"    {question:28s} {values}")
    finish("guards", {"settings": vars(options), "tables": tables}, seed=options.seeds)


if __name__ == "__main__":
    main()
