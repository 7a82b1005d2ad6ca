"""Values between the times of a grid: bilinear in the start and the end of a step."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def bilinear(
    table: Float[np.ndarray, "*B T T"],
    grid: Float[np.ndarray, " T"],
    t: Float[np.ndarray, " N"],
    s: Float[np.ndarray, " N"],
) -> Float[np.ndarray, "*B N"]:
    """Return the values of a table at N pairs of times (t, s).

    Args:
        table: Values at the grid times, rows by t and columns by s.
        grid: Increasing times from 0 to 1.
        t: Times in [0, 1] at which steps start.
        s: Times in [0, 1] at which they end.
    """
    i, u = _locate(grid, t)
    j, v = _locate(grid, s)
    low = (1 - v) * table[..., i, j] + v * table[..., i, j + 1]
    high = (1 - v) * table[..., i + 1, j] + v * table[..., i + 1, j + 1]
    return np.asarray((1 - u) * low + u * high)


def grid_index(
    grid: Float[np.ndarray, " T"], t: Float[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Return where times stand on a grid, counted in its cells."""
    cell, fraction = _locate(grid, t)
    return np.asarray(cell + fraction)


def curvature(excess: Float[np.ndarray, "*B T T"]) -> Float[np.ndarray, "*B T T"]:
    """Return excess costs over the square of the distance in cells, for all pairs of times.

    It is linear in the costs, symmetric, and smooth across the diagonal, as `E ~ kappa d^2` for
    short steps. The diagonal itself, which has no cost, takes the mean of the cells beside it.
    """
    index = np.arange(excess.shape[-1])
    lower = np.tril(excess, -1)
    distance = np.maximum(abs(index[:, None] - index), 1)
    ratio = (lower + lower.swapaxes(-1, -2)) / distance**2
    cells = ratio.diagonal(-1, -2, -1)
    around = np.concatenate([cells[..., :1], cells, cells[..., -1:]], -1)
    ratio[..., index, index] = (around[..., 1:] + around[..., :-1]) / 2
    return np.asarray(ratio)


def _locate(
    grid: Float[np.ndarray, " T"], t: Float[np.ndarray, " N"]
) -> tuple[Int[np.ndarray, " N"], Float[np.ndarray, " N"]]:
    cell = np.clip(np.searchsorted(grid, t, side="right") - 1, 0, len(grid) - 2)
    return cell, (t - grid[cell]) / (grid[cell + 1] - grid[cell])
