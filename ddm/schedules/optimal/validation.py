"""What a cost table must fulfill, whether it was measured or read from a file."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ddm.schedules.optimal.cost_table import CostTable

LARGEST_GAMMA = 100.0
"""Larger exponents leave no weight at all to most times."""


def check_gamma(gamma: float) -> float:
    """Return the exponent of the weights, or say what it must be.

    Raises:
        ValueError: It is no number from 0 to `LARGEST_GAMMA`.
    """
    return _number("gamma", gamma, 0.0, LARGEST_GAMMA, "0 weights all times equally")


def check_finite(name: str, array: np.ndarray) -> None:
    """Refuse NaN and infinite entries.

    Raises:
        ValueError: There are some.
    """
    wrong = int((~np.isfinite(array)).sum())
    if wrong:
        raise ValueError(
            f"`{name}` must be finite, got NaN or infinite values in {wrong} places; the network "
            "excludes what the data do at some time."
        )


def check_table(table: CostTable) -> None:
    """Refuse a table that a shortest path would be misled by.

    Raises:
        ValueError: An entry has another shape than the grid, is not finite or out of its range, or
            an excess is clearly negative.
    """
    _check_arrays(table)
    check_gamma(table.gamma)
    _number("min_time", table.min_time, 0.0, 0.5, "0 allows all times, 1 / T fits T steps")
    _number("seconds", table.seconds, 0.0, math.inf, "measure the table again")
    if table.width != 0:
        _number("width", table.width, 1.0, 1e3, "0 takes costs as measured")
    for name in ("num_samples", "num_held_out", "num_calls"):
        value = getattr(table, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 0:
            raise ValueError(f"`{name}` must be a whole number >= 0, got {value!r}; count again.")
    _check_signs(table)


def _check_arrays(table: CostTable) -> None:
    times = table.times
    if times.ndim != 1 or len(times) < 2 or times[0] != 0 or times[-1] != 1:
        raise ValueError(
            f"`times` must run from 0 to 1, got {_brief(times)}; measure on a grid with both ends."
        )
    if not (np.diff(times) > 0).all():  # catches NaN, too
        raise ValueError(f"`times` must increase strictly, got {_brief(times)}; sort them.")
    square = (len(times), len(times))
    shapes = {"excess": square, "standard_error": square, "retention": times.shape}
    arrays = {name: getattr(table, name) for name in shapes}
    if table.held_out is not None:
        shapes["held_out"] = (max(2, len(table.held_out)), *square)
        arrays["held_out"] = table.held_out
    for name, array in arrays.items():
        if array.shape != shapes[name]:
            raise ValueError(
                f"`{name}` must have the shape {shapes[name]} for {len(times)} times, got "
                f"{array.shape}; measure the table again."
            )
        check_finite(name, array)
    if (table.standard_error < 0).any():
        raise ValueError(
            f"`standard_error` must be >= 0, got {table.standard_error.min():.4g}; measure again."
        )
    low, high = table.retention.min(), table.retention.max()
    if low < 0 or high > 1:
        raise ValueError(
            f"`retention` must be between 0 and 1, got {low if low < 0 else high:.4g}; it is the "
            "share of an error that is left."
        )


def _check_signs(table: CostTable) -> None:
    from scipy.special import stdtrit  # here, as `import ddm` must not wait for it

    # An imperfect network may contradict itself a little between noise levels; few sequences do not
    # know their own error well (for many of them the factor is 6).
    factor = -stdtrit(max(table.num_samples - 1, 1), 1e-9)  # Student's t, upper tail
    slack = factor * table.standard_error + 0.05 * max(table.excess[-1, 0], 0.0) + 0.01
    negative = table.excess < -slack
    if negative.any():
        i, j = (int(k) for k in np.argwhere(negative)[0])
        raise ValueError(
            f"`excess` must be >= 0, got {table.excess[i, j]:.4g} +- "
            f"{table.standard_error[i, j]:.2g} nats for the step {table.times[i]:.4g} -> "
            f"{table.times[j]:.4g}: the network contradicts itself between these times; train it "
            "longer, or use `MeanDenoiser`, which knows the likelihood of its input."
        )


def _number(name: str, value: float, low: float, high: float, remedy: str) -> float:
    known = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (known and math.isfinite(value) and low <= value <= high):
        upper = f" and <= {high:g}" if math.isfinite(high) else ""
        raise ValueError(
            f"`{name}` must be a finite number >= {low:g}{upper}, got {value!r}; {remedy}."
        )
    return value


def _brief(times: np.ndarray) -> str:
    shown = np.array2string(times, precision=4, threshold=6, edgeitems=2, separator=", ")
    return f"{shown} of shape {times.shape}"
