"""The noun `NoiseSchedule`: how fast tokens jump."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn


class NoiseSchedule(nn.Module, ABC):
    r"""The noise level `sigma(t) = int_0^t beta(u) du` of the forward process, sigma(0) = 0.

    All methods act elementwise, in the dtype of their argument (float64 in the library).
    """

    @abstractmethod
    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the total noise sigma(t), strictly increasing from sigma(0) = 0."""

    @abstractmethod
    def beta(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the rate beta(t) = d sigma / d t."""

    @abstractmethod
    def inverse(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time t at which the total noise is `sigma`."""


def positive(name: str, value: float) -> float:
    """Return `value`, or say that the argument `name` must be positive."""
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}; sigma(t) must increase.")
    return value


def fraction(name: str, value: float) -> float:
    """Return `value`, or say that the argument `name` must lie strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(
            f"`{name}` must lie strictly between 0 and 1, got {value}; it is exp(-sigma(1)), the "
            "share of tokens that noise has not reached at t = 1, for instance 1e-3."
        )
    return value
