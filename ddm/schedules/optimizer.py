"""The noun `ScheduleOptimizer`: an objective times a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.samplers import Sampler
from ddm.schedules.cost_table import CostTable
from ddm.schedules.schedule import SamplingSchedule


@dataclass(frozen=True)
class Optimised:
    """What an optimiser found.

    Attributes:
        schedules: One schedule for every number of steps asked for.
        num_calls: Network calls spent, on batches of at most the optimiser's batch size.
        table: The cost table, from optimisers that measure one: schedules for every other N.
    """

    schedules: dict[int, SamplingSchedule]
    num_calls: int
    table: CostTable | None = None


class ScheduleOptimizer(ABC):
    """Finds schedules for a denoiser, the sampler that will be run, and data like x_0."""

    @abstractmethod
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
        """Find a schedule for every number of steps.

        Args:
            denoiser: The model.
            sampler: The sampler that will be run.
            x_0: Data tokens; more sequences give better schedules.
            num_steps: Numbers of steps to find schedules for.
            generator: Source of the noise, on the device of x_0.
            progress: Show a bar.
        """
