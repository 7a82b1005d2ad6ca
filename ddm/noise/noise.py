"""The noun `NoiseSchedule`: how fast tokens jump."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from ddm.functional import require_number


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
    """Return `value`, or say that the argument `name` must be positive, and no extreme number."""
    if isinstance(value, (int, float)) and value <= 0:
        raise ValueError(f"`{name}` must be positive, got {value}; sigma(t) must increase.")
    return require_number(name, value, 1e-12, 1e12, "more extreme noise is lost to rounding")


def fraction(name: str, value: float) -> float:
    """Return `value`, or say that the argument `name` must lie strictly between 0 and 1."""
    if isinstance(value, (int, float)) and not 0 < value < 1:
        raise ValueError(
            f"`{name}` must lie strictly between 0 and 1, got {value}; it is exp(-sigma(1)), the "
            "fraction of tokens that noise has not reached at t = 1, for instance 1e-3."
        )
    return require_number(name, value, 1e-12, 1.0, "1 - eps must not be rounded to 1")
