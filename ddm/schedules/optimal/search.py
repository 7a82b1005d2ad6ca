"""Times of a schedule off the grid: by the density of the cost, and one after the other."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float


def times_by_density(
    grid: Float[np.ndarray, " T"],
    mass: Float[np.ndarray, " M"],
    num_steps: int,
    min_time: float = 0.0,
) -> Float[np.ndarray, " N"]:
    """Return N + 1 decreasing times with the same share of the mass in every step.

    Args:
        grid: Increasing times from 0 to 1.
        mass: What lies in every cell of the grid, >= 0.
        num_steps: The number N of steps.
        min_time: Smallest positive time. Where the last step would start below it, it starts
            there, and the others share the rest.
    """
    # A cell without mass still gets a little, so that times stay distinct.
    mass = mass / max(mass.sum(), 1e-300) + 1e-6 * np.diff(grid)
    level = np.concatenate([[0.0], mass.cumsum()])
    times = np.interp(np.linspace(level[-1], 0.0, num_steps + 1), level, grid)
    if num_steps > 1 and times[-2] < min_time:
        end = np.interp(min_time, grid, level)
        times[:-1] = np.interp(np.linspace(level[-1], end, num_steps), level, grid)
        times[-2] = min_time
    times[0], times[-1] = 1.0, 0.0
    return times


def refine(
    times: Float[np.ndarray, " N"],
    cost: Callable[[Float[np.ndarray, " K"], Float[np.ndarray, " K"]], Float[np.ndarray, " K"]],
    min_time: float = 0.0,
    sweeps: int = 3,
) -> Float[np.ndarray, " N"]:
    """Move one inner time after the other to its best place between its neighbors.

    Args:
        times: Decreasing times from 1 to 0.
        cost: What steps cost that start at some times and end at others.
        min_time: Smallest positive time.
        sweeps: How often all of them are moved.
    """
    from scipy.optimize import minimize_scalar  # here, as `import ddm` must not wait for it

    times = times.copy()
    for _ in range(sweeps):
        for k in range(1, len(times) - 1):

            def around(x: float, k: int = k) -> float:
                upper, lower = np.array([times[k - 1], x]), np.array([x, times[k + 1]])
                return float(cost(upper, lower).sum())

            margin = 1e-3 * (times[k - 1] - times[k + 1])
            bounds = max(times[k + 1] + margin, min_time), times[k - 1] - margin
            if bounds[0] >= bounds[1]:  # no room above the smallest time
                continue
            found = minimize_scalar(
                around, bounds=bounds, method="bounded", options={"xatol": margin, "maxiter": 20}
            )
            if found.fun < around(times[k]):
                times[k] = found.x
    return times
