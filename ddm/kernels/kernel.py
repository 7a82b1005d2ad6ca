"""The base class of kernels: where a token may jump, without any notion of time."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.functional import categorical, normalized, one_hot, positive_log, require_at_least

LOST = 1e-10
"""Modes that noise has made smaller than this are lost to rounding: `Kernel.deconvolve`."""


class Kernel(nn.Module, ABC):
    r"""A continuous-time Markov chain on the states of one token, given by its generator Q.

    Rows of Q sum to zero and `Q[x, y]` is the rate of the jump x -> y. The chain run for the
    noise level `sigma` has the row-stochastic transition matrix `P(sigma) = exp(sigma Q)`.
    A kernel knows nothing of t: `ForwardProcess` is the only place where t meets Q.

    A new kernel writes `prior`, `rate_from` and `evolve`; all else follows from them through K x K
    matrices. Kernels for large vocabularies override whatever would build one.

    Everywhere, `sigma` is a scalar or broadcasts against the tokens (shape (B, 1) for tokens
    (B, L)); results have the dtype of `sigma` or of the probabilities passed in.

    Args:
        vocab_size: Number V of token ids; data use the ids 0..V-1, except a mask among them.
        mask: The mask state, if there is one: an id of the vocabulary (K = V states), or V, one
            more state (K = V + 1).

    Raises:
        TypeError: `vocab_size` is no integer.
        ValueError: There are fewer than 2 data tokens, or the mask is out of range.
    """

    ordinal: bool = False
    """Whether states are numbers, so that several jumps add up (pixels, velocities)."""
    absorbing: bool = False
    """Whether the only jumps are those to the mask: a token that is not masked is clean."""

    def __init__(self, vocab_size: int, *, mask: int | None = None) -> None:
        super().__init__()
        require_at_least(2, vocab_size=vocab_size)
        if mask is not None:
            require_at_least(0, mask=mask)
            if mask > vocab_size or (mask < vocab_size and vocab_size < 3):
                raise ValueError(
                    f"`mask` must be an id of the vocabulary or one more, in 0..{vocab_size}, and "
                    f"leave at least 2 data tokens, got {mask}; mend it or `vocab_size`."
                )
        self.vocab_size = vocab_size
        self.mask = mask
        self.num_states = vocab_size + (mask == vocab_size)

    @abstractmethod
    def prior(self) -> Float[Tensor, " K"]:
        """Return the distribution that generation starts from, float64."""

    @abstractmethod
    def rate_from(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the rows `Q[x, :]`, float64, with the negative exit rate at x itself."""

    @abstractmethod
    def evolve(
        self, p: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return `p P(sigma)` for row vectors p, sigma >= 0."""

    def rate_to(self, x: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape K"]:
        """Return the columns `Q[:, x]`, float64."""
        return self.rate_from(torch.arange(self.num_states, device=x.device)).T[x]

    def transition(self, sigma: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape K K"]:
        """Return the matrices `P(sigma)`."""
        k = self.num_states
        eye = torch.eye(k, dtype=sigma.dtype, device=sigma.device)
        rows = self.evolve(eye.expand(sigma.numel(), k, k), sigma.reshape(-1, 1))
        return rows.reshape(*sigma.shape, k, k)

    def transition_to(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the columns `P(sigma)[:, x]`: the likelihood of x for every earlier state."""
        return self._rows(self.transition(sigma).mT, x, sigma)

    def transition_from(
        self, x: Int[Tensor, "*shape"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return the rows `P(sigma)[x, :]`: the distribution of the token that x becomes."""
        return self.evolve(one_hot(x, self.num_states, sigma.dtype), sigma)

    def expect(
        self, f: Float[Tensor, "*shape K"], sigma: Float[Tensor, ""]
    ) -> Float[Tensor, "*shape K"]:
        """Return `P(sigma) f`: the mean of f(y) over the states y that each state x becomes."""
        return f @ self.transition(sigma).mT.to(f.dtype)

    def deconvolve(
        self, q: Float[Tensor, "*shape K"], sigma: Float[Tensor, "..."]
    ) -> Float[Tensor, "*shape K"]:
        """Return a distribution p with `p P(sigma)` proportional to q, as far as float64 can tell.

        Noise makes most differences between distributions small, some of them smaller than
        rounding: what they were cannot be found out, and the inverse of P would return noise
        times 1e10 and more. Such modes are left out (a pseudo-inverse), negative probabilities
        are cut off and the rest is normalized; where nothing is left, p is uniform.
        """
        inverse = torch.linalg.pinv(self.transition(sigma.double()), rtol=LOST)
        return normalized((q.double()[..., None, :] @ inverse).squeeze(-2)).to(q.dtype)

    def prior_divergence(self, sigma: Float[Tensor, ""]) -> Float[Tensor, " V"]:
        """Return KL( P(sigma)[x_0, :] || prior ) in nats for every data token x_0.

        Zero where the prior is a mask: a token that is not yet masked at t = 1 has no counterpart
        under it; generation starts from all masks, as the process conditioned on being masked.
        """
        if self.mask is not None:
            return torch.zeros(self.vocab_size, dtype=sigma.dtype, device=sigma.device)
        p = self.transition(sigma)[: self.vocab_size]
        return (torch.xlogy(p, p) - torch.xlogy(p, self.prior().to(p))).sum(-1).to(sigma.dtype)

    def bridge_divergence(
        self,
        log_p: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        sigma_t: Float[Tensor, ""],
        sigma_s: Float[Tensor, " J"],
    ) -> tuple[Float[Tensor, "J B L"], Float[Tensor, "J B L"]]:
        r"""Return KL( q(x_s | x_t, x_0) || bridge of a prediction ) for many levels below sigma_t.

        The factor `P(sigma_t - sigma_s)[x_s, x_t]` is common to both distributions, so with
        `m_s = p P(sigma_s)` the divergence is `sum_v q(v) (log P(sigma_s)[x_0, v] - log m_s[v])
        - log P(sigma_t)[x_0, x_t] + log m_t[x_t]`. What depends on (x_0, x_t) alone is looked up in
        K x K tables.

        Args:
            log_p: Unnormalized log leave-one-out posteriors p of x_0.
            x_0: Data tokens.
            x_t: Tokens at the level sigma_t.
            sigma_t: Level to start from.
            sigma_s: Levels to land at, each in [0, sigma_t).

        Returns:
            Nats per position, float64: of the tokens x_0, and the mean over tokens drawn from the
            full posterior, which is the mutual information of x_0 and x_s that the prediction
            claims. An exact prediction is right in the mean: both have the same one.
        """
        p, p_t = self.on_states(self.normalize(log_p.double())), self.transition(sigma_t)
        posterior = p * p_t.T[x_t]
        reached = posterior.sum(-1)
        rows, means = [], []
        for sigma in sigma_s:
            ahead, back = self.transition(sigma), self.transition(sigma_t - sigma)
            known = (torch.xlogy(ahead, ahead) @ back) / p_t - p_t.log()
            known = torch.where(p_t > 0, known, 0.0)  # other pairs (x_0, x_t) never occur
            m = p @ ahead
            log_m = back.T[x_t] * positive_log(m)
            cross = torch.linalg.vecdot(ahead[x_0], log_m) / p_t[x_0, x_t]
            rows.append(known[x_0, x_t] - cross)
            mean = torch.linalg.vecdot(posterior, known.T[x_t]) - torch.linalg.vecdot(m, log_m)
            means.append(mean / reached.clamp(min=1e-300))
        log_reached = positive_log(reached)
        return torch.stack(rows) + log_reached, torch.stack(means) + log_reached

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
        num = torch.Size(shape).numel()
        return categorical(self.prior().to(device), generator, num).reshape(shape)

    def is_revealed(self, x: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return where a token is certain to be that of the data: not masked, if `absorbing`."""
        if self.absorbing and self.mask is not None:
            return x != self.mask
        return torch.zeros_like(x, dtype=torch.bool)

    def data_only(self, log_p: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
        """Return log probabilities of x_0 with -inf at a mask among the tokens."""
        if self.mask is None or self.mask == self.vocab_size:
            return log_p
        log_p = log_p.clone()
        log_p[..., self.mask] = -torch.inf
        return log_p

    def normalize(self, log_p: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape V"]:
        """Return the probabilities of unnormalized log probabilities of x_0, zero at a mask."""
        return torch.softmax(self.data_only(log_p), -1)

    def log_prob(
        self, log_p: Float[Tensor, "*shape V"], x: Int[Tensor, "*shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the normalized log probability of x; holds nothing of the size of `log_p`."""
        if self.mask is not None and self.mask < self.vocab_size:
            parts = (log_p[..., : self.mask], log_p[..., self.mask + 1 :])
            # An empty part has the logarithm -inf of 0.
            total = torch.logaddexp(*(part.logsumexp(-1) for part in parts))
        else:
            total = log_p.logsumexp(-1)
        return log_p.gather(-1, x[..., None]).squeeze(-1) - total

    def on_states(self, p: Float[Tensor, "*shape V"]) -> Float[Tensor, "*shape K"]:
        """Return a distribution of data tokens on all states: zero at a mask beyond them."""
        return p if self.num_states == self.vocab_size else torch.nn.functional.pad(p, (0, 1))

    def is_data(self, x: Int[Tensor, "*shape"]) -> Bool[Tensor, "*shape"]:
        """Return where tokens of the data stand: in the vocabulary, and not the mask."""
        known = (x >= 0) & (x < self.vocab_size)
        return known if self.mask is None else known & (x != self.mask)

    def check_tokens(self, x: Tensor, name: str = "tokens", *, noised: bool = False) -> None:
        """Refuse what are no tokens of the data, or with `noised` no states of the chain.

        Raises:
            TypeError: They are no integers.
            ValueError: They do not have the shape (B, L), or are out of range.
        """
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise TypeError(f"`{name}` must be integers, got {x.dtype}; convert with `.long()`.")
        if x.ndim != 2:
            raise ValueError(f"`{name}` must have the shape (B, L), got {tuple(x.shape)}.")
        if not x.numel():
            return
        size = self.num_states if noised else self.vocab_size
        low, high = int(x.min()), int(x.max())
        if low < 0 or high >= size:
            raise ValueError(
                f"`{name}` must lie in 0..{size - 1}, the kernel's "
                f"{'states' if noised else 'vocabulary'}, got values from {low} to {high}; set the "
                "kernel's `vocab_size` to the number of token ids, or mend the encoding."
            )
        if not noised and self.mask is not None and bool((x == self.mask).any()):
            raise ValueError(
                f"`{name}` must not hold the mask, {self.mask}, which stands for noise; give the "
                "kernel another `mask`, or mend the encoding."
            )

    def extra_repr(self) -> str:
        """Show the sizes in the module's repr."""
        return f"vocab_size={self.vocab_size}, num_states={self.num_states}"

    def _rows(self, matrix: Tensor, x: Tensor, sigma: Tensor) -> Tensor:
        """Return row x of the matrix of its sigma, for every token."""
        which = torch.arange(sigma.numel(), device=x.device).reshape(sigma.shape)
        return matrix.reshape(-1, self.num_states, self.num_states)[which, x].to(sigma.dtype)
