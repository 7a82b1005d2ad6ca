"""The exponential and geometric noise schedules."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import require_number
from ddm.noise.noise import NoiseSchedule, positive


class Exponential(NoiseSchedule):
    r"""Exponentially growing rate, as in tauLDR's Gaussian set-up.

    `sigma(t) = scale (growth^t - 1)`, `beta(t) = scale growth^t log(growth)`.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022),
        https://arxiv.org/abs/2205.14987, appendix E.

    Args:
        scale: Positive factor; 3 in tauLDR's CIFAR-10 set-up.
        growth: Base larger than 1; 100 in tauLDR's CIFAR-10 set-up.

    Example:
        >>> import torch
        >>> from ddm.noise import Exponential
        >>> Exponential().sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([  0.0000,  27.0000, 297.0000])
    """

    def __init__(self, scale: float = 3.0, growth: float = 100.0) -> None:
        super().__init__()
        self.scale = positive("scale", scale)
        if not growth > 1:
            raise ValueError(
                f"`growth` must be larger than 1, got {growth}; use `Constant` for a constant rate."
            )
        require_number("growth", growth, 1.0, 1e30, "use a smaller base and a larger `scale`")
        self.log_growth = math.log(growth)

    def sigma(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return scale (growth^t - 1)."""
        return self.scale * torch.expm1(self.log_growth * t)

    def beta(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return scale growth^t log(growth)."""
        return self.scale * self.log_growth * torch.exp(self.log_growth * t)

    def inverse(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return log(1 + sigma / scale) / log(growth)."""
        return torch.log1p(sigma / self.scale) / self.log_growth


class Geometric(Exponential):
    r"""Geometric noise: sigma runs through its orders of magnitude at a constant pace.

    `sigma(t) = sigma_min ((1 + sigma_max / sigma_min)^t - 1)`. SEDD's schedule
    `sigma_min^(1 - t) sigma_max^t` differs from it by about sigma_min, and does not end at the
    data; this one has sigma(0) = 0 and sigma(1) = sigma_max exactly.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, section 5.1.

    Args:
        sigma_min: Noise level below which sigma is linear in t.
        sigma_max: Noise level at t = 1.

    Example:
        >>> import torch
        >>> from ddm.noise import Geometric
        >>> Geometric().sigma(torch.tensor([0.0, 0.5, 1.0]))
        tensor([0.0000, 0.0884, 8.0000])
    """

    def __init__(self, sigma_min: float = 1e-3, sigma_max: float = 8.0) -> None:
        positive("sigma_min", sigma_min)
        positive("sigma_max", sigma_max)
        super().__init__(sigma_min, 1 + sigma_max / sigma_min)
