"""The noun `Kernel`: where a token may jump, without any notion of time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.functional import categorical, one_hot, positive_log


class Kernel(nn.Module, ABC):
    r"""A continuous-time Markov chain on the states of one token, given by its generator Q.

    Rows of Q sum to zero and `Q[x, y]` is the rate of the jump x -> y. The chain run for the
    noise level `sigma` has the row-stochastic transition matrix `P(sigma) = exp(sigma Q)`.
    A kernel knows nothing of t: `ForwardProcess` is the only place where t meets Q.

    Everywhere, `sigma` is a scalar or broadcasts against the tokens (shape (B, 1) for tokens
    (B, L)); results have the dtype of `sigma` or of the probabilities passed in.

    Args:
        vocab_size: Number V of data tokens; the data use the states 0..V-1.
        num_states: Number K of states, V or V + 1 with a mask state, which is then the last one.
    """

    ordinal: bool = False
    """Whether states are numbers, so that several jumps add up (pixels, velocities)."""

    def __init__(self, vocab_size: int, num_states: int) -> None:
        super().__init__()
        if vocab_size < 2:
            raise ValueError(
                f"`vocab_size` must be at least 2, got {vocab_size}; a single token needs no model."
            )
        self.vocab_size = vocab_size
        self.num_states = num_states

    @abstractmethod
    def prior(self) -> Float[Tensor, " K"]:
        """Return the law that generation starts from, float64."""

    @abstractmethod
    def rate_from(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the rows `Q[x, :]`, float64, with the negative exit rate at x itself."""

    @abstractmethod
    def rate_to(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the columns `Q[:, x]`, float64."""

    @abstractmethod
    def evolve(
        self, p: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return `p P(sigma)` for row vectors p; a negative sigma applies the inverse."""

    @abstractmethod
    def transition_to(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the columns `P(sigma)[:, x]`: the likelihood of x for every earlier state."""

    @abstractmethod
    def correlation(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the maximal correlation of the channel P(sigma), the weight rho of an error.

        It is 1 where errors are never forgotten (absorbing) and `exp(-sigma gap)` for a reversible
        chain with that spectral gap.
        """

    @abstractmethod
    def prior_divergence(self, sigma: Float[Tensor, ""]) -> Float[Tensor, " V"]:
        """Return KL( P(sigma)[x_0, :] || prior ) in nats for every data token x_0."""

    def bridge_divergence(
        self,
        tilted: Float[Tensor, "B L K"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, ""],
        sigma_s: Float[Tensor, " J"],
    ) -> Float[Tensor, "J B"]:
        r"""Return KL( q(x_s | x_t, x_0) || bridge of a posterior ) for many levels below sigma_t.

        The factor `P(sigma_t - sigma_s)[x_s, x_t]` is common to both laws, so with
        `m = tilted P(sigma_s)` the divergence is
        `sum_v q(v) (log P(sigma_s)[x_0, v] - log m[v]) - log P(sigma_t)[x_0, x_t]`.

        Args:
            tilted: The posterior divided by the likelihood, `p_0(x_0) / P(sigma_t)[x_0, x_t]`,
                float64, zero on a mask state.
            x_0: Data tokens.
            x_t: Tokens at the level sigma_t.
            sigma_t: Level to start from.
            sigma_s: Levels to land at, each in [0, sigma_t).

        Returns:
            Nats per sequence, summed over positions.
        """
        own = x_0[..., None]
        log_likelihood = self.transition_to(x_t, sigma_t).gather(-1, own).squeeze(-1).log()
        rows = []
        for sigma in sigma_s:
            ahead = self.transition_from(x_0, sigma)
            q = ahead * self.transition_to(x_t, sigma_t - sigma) / log_likelihood.exp()[..., None]
            log_m = positive_log(self.evolve(tilted, sigma))
            kl = (q * (positive_log(ahead) - log_m)).sum(-1) - log_likelihood
            rows.append(kl.sum(-1))
        return torch.stack(rows)

    def transition_from(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the rows `P(sigma)[x, :]`: the law of the token that x becomes."""
        return self.evolve(one_hot(x, self.num_states, sigma.dtype), sigma)

    def sample(
        self,
        x: Int[Tensor, "*shape"],
        sigma: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "*shape"]:
        """Run the chain from x for the noise level sigma and return where it ends."""
        return categorical(self.transition_from(x, sigma), generator)

    def sample_prior(
        self,
        shape: tuple[int, ...],
        generator: torch.Generator | None = None,
        device: torch.device | str = "cpu",
    ) -> Int[Tensor, "..."]:
        """Draw independent tokens from the prior."""
        probs = self.prior().to(device)
        return categorical(probs.expand(*shape, -1), generator)

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"vocab_size={self.vocab_size}, num_states={self.num_states}"
