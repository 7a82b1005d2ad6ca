"""Measured cost tables without their noise: averages over as many times as the data allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

WIDTHS = (0.0, *(2 ** (k / 2) for k in range(8)), 1000.0)
"""Widths that are tried, in cells of the grid: 0 (none), 1 to 11, and one line for all times."""
TOLERANCE = 1.05
"""The widest average is taken whose error is within this factor of the smallest."""


def signed_roots(excess: Float[np.ndarray, "T T"]) -> Float[np.ndarray, "T T"]:
    """Return sqrt(excess) below the diagonal and its negative mirror image above it.

    For short steps `sqrt(E) = sqrt(kappa) (t - s)`, so this function of (t, s) is smooth across
    the diagonal, and what is linear leaves it as it is, to second order: an interpolation between
    grid times, or an average over them.
    """
    root = np.sqrt(np.maximum(np.tril(excess, -1), 0.0))
    return np.asarray(root - root.T)


def smooth(
    roots: Float[np.ndarray, "T T"], times: Float[np.ndarray, " T"], width: float
) -> Float[np.ndarray, "T T"]:
    """Return the local linear fits to signed roots, with Gaussian weights.

    Lines are linear in time: of tokens that hardly depend on each other, masked with log-linear
    noise, the root of the excess is proportional to t - s, and no width changes that. So where
    nothing but noise is seen, the widest average leaves the schedule of uniform steps. Distances
    are counted in cells, since grids are placed so that these cost alike.

    Args:
        roots: See `signed_roots`.
        times: The grid.
        width: Standard deviation of the weights, in cells; 0 for none.
    """
    if width == 0:
        return roots
    fit = local_linear(times, width)
    return np.asarray(fit @ roots @ fit.T)


def choose_width(
    halves: Sequence[tuple[Float[np.ndarray, "T T"], Float[np.ndarray, "T T"]]],
    times: Float[np.ndarray, " T"],
    weights: Float[np.ndarray, " T"],
) -> float:
    """Return how widely measured roots should be averaged, by how well halves of the data agree.

    Cross-validation: what one half of the sequences has measured, averaged, predicts what the other
    half has measured, as it is. Errors are added up over several ways to halve them, as a single
    one leaves much to chance. Of widths that do it nearly as well the largest is taken, because a
    shortest path looks for steps whose cost is too small by chance. Tables without noise are left
    alone.

    Args:
        halves: Signed roots measured with one half of the sequences, and those of the other half.
        times: The grid.
        weights: How much errors made at the grid times count.
    """

    def error(width: float) -> float:
        pairs = [pair for first, second in halves for pair in ((first, second), (second, first))]
        missed = sum((smooth(one, times, width) - other) ** 2 for one, other in pairs)
        return float((np.tril(missed, -1) * weights).sum())

    errors = np.array([error(width) for width in WIDTHS])
    return WIDTHS[np.flatnonzero(errors <= TOLERANCE * errors.min())[-1]]


def local_linear(times: Float[np.ndarray, " T"], width: float) -> Float[np.ndarray, "T T"]:
    """Return the matrix whose row i gives the value at time i of the line fitted around it."""
    index = np.arange(len(times))
    weight = np.exp(-0.5 * ((index[None, :] - index[:, None]) / width) ** 2)
    offset = times[None, :] - times[:, None]
    m0, m1, m2 = ((weight * offset**k).sum(1, keepdims=True) for k in range(3))
    return np.asarray(weight * (m2 - m1 * offset) / (m0 * m2 - m1**2))
