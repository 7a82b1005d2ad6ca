"""The discretized Gaussian kernel for ordinal data."""

from __future__ import annotations

import math

import torch

from ddm.functional import require_at_least, require_number
from ddm.kernels.dense import DenseKernel


class Gaussian(DenseKernel):
    r"""Discretized Gaussian diffusion on ordinal tokens: jumps prefer near values.

    `Q[i, j] = g(|i - j|) min(1, pi_j / pi_i)` with `g(d) = exp(-(d - 1)^2 / width^2)` and the
    stationary law `pi_i ~ exp(-(i - (V - 1) / 2)^2 / (2 prior_std^2))`, which is also the prior.
    Jumps toward the center have the full rate g, the way back follows from detailed balance.
    tauLDR's CIFAR-10 set-up is `Gaussian(256, width=6, prior_std=512, spectral_gap=None)` with the
    noise `Exponential(scale=3, growth=100)`.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022),
        https://arxiv.org/abs/2205.14987, appendix E.

    Args:
        vocab_size: Number V of ordinal values; K = V.
        width: Length scale of a jump; by default as wide against V as tauLDR's, 6 V / 256, but
            at least 1.
        prior_std: Standard deviation of the stationary law; by default 2 V, nearly uniform.
        spectral_gap: Scale the rates so that the slowest mode decays like exp(-spectral_gap sigma);
            1 makes `sigma` mean the same as for the uniform kernel. None keeps nearest-neighbor
            jumps at rate 1, as tauLDR does.

    Example:
        >>> import torch
        >>> from ddm import Gaussian
        >>> p = Gaussian(8).transition(torch.tensor(0.1).double())[4]
        >>> bool(p[3] > p[0])  # near values are likelier
        True
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: float | None = None,
        prior_std: float | None = None,
        spectral_gap: float | None = 1.0,
    ) -> None:
        require_at_least(2, vocab_size=vocab_size)
        width = max(1.0, 6.0 * vocab_size / 256) if width is None else width
        prior_std = 2.0 * vocab_size if prior_std is None else prior_std
        numbers = {"width": width, "prior_std": prior_std}
        numbers |= {} if spectral_gap is None else {"spectral_gap": spectral_gap}
        for name, value in numbers.items():
            if isinstance(value, (int, float)) and value <= 0:
                rule = "positive or None" if name == "spectral_gap" else "positive"
                raise ValueError(f"`{name}` must be {rule}, got {value}; raise it.")
            require_number(name, value, 1e-6, 1e6, "see `Gaussian` for what is usual")
        # Values that the prior nearly excludes make a chain that float64 cannot tell from a broken
        # one: at the ends it must not fall below 1e-12 of the center.
        least = (vocab_size - 1) / 2 / math.sqrt(2 * math.log(1e12))
        if prior_std < least:
            raise ValueError(
                f"`prior_std` must be at least {least:.3g} for {vocab_size} values, got "
                f"{prior_std}; a narrower prior excludes values that the data have."
            )
        i = torch.arange(vocab_size, dtype=torch.float64)
        log_pi = -((i - (vocab_size - 1) / 2) ** 2) / (2 * prior_std**2)
        distance = (i[:, None] - i).abs()
        rate = torch.exp(
            -(((distance - 1) / width) ** 2) + (log_pi[None, :] - log_pi[:, None]).clamp(max=0.0)
        )
        rate.fill_diagonal_(0.0)
        rate -= torch.diag(rate.sum(-1))
        if spectral_gap is not None:
            root = torch.exp(log_pi / 2)
            symmetric = root[:, None] * rate / root
            rate *= spectral_gap / -torch.linalg.eigvalsh((symmetric + symmetric.T) / 2)[-2]
        super().__init__(rate, ordinal=True)
        self.width, self.prior_std, self.spectral_gap = width, prior_std, spectral_gap
