"""Samplers that reveal a given number of masked tokens per network call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.functional import one_hot
from ddm.kernels import Kernel
from ddm.process import ForwardProcess
from ddm.samplers.sampler import Sampler, Step


class RevealSampler(Sampler):
    """A sampler of the absorbing kernel that reveals tokens by number rather than by chance.

    Which of the masked positions are revealed is uniformly random: all have the same reverse
    rate, so this is how the chain itself chooses. The step is not factorized over positions.
    """

    @abstractmethod
    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return the steps, with the numbers of tokens that they reveal."""

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the marginal distribution of every token: the posterior of x_0, if revealed.

        Positions are not independent: `step` reveals a fixed number of them.
        """
        p = predictions[-1]
        posterior = p.bridge(torch.zeros_like(s))
        # Sequences without masks wait for the others at t = 0, where a ratio may be infinite.
        masked = (p.x_t == mask_of(p.process.kernel))[..., None]
        return posterior.where(masked, one_hot(p.x_t, posterior.shape[-1], posterior.dtype))

    def step(
        self,
        denoiser: Denoiser,
        x_t: Int[Tensor, "B L"],
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Reveal a random subset of the masked positions, of the size that the step says."""
        assert step.num is not None
        masked = x_t == mask_of(denoiser.process.kernel)
        u = torch.rand(masked.shape, generator=generator, dtype=torch.float64, device=x_t.device)
        # Masked positions in random order first; the rank of a position in that order.
        rank = torch.where(masked, u, 2.0).argsort(-1).argsort(-1)
        reveal = masked & (rank < step.num[:, None])
        drawn = self.draw([denoiser(x_t, step.t, free)], step.s, generator)
        return torch.where(reveal, drawn, x_t)


def mask_of(kernel: Kernel) -> int:
    """Return the mask state.

    Raises:
        ValueError: The kernel has none, or not only jumps to it.
    """
    if not kernel.absorbing or kernel.mask is None:
        raise ValueError(
            f"`kernel` must be absorbing for a sampler that reveals masked tokens, got "
            f"`{type(kernel).__name__}`; use `Analytic`."
        )
    return kernel.mask


class KGillespie(RevealSampler):
    """Reveal k tokens per network call; the time is set from the number of masks.

    The sampling schedule says how many: at the time t the fraction of masks is that of the forward
    process, rounded to whole tokens, and at least one token is revealed per step. The network is
    called with the time that belongs to the true number of masks.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761, section 4.3 and appendix;
        Informed correctors for discrete diffusion models (Zhao et al., 2024),
        https://arxiv.org/abs/2407.21243.
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
        mask_of(process.kernel)
        num_free = free.sum(-1)
        steps, most = len(times) - 1, int(num_free.max())
        if steps > most:
            raise ValueError(
                f"`times` must have at most one step per token to reveal, got {steps} steps for "
                f"{most} tokens; use fewer steps."
            )
        left = process.masks_left(times, num_free)
        times = process.time_of_masks(left, num_free)
        pairs = zip(pairwise(times), -left.diff(dim=0), strict=True)
        return [Step(t, s, num) for (t, s), num in pairs]


class FirstHitting(RevealSampler):
    """Exact simulation of the reverse chain, one token per network call.

    The times at which tokens are revealed are drawn beforehand: order statistics of the forward
    process. The only error left is the network's. The times of the schedule play no role; every
    sequence has its own.

    References:
        Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
        categorical sampling (Zheng et al., 2025), https://arxiv.org/abs/2409.02908, section 4.
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
        u = torch.where(free, u, 0.0).sort(-1, descending=True).values.T[: int(free.sum(-1).max())]
        hits = process.time_at_mask_ratio(process.mask_ratio(times[:1]) * u)
        hits = torch.cat([hits, hits.new_zeros(1, len(free))])
        one = torch.ones(len(free), dtype=torch.long, device=free.device)
        return [Step(t, s, one) for t, s in pairwise(hits)]

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return one call per free token, whatever the number of steps."""
        return length
