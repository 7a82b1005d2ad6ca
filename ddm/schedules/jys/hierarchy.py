"""Hierarchical breakdown: a step is split into two, these into four, and so on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from ddm.schedule import check_num_steps


@dataclass(frozen=True)
class Split:
    """The best point to split a step at.

    Attributes:
        at: The point, strictly between the ends of the step.
        gain: What the split is worth, nats per sequence.
    """

    at: float
    gain: float


@dataclass(frozen=True)
class Breakdown:
    """A schedule made by splitting.

    Attributes:
        points: Decreasing points, both ends included.
        gains: What the split at each inner point was worth, nats per sequence.
    """

    points: tuple[float, ...]
    gains: tuple[float, ...]


class Hierarchy:
    """Split every step at its best point, round after round; earlier points stay fixed.

    After K rounds there are 2^K steps, and the schedules of all rounds are nested. A number of
    steps between two powers of two takes, in its last round, only the splits of largest gain.
    Every step is searched at most once, whatever numbers of steps are asked for:
    `2^ceil(log2 N) - 1` searches for the largest of them.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761: hierarchical breakdown.

    Args:
        first: Largest point.
        last: Smallest point.
        split: The search: best split of the step between two points, or None if there is no room.
    """

    def __init__(
        self, first: float, last: float, split: Callable[[float, float], Split | None]
    ) -> None:
        self.first = first
        self.last = last
        self._split = split
        self._known: dict[tuple[float, float], Split | None] = {}

    def __call__(self, num_steps: int) -> Breakdown:
        """Return the schedule with that many steps.

        Raises:
            ValueError: There is no room for so many steps.
        """
        check_num_steps(num_steps)
        points, gains = [self.first, self.last], dict[float, float]()
        while (missing := num_steps + 1 - len(points)) > 0:
            splits = [found for step in pairwise(points) if (found := self._best(*step))]
            if not splits:
                raise ValueError(
                    f"`num_steps` must be at most {len(points) - 1}, for no step can be split any "
                    f"further, got {num_steps}."
                )
            splits = sorted(splits, key=lambda found: found.gain, reverse=True)[:missing]
            gains.update({found.at: found.gain for found in splits})
            points = sorted([*points, *(found.at for found in splits)], reverse=True)
        return Breakdown(tuple(points), tuple(gains[p] for p in points[1:-1]))

    def _best(self, left: float, right: float) -> Split | None:
        if (left, right) not in self._known:
            self._known[left, right] = self._split(left, right)
        return self._known[left, right]


def num_searches(num_steps: Sequence[int]) -> int:
    """Return how many steps a hierarchy searches for the largest number of steps asked for."""
    return int(2 ** (max(num_steps) - 1).bit_length() - 1)
