"""Revealing one token per network call, at the times of the exact reverse chain."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ddm.orders.order import mask_of
from ddm.process import ForwardProcess
from ddm.samplers.reveal_sampler import RevealSampler
from ddm.samplers.sampler import Step


class FirstHitting(RevealSampler):
    """Exact simulation of the reverse chain, one token per network call.

    The times at which tokens are revealed are drawn beforehand: order statistics of the forward
    process. The only error left is the network's. The times of the schedule play no role; every
    sequence has its own.

    References:
        Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
        categorical sampling (Zheng et al., 2025), https://arxiv.org/abs/2409.02908, section 4.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Absorbing
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import FirstHitting
        >>> process = ForwardProcess(Absorbing(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = FirstHitting()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 6)
    """

    order: float = float("inf")

    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return steps of one token at the times at which tokens are revealed, the last at 0.

        Raises:
            ValueError: The kernel has no mask.
        """
        mask_of(process.kernel)
        u = torch.rand(free.shape, generator=generator, dtype=torch.float64, device=free.device)
        u = torch.where(free, u, 0.0).sort(-1, descending=True).values.T
        u = u[: int(free.sum(-1).max()) if len(free) else 0]
        hits = process.time_at_mask_ratio(process.mask_ratio(times[:1]) * u)
        hits = torch.cat([hits, hits.new_zeros(1, len(free))])
        one = torch.ones(len(free), dtype=torch.long, device=free.device)
        return [Step(t, s, one) for t, s in pairwise(hits)]

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return one call per free token, whatever the number of steps."""
        return length
