"""The discretised Gaussian kernel for ordinal data."""

from __future__ import annotations

import torch

from ddm.kernels.dense import DenseKernel


class Gaussian(DenseKernel):
    r"""Discretised Gaussian diffusion on ordinal tokens: jumps prefer near values.

    `Q[i, j] = g(|i - j|) min(1, pi_j / pi_i)` with `g(d) = exp(-(d - 1)^2 / width^2)` and the
    stationary law `pi_i ~ exp(-(i - (V - 1) / 2)^2 / (2 prior_std^2))`, which is also the prior.
    Jumps towards the centre have the full rate g, the way back follows from detailed balance.
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
            1 makes `sigma` mean the same as for the uniform kernel. None keeps nearest-neighbour
            jumps at rate 1, as tauLDR does.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        width: float | None = None,
        prior_std: float | None = None,
        spectral_gap: float | None = 1.0,
    ) -> None:
        width = max(1.0, 6.0 * vocab_size / 256) if width is None else width
        prior_std = 2.0 * vocab_size if prior_std is None else prior_std
        for name, value in (
            ("vocab_size", vocab_size - 1),
            ("width", width),
            ("prior_std", prior_std),
        ):
            if value <= 0:
                rule = "at least 2" if name == "vocab_size" else "positive"
                raise ValueError(f"`{name}` must be {rule}, got {value + (name == 'vocab_size')}.")
        if spectral_gap is not None and spectral_gap <= 0:
            raise ValueError(
                f"`spectral_gap` must be positive or None, got {spectral_gap}; 1 makes sigma "
                "comparable with the uniform kernel."
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
