"""The noun `CostTable`: measured step costs, and from them the best schedule for every N."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ddm.files import read_json, reading, write_json
from ddm.functional import check_times
from ddm.process import ForwardProcess
from ddm.samplers import Sampler
from ddm.schedule import SamplingSchedule, check_num_steps
from ddm.schedules.optimal.interpolation import bilinear, curvature, grid_index
from ddm.schedules.optimal.search import refine, times_by_density
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.optimal.smoothing import signed_roots, smooth
from ddm.schedules.optimal.validation import check_table
from ddm.schedules.setting import Setting


@dataclass(frozen=True, eq=False)
class CostTable:
    r"""Excess costs of all steps on a grid of times, and the schedules that follow from them.

    The cost of a schedule is `J = sum_k w(t_{k+1}) E(t_k -> t_{k+1})`: excess nats per sequence,
    each weighted by how much of an error made at that time survives to t = 0. `schedule(N)`
    minimizes it by a shortest path through the table, then lets the times leave the grid.
    The root of the excess is nearly linear in both times: it is averaged over neighboring times,
    which removes noise that a shortest path would exploit, and interpolated between them. For N
    beyond the grid, times follow the density `sqrt(w kappa)`, where `E ~ kappa h^2` for short
    steps, and the cost is `(int sqrt(w kappa))^2 / N`.

    Attributes:
        times: Increasing grid from 0 to 1, (M + 1,).
        excess: `excess[i, j]` for j < i in nats per sequence, against infinitely many steps.
        standard_error: Standard errors of `excess` over sequences.
        retention: How much of an error made at the grid times survives to t = 0, see `retention`.
        gamma: Exponent of the weights, w = retention^gamma.
        setting: What the table was measured for.
        num_samples: Sequences behind `excess`.
        num_held_out: Sequences that were kept from the table, to judge schedules.
        num_calls: Network calls spent, pilot included.
        seconds: Wall-clock time spent.
        width: How widely costs are averaged, in cells, see `smooth`; 0 takes them as measured.
        min_time: Smallest positive time that the network knows; no schedule has one between it and
            0. A model of T discrete steps has 1 / T.
        held_out: The excess of every single held-out sequence, (num_held_out, M + 1, M + 1), for
            `keep_best`. Too large for files: only a table that has just been measured has it.

    Raises:
        ValueError: An entry is not finite, out of its range or of another shape than the grid, or
            an excess is clearly negative: below zero by 6 standard errors (more for few sequences),
            5 % of the cost of a single step, and a hundredth of a nat, which is of no consequence.

    Example:
        >>> from ddm import Absorbing, ForwardProcess, OptimalSteps
        >>> from ddm.datamodules import countdown_chain, sample_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Analytic
        >>> chain = countdown_chain(4, 0.01)
        >>> denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(4), LogLinear()), *chain)
        >>> table = OptimalSteps(num_times=8, pilot_times=4).table(
        ...     denoiser, Analytic(), sample_chain(*chain, 16, 8)
        ... )
        >>> table.schedule(5).num_steps, table.cost(8) < table.cost(2)
        (5, True)
    """

    # Shapes are checked for files, too, see `check_table`.
    times: np.ndarray
    excess: np.ndarray
    standard_error: np.ndarray
    retention: np.ndarray
    gamma: float
    setting: Setting
    num_samples: int
    num_held_out: int
    num_calls: int
    seconds: float = 0.0
    width: float = 0.0
    min_time: float = 0.0
    held_out: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse a table that a shortest path would be misled by."""
        check_table(self)

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
    def floor(self) -> float:
        """What the last step costs at least: the one from `min_time`, 0 if all times are allowed.

        Weighted nats per sequence.
        """
        return float(self._steps(np.array([self.min_time]), np.zeros(1))[0])

    @property
    def asymptote(self) -> float:
        """The constant `(int sqrt(w kappa))^2`: the cost of N steps above `floor` tends to it / N.

        The integral runs over the times that are allowed.
        """
        level = np.concatenate([[0.0], (self.density * np.diff(self.times)).cumsum()])
        return float((level[-1] - np.interp(self.min_time, self.times, level)) ** 2)

    @cached_property
    def _paths(self) -> tuple[np.ndarray, list[np.ndarray]]:
        steps = self.weights[None, :] * np.maximum(self._roots, 0.0) ** 2
        steps[:, (self.times > 0) & (self.times < self.min_time)] = np.inf
        return shortest_paths(steps, min(self.num_cells, 256))

    def evaluate(self, times: Sequence[float]) -> float:
        """Return the cost J of any schedule, on the grid or off it, weighted nats per sequence."""
        t = check_times(list(times)).numpy()
        return float(self._steps(t[:-1], t[1:]).sum())

    def sequence_costs(self, times: Sequence[float]) -> Float[np.ndarray, " B"]:
        """Return what a schedule costs every held-out sequence, weighted nats.

        No root is taken and nothing is cut off: costs are linear in those of the sequence, so that
        noise does not make their mean too large. Between grid times `curvature` is interpolated.

        Raises:
            ValueError: The table has no held-out sequences.
        """
        t = check_times(list(times)).numpy()
        length = grid_index(self.times, t[:-1]) - grid_index(self.times, t[1:])
        weights = np.interp(t[1:], self.times, self.weights) * length**2
        return np.asarray(bilinear(self._curvature, self.times, t[:-1], t[1:]) @ weights)

    def schedule(self, num_steps: int) -> SamplingSchedule:
        """Return the best schedule with N steps, for any N >= 1."""
        check_num_steps(num_steps)
        mass = self.density * np.diff(self.times)
        starts = [times_by_density(self.times, mass, num_steps, self.min_time)]
        if num_steps < len(self._paths[0]) and len(self._paths[1][num_steps]):
            starts.append(self.times[self._paths[1][num_steps]])
        costs = [self._steps(t[:-1], t[1:]).sum() for t in starts]
        times = starts[int(np.argmin(costs))]
        if num_steps <= self.num_cells:  # finer than the grid, the density is all that is known
            times = refine(times, self._steps, self.min_time)
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
        """Return the smallest number of steps whose best schedule costs at most `cost`.

        Raises:
            ValueError: No finite number of steps is enough.
        """
        if not cost > self.floor:
            raise ValueError(
                f"`cost` must be positive and above {self.floor:.4g}, what the last step costs, "
                f"got {cost}; no finite number of steps costs so little."
            )
        values = self._paths[0]
        enough = np.flatnonzero(values <= cost)
        if not len(enough):
            return max(len(values), math.ceil(self.asymptote / (cost - self.floor)))
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
        """Return plain numbers and strings, for JSON files and checkpoints; without `held_out`."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "held_out"}
        content["setting"] = asdict(self.setting)
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
    def from_dict(cls, content: Any, path: str = "content") -> CostTable:  # noqa: ANN401
        """Build a table from the content of its JSON file.

        Raises:
            ValueError: Entries are missing, or `CostTable` refuses them.
        """
        with reading(path, "a cost table", "CostTable.save"):
            rest = {**content}
            rest.pop("held_out", None)  # means, in files of the first version
            setting = Setting(**rest.pop("setting"))
            arrays: dict[str, Any] = {
                name: _numbers(name, rest.pop(name))
                for name in ("times", "excess", "standard_error", "retention")
            }
            return cls(setting=setting, **arrays, **rest)

    def _steps(self, t: Float[np.ndarray, " N"], s: Float[np.ndarray, " N"]) -> np.ndarray:
        """Return the weighted excess of steps between any times."""
        root = bilinear(self._roots, self.times, t, s)
        weights = np.interp(s, self.times, self.weights)
        return np.asarray(weights * np.maximum(root, 0.0) ** 2)

    @cached_property
    def _roots(self) -> np.ndarray:
        roots = smooth(signed_roots(self.excess), self.times, self.width)
        return (roots - roots.T) / 2  # rounding must not make standing still cost anything

    @cached_property
    def _curvature(self) -> np.ndarray:
        if self.held_out is None:
            raise ValueError(
                "`table` must hold the costs of held-out sequences, got one without, as it is read "
                "from files; measure it again, `OptimalSteps.table`."
            )
        return curvature(self.held_out)


def _numbers(name: str, value: object) -> np.ndarray:
    try:
        return np.array(value).astype(np.float64, casting="safe")  # no words for numbers
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of numbers, got {value!r:.80}") from error
