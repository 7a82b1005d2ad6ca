"""The cosine noise schedule."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.noise.noise import NoiseSchedule, fraction


class Cosine(NoiseSchedule):
    r"""Cosine noise: slow near the data, fast near the noise.

    `exp(-sigma(t)) = eps + (1 - eps) cos(pi t / 2)`; the share of noised tokens is computed as
    `2 (1 - eps) sin^2(pi t / 4)`, which does not cancel near t = 0.

    References:
        Simple and effective masked diffusion language models (Sahoo et al., 2024),
        https://arxiv.org/abs/2406.07524, appendix E.

    Args:
        eps: Share of tokens that noise has not reached at t = 1, in (0, 1).

    Example:
        >>> import torch
        >>> from ddm.noise import Cosine
        >>> Cosine().sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.3462, 6.9077])
    """

    def __init__(self, eps: float = 1e-3) -> None:
        super().__init__()
        self.eps = fraction("eps", eps)

    def _noised(self, t: Tensor) -> Tensor:
        return 2 * (1 - self.eps) * torch.sin(math.pi / 4 * t) ** 2

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return -log(eps + (1 - eps) cos(pi t / 2))."""
        return -torch.log1p(-self._noised(t))

    def beta(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the derivative of sigma."""
        slope = (1 - self.eps) * math.pi / 2 * torch.sin(math.pi / 2 * t)
        return slope / (1 - self._noised(t))

    def inverse(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return (4 / pi) arcsin sqrt((1 - exp(-sigma)) / (2 (1 - eps)))."""
        noised = -torch.expm1(-sigma)
        return 4 / math.pi * torch.asin(torch.sqrt(noised / (2 * (1 - self.eps))))
