"""The constant-rate noise schedule."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.noise.noise import NoiseSchedule, positive


class Constant(NoiseSchedule):
    r"""Constant rate: `sigma(t) = rate t`.

    Args:
        rate: The rate beta; exp(-rate) is the share of tokens that noise misses until t = 1.

    Example:
        >>> import torch
        >>> from ddm.noise import Constant
        >>> Constant().sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 3.5000, 7.0000])
    """

    def __init__(self, rate: float = 7.0) -> None:
        super().__init__()
        self.rate = positive("rate", rate)

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return rate t."""
        return self.rate * t

    def beta(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the rate."""
        return torch.full_like(t, self.rate)

    def inverse(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return sigma / rate."""
        return sigma / self.rate
