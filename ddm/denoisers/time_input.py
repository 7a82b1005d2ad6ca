"""What a network is told of the time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import require_at_least
from ddm.process import ForwardProcess


class TimeInput(ABC):
    """Base class of what a network is told of the time, besides the noised tokens."""

    time_free: bool = False
    """Whether it says nothing."""
    min_time: float = 0.0
    """The smallest time above 0 that the network knows."""

    @abstractmethod
    def __call__(
        self, process: ForwardProcess, t: Float[Tensor, " B"], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Return the arguments that follow the tokens in a call of the network.

        Args:
            process: The forward process.
            t: Times, float64.
            dtype: The network's own floating type.
        """


@dataclass(frozen=True)
class Time(TimeInput):
    """The time t itself, in [0, 1]."""

    def __call__(
        self, process: ForwardProcess, t: Float[Tensor, " B"], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Return t."""
        return (t.to(dtype),)


@dataclass(frozen=True)
class NoiseLevel(TimeInput):
    """The noise level sigma(t) (SEDD, DUO, UDLM)."""

    def __call__(
        self, process: ForwardProcess, t: Float[Tensor, " B"], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Return sigma(t)."""
        return (process.noise.sigma(t).to(dtype),)


@dataclass(frozen=True)
class MaskRatio(TimeInput):
    """The expected fraction of masked tokens, 1 - exp(-sigma(t))."""

    def __call__(
        self, process: ForwardProcess, t: Float[Tensor, " B"], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Return the mask ratio."""
        return (process.mask_ratio(t).to(dtype),)


@dataclass(frozen=True)
class NoTime(TimeInput):
    """Nothing: the network is called with the tokens alone (masked language models)."""

    time_free = True

    def __call__(
        self, process: ForwardProcess, t: Float[Tensor, " B"], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Return no argument."""
        return ()


@dataclass(frozen=True)
class DiscreteTime(TimeInput):
    """The index of one of T steps, as models in discrete time are called (D3PM).

    Step n = 1..T stands for the time n / T; other times are rounded to the nearest one. Such a
    network has never seen a time below 1 / T, so sampling schedules have none either.

    Args:
        num_timesteps: Number T of steps of the model.
        first: Index of the first step: 0 for models that count from 0, else 1.
    """

    num_timesteps: int
    first: int = 0

    def __post_init__(self) -> None:
        """Check the arguments."""
        require_at_least(1, num_timesteps=self.num_timesteps)
        require_at_least(0, first=self.first)

    @property
    def min_time(self) -> float:  # type: ignore[override]
        """The time 1 / T of the first step."""
        return 1 / self.num_timesteps

    def __call__(
        self, process: ForwardProcess, t: Float[Tensor, " B"], dtype: torch.dtype
    ) -> tuple[Tensor, ...]:
        """Return the index, int64."""
        step = torch.round(t * self.num_timesteps).clamp(1, self.num_timesteps)
        return (step.long() - 1 + self.first,)
