"""The analytic sampler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.samplers.sampler import Sampler


class Analytic(Sampler):
    r"""Exact bridge of every token under the posterior of x_0 (Tweedie); the default.

    `p(x_s^i | x_t) = sum_{x_0} p(x_0^i | x_t) q(x_s^i | x_0^i, x_t^i)`. Exact for a single token;
    its only error is that positions are drawn independently.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, equation 4;
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, theorem 4.2.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Uniform
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Analytic
        >>> process = ForwardProcess(Uniform(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = Analytic()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the bridge law at s."""
        return predictions[-1].bridge(s)

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw from the bridge, at the tokens that change where the kernel knows which do."""
        p = predictions[-1]

        def log_p(index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
            for rows, columns, piece in p.tokens(*index.T):
                yield torch.stack([rows, columns], -1), piece.double().log_leave_one_out()[:, 0]

        drawn = p.process.sample_bridge(log_p, p.x_t, p.t, s, generator, free=p.free)
        return super().draw(predictions, s, generator) if drawn is None else drawn
