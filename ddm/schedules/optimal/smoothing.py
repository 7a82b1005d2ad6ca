"""Measured cost tables without their noise: averages over as many times as the data allow."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from jaxtyping import Float

WIDTHS = (0.0, *(2 ** (k / 2) for k in range(8)))
"""Widths that are tried, in cells of the grid: 0 (none), 1 to 11."""
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


def smooth(roots: Float[np.ndarray, "T T"], width: float) -> Float[np.ndarray, "T T"]:
    """Return the local linear fits to signed roots, with Gaussian weights.

    Grids are placed so that cells cost alike, hence distances are counted in cells.

    Args:
        roots: See `signed_roots`.
        width: Standard deviation of the weights, in cells; 0 for none.
    """
    if width == 0:
        return roots
    fit = _local_linear(len(roots), width)
    return np.asarray(fit @ roots @ fit.T)


def choose_width(
    first: Float[np.ndarray, "T T"],
    second: Float[np.ndarray, "T T"],
    weights: Float[np.ndarray, " T"],
) -> float:
    """Return how widely two independent measurements of the same roots should be averaged.

    Cross-validation: each of them, averaged, predicts the other one as it is. Of widths that do it
    nearly as well the largest is taken, because a shortest path looks for steps whose cost is too
    small by chance. Tables without noise are left alone.

    Args:
        first: Signed roots measured with one half of the sequences.
        second: Those of the other half.
        weights: How much errors made at the grid times count.
    """

    def error(width: float) -> float:
        differences = (smooth(first, width) - second) ** 2 + (smooth(second, width) - first) ** 2
        return float((np.tril(differences, -1) * weights).sum())

    errors = np.array([error(width) for width in WIDTHS])
    return WIDTHS[np.flatnonzero(errors <= TOLERANCE * errors.min())[-1]]


@lru_cache(maxsize=64)
def _local_linear(num_times: int, width: float) -> Float[np.ndarray, "T T"]:
    """Return the matrix whose row i gives the value at i of the line fitted around i."""
    offset = np.arange(num_times)[None, :] - np.arange(num_times)[:, None]
    weight = np.exp(-0.5 * (offset / width) ** 2)
    m0, m1, m2 = ((weight * offset**k).sum(1, keepdims=True) for k in range(3))
    return np.asarray(weight * (m2 - m1 * offset) / (m0 * m2 - m1**2))
