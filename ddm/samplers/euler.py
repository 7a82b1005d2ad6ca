"""The Euler sampler."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.samplers.sampler import Sampler


class Euler(Sampler):
    r"""Euler steps: jump to v with probability (t - s) R_t(x_t -> v).

    If the probabilities of all jumps of a token sum to more than 1 they are normalized. With the
    absorbing kernel and log-linear noise it is equal to `Analytic`.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, equation 13.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Uniform
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Euler
        >>> process = ForwardProcess(Uniform(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = Euler()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the jump law; the posterior at s = 0."""
        p = predictions[-1]
        mean = p.reverse_rate() * (p.t - s)[:, None, None]
        total = mean.sum(-1, keepdim=True)
        return finish(p, s, stay_or_jump(p, mean / total.clamp(min=1.0)))


def stay_or_jump(prediction: Prediction, jump: Float[Tensor, "B L K"]) -> Float[Tensor, "B L K"]:
    """Complete jump probabilities to a law: what is left is the probability to stay."""
    stay = (1.0 - jump.sum(-1, keepdim=True)).clamp(min=0.0)  # a sum of 1 may round to 1 + 1e-16
    return jump.scatter_add(-1, prediction.x_t[..., None], stay)


def finish(
    prediction: Prediction, s: Float[Tensor, " B"], law: Float[Tensor, "B L K"]
) -> Float[Tensor, "B L K"]:
    """Return `law`, but the posterior of x_0 where s = 0."""
    last = s == 0
    if not last.any():
        return law
    return torch.where(last[:, None, None], prediction.bridge(s), law)
