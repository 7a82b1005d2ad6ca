"""Golden-section search for the maximum of a function of one variable."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

RATIO = (3 - math.sqrt(5)) / 2
"""Where the inner point lies in its bracket, 0.382: after a probe it is as well placed again."""


@dataclass(frozen=True)
class Peak:
    """The best point that a search has seen.

    Attributes:
        at: The point, strictly inside the bracket.
        value: The objective there.
        num_probes: How often the objective was evaluated.
    """

    at: float
    value: float
    num_probes: int


def golden_section(
    objective: Callable[[float], float],
    lower: float,
    upper: float,
    *,
    num_probes: int = 16,
    tolerance: float = 1e-4,
    margin: float = 1e-3,
    spacing: float = 0.0,
) -> Peak:
    r"""Maximize a unimodal function on (lower, upper), one evaluation per probe.

    A bracket `a < x < b` holds the best point x so far. The next probe goes into the longer side
    and shrinks the bracket by the factor 0.618, whether it is better than x or not. The ends are
    never evaluated, no point is evaluated twice, and the result is the best of all probes. A
    function with several maxima gives one of them.

    References:
        Sequential minimax search for a maximum (Kiefer, 1953),
        https://doi.org/10.1090/S0002-9939-1953-0055639-3.

    Args:
        objective: The function to maximize.
        lower: Lower end of the bracket.
        upper: Upper end of the bracket.
        num_probes: Largest number of evaluations, at least 1.
        tolerance: Stop when the bracket is this part of the first one.
        margin: Part of the bracket at either end that is not searched, in [0, 0.5); relative, so
            that a bracket of any width can be searched.
        spacing: Distance of the admissible points `lower + k spacing`; 0 admits all. With
            admissible points there is no margin.

    Raises:
        ValueError: No admissible point lies inside the bracket, an argument is out of its domain,
            or the objective is NaN or infinite at a probe.
    """
    if num_probes < 1:
        raise ValueError(f"`num_probes` must be at least 1, got {num_probes}.")
    if not 0 <= margin < 0.5:
        raise ValueError(f"`margin` must lie in [0, 0.5), got {margin}; it is a part of a bracket.")
    width = upper - lower
    inset = 0.0 if spacing else margin * width
    a, b = lower + inset, upper - inset
    x = _first(a, b, spacing)
    if not lower < x < upper:
        raise ValueError(
            f"`upper` must exceed `lower` by enough to have a point in between, got the bracket "
            f"({lower:.17g}, {upper:.17g}) with the spacing {spacing:.4g}; do not split it further."
        )
    best, count = _finite(objective, x), 1
    while count < num_probes and b - a > tolerance * width:
        y = _next(a, x, b, spacing)
        if y is None:
            break
        value, count = _finite(objective, y), count + 1
        if value > best:
            a, b = (x, b) if y > x else (a, x)
            x, best = y, value
        elif y > x:
            b = y
        else:
            a = y
    return Peak(x, best, count)


def _finite(objective: Callable[[float], float], x: float) -> float:
    value = objective(x)
    if not math.isfinite(value):
        raise ValueError(
            f"`objective` must be finite, got {value} at {x:.6g}; a maximum among such values "
            "means nothing."
        )
    return value


def _first(a: float, b: float, spacing: float) -> float:
    """Return the first inner point."""
    if not spacing:
        return a + RATIO * (b - a)
    cells = round((b - a) / spacing)
    return a + min(max(1, round(RATIO * cells)), cells - 1) * spacing


def _next(a: float, x: float, b: float, spacing: float) -> float | None:
    """Return the next probe, in the longer side if it has room, or None where neither has."""
    sides = [(b - x, 1.0), (x - a, -1.0)]
    for length, sign in sorted(sides, reverse=True):
        distance = RATIO * length
        if spacing:
            distance = max(1, round(distance / spacing)) * spacing
        y = x + sign * distance
        if y != x and a < y < b:
            return y
    return None
