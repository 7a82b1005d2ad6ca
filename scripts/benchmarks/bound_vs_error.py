"""Does minimising the bound minimise the error? Every schedule on a grid, exactly.

For joints that can be enumerated, all schedules of 2, 3 and 4 steps on a grid of times are judged
by objectives that schedules are optimised for, and by what their samples are worth: KL(data ||
samples) and total variation. Nothing is sampled. The objectives, exact and to be minimised:

- "CDE": conditional total correlations of the true x_s given x_t, summed over the steps: the excess
  cost of analytic steps. With the analytic sampler it is the bound itself.
- "weighted CDE": every step weighted by the retention r^0.5 where it lands, as in `OptimalSteps`.
- "own law": CDE plus what the sampler's law of single tokens loses, as divergence from its mixture
  with the analytic law in equal parts; without the mixture it would often be infinite.
- "weighted own law": the same with weights.
- "KLUB": minus what its times are worth when they are inserted as Jump Your Steps does it. A split
  t -> m -> s is worth `KLUB`; the sum goes over the splits of a binary tree whose leaves are the
  steps, and the best of all trees counts. "KLUB, printed" leaves the compensator out.
- "path KLUB": Girsanov's divergence of the true reverse process from the one whose prediction is
  kept during each step; also a bound.

"KLUB, greedy" is no objective but a choice: what the hierarchy finds with KLUB on the grid. Prints
medians and worst cases over the joints; writes docs/results/bound_vs_error.{json,png}; finished
cells are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise, product
from typing import Any

from ddm.denoisers import Prediction
from ddm.functional import times_like
from ddm.samplers import Analytic, Euler, Sampler, TauLeaping
from ddm.schedules import KLUB, Hierarchy, Split
from ddm.schedules.optimal.retention import retention

import numpy as np
import torch
from _report import finish, resume
from matplotlib.figure import Figure
from regret import KERNELS, Enumerated, joints, product_law
from scipy.stats import spearmanr
from torch import Tensor

GRID = tuple(float((k / 13) ** 1.5) for k in range(14))
NUM_STEPS = (2, 3, 4)
SAMPLERS: dict[str, Sampler] = {
    "Analytic": Analytic(),
    "Euler": Euler(),
    "TauLeaping": TauLeaping(),
}
OBJECTIVES = (
    "CDE",
    "weighted CDE",
    "own law",
    "weighted own law",
    "KLUB",
    "KLUB, printed",
    "path KLUB",
)
ERRORS = ("KL", "TV")
GAMMA = 0.5


def laws() -> dict[str, Tensor]:
    """Return the joints, L axes of size V: small ones of the study of regret, and more."""
    known = {name: law for name, (_, law) in joints().items()}
    names = (
        "Ising ring, beta = 0.6",
        "soft parity, beta = 1.0",
        "random, V = 4, L = 3, coupling 1.0",
        "random chain, V = 3, L = 4",
        "CountDown, V = 3, L = 4, smoothing 0.1",
        "CountDown, V = 3, L = 4, smoothing 0.001",
    )
    found = {name: known[name] for name in names}
    found["binary chain, flip 0.1"] = known["binary chain, flip 0.1"].sum(-1)  # the last token off
    for flip in (0.01, 0.1, 0.3):
        found[f"repeated bit, flip {flip}"] = repeated_bit(5, flip)
    return found


def repeated_bit(length: int, flip: float) -> Tensor:
    """Return the law of a fair bit that is repeated, every copy flipped with that probability."""
    one = torch.tensor([1 - flip, flip], dtype=torch.float64).expand(1, length, 2)
    law = (product_law(one) + product_law(one.flip(-1))) / 2
    return law.reshape([2] * length)


class World(Enumerated):
    """A joint, a kernel and a grid of times, with what every step costs by every objective.

    Tables `cost[i, j]` hold the step from time i down to time j < i of the grid.
    """

    def __init__(self, kernel: str, joint: Tensor, grid: Sequence[float]) -> None:
        super().__init__(KERNELS[kernel](joint.shape[0]), joint)
        self.grid = grid
        self.is_data = (self.states < self.process.kernel.vocab_size).all(-1)

    def step_matrix(self, sampler: Sampler, i: int, j: int) -> Tensor:
        """Return the transition matrix of one step, (S, S)."""
        law = sampler.law([self.prediction(self.grid[i])], times_like(self.grid[j], self.states))
        return product_law(law)

    def sample_laws(self, sampler: Sampler, max_steps: int) -> dict[tuple[int, ...], Tensor]:
        """Return the law of the samples of every schedule, decreasing indices of the grid."""
        top = len(self.grid) - 1
        arrived: list[dict[tuple[int, ...], Tensor]] = [{} for _ in self.grid]
        arrived[top][(top,)] = self.start()
        for i in range(top, 0, -1):
            for j in range(i):
                # A path of k points has made k - 1 steps, and is to make two more if j > 0.
                going = [path for path in arrived[i] if len(path) < max_steps + (j == 0)]
                if going:
                    law = torch.stack([arrived[i][path] for path in going])
                    after = law @ self.step_matrix(sampler, i, j)
                    arrived[j].update({(*p, j): x for p, x in zip(going, after, strict=True)})
            arrived[i].clear()
        return arrived[0]

    def cde(self) -> np.ndarray:
        """Return the conditional total correlation of x_s given x_t, nats per sequence."""
        laws = [self.marginal(t) for t in self.grid]
        whole = [_entropy(law) for law in laws]
        table = np.zeros((len(self.grid), len(self.grid)))
        for i, t in enumerate(self.grid):
            for j, s in enumerate(self.grid[:i]):
                tokens = self.prediction(t).bridge(times_like(s, self.states))
                alone = float(laws[i] @ torch.special.entr(tokens).sum((1, 2)))
                # H(x_s | x_t) by Bayes, from the channel that noises every token by itself.
                sigma = self.process.noise.sigma(torch.tensor([s, t], dtype=torch.float64))
                channel = self.process.kernel.transition_from(self.states, sigma[1] - sigma[0])
                noise = float(laws[j] @ torch.special.entr(channel).sum((1, 2)))
                table[i, j] = alone - (whole[j] + noise - whole[i])
        return table

    def misfit(self, sampler: Sampler) -> np.ndarray:
        """Return the divergence of the law of single tokens from its mixture with the sampler's."""
        table = np.zeros((len(self.grid), len(self.grid)))
        for i, t in enumerate(self.grid):
            p, marginal = self.prediction(t), self.marginal(t)
            for j, s in enumerate(self.grid[:i]):
                time = times_like(s, self.states)
                true = p.bridge(time)
                mixture = (true + sampler.law([p], time)) / 2
                nats = torch.xlogy(true, true) - torch.xlogy(true, mixture)
                table[i, j] = float(marginal @ nats.sum((1, 2)))
        return table

    def weights(self, refinement: int = 6) -> np.ndarray:
        """Return retention^gamma at the times of the grid, measured on a finer one."""
        cells = [np.linspace(s, t, refinement + 1)[:-1] for s, t in pairwise(self.grid)]
        times = torch.from_numpy(np.append(np.concatenate(cells), self.grid[-1]))
        errors = self.errors(times)
        return retention(errors[None]).numpy()[::refinement] ** GAMMA

    def klub_rate(self, objective: KLUB, t: float, m: float) -> float:
        """Return KLUB per unit of time below m, in the mean over all pairs (x_m, x_t)."""
        sigma = self.process.noise.sigma(torch.tensor([m, t], dtype=torch.float64))
        channel = self.process.kernel.transition_from(self.states, sigma[1] - sigma[0])
        both = self.marginal(m)[:, None] * product_law(channel)
        now, before = (both > 0).nonzero(as_tuple=True)
        fresh, kept = _rows(self.prediction(m), now), _rows(self.prediction(t), before)
        landing = torch.tensor(m - 1.0, dtype=torch.float64)
        return float(both[now, before] @ objective.divergence(kept, fresh, landing))

    def klub(self, objective: KLUB) -> np.ndarray:
        """Return `klub_rate` at pairs of grid times, `rate[i, m]` for 0 < m < i."""
        table = np.zeros((len(self.grid), len(self.grid)))
        for i, t in enumerate(self.grid):
            for m in range(1, i):
                table[i, m] = self.klub_rate(objective, t, self.grid[m])
        return table

    def path_klub(self) -> np.ndarray:
        """Return Girsanov's integral along every step, by the midpoint rule on the grid's cells."""
        table = np.zeros((len(self.grid), len(self.grid)))
        for i, t in enumerate(self.grid):
            for j in range(i - 1, -1, -1):
                s, r = self.grid[j], self.grid[j + 1]
                table[i, j] = table[i, j + 1] + (r - s) * self.klub_rate(KLUB(), t, (s + r) / 2)
        return table


def _entropy(law: Tensor) -> float:
    return float(torch.special.entr(law).sum())


def _rows(prediction: Prediction, index: Tensor) -> Prediction:
    """Return the prediction for these rows of its batch."""
    p = prediction
    return replace(p, output=p.output[index], x_t=p.x_t[index], t=p.t[:1].expand(len(index)))


def tree_gain(rate: np.ndarray, grid: Sequence[float]) -> Callable[[tuple[int, ...]], float]:
    """Return the function from a schedule to the sum of KLUB over the best of its trees."""

    @cache
    def gain(path: tuple[int, ...]) -> float:
        return max(
            (
                (grid[path[k]] - grid[path[-1]]) * rate[path[0], path[k]]
                + gain(path[: k + 1])
                + gain(path[k:])
                for k in range(1, len(path) - 1)
            ),
            default=0.0,
        )

    return gain


def greedy(rate: np.ndarray, grid: Sequence[float], num_steps: int) -> tuple[int, ...]:
    """Return the schedule that the hierarchy makes of KLUB, every split the best on the grid."""

    def split(left: float, right: float) -> Split | None:
        i, j = grid.index(left), grid.index(right)
        if i - j < 2:
            return None
        gains = {m: (grid[m] - right) * rate[i, m] for m in range(j + 1, i)}
        best = max(gains, key=gains.__getitem__)
        return Split(grid[best], gains[best])

    points = Hierarchy(grid[-1], grid[0], split)(num_steps).points
    return tuple(grid.index(point) for point in points)


def study(
    kernel: str, joint: Tensor, grid: Sequence[float], num_steps: Sequence[int]
) -> dict[str, Any]:
    """Return objectives and errors of all schedules of one joint, by sampler and N."""
    world = World(kernel, joint, grid)
    cde, weights, path_klub = world.cde(), world.weights(), world.path_klub()
    klub = world.klub(KLUB())
    printed = world.klub(KLUB(compensator=False))
    trees = tree_gain(klub, grid), tree_gain(printed, grid)
    data = joint.flatten()
    found: dict[str, Any] = {}
    for name, sampler in SAMPLERS.items():
        if name == "TauLeaping" and kernel == "gaussian" and joint.shape[0] > 2:
            continue  # from t = 1 its law is a Fourier transform over thousands of jumps
        costs = cde + world.misfit(sampler)
        tables = {
            "CDE": cde,
            "weighted CDE": cde * weights,
            "own law": costs,
            "weighted own law": costs * weights,
            "path KLUB": path_klub,
        }
        samples = world.sample_laws(sampler, max(num_steps))
        for n in num_steps:
            paths = [path for path in sorted(samples) if len(path) == n + 1]
            row: dict[str, list[float]] = {
                key: [sum(table[step] for step in pairwise(path)) for path in paths]
                for key, table in tables.items()
            }
            row["KLUB"], row["KLUB, printed"] = ([-tree(p) for p in paths] for tree in trees)
            ends = [samples[path][world.is_data] for path in paths]
            row["KL"] = [float((torch.xlogy(data, data / end)).sum()) for end in ends]
            row["TV"] = [float((data - end).abs().sum() / 2) for end in ends]
            found[f"{name}|{n}"] = row | {"greedy": paths.index(greedy(klub, grid, n))}
    return found


def judge(row: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return rank correlations and regrets of the objectives for one joint, sampler and N.

    The regret of an objective is the error of the schedule that minimises it over the smallest
    error of all schedules, minus 1; that of "any" is the median over all schedules.
    """
    out: dict[str, dict[str, dict[str, float]]] = {}
    for error in ERRORS:
        values = np.array(row[error])
        regret = values / values.min() - 1
        rank = {key: float(spearmanr(row[key], values).statistic) for key in OBJECTIVES}
        loss = {key: float(regret[int(np.argmin(row[key]))]) for key in OBJECTIVES}
        loss["KLUB, greedy"] = float(regret[row["greedy"]])
        loss["any"] = float(np.median(regret))
        out[error] = {"rank": rank, "regret": loss}
    return out


def summary(cells: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return worst and median rank correlation and regret by kernel, sampler, N and error."""
    pooled: dict[str, dict[str, list[float]]] = {}
    for key, rows in cells.items():
        _, kernel = key.split("|")
        for name, row in rows.items():
            for error, kinds in judge(row).items():
                for kind, values in kinds.items():
                    place = pooled.setdefault(f"{kernel}|{name}|{error}|{kind}", {})
                    for objective, value in values.items():
                        place.setdefault(objective, []).append(value)
    return {
        key: {
            objective: [float(np.median(v)), min(v) if key.endswith("rank") else max(v)]
            for objective, v in values.items()
        }
        for key, values in pooled.items()
    }


def draw(cells: dict[str, dict[str, Any]]) -> Figure:
    """Draw error against objective for the analytic sampler, N = largest; a panel per kernel."""
    kernels = list(dict.fromkeys(key.split("|")[1] for key in cells))
    shown = {
        "CDE": "CDE, nats (the bound)",
        "weighted CDE": f"CDE weighted by r^{GAMMA}, nats",
        "path KLUB": "path KLUB, nats",
    }
    size = 4 * len(kernels), 3.4 * len(shown) + 0.8
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(shown), len(kernels), squeeze=False)
    n = max(int(name.split("|")[1]) for rows in cells.values() for name in rows)
    for line, (objective, label) in zip(panels, shown.items(), strict=True):
        for axes, kernel in zip(line, kernels, strict=True):
            mine = {key.split("|")[0]: row for key, row in cells.items() if key.endswith(kernel)}
            for joint, rows in mine.items():
                row = rows[f"Analytic|{n}"]
                axes.plot(row[objective], row["KL"], ".", markersize=3, alpha=0.5, label=joint)
            ends = np.array(axes.get_xlim())
            axes.plot(ends, ends, color="0.6", linewidth=0.8, zorder=0)
            axes.set(xscale="log", yscale="log", xlabel=label)
            axes.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel("KL(data || samples), nats")
    for axes, kernel in zip(panels[0], kernels, strict=True):
        axes.set_title(f"{kernel}, N = {n}")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=3, frameon=False, markerscale=3
    )
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    names = list(laws())
    parser.add_argument("--joints", nargs="+", choices=names, default=names)
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument("--num-steps", nargs="+", type=int, default=list(NUM_STEPS))
    options = parser.parse_args(args)
    settings = {"grid": GRID, "num_steps": options.num_steps}
    measures = {
        f"{name}|{kernel}": partial(study, kernel, laws()[name], GRID, options.num_steps)
        for name, kernel in product(options.joints, options.kernels)
    }
    rows = resume("bound_vs_error", settings, measures)
    table = summary(rows)
    for key, values in table.items():
        print(key, " ".join(f"{name}: {a:.3f}/{b:.3f}" for name, (a, b) in values.items()))
    cells = {key: {n: judge(row) for n, row in cell.items()} for key, cell in rows.items()}
    content = {"settings": settings, "median_worst": table, "cells": cells}
    finish("bound_vs_error", content, draw(rows))


if __name__ == "__main__":
    main()
