"""What the best partition of positions into calls could do, for laws that are enumerated.

Revealing a set S given the set C loses `sum_i H(i | C) - H(S | C)`, the conditional total
correlation, so all that is needed are the entropies of subsets. Sums over calls are the terminal
KL of the samples, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import combinations
from math import inf
from statistics import median
from typing import Any

from ddm import Absorbing, ForwardProcess
from ddm.denoisers import ExactDenoiser
from ddm.noise import LogLinear
from ddm.orders import Measured, RevealOrder, Spaced

import torch
from problems import Law, joints

Positions = frozenset[int]
NUM_CALLS = (2, 3, 4)
NONE: Positions = frozenset()


class Partitions:
    """The cost of every partition of the positions of one law, in nats."""

    def __init__(self, joint: Law) -> None:
        self.joint = joint
        self.everywhere: Positions = frozenset(range(joint.ndim))
        self.entropy = cache(self._entropy)

    def _entropy(self, positions: Positions) -> float:
        others = tuple(self.everywhere - positions)
        law = self.joint.sum(others) if others else self.joint
        return float(torch.special.entr(law).sum())

    def cost(self, known: Positions, chosen: Positions) -> float:
        """Return the total correlation of the positions chosen, given those known."""
        before = self.entropy(known)
        alone = sum(self.entropy(known | {i}) - before for i in chosen)
        return alone - (self.entropy(known | chosen) - before)

    def best(self, num_calls: int) -> float:
        """Return the least cost of all ordered partitions into so many sets."""

        @cache
        def least(known: Positions, calls: int) -> float:
            left = self.everywhere - known
            if calls == 1:
                return self.cost(known, left)
            return min(
                (self.cost(known, s) + least(known | s, calls - 1) for s in subsets(left)),
                default=inf,
            )

        return least(NONE, num_calls)

    def along(self, order: Sequence[int], num_calls: int) -> float:
        """Return the cost of the best counts for an order that is fixed beforehand."""
        sets = [frozenset(order[:k]) for k in range(len(order) + 1)]
        return best_counts(
            lambda i, j: self.cost(sets[i], sets[j] - sets[i]), len(order), num_calls
        )

    def at_random(self, num_calls: int) -> float:
        """Return the mean cost of random order with its best counts."""

        def mean(i: int, j: int) -> float:
            costs = [
                self.cost(known, frozenset(chosen))
                for known in map(frozenset, combinations(self.everywhere, i))
                for chosen in combinations(self.everywhere - known, j - i)
            ]
            return sum(costs) / len(costs)

        return best_counts(cache(mean), len(self.everywhere), num_calls)

    def order(self, rule: RevealOrder) -> list[int]:
        """Return the positions in the order of a rule without chance."""
        vocab_size, length = self.joint.shape[0], self.joint.ndim
        process = ForwardProcess(Absorbing(vocab_size), LogLinear())
        x = torch.full((1, length), vocab_size)
        said = ExactDenoiser(process, self.joint)(x, torch.ones(1, dtype=torch.float64))
        return rule.rank(said, torch.tensor([length]))[0].argsort().tolist()

    def information(self) -> torch.Tensor:
        """Return the mutual information of all pairs, which `measure_dependence` estimates."""
        found = torch.zeros(self.joint.ndim, self.joint.ndim, dtype=torch.float64)
        for i, j in combinations(range(self.joint.ndim), 2):
            found[i, j] = found[j, i] = self.cost(NONE, frozenset((i, j)))
        return found.clamp(min=0)


def subsets(left: Positions) -> Iterator[Positions]:
    """Yield the subsets that are neither empty nor all."""
    for size in range(1, len(left)):
        yield from map(frozenset, combinations(left, size))


def best_counts(cost: Callable[[int, int], float], length: int, num_calls: int) -> float:
    """Return the least sum of costs of so many calls from 0 to `length` revealed tokens."""
    least = {0: 0.0}
    for _ in range(num_calls):
        least = {
            j: min(least[i] + cost(i, j) for i in least if i < j)
            for j in range(1, length + 1)
            if any(i < j for i in least)
        }
    return least[length]


def compare() -> dict[str, Any]:
    """Return the cost over that of the best partition, by order: median and worst ratio.

    Chosen is the best of the three orders, as `OptimalOrders` chooses.

    Laws whose best partition loses less than 1e-3 nats have no ratio that means anything.
    """
    ratios: dict[str, list[float]] = {"random": [], "spaced": [], "measured": [], "chosen": []}
    for _, joint in joints().values():
        partitions = Partitions(joint)
        rules = {
            "spaced": Spaced(jitter=0.0),
            "measured": Measured(partitions.information(), jitter=0.0),
        }
        orders = {name: partitions.order(rule) for name, rule in rules.items()}
        for n in (n for n in NUM_CALLS if n < joint.ndim):
            best = partitions.best(n)
            if best < 1e-3:
                continue
            costs = {"random": partitions.at_random(n)}
            costs |= {name: partitions.along(order, n) for name, order in orders.items()}
            for name, cost in (costs | {"chosen": min(costs.values())}).items():
                ratios[name].append(cost / best)
    return {
        name: {"median": median(row), "worst": max(row), "cells": len(row)}
        for name, row in ratios.items()
    }
