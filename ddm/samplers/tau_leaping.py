"""The tau-leaping sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.samplers.euler import finish, stay_or_jump
from ddm.samplers.sampler import Sampler

MOST_JUMPS = 2.0**20
"""Mean number of jumps of a token in a leap; more leave any scale, whatever their number."""


class TauLeaping(Sampler):
    r"""Tau-leaping: a Poisson number of jumps to every state, with the rates frozen at t.

    For categorical tokens a single jump is made and several are rejected; for ordinal tokens the
    jumps add up, `x_t + sum_v n_v (v - x_t)`, cut off at the ends of the scale. Which one applies
    is a property of the kernel, `Kernel.ordinal`.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022),
        https://arxiv.org/abs/2205.14987, section 4.3.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Gaussian
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import TauLeaping
        >>> process = ForwardProcess(Gaussian(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = TauLeaping()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    like_analytic = False
    """Long leaps stop short with masks, and are cut off at the ends of a scale."""

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the law of the token after the leap; the posterior at s = 0."""
        p = predictions[-1]
        if bool((s == 0).all()):
            return p.bridge(s)  # without the transform, whose size does not fit large images
        mean = p.reverse_rate() * (p.t - s)[:, None, None]
        if p.process.kernel.ordinal:
            return finish(p, s, _compound_poisson(_in_range(mean), p.x_t))
        return finish(p, s, stay_or_jump(p, mean * torch.exp(-mean.sum(-1, keepdim=True))))

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw the leap; ordinal jumps are drawn as Poisson numbers rather than from their law."""
        p = predictions[-1].double()
        if not p.process.kernel.ordinal or bool((s == 0).any()):
            return super().draw(predictions, s, generator)
        mean = _in_range(p.reverse_rate() * (p.t - s)[:, None, None])
        counts = torch.poisson(mean, generator)
        size = torch.arange(counts.shape[-1], device=counts.device) - p.x_t[..., None]
        return (p.x_t + (counts * size).sum(-1).long()).clamp(0, counts.shape[-1] - 1)


def _in_range(mean: Tensor) -> Tensor:
    """Return mean numbers of jumps whose sum is at most MOST_JUMPS, in the same proportions.

    `torch.poisson` counts in integers, whose range the rates of an unlikely token exceed.
    """
    total = mean.sum(-1, keepdim=True)
    return mean * (MOST_JUMPS / total.clamp(min=MOST_JUMPS))


def _compound_poisson(mean: Tensor, x: Tensor) -> Tensor:
    """Return the law of clamp(x + sum_v n_v (v - x), 0, K - 1) with n_v ~ Poisson(mean_v).

    The displacement's law is the inverse Fourier transform of its characteristic function on a
    grid so wide that what wraps around is below rounding. Meant for exact tests, K up to a few
    dozen.
    """
    k = mean.shape[-1]
    top = float(mean.sum(-1).max())
    jumps = int(top + 12 * top**0.5 + 24)  # Poisson tail beyond this is below 1e-15
    size = 2 * jumps * (k - 1) + 1
    states = torch.arange(k, device=x.device)
    step = (states - x[..., None]) % size
    spikes = torch.zeros(*x.shape, size, dtype=mean.dtype, device=x.device)
    spikes.scatter_add_(-1, step, mean)
    characteristic = torch.exp(torch.fft.fft(spikes) - mean.sum(-1, keepdim=True))
    law = torch.fft.ifft(characteristic).real.clamp(min=0.0)
    displacement = torch.arange(size, device=x.device)
    displacement = torch.where(displacement > size // 2, displacement - size, displacement)
    landing = (x[..., None] + displacement).clamp(0, k - 1)
    return torch.zeros_like(mean).scatter_add_(-1, landing, law)
