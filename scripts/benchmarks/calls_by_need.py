"""Should every sequence make as many calls as it needs? Stopping rules against optimal counts.

On an exact CountDown chain and on the shipped models of CountDown and digits, in nats of held-out
sequences. A rule ends up at a mean number of calls between two whole ones; as many calls on average
are made by sequences of which some take the lower and some the higher number, along shortest paths
through the same table. Prints tables and writes docs/results/calls_by_need.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import product
from math import ceil, floor
from typing import Any

from ddm.denoisers import Denoiser
from ddm.likelihood import sampler_nats
from ddm.orders import Random, RevealOrder, Spaced
from ddm.samplers import CallCounter, EntropyBound, Reveal, StoppingRule
from ddm.schedules import OptimalCounts
from ddm.schedules.optimal.optimal_counts import counts_grid
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.optimal.teacher import Teacher

import torch
from _report import finish, over_seeds, parse, resume, show
from orders import exact_chain
from torch import Tensor
from trained_orders import load

NUM_CALLS = 4, 8
NUM_TIMES = 48
BOUNDS = 1.0, 4.0
WHERE = ["exact chain", "countdown", "digits_absorbing"]


def optimal_counts(
    denoiser: Denoiser, sampler: Reveal, search: Tensor, judge: Tensor, seed: int
) -> Callable[[int], Tensor]:
    """Return what gives the nats of sequences by N, the same counts for all of them.

    Calls beyond the grid change nothing.
    """
    teacher = Teacher(search, None, denoiser, sampler, seed)
    grid = counts_grid(teacher.length, NUM_TIMES)
    _, paths = shortest_paths(teacher.table(grid), len(grid) - 1)

    @cache
    def nats(num: int) -> Tensor:
        times = teacher.times(grid[paths[min(num, len(grid) - 1)]] / teacher.length)
        noise = torch.Generator().manual_seed(seed)
        return sampler_nats(denoiser, sampler, judge, times, generator=noise)

    return nats


def compare(where: str, seed: int, num_data: int) -> dict[str, Any]:
    """Return mean calls, nats, and nats less those of optimal counts, by order and rule."""
    denoiser: Denoiser
    shape: tuple[int, ...] = ()
    if where == "exact chain":
        denoiser, sequences = exact_chain()
        tokens = sequences(2 * num_data, seed)
    else:
        denoiser, tokens, data = load(where, 2 * num_data, 2 * seed * num_data)
        shape = data.shape
    search, judge = tokens.chunk(2)
    counts, found = OptimalCounts(num_times=NUM_TIMES), {}

    orders: dict[str, RevealOrder] = {"random": Random(), "spaced": Spaced(shape)}
    for name, order in orders.items():
        alike = optimal_counts(denoiser, Reveal(order), search, judge, seed)
        rules: dict[str, StoppingRule] = {
            f"entropy bound {bound:g}": EntropyBound(bound) for bound in BOUNDS
        }
        for num in NUM_CALLS:
            noise = torch.Generator().manual_seed(seed)
            priced = counts.rule(denoiser, Reveal(order), search, num, generator=noise)
            rules[f"priced, for {num} calls"] = priced
        for key, rule in rules.items():
            counter, noise = CallCounter(denoiser), torch.Generator().manual_seed(seed)
            sampler = Reveal(order, stop=rule)
            own = sampler_nats(counter, sampler, judge, [1.0, 0.0], generator=noise)
            calls = counter.num_rows / len(judge)
            low, high = floor(calls), ceil(calls)
            same = alike(low) + (calls - low) * (alike(high) - alike(low))
            found[f"{name}, {key}"] = {
                "calls": calls,
                "nats": float(own.mean()),
                "less optimal counts": float((own - same).mean()),
            }
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        where=(WHERE, "denoisers"),
        seeds=(3, "shares of the data"),
        num_data=(48, "sequences of a share that rules are found on, and as many to judge"),
    )
    cells = {
        f"{where}|{seed}": partial(compare, where, seed, options.num_data)
        for seed, where in product(range(options.seeds), options.where)
    }
    measured = resume("calls_by_need", {"num_data": options.num_data}, cells)
    tables = {
        where: over_seeds([measured[f"{where}|{seed}"] for seed in range(options.seeds)])
        for where in options.where
    }
    for where, table in tables.items():
        show(where, table)
    finish("calls_by_need", {"settings": vars(options), "rules": tables})


if __name__ == "__main__":
    main()
