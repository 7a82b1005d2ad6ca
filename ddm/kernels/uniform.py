"""The uniform kernel."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.functional import all_but_one, categorical, normalized, one_hot, positive_log
from ddm.kernels.kernel import LOST
from ddm.kernels.log_sums import log_sums
from ddm.kernels.sparse import Rows, SparseKernel


class Uniform(SparseKernel):
    r"""Uniform diffusion: at rate 1 a token is replaced by a uniformly drawn one.

    `Q = 1 1^T / V - I` and `P(sigma) = exp(-sigma) I + (1 - exp(-sigma)) 1 1^T / V`.
    No method builds anything of size K x K.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, appendix A.2.1.

    Args:
        vocab_size: Number V of data tokens; the chain has the same K = V states.

    Example:
        >>> import torch
        >>> from ddm import Uniform
        >>> Uniform(4).transition(torch.tensor(100.0))[0]  # all is forgotten
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)

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

    def expect(
        self, f: Float[Tensor, "*shape K"], sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape K"]:
        """Return `P(sigma) f`, equal to `f P(sigma)`: P is symmetric."""
        return self.evolve(f, sigma)

    def deconvolve(
        self, q: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the inverse in O(K): all differences between probabilities shrink alike."""
        keep = torch.exp(-sigma.double())[..., None]
        p = q.double() / q.double().sum(-1, keepdim=True)
        p = (p - (1 - keep) / self.num_states) / keep
        return normalized(torch.where(keep > LOST, p, 1.0)).to(q.dtype)

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
        log_p: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, ""],
        sigma_s: Float[Tensor, " J"],
    ) -> tuple[Float[Tensor, "J B L"], Float[Tensor, "J B L"]]:
        """Return the divergences: the bridge has three values, and two sums over all states."""
        v, same = self.num_states, x_0 == x_t
        keeps, others = torch.exp(-sigma_s), -torch.expm1(-sigma_s) / v
        everywhere, expected, total = log_sums(log_p, keeps, others)
        tokens = log_p.gather(-1, torch.stack([x_0, x_t], -1)) - total[..., None]
        p_0, p_t = tokens.double().exp().unbind(-1)
        keep_t, noised = torch.exp(-sigma_t), -torch.expm1(-sigma_t) / v
        reached = p_t * keep_t + noised
        stays = p_t * (keep_t + noised) / reached  # posterior of x_0 = x_t
        # Of another token, and of x_t; behind that landing times, then positions.
        likelihood = torch.stack([noised, keep_t + noised])[:, None]
        keep_after, other_after = torch.exp(sigma_s - sigma_t), -torch.expm1(sigma_s - sigma_t) / v
        own = (keeps + others) * torch.stack([other_after, other_after + keep_after]) / likelihood
        rest = others * other_after / likelihood  # 0 at s = 0, where there is no other token
        known = own * torch.log(keeps + others) + (1 - own) * positive_log(others)
        own, rest, known = (z[..., None, None] for z in (own, rest, known - likelihood.log()))
        keep, other, after, away = (
            z[:, None, None] for z in (keeps, others, keep_after, other_after)
        )
        log_m_0, m_t = positive_log(p_0 * keep + other), p_t * keep + other
        log_m_t = positive_log(m_t)
        cross = torch.where(same, own[1] - rest[1], own[0] - rest[0]) * log_m_0
        cross += torch.where(same, rest[1], rest[0]) * everywhere
        moved = other * after / noised * log_m_t
        nats = torch.where(same, known[1], known[0] - moved) - cross
        mean = away * (keep * expected + other * everywhere)
        cross = (mean + after * m_t * log_m_t) / reached
        means = torch.lerp(known[0], known[1], stays) - cross
        return nats + reached.log(), means + reached.log()

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
        r"""Draw whether the token stays, else whether it is noise, else from the posterior.

        With `keep = exp(-sigma_s)`, `m = keep p + (1 - keep) / V` and `after = exp(sigma_s -
        sigma_t)` the bridge is a mixture: it stays with the weight `after m(x_t)`, and is drawn
        anew from m with the weight `(1 - after) / V`. A number u that decides alike for all m(x_t)
        between its bounds, at p = 0 and 1, needs no posterior.
        """
        v, shape = self.num_states, x_t.shape
        keep, after = torch.exp(-sigma_s), torch.exp(sigma_s - sigma_t)
        noised, moves = -torch.expm1(-sigma_s) / v, -torch.expm1(sigma_s - sigma_t) / v
        keep, after, noised, moves = (a.expand(shape) for a in (keep, after, noised, moves))

        def rand() -> Tensor:
            return torch.rand(shape, generator=generator, dtype=torch.float64, device=x_t.device)

        # Stay if u moves < (1 - u) after m(x_t): odds, so that m need not be divided by anything.
        u = rand()
        at_most, at_least = after * (keep + noised), after * noised
        may = u * moves >= (1 - u) * at_least
        may = may if free is None else may & free
        goes = may & (u * moves >= (1 - u) * at_most)
        anew = torch.randint(v, shape, generator=generator, device=x_t.device)
        clean = rand() < keep
        index = (goes & clean).nonzero()
        anew[tuple(index.T)] = self.draw_tokens(log_p, index, generator)
        index = (may & ~goes).nonzero()
        for part, logits in log_p(index):
            where = tuple(part.T)
            m = keep[where] * self.log_prob(logits, x_t[where]).exp() + noised[where]
            # Not >=: a token of NaN goes, and its draw is refused.
            goes[where] = ~(u[where] * moves[where] < (1 - u[where]) * after[where] * m)
            drawn = goes[where] & clean[where]
            anew[tuple(part[drawn].T)] = categorical(self.normalize(logits[drawn]), generator)
        return torch.where(goes, anew, x_t)
