"""Samplers that reveal a given number of masked tokens per network call."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.functional import one_hot
from ddm.kernels import Absorbing, Kernel
from ddm.samplers.sampler import Sampler


class RevealSampler(Sampler):
    """A sampler of the absorbing kernel that reveals tokens by number rather than by chance.

    Which of the masked positions are revealed is uniformly random: all have the same reverse
    rate, so this is how the chain itself chooses. The step is not factorised over positions.
    """

    @abstractmethod
    def num_revealed(self, prediction: Prediction, s: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return how many tokens of every sequence the step to s reveals."""

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the marginal law of every token: the posterior of x_0, if it is revealed.

        Positions are not independent: `draw` reveals a fixed number of them.
        """
        p = predictions[-1]
        posterior = p.bridge(torch.zeros_like(s))
        # Sequences without masks wait for the others at t = 0, where a ratio may be infinite.
        masked = (p.x_t == mask_of(p.process.kernel))[..., None]
        return posterior.where(masked, one_hot(p.x_t, posterior.shape[-1], posterior.dtype))

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Reveal a random subset of the masked positions, of the size `num_revealed`."""
        p = predictions[-1]
        masked = p.x_t == mask_of(p.process.kernel)
        u = torch.rand(masked.shape, generator=generator, dtype=torch.float64, device=s.device)
        # Masked positions in random order first; the rank of a position in that order.
        rank = torch.where(masked, u, 2.0).argsort(-1).argsort(-1)
        reveal = masked & (rank < self.num_revealed(p, s)[:, None])
        return torch.where(reveal, super().draw(predictions, s, generator), p.x_t)


def mask_of(kernel: Kernel) -> int:
    """Return the mask state.

    Raises:
        ValueError: The kernel has none.
    """
    if not isinstance(kernel, Absorbing):
        raise ValueError(
            f"`kernel` must be `Absorbing` for a sampler that reveals masked tokens, got "
            f"`{type(kernel).__name__}`; use `Analytic`."
        )
    return kernel.mask


class KGillespie(RevealSampler):
    """Reveal k tokens per network call; the time is set from the number of masks.

    The sampling schedule says how many: at the time t the share of masks is that of the forward
    process, rounded to whole tokens, and at least one token is revealed per step. The network is
    called with the time that belongs to the true number of masks.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761, section 4.3 and appendix;
        Informed correctors for discrete diffusion models (Zhao et al., 2024),
        https://arxiv.org/abs/2407.21243.
    """

    def grid(
        self,
        denoiser: Denoiser,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "M B"]:
        """Return the times at which the expected number of masks is whole, per sequence.

        Raises:
            ValueError: The kernel has no mask, or there are more steps than free tokens.
        """
        mask_of(denoiser.process.kernel)
        num_free = free.sum(-1)
        steps, most = len(times) - 1, int(num_free.max())
        if steps > most:
            raise ValueError(
                f"`times` must have at most one step per token to reveal, got {steps} steps for "
                f"{most} tokens; use fewer steps."
            )
        share = denoiser.process.noised_share(times)
        left = torch.round(num_free * (share / share[0])[:, None]).long()
        # At least one token per step: leave one for every later step, take one for every earlier.
        step = torch.arange(steps + 1, device=left.device)[:, None]
        left = torch.maximum(left, torch.minimum(steps - step, num_free))
        left = torch.minimum(left, (num_free - step).clamp(min=0))
        return denoiser.process.time_of_share(share[0] * left / num_free.clamp(min=1))

    def num_revealed(self, prediction: Prediction, s: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return the whole number by which the expected number of masks falls."""
        process = prediction.process
        masks = (prediction.x_t == mask_of(process.kernel)).sum(-1)
        now, then = process.noised_share(prediction.t), process.noised_share(s)
        return masks - torch.round(masks * torch.where(now > 0, then / now, 0.0)).long()


class FirstHitting(RevealSampler):
    """Exact simulation of the reverse chain, one token per network call.

    The times at which tokens are revealed are drawn beforehand: order statistics of the forward
    process. The only error left is the network's. The grid of times plays no role; every sequence
    has its own.

    References:
        Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
        categorical sampling (Zheng et al., 2025), https://arxiv.org/abs/2409.02908, section 4.
    """

    order: float = float("inf")

    def grid(
        self,
        denoiser: Denoiser,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "M B"]:
        """Return the times at which tokens are revealed, then 0, per sequence.

        Raises:
            ValueError: The kernel has no mask.
        """
        mask_of(denoiser.process.kernel)
        u = torch.rand(free.shape, generator=generator, dtype=torch.float64, device=free.device)
        u = torch.where(free, u, 0.0).sort(-1, descending=True).values.T[: int(free.sum(-1).max())]
        share = denoiser.process.noised_share(times[:1]) * u
        return torch.cat([denoiser.process.time_of_share(share), torch.zeros_like(u[:1])])

    def num_revealed(self, prediction: Prediction, s: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
        """Return 1."""
        return torch.ones_like(s, dtype=torch.long)

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return one call per free token, whatever the number of steps."""
        return length
