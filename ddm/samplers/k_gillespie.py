"""Revealing k tokens per network call, at random."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddm.process import ForwardProcess
from ddm.samplers.reveal_sampler import RevealSampler, counted_steps
from ddm.samplers.sampler import Step


class KGillespie(RevealSampler):
    """Reveal k tokens per network call; the time is set from the number of masks.

    The sampling schedule says how many: at the time t the fraction of masks is that of the forward
    process, rounded to whole tokens, and at least one token is revealed per step. The network is
    called with the time that belongs to the true number of masks. `Reveal` is the same sampler
    with any order.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761, section 4.3 and appendix;
        Informed correctors for discrete diffusion models (Zhao et al., 2024),
        https://arxiv.org/abs/2407.21243.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Absorbing
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import KGillespie
        >>> process = ForwardProcess(Absorbing(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = KGillespie()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return whole numbers of tokens to reveal, and the times at which they are expected.

        Raises:
            ValueError: The kernel has no mask, or there are more steps than free tokens.
        """
        return counted_steps(process, times, free)

    def most_steps(self, length: int) -> float:
        """Return one step per token."""
        return length
