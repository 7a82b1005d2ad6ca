"""The uniform kernel."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.functional import all_but_one, one_hot, positive_log
from ddm.kernels.kernel import Kernel


class Uniform(Kernel):
    r"""Uniform diffusion: at rate 1 a token is replaced by a uniformly drawn one.

    `Q = 1 1^T / V - I` and `P(sigma) = exp(-sigma) I + (1 - exp(-sigma)) 1 1^T / V`.
    No method builds anything of size K x K.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, appendix A.2.1.

    Args:
        vocab_size: Number V of data tokens; the chain has the same K = V states.
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size, vocab_size)

    def prior(self) -> Float[Tensor, " K"]:
        """Return the uniform law."""
        return torch.full((self.num_states,), 1.0 / self.num_states, dtype=torch.float64)

    def rate_from(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the rows of Q, equal to its columns: Q is symmetric."""
        return 1.0 / self.num_states - one_hot(x, self.num_states, torch.float64)

    def rate_to(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the columns of Q, equal to its rows: Q is symmetric."""
        return self.rate_from(x)

    def evolve(
        self, p: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return `p P(sigma)` in O(K)."""
        sigma = sigma.to(p.dtype)[..., None]
        mean = p.sum(-1, keepdim=True) / self.num_states
        return p * torch.exp(-sigma) + mean * -torch.expm1(-sigma)

    def transition_to(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the columns of P(sigma) in O(K)."""
        rest = -torch.expm1(-sigma) / self.num_states
        return all_but_one(rest, torch.exp(-sigma) + rest, x, self.num_states)

    def correlation(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return exp(-sigma): the spectral gap of Q is 1."""
        return torch.exp(-sigma)

    def prior_divergence(self, sigma: Float[Tensor, ""]) -> Float[Tensor, " V"]:
        """Return the same closed form for every token."""
        other = -torch.expm1(-sigma) / self.num_states
        own = torch.exp(-sigma) + other
        v = self.num_states
        # Both arguments of log are 1 + something small when sigma is large.
        kl = own * torch.log1p(own * v - 1.0) + (v - 1) * other * torch.log1p(-torch.exp(-sigma))
        return kl.expand(self.vocab_size)

    def bridge_divergence(
        self,
        tilted: Float[Tensor, "B L K"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, ""],
        sigma_s: Float[Tensor, " J"],
    ) -> Float[Tensor, "J B"]:
        """Return the divergence in one logarithm per state: the bridge has three values."""
        v = self.num_states
        same = x_0 == x_t
        total = tilted.sum(-1)
        tilted_0 = tilted.gather(-1, x_0[..., None]).squeeze(-1)
        tilted_t = tilted.gather(-1, x_t[..., None]).squeeze(-1)
        likelihood = torch.exp(-sigma_t) * same - torch.expm1(-sigma_t) / v
        rows = []
        for sigma in sigma_s:
            keep, other = torch.exp(-sigma), -torch.expm1(-sigma) / v
            keep_after = torch.exp(sigma - sigma_t)
            other_after = -torch.expm1(sigma - sigma_t) / v
            q_rest = other * other_after / likelihood
            q_0 = (keep + other) * (other_after + keep_after * same) / likelihood
            q_t = other * (other_after + keep_after) / likelihood
            floor = other * total
            cross = q_rest * positive_log(tilted * keep + floor[..., None]).sum(-1)
            cross = cross + (q_0 - q_rest) * positive_log(tilted_0 * keep + floor)
            moved = (q_t - q_rest) * positive_log(tilted_t * keep + floor)
            cross = cross + moved.where(~same, 0.0)
            ahead = q_0 * torch.log(keep + other) + (1 - q_0) * positive_log(other)
            rows.append((ahead - cross - likelihood.log()).sum(-1))
        return torch.stack(rows)

    def sample(
        self,
        x: Int[Tensor, "*shape"],
        sigma: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "*shape"]:
        """Replace every token with probability 1 - exp(-sigma) by a uniform one."""
        u = torch.rand(x.shape, generator=generator, dtype=torch.float64, device=x.device)
        y = torch.randint(self.num_states, x.shape, generator=generator, device=x.device)
        return torch.where(u < -torch.expm1(-sigma), y, x)
