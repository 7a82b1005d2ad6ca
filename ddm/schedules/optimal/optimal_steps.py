"""Optimal schedules: step-cost table and shortest path, every number of steps at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, evaluating
from ddm.functional import require_at_least, require_instance
from ddm.samplers import Sampler
from ddm.schedule import step_numbers
from ddm.schedules.optimal.by_samples import BySamples
from ddm.schedules.optimal.cost_table import CostTable
from ddm.schedules.optimal.excess import (
    control_coefficient,
    halved_excess,
    mean_excess,
    sequence_excess,
)
from ddm.schedules.optimal.retention import retention
from ddm.schedules.optimal.smoothing import choose_width, signed_roots
from ddm.schedules.optimal.step_cost import StepCosts, measure_step_costs
from ddm.schedules.optimal.validation import check_finite, check_gamma
from ddm.schedules.optimizer import Optimized, ScheduleOptimizer
from ddm.schedules.setting import Setting


class OptimalSteps(ScheduleOptimizer):
    r"""Measure what every step costs, then take the shortest path, for every N at once.

    A pilot pass on a coarse grid shows where the cost lies; the second pass measures on times
    placed there. `pilot_times + num_times` network calls per batch give the optimal
    schedules of *all* numbers of steps. Costs are averaged over neighboring times, as widely as
    halves of the sequences agree (`choose_width`). A quarter of the sequences never enters the
    table; the keep-best guard judges schedules on them.

    Args:
        gamma: Exponent of the weights, see `retention`; 0 charges every error in full. The default
            is what the studies scripts/benchmarks/{regret,trained_gamma}.py support. It has no
            effect with the absorbing kernel.
        num_times: Times of the measured grid.
        pilot_times: Times of the pilot grid.
        batch_size: Sequences per network call; all of them by default.
        select: Chooses another exponent by samples, see `BySamples`, for at most as many network
            calls again. None keeps `gamma`.

    Example:
        >>> from ddm import Absorbing, ForwardProcess, OptimalSteps
        >>> from ddm.datamodules import countdown_chain, sample_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Analytic
        >>> chain = countdown_chain(4, 0.01)
        >>> denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(4), LogLinear()), *chain)
        >>> x_0 = sample_chain(*chain, 16, 8)
        >>> found = OptimalSteps(num_times=8, pilot_times=4)(denoiser, Analytic(), x_0, [2, 4])
        >>> found.schedules[4].num_steps, found.num_calls
        (4, 12)
    """

    measure = staticmethod(measure_step_costs)
    """How costs are measured on a grid; a subclass may know them exactly."""

    def __init__(
        self,
        gamma: float = 0.5,
        *,
        num_times: int = 36,
        pilot_times: int = 12,
        batch_size: int | None = None,
        select: BySamples | None = None,
    ) -> None:
        require_instance(BySamples | None, select=select)
        require_at_least(4, num_times=num_times, pilot_times=pilot_times)
        if batch_size is not None:
            require_at_least(1, batch_size=batch_size)
        self.gamma = check_gamma(gamma)
        self.num_times = num_times
        self.pilot_times = pilot_times
        self.batch_size = batch_size
        self.select = select

    def __call__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        num_steps: int | Sequence[int],
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Optimized:
        """Find the schedules; see `ScheduleOptimizer`."""
        numbers = step_numbers(num_steps)
        self.check(denoiser, sampler, x_0, free, numbers)
        table = self.table(
            denoiser,
            sampler,
            x_0,
            free=free,
            generator=generator,
            progress=progress,
        )
        evidence = None
        if self.select is not None:
            settings: dict[str, Any] = {
                "free": free,
                "batch_size": self.batch_size,
                "generator": generator,
            }
            table, evidence = self.select.weigh(table, denoiser, sampler, x_0, numbers, **settings)
        schedules = {n: table.schedule(n) for n in numbers}
        num_calls = table.num_calls + (0 if evidence is None else evidence.num_calls)
        return Optimized(schedules, num_calls, table, evidence)

    def table(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> CostTable:
        """Measure the cost table; costs `pilot_times + num_times` network calls per batch.

        The arguments are those of a call.

        Raises:
            ValueError: Fewer than 8 sequences, a network that returns NaN, or a sampler whose steps
                the costs say nothing of.
        """
        if len(x_0) < 8:
            raise ValueError(
                f"`x_0` must hold at least 8 sequences, got {len(x_0)}; some hundred are needed "
                "for a schedule that does not fit noise."
            )
        self.check(denoiser, sampler, x_0, free)
        if not sampler.like_analytic:
            raise ValueError(
                f"`sampler` must take steps like `Analytic`, whose costs are measured, got "
                f"`{type(sampler).__name__}`, which often does worse with them than with uniform "
                "steps; optimize for `Analytic` and sample with it, at the same network calls."
            )
        begin = time.monotonic()
        settings: dict[str, Any] = {
            "free": free,
            "batch_size": self.batch_size,
            "generator": generator,
            "progress": progress,
        }
        grid = squeezed(pilot_grid(self.pilot_times), denoiser.min_time)
        with evaluating(denoiser):
            pilot = self.measure(denoiser, x_0, grid, **settings)
            grid = placed_grid(self._table(denoiser, sampler, pilot, 0, begin), self.num_times)
            costs = self.measure(denoiser, x_0, squeezed(grid, denoiser.min_time), **settings)
        return self._table(denoiser, sampler, costs, pilot.num_calls, begin)

    def _table(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        costs: StepCosts,
        calls_before: int,
        begin: float,
    ) -> CostTable:
        num_held_out = max(2, len(costs.nats) // 4)
        costs = costs.controlled(control_coefficient(costs.part(slice(-num_held_out))))
        own, rest = costs.part(slice(-num_held_out)), costs.part(slice(-num_held_out, None))
        mean, spread = mean_excess(own).numpy(), sequence_excess(own).std(0)
        check_finite("excess", mean)  # before anything is chosen by it
        survival = retention(own.errors).numpy()
        halves = [
            (signed_roots(first.numpy()), signed_roots(second.numpy()))
            for first, second in halved_excess(own)
        ]
        return CostTable(
            times=costs.times.numpy(),
            excess=mean,
            standard_error=(spread / len(own.nats) ** 0.5).numpy(),
            retention=survival,
            gamma=self.gamma,
            setting=Setting.of(denoiser.process, sampler),
            num_samples=len(own.nats),
            num_held_out=num_held_out,
            num_calls=calls_before + costs.num_calls,
            seconds=time.monotonic() - begin,
            width=choose_width(halves, costs.times.numpy(), survival**self.gamma),
            min_time=denoiser.min_time,
            held_out=sequence_excess(rest).numpy(),
        )


def pilot_grid(num_times: int) -> Float[Tensor, " T"]:
    """Return increasing times from 0 to 1, half of them equally and half of them log spaced."""
    half = num_times // 2
    even = np.linspace(0.0, 1.0, num_times - half + 1)
    log = np.geomspace(1e-4, 1.0, half + 1)[:-1]
    return torch.from_numpy(np.unique(np.concatenate([even, log])))


def placed_grid(table: CostTable, num_times: int) -> Float[Tensor, " T"]:
    """Return increasing times that follow the density of the cost, mixed with its own grid.

    Three quarters go by `sqrt(w kappa)`; the rest is spread over the cells of the rough table,
    so that a cost the pilot overlooked is still seen.
    """
    mass = table.density * np.diff(table.times)
    share = 0.75 * mass / max(mass.sum(), 1e-300) + 0.25 / len(mass)
    level = np.concatenate([[0.0], share.cumsum()])
    times = np.interp(np.linspace(0.0, level[-1], num_times + 1), level, table.times)
    times[0], times[-1] = 0.0, 1.0
    return torch.from_numpy(times)


def squeezed(times: Float[Tensor, " T"], min_time: float) -> Float[Tensor, " T"]:
    """Return increasing times from 0 to 1, moved up until no positive one is below `min_time`."""
    first = times[1]
    if first >= min_time:
        return times
    moved = min_time + (times - first) * ((1 - min_time) / (1 - first))
    moved[0], moved[1], moved[-1] = 0.0, min_time, 1.0
    return moved
