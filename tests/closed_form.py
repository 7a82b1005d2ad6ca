"""Cost tables in closed form, whose best schedules are known."""

import numpy as np

from ddm import CostTable
from ddm.schedules.setting import Setting

GRID = np.concatenate([np.linspace(0, 0.3, 31)[:-1], np.linspace(0.3, 1, 36)])
"""Times from 0 to 1, closer near 0."""


def level(t):
    """Return F(t) = 3 t^2 + t, linear between the times of `GRID`."""
    return np.interp(t, GRID, 3 * GRID**2 + GRID)


def survival(t):
    """Return how much of an error at t survives, from 1 down to .2, linear on `GRID`."""
    return np.interp(t, GRID, 0.2 + 0.8 * (1 - GRID) ** 2)


def squares(grid=GRID):
    """Return the excess `(F(t) - F(s))^2` of all steps down a grid."""
    return np.tril(np.subtract.outer(level(grid), level(grid)) ** 2, -1)


def table(excess=None, *, held_out=None, **entries):
    """Return a table of exact costs, by default `(F(t) - F(s))^2`, that are not weighted."""
    excess = squares() if excess is None else excess
    settings = {
        "standard_error": np.zeros_like(excess),
        "retention": np.ones(len(excess)),
        "gamma": 0.0,
        "setting": Setting("kernel", "noise", "sampler"),
        "num_samples": 64,
        "num_held_out": 0 if held_out is None else len(held_out),
        "num_calls": 0,
    }
    return CostTable(entries.pop("times", GRID), excess, held_out=held_out, **settings | entries)
