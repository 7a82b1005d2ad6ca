"""The noun `CostTable`: measured step costs, and from them the best schedule for every N."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import t as student

from ddm.files import read_json, write_json
from ddm.functional import check_times
from ddm.process import ForwardProcess
from ddm.samplers import Sampler
from ddm.schedule import SamplingSchedule, check_num_steps
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.optimal.smoothing import signed_roots, smooth
from ddm.schedules.setting import Setting


@dataclass(frozen=True, eq=False)
class CostTable:
    r"""Excess costs of all steps on a grid of times, and the schedules that follow from them.

    The cost of a schedule is `J = sum_k w(t_{k+1}) E(t_k -> t_{k+1})`: excess nats per sequence,
    each weighted by how much of an error made at that time survives to t = 0. `schedule(N)`
    minimises it by a shortest path through the table, then lets the times leave the grid.
    The root of the excess is nearly linear in both times: it is averaged over neighbouring times,
    which removes noise that a shortest path would exploit, and interpolated between them. For N
    beyond the grid, times follow the density `sqrt(w kappa)`, where `E ~ kappa h^2` for short
    steps, and the cost is `(int sqrt(w kappa))^2 / N`.

    Attributes:
        times: Increasing grid from 0 to 1, (M + 1,).
        excess: `excess[i, j]` for j < i in nats per sequence, against infinitely many steps.
        standard_error: Standard errors of `excess` over sequences.
        held_out: The same as `excess`, from sequences that were not used for it.
        retention: How much of an error made at the grid times survives to t = 0, see `retention`.
        gamma: Exponent of the weights, w = retention^gamma.
        setting: What the table was measured for.
        num_samples: Sequences behind `excess`.
        num_held_out: Sequences behind `held_out`.
        num_calls: Network calls spent, pilot included.
        seconds: Wall-clock time spent.
        width: How widely costs are averaged, in cells, see `smooth`; 0 takes them as measured.

    Raises:
        ValueError: A cost is NaN or infinite, or an excess is clearly negative: below zero
            by 6 standard errors (more for few sequences), 5 % of the cost of a single step, and a
            hundredth of a nat, which is of no consequence.
    """

    times: np.ndarray
    excess: np.ndarray
    standard_error: np.ndarray
    held_out: np.ndarray
    retention: np.ndarray
    gamma: float
    setting: Setting
    num_samples: int
    num_held_out: int
    num_calls: int
    seconds: float = 0.0
    width: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a table that a shortest path would be misled by."""
        for name in ("excess", "held_out"):
            table = getattr(self, name)
            if not np.isfinite(table).all():
                raise ValueError(
                    f"`{name}` must be finite, got NaN or infinite costs of "
                    f"{(~np.isfinite(table)).sum()} steps; the network excludes what the data do "
                    "at some time."
                )
        # An imperfect network may contradict itself a little between noise levels; few sequences do
        # not know their own error well (for many of them the factor is 6).
        factor = student.isf(1e-9, max(self.num_samples - 1, 1))
        slack = factor * self.standard_error + 0.05 * max(self.excess[-1, 0], 0.0) + 0.01
        negative = self.excess < -slack
        if negative.any():
            i, j = (int(k) for k in np.argwhere(negative)[0])
            raise ValueError(
                f"`excess` must be >= 0, got {self.excess[i, j]:.4g} +- "
                f"{self.standard_error[i, j]:.2g} nats for the step {self.times[i]:.4g} -> "
                f"{self.times[j]:.4g}: the network contradicts itself between these times; train "
                "it longer, or use `MeanDenoiser`, which knows the likelihood of its input."
            )

    @property
    def weights(self) -> np.ndarray:
        """How much an error made at each grid time counts, w = retention^gamma."""
        return self.retention**self.gamma

    @property
    def num_cells(self) -> int:
        """The number M of cells of the grid."""
        return len(self.times) - 1

    @property
    def density(self) -> np.ndarray:
        """Optimal density of times `sqrt(w kappa)`, the mean in every cell, (M,)."""
        # The mean of the square root of a weight that is linear between a^2 and b^2.
        a, b = np.sqrt(self.weights[:-1]), np.sqrt(self.weights[1:])
        root = 2 / 3 * (a**2 + a * b + b**2) / np.maximum(a + b, 1e-150)
        return root * np.maximum(self._roots.diagonal(-1), 0.0) / np.diff(self.times)

    @property
    def asymptote(self) -> float:
        """The constant `(int sqrt(w kappa))^2`: the cost of N steps tends to it over N."""
        return float((self.density * np.diff(self.times)).sum() ** 2)

    @cached_property
    def _paths(self) -> tuple[np.ndarray, list[np.ndarray]]:
        steps = self.weights[None, :] * np.maximum(self._roots, 0.0) ** 2
        return shortest_paths(steps, min(self.num_cells, 256))

    def evaluate(self, times: Sequence[float], *, held_out: bool = False) -> float:
        """Return the cost J of any schedule, on the grid or off it, weighted nats per sequence."""
        t = check_times(list(times)).numpy()
        return float(self._steps(t[:-1], t[1:], held_out=held_out).sum())

    def schedule(self, num_steps: int) -> SamplingSchedule:
        """Return the best schedule with N steps, for any N >= 1."""
        check_num_steps(num_steps)
        starts = [self._by_density(num_steps)]
        if num_steps < len(self._paths[0]) and len(self._paths[1][num_steps]):
            starts.append(self.times[self._paths[1][num_steps]])
        costs = [self._steps(t[:-1], t[1:]).sum() for t in starts]
        times = starts[int(np.argmin(costs))]
        if num_steps <= self.num_cells:  # finer than the grid, the density is all that is known
            times = self._refine(times)
        info = {
            "cost": self.evaluate(times.tolist()),
            "num_samples": self.num_samples,
            "gamma": self.gamma,
            **asdict(self.setting),
        }
        return SamplingSchedule(tuple(times.tolist()), "optimal", info)

    def cost(self, num_steps: int) -> float:
        """Return the cost J of the best schedule with N steps, weighted nats per sequence."""
        return self.evaluate(self.schedule(num_steps).times)

    def steps_for(self, cost: float) -> int:
        """Return the smallest number of steps whose best schedule costs at most `cost`."""
        if not cost > 0:
            raise ValueError(
                f"`cost` must be positive, got {cost}; no finite number of steps costs nothing."
            )
        values = self._paths[0]
        enough = np.flatnonzero(values <= cost)
        if not len(enough):
            return max(len(values), math.ceil(self.asymptote / cost))
        steps = int(enough[0])
        while steps > 1 and self.cost(steps - 1) <= cost:  # times between those of the grid
            steps -= 1
        return steps

    def check(self, process: ForwardProcess, sampler: Sampler) -> None:
        """Refuse to be used for another kernel, noise or sampler than the table was measured for.

        Raises:
            ValueError: They differ.
        """
        here = Setting.of(process, sampler)
        here.check(asdict(self.setting), "the table was measured for", "measure it again")

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON files and checkpoints."""
        content: dict[str, Any] = asdict(self)
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in content.items()}

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> CostTable:
        """Read a file written by `save`.

        Raises:
            ValueError: The file is damaged or holds something else.
        """
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], path: str = "content") -> CostTable:
        """Build a table from the content of its JSON file.

        Raises:
            ValueError: Entries are missing.
        """
        content = dict(content)
        try:
            setting = Setting(**content.pop("setting"))
            arrays: dict[str, Any] = {
                name: np.array(content.pop(name), dtype=np.float64)
                for name in ("times", "excess", "standard_error", "held_out", "retention")
            }
            return cls(setting=setting, **arrays, **content)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"`{path}` must hold a cost table, but {error}; write it with `CostTable.save`."
            ) from error

    def _steps(self, t: np.ndarray, s: np.ndarray, *, held_out: bool = False) -> np.ndarray:
        """Return the weighted excess of steps between any times."""
        roots = self._roots_held_out if held_out else self._roots
        i, u = self._locate(t)
        j, v = self._locate(s)
        low = (1 - v) * roots[i, j] + v * roots[i, j + 1]
        high = (1 - v) * roots[i + 1, j] + v * roots[i + 1, j + 1]
        root = (1 - u) * low + u * high
        weights = np.interp(s, self.times, self.weights)
        return np.asarray(weights * np.maximum(root, 0.0) ** 2)

    def _locate(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        cell = np.clip(np.searchsorted(self.times, t, side="right") - 1, 0, self.num_cells - 1)
        return cell, (t - self.times[cell]) / (self.times[cell + 1] - self.times[cell])

    @cached_property
    def _roots(self) -> np.ndarray:
        return smooth(signed_roots(self.excess), self.width)

    @cached_property
    def _roots_held_out(self) -> np.ndarray:
        return smooth(signed_roots(self.held_out), self.width)

    def _by_density(self, num_steps: int) -> np.ndarray:
        """Return decreasing times that follow the optimal density for short steps."""
        mass = self.density * np.diff(self.times)
        # A cell without measured cost still gets a little, so that times stay distinct.
        mass = mass / max(mass.sum(), 1e-300) + 1e-6 * np.diff(self.times)
        level = np.concatenate([[0.0], mass.cumsum()])
        times = np.interp(np.linspace(level[-1], 0.0, num_steps + 1), level, self.times)
        times[0], times[-1] = 1.0, 0.0
        return times

    def _refine(self, times: np.ndarray, sweeps: int = 3) -> np.ndarray:
        """Move one inner time after the other to its best place between its neighbours."""
        times = times.copy()
        for _ in range(sweeps):
            for k in range(1, len(times) - 1):

                def cost(x: float, k: int = k) -> float:
                    upper, lower = np.array([times[k - 1], x]), np.array([x, times[k + 1]])
                    return float(self._steps(upper, lower).sum())

                margin = 1e-3 * (times[k - 1] - times[k + 1])
                bounds = (times[k + 1] + margin, times[k - 1] - margin)
                found = minimize_scalar(
                    cost, bounds=bounds, method="bounded", options={"xatol": margin, "maxiter": 20}
                )
                if found.fun < cost(times[k]):
                    times[k] = found.x
        return times


@dataclass(frozen=True)
class Decision:
    """What the keep-best guard decided, and by how much.

    Attributes:
        winner: Name of the cheapest candidate.
        schedule: Its schedule.
        costs: Cost of every candidate on held-out sequences, weighted nats per sequence.
    """

    winner: str
    schedule: SamplingSchedule
    costs: dict[str, float]


def keep_best(table: CostTable, candidates: Mapping[str, SamplingSchedule]) -> Decision:
    """Return the candidate that is cheapest on the sequences the table did not use."""
    costs = {name: table.evaluate(s.times, held_out=True) for name, s in candidates.items()}
    winner = min(costs, key=costs.__getitem__)
    return Decision(winner, candidates[winner], costs)
