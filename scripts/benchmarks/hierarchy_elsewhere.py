"""Where does greedy halving lose against the shortest path? The same searches on other costs.

Any cost that adds up over the steps of a grid can be searched: here `Hierarchy`, `golden_section`
and `shortest_paths` of the library, unchanged, choose the noise levels of continuous Gaussian
diffusions (divergence of DDPM steps, by I-MMSE), the time grid of an Euler solver of a linear ODE
(the probability flow of Gaussian data, whose error is exact), the breakpoints of piecewise
constant approximations and, as at home, the numbers of tokens that a masked model reveals. Three of
the problems have an optimum in closed form. A split is worth what it saves. "Best split first" is
greedy too, but splits one step at a time, that of largest worth, instead of all in every round.

Prints the cost over the least known one; writes docs/results/hierarchy_elsewhere.{json,png};
finished problems are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from ddm.schedules import Hierarchy, Split, golden_section, loss_curve_costs, shortest_paths

import numpy as np
from _report import finish, resume
from matplotlib.figure import Figure
from scipy.integrate import cumulative_trapezoid
from scipy.stats import binom

NUM_STEPS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
USUAL, GREEDY, GOLDEN, FIRST, SHORTEST = SEARCHES = (
    "usual grid",
    "halving, best splits",
    "halving, golden section",
    "best split first",
    "shortest path",
)
Cost = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Cost of the steps from points t down to points s < t."""


@dataclass(frozen=True)
class Problem:
    """An additive cost of steps down a line.

    Attributes:
        cost: What steps cost.
        grid: Increasing points, fine enough for the shortest path.
        usual: The customary grid for a number of steps, decreasing points.
        optimum: The least cost of a number of steps in closed form, if there is one.
        spacing: Distance of the admissible points, 0 if all are.
    """

    cost: Cost
    grid: np.ndarray
    usual: Callable[[int], np.ndarray]
    optimum: Callable[[int], float] | None = None
    spacing: float = 0.0

    def total(self, points: Sequence[float] | np.ndarray) -> float:
        """Return the cost of a grid, decreasing points."""
        p = np.asarray(points, dtype=np.float64)
        return float(self.cost(p[:-1], p[1:]).sum())


def diffusion(mmse: Callable[[np.ndarray], np.ndarray]) -> Problem:
    r"""Return DDPM steps of scalar data: `KL(p(x_s | x_t) || step)`, nats.

    With the signal-to-noise ratio g it is `(g_s - g_t) mmse(g_t) / 2 - int mmse / 2`, because
    mutual information grows by half the mmse (Guo et al., 2005,
    https://doi.org/10.1109/TIT.2005.844072): a left Riemann sum, as for masks. Points are -log g.
    """
    fine = np.linspace(-9.0, 7.0, 8193)
    level = np.exp(-fine)
    information = cumulative_trapezoid(mmse(level) * level, fine, initial=0.0) / 2

    def cost(t: np.ndarray, s: np.ndarray) -> np.ndarray:
        gained = np.interp(t, fine, information) - np.interp(s, fine, information)
        return np.asarray((np.exp(-s) - np.exp(-t)) * mmse(np.exp(-t)) / 2 - gained)

    return Problem(cost, fine[::16], partial(even, 7.0, -9.0))


def gaussian_data() -> Problem:
    """Return data N(0, 1): with u = 1 + g the cost depends on u_s / u_t alone."""

    def optimum(num_steps: int) -> float:
        whole = np.log1p(np.exp(9.0)) - np.log1p(np.exp(-7.0))
        return float(num_steps * np.expm1(whole / num_steps) - whole) / 2

    found = diffusion(lambda g: 1 / (1 + g))
    return Problem(found.cost, found.grid, found.usual, optimum)


def mixture_data(width: float = 0.02) -> Problem:
    """Return data +1 or -1 plus N(0, width^2): which of the two, and where inside it."""
    z = np.linspace(-8.0, 8.0, 321)
    weight = np.exp(-(z**2) / 2)
    weight /= weight.sum()

    def mmse(g: np.ndarray) -> np.ndarray:
        variance = width**2 + 1 / g
        kept = 1 / (1 + width**2 * g)  # share of the distance to the centre that is noise
        y = (1 + np.sqrt(variance)[..., None] * z) / variance[..., None]
        unsure = 1 - (np.tanh(y) ** 2) @ weight
        return np.asarray(width**2 * kept + kept**2 * unsure)

    return diffusion(mmse)


def euler_flow(widths: Sequence[float]) -> Problem:
    r"""Return Euler steps of the probability flow of independent Gaussians N(0, c^2), c in widths.

    `dx / dsigma = sigma x / (c^2 + sigma^2)` from sigma = 80 to 0.002. In each coordinate a step
    shrinks the samples by too much by the factor `cos(a_t - a_s)`, `a = arctan(sigma / c)`: the
    cost is minus the log of the product, the log error of the volume. Points are log sigma; the
    usual grid is that of EDM (Karras et al., 2022, https://arxiv.org/abs/2206.00364), equation 5.
    """
    c, first, last = np.array(widths), 80.0, 0.002

    def angle(t: np.ndarray) -> np.ndarray:
        return np.asarray(np.arctan(np.exp(t)[..., None] / c))

    def cost(t: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.asarray(-np.log(np.cos(angle(t) - angle(s))).sum(-1))

    def usual(num_steps: int) -> np.ndarray:
        return 7 * np.log(even(first ** (1 / 7), last ** (1 / 7), num_steps))

    def optimum(num_steps: int) -> float:
        whole = np.arctan(first / c[0]) - np.arctan(last / c[0])
        return float(-num_steps * np.log(np.cos(whole / num_steps)))

    grid = np.linspace(np.log(last), np.log(first), 513)
    return Problem(cost, grid, usual, optimum if len(widths) == 1 else None)


def approximation(f: Callable[[np.ndarray], np.ndarray]) -> Problem:
    """Return the squared error of the best constant on every piece of [0, 1]."""
    fine = np.linspace(0.0, 1.0, 2**18 + 1)
    first = cumulative_trapezoid(f(fine), fine, initial=0.0)
    second = cumulative_trapezoid(f(fine) ** 2, fine, initial=0.0)

    def cost(t: np.ndarray, s: np.ndarray) -> np.ndarray:
        mean = np.interp(t, fine, first) - np.interp(s, fine, first)
        square = np.interp(t, fine, second) - np.interp(s, fine, second)
        return np.asarray(np.maximum(square - mean**2 / (t - s), 0.0))

    return Problem(cost, fine[::512], partial(even, 1.0, 0.0))


def straight_line() -> Problem:
    """Return f(x) = x: a piece of width h costs h^3 / 12, so equal pieces are best."""
    found = approximation(lambda x: x)
    return Problem(found.cost, found.grid, found.usual, lambda num_steps: 1 / (12 * num_steps**2))


def staircase(x: np.ndarray) -> np.ndarray:
    """Return three smooth steps of equal height."""
    return np.asarray(sum(np.tanh((x - at) / 0.02) for at in (0.2, 0.5, 0.8)))


def masked_bits(length: int = 128, flip: float = 0.3) -> Problem:
    """Return the numbers of masks of a repeated bit whose copies are often flipped."""
    curve = []
    for known in range(length):
        ones = np.arange(known + 1)
        odds = (2 * ones - known) * np.log((1 - flip) / flip)
        up = 1 / (1 + np.exp(-odds))  # chance that the bit is 1 given the copies
        p = up * (1 - flip) + (1 - up) * flip
        law = (binom.pmf(ones, known, flip) + binom.pmf(ones, known, 1 - flip)) / 2
        curve.append(float(law @ -(p * np.log(p) + (1 - p) * np.log1p(-p))))
    table = loss_curve_costs(np.array(curve))

    def cost(t: np.ndarray, s: np.ndarray) -> np.ndarray:
        return np.asarray(table[np.rint(t).astype(int), np.rint(s).astype(int)])

    def usual(num_steps: int) -> np.ndarray:
        return np.rint(even(length, 0.0, num_steps))

    return Problem(cost, np.arange(length + 1.0), usual, spacing=1.0)


def even(first: float, last: float, num_steps: int) -> np.ndarray:
    """Return equally spaced points."""
    return np.linspace(first, last, num_steps + 1)


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "DDPM, one Gaussian": gaussian_data,
    "DDPM, two narrow Gaussians": mixture_data,
    "Euler, Gaussian flow": partial(euler_flow, (0.5,)),
    "Euler, flow with three scales": partial(euler_flow, (1.0, 0.1, 0.01)),
    "constants for a line": straight_line,
    "constants for a staircase": partial(approximation, staircase),
    "masks of a repeated bit": masked_bits,
}


def compare(problem: Problem, num_steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return the costs of all searches, and the least known one, by number of steps."""
    grid = problem.grid
    table = np.full((len(grid), len(grid)), np.inf)
    i, j = np.tril_indices(len(grid), -1)
    table[i, j] = problem.cost(grid[i], grid[j])
    values, _ = shortest_paths(table, max(num_steps))

    ends = float(grid[-1]), float(grid[0])

    def best_split(left: float, right: float) -> Split | None:
        i, j = (int(np.abs(grid - end).argmin()) for end in (left, right))
        if i - j < 2:
            return None
        gains = table[i, j] - table[i, j + 1 : i] - table[j + 1 : i, j]
        return Split(float(grid[j + 1 + int(gains.argmax())]), float(gains.max()))

    def golden(left: float, right: float) -> Split | None:
        if left - right <= problem.spacing:
            return None

        def gain(m: float) -> float:
            return problem.total([left, right]) - problem.total([left, m, right])

        peak = golden_section(gain, right, left, spacing=problem.spacing)
        return Split(peak.at, peak.value)

    def one_by_one(num_steps: int) -> list[float]:
        points = list(ends)
        while len(points) <= num_steps:
            found = [split for step in pairwise(points) if (split := best_split(*step))]
            points = sorted([*points, max(found, key=lambda x: x.gain).at], reverse=True)
        return points

    greedy, halving = Hierarchy(*ends, best_split), Hierarchy(*ends, golden)
    found: dict[str, dict[str, float]] = {}
    for n in num_steps:
        costs = {
            USUAL: problem.total(problem.usual(n)),
            GREEDY: problem.total(greedy(n).points),
            GOLDEN: problem.total(halving(n).points),
            FIRST: problem.total(one_by_one(n)),
            SHORTEST: float(values[n]),
        }
        least = min(costs.values()) if problem.optimum is None else problem.optimum(n)
        found[str(n)] = costs | {"least": least}
    return found


def draw(cells: dict[str, dict[str, dict[str, float]]]) -> Figure:
    """Draw the cost over the least known one against N, a panel per problem."""
    figure = Figure(figsize=(13, 6), layout="constrained")
    panels = figure.subplots(2, 4).flatten()
    for axes, (name, rows) in zip(panels, cells.items(), strict=False):
        n = [int(k) for k in rows]
        for search, style in zip(SEARCHES, ("C7.", "C1o", "C3x", "C2.", "C0."), strict=True):
            ratio = [row[search] / row["least"] for row in rows.values()]
            axes.plot(n, ratio, style + "-", linewidth=1, markersize=5, label=search)
        axes.set_xscale("log", base=2)
        axes.set_xticks(n, labels=[str(k) for k in n], fontsize=8)
        axes.set(title=name, xlabel="steps", ylabel="cost over the least")
        axes.set_ylim(0.97, min(2.5, max(axes.get_ylim()[1], 1.1)))
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(cells) :]:
        axes.axis("off")
    panels[-1].legend(*panels[0].get_legend_handles_labels(), loc="center", frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, default=list(PROBLEMS))
    parser.add_argument("--num-steps", nargs="+", type=int, default=list(NUM_STEPS))
    options = parser.parse_args(args)
    settings = {"num_steps": options.num_steps}
    measures = {
        name: partial(compare, PROBLEMS[name](), options.num_steps) for name in options.problems
    }
    rows = resume("hierarchy_elsewhere", settings, measures)
    for name, row in rows.items():
        print(f"\n{name}: cost over the least known")
        for search in SEARCHES:
            ratios = (f"N={n}: {costs[search] / costs['least']:.3f}" for n, costs in row.items())
            print(f"{search:24s}", "  ".join(ratios))
    finish("hierarchy_elsewhere", {"settings": settings, "costs": rows}, draw(rows))


if __name__ == "__main__":
    main()
