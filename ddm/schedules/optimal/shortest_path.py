"""Shortest paths with a given number of edges: the best schedule on a grid, for every N at once."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int


def shortest_paths(
    cost: Float[np.ndarray, "M M"], max_steps: int
) -> tuple[Float[np.ndarray, " T"], list[Int[np.ndarray, " ..."]]]:
    """Find the cheapest way down a grid of M times in exactly N steps, for all N up to a maximum.

    Args:
        cost: `cost[i, j]` is the cost of the step from time i down to time j < i; infinite where a
            step is not allowed. Entries with j >= i are ignored.
        max_steps: Largest number of steps, at most M - 1.

    Returns:
        The costs of the best paths (index N; infinite at 0) and the paths themselves, as
        decreasing indices from M - 1 to 0 (index N; empty where there is none). Costs
        O(max_steps M^2) operations.
    """
    size = len(cost)
    if not 1 <= max_steps < size:
        raise ValueError(
            f"`max_steps` must be between 1 and the {size - 1} cells of the grid, got {max_steps}; "
            "use a finer grid."
        )
    below = np.tril(np.ones((size, size), dtype=bool), -1)
    step = np.where(below, cost, np.inf)
    # best[i]: cheapest way from the top to i in the number of steps made so far.
    best = np.full(size, np.inf)
    best[-1] = 0.0
    values = np.full(max_steps + 1, np.inf)
    origins = np.zeros((max_steps + 1, size), dtype=np.int64)
    for n in range(1, max_steps + 1):
        total = best[:, None] + step
        origins[n] = total.argmin(0)
        best = total.min(0)
        values[n] = best[0]
    paths: list[np.ndarray] = [np.array([], dtype=np.int64)]
    for n in range(1, max_steps + 1):
        path = [0]
        for k in range(n, 0, -1):
            path.append(int(origins[k][path[-1]]))
        paths.append(np.array(path[::-1]) if np.isfinite(values[n]) else paths[0])
    return values, paths
