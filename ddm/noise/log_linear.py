"""The log-linear noise schedule."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.noise.noise import NoiseSchedule, fraction


class LogLinear(NoiseSchedule):
    r"""Log-linear noise: the share of noised tokens grows linearly in t.

    `sigma(t) = -log(1 - (1 - eps) t)`, so that `1 - exp(-sigma(t)) = (1 - eps) t`.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, section 5.1.

    Args:
        eps: Share of tokens that noise has not reached at t = 1, in (0, 1).

    Example:
        >>> import torch
        >>> from ddm.noise import LogLinear
        >>> LogLinear().sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.6921, 6.9078])
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = fraction("eps", eps)

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return -log(1 - (1 - eps) t)."""
        return -torch.log1p(-(1 - self.eps) * t)

    def beta(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return (1 - eps) / (1 - (1 - eps) t)."""
        return (1 - self.eps) / (1 - (1 - self.eps) * t)

    def inverse(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return (1 - exp(-sigma)) / (1 - eps)."""
        return -torch.expm1(-sigma) / (1 - self.eps)
