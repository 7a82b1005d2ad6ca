"""Optimal schedules: step-cost table and shortest path, every number of steps at once."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.functional import gather_objects
from ddm.kernels import Absorbing
from ddm.process import ForwardProcess
from ddm.samplers import Sampler
from ddm.schedules.cost_table import CostTable, Setting, residuals
from ddm.schedules.optimizer import Optimised, ScheduleOptimizer
from ddm.schedules.step_cost import StepCosts, excess, measure_step_costs, monotone_costs


class OptimalSteps(ScheduleOptimizer):
    r"""Measure what every step costs, then take the shortest path, for every N at once.

    A pilot pass on a coarse grid shows where the cost lies; the second pass measures on times
    placed there. `pilot_times + num_times` network calls per batch give the optimal
    schedules of *all* numbers of steps. A quarter of the sequences never enters the table; the
    keep-best guard judges schedules on them.

    Args:
        gamma: Exponent of the weights, see `retention`; 0 charges every error in full. It has no
            effect with the absorbing kernel.
        num_times: Times of the measured grid.
        pilot_times: Times of the pilot grid.
        batch_size: Sequences per network call; all of them by default.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        *,
        num_times: int = 72,
        pilot_times: int = 24,
        batch_size: int | None = None,
    ) -> None:
        if gamma < 0:
            raise ValueError(f"`gamma` must be >= 0, got {gamma}; 0 weights all times equally.")
        for name, value in (("num_times", num_times), ("pilot_times", pilot_times)):
            if value < 4:
                raise ValueError(f"`{name}` must be at least 4, got {value}.")
        self.gamma = gamma
        self.num_times = num_times
        self.pilot_times = pilot_times
        self.batch_size = batch_size

    def __call__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        num_steps: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Optimised:
        """Find the schedules; see `ScheduleOptimizer`."""
        table = self.table(denoiser, sampler, x_0, generator=generator, progress=progress)
        schedules = {n: table.schedule(n) for n in num_steps}
        return Optimised(schedules, table.num_calls, table)

    def table(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        *,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> CostTable:
        """Measure the cost table; costs `pilot_times + num_times` network calls per batch.

        Raises:
            ValueError: Fewer than 8 sequences, or a network that returns NaN.
        """
        if len(x_0) < 8:
            raise ValueError(
                f"`x_0` must hold at least 8 sequences, got {len(x_0)}; some hundred are needed "
                "for a schedule that does not fit noise."
            )
        begin, process = time.monotonic(), denoiser.process

        def measure(times: Tensor) -> StepCosts:
            return measure_step_costs(
                denoiser,
                sampler,
                x_0,
                times,
                batch_size=self.batch_size,
                generator=generator,
                progress=progress,
            )

        pilot = measure(pilot_grid(self.pilot_times))
        rough = self._table(process, sampler, x_0, pilot, 0, begin)
        costs = measure(placed_grid(rough, self.num_times))
        return self._table(process, sampler, x_0, costs, pilot.num_calls, begin)

    def _table(
        self,
        process: ForwardProcess,
        sampler: Sampler,
        x_0: Tensor,
        costs: StepCosts,
        calls_before: int,
        begin: float,
    ) -> CostTable:
        num_held_out = max(2, len(costs.nats) // 4)
        halves = []
        for nats in (costs.nats[:-num_held_out], costs.nats[-num_held_out:]):
            part = StepCosts(costs.times, nats, costs.num_calls)
            absorbing = isinstance(process.kernel, Absorbing)
            mean = monotone_costs(process, part) if absorbing else nats.mean(0)
            halves.append(_against_infinity(costs.times, excess(mean)))
        used = excess(costs.nats[:-num_held_out])
        error = used.std(0) / len(used) ** 0.5
        kept = retention(process, StepCosts(costs.times, costs.nats[:-num_held_out], 0), x_0)
        return CostTable(
            times=costs.times.numpy(),
            excess=halves[0].numpy(),
            standard_error=error.numpy(),
            held_out=halves[1].numpy(),
            retention=kept.numpy(),
            gamma=self.gamma,
            setting=Setting.of(process, sampler),
            num_samples=len(used),
            num_held_out=num_held_out,
            num_calls=calls_before + costs.num_calls,
            seconds=time.monotonic() - begin,
        )


def retention(
    process: ForwardProcess, costs: StepCosts, x_0: Int[Tensor, "B L"]
) -> Float[Tensor, " T"]:
    r"""Return how much of an error made at each grid time survives to t = 0.

    A self-correcting kernel forgets part of what went wrong at s, because later steps redraw
    tokens. The posterior channel x_s -> x_0 contracts divergences; for a single wrong state x_s,
    averaged over states, from `E KL(point mass || p(x_s)) = H(x_s)` to
    `E KL(p(x_0 | x_s) || p(x_0)) = I(x_0; x_s)`. Their ratio is the weight of an error:

    `I(x_0; x_s) / H(x_s) = I / (I + H(x_s | x_0))`

    All of it is at hand: `H(x_0 | x_s)` is the cost of all cells below s, and the entropy of the
    noise is a closed form of the kernel. For the absorbing kernel, given which positions are
    masked, x_s holds nothing but data: the ratio is 1, a revealed token stays.

    The maximal correlation `Kernel.correlation` bounds the contraction of a single token from
    above; between dependent tokens errors are forgotten much faster, which this ratio sees.
    """
    cells = costs.nats.mean(0).diagonal(-1)
    below = torch.cat([torch.zeros(1, dtype=torch.float64), cells.cumsum(0)])
    information = below[-1] - below
    mine = torch.stack([process.noise_entropy(x_0, t).mean().cpu() for t in costs.times])
    # The costs are those of all processes, so the entropy must be, or their tables would differ.
    noise = torch.stack(gather_objects(mine)).mean(0)
    return torch.where(noise > 0, information / (information + noise), 1.0)


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


def _against_infinity(times: Tensor, on_grid: Tensor) -> Tensor:
    """Add what every cell of a step still costs against infinitely many steps."""
    level = torch.cat([torch.zeros(1, dtype=torch.float64), residuals(times, on_grid).cumsum(0)])
    return on_grid + (level[:, None] - level[None, :]).tril(-1)
