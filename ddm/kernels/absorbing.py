"""The absorbing (masking) kernel."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.functional import all_but_one, normalized, one_hot
from ddm.kernels.sparse import Rows, SparseKernel


class Absorbing(SparseKernel):
    r"""Masked diffusion: every token jumps to the mask state at rate 1 and stays there.

    `P(sigma)[x, y] = exp(-sigma) 1[x = y] + (1 - exp(-sigma)) 1[y = mask]`.
    No method builds anything of size K x K.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, section 3.1.

    Args:
        vocab_size: Number V of token ids.
        mask: The mask state: an id of the vocabulary, as masked language models have it, or by
            default V, a state of its own.

    Example:
        >>> from ddm import Absorbing
        >>> kernel = Absorbing(4)  # tokens 0..3, the mask is 4
        >>> kernel.mask, kernel.num_states
        (4, 5)
        >>> kernel.sample_prior((1, 3))
        tensor([[4, 4, 4]])
    """

    absorbing = True
    mask: int

    def __init__(self, vocab_size: int, mask: int | None = None) -> None:
        super().__init__(vocab_size, mask=vocab_size if mask is None else mask)

    def prior(self) -> Float[Tensor, " K"]:
        """Return the point mass on the mask."""
        return one_hot(torch.tensor(self.mask), self.num_states, torch.float64)

    def rate_from(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the rows of Q: -1 at x and +1 at the mask, zero from the mask."""
        rate = -one_hot(x, self.num_states, torch.float64)
        rate[..., self.mask] += 1.0
        return rate

    def rate_to(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the columns of Q: all data tokens lead to the mask, nothing to a data token."""
        is_mask = (x == self.mask)[..., None].to(torch.float64)
        rate = is_mask - one_hot(x, self.num_states, torch.float64)
        return rate  # the mask's own entry: 1 - 1 = 0

    def evolve(
        self, p: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return `p P(sigma)` in O(K)."""
        sigma = sigma.to(p.dtype)[..., None]
        after = p * torch.exp(-sigma)
        after[..., self.mask] += (-torch.expm1(-sigma) * p.sum(-1, keepdim=True)).squeeze(-1)
        return after

    def transition_to(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the columns of P(sigma) in O(K)."""
        is_mask = x == self.mask
        rest = torch.where(is_mask, -torch.expm1(-sigma), 0.0)
        return all_but_one(rest, torch.where(is_mask, 1.0, torch.exp(-sigma)), x, self.num_states)

    def deconvolve(
        self, q: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return q without its mask, normalized."""
        p = q.clone()
        p[..., self.mask] = 0.0
        return normalized(p)

    def bridge_divergence(
        self,
        log_p: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, ""],
        sigma_s: Float[Tensor, " J"],
    ) -> tuple[Float[Tensor, "J B L"], Float[Tensor, "J B L"]]:
        """Return the share of the masks that is revealed times their cross-entropy and entropy."""
        masked = x_t == self.mask
        hidden = log_p.flatten(0, 1) if bool(masked.all()) else log_p[masked]
        log_p = torch.log_softmax(self.data_only(hidden), -1)
        nats = torch.zeros(2, *x_t.shape, dtype=torch.float64, device=x_t.device)
        nats[0, masked] = -log_p.gather(-1, x_0[masked][:, None]).squeeze(-1).double()
        log_p.clamp_(min=-1e4)  # 0 log 0 = 0
        nats[1, masked] = -torch.linalg.vecdot(log_p.exp(), log_p).double()
        masked_share = -torch.expm1(-sigma_t)
        revealed = ((masked_share + torch.expm1(-sigma_s)) / masked_share)[:, None, None]
        return revealed * nats[0], revealed * nats[1]

    def sample(
        self,
        x: Int[Tensor, "*shape"],
        sigma: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "*shape"]:
        """Mask every token with probability 1 - exp(-sigma)."""
        u = torch.rand(x.shape, generator=generator, dtype=torch.float64, device=x.device)
        return torch.where(u < -torch.expm1(-sigma), self.mask, x)

    def sample_bridge(
        self,
        log_p: Rows,
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, "..."],
        sigma_s: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Reveal every mask with probability 1 - (1 - exp(-sigma_s)) / (1 - exp(-sigma_t))."""
        u = torch.rand(x_t.shape, generator=generator, dtype=torch.float64, device=x_t.device)
        reveal = (x_t == self.mask) & (u * torch.expm1(-sigma_t) <= torch.expm1(-sigma_s))
        index = (reveal if free is None else reveal & free).nonzero()
        return x_t.index_put(tuple(index.T), self.draw_tokens(log_p, index, generator))
