"""The forward process: the only place where t meets Q."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.functional import expand_right, largest_ratio, positive_log, require_instance
from ddm.kernels import Kernel, Rows, SparseKernel
from ddm.noise import NoiseSchedule


class ForwardProcess(nn.Module):
    r"""The noising process: every token runs the chain `beta(t) Q` independently.

    Conventions: t in [0, 1], 0 is data and 1 is noise; times are float64, one scalar or one per
    sequence (B,). With `A_t = P(sigma(t))` the distribution of x_t given x_0 is the row
    `A_t[x_0, :]`. Posteriors over x_0 have V entries, distributions and rates of x_t have K.

    What a denoiser knows of a position is carried as the *leave-one-out posterior*
    `p(x_0^i | x_t without position i)`, in logs that need not be normalized (`log_p` below).
    Everything else follows from it without a division by a likelihood, so that forbidden tokens
    (logits of -inf), infinite noise and prompts are nothing special:

    - full posterior `p(x_0^i | x_t) ~ p(x_0) A_t[x_0, x_t^i]`;
    - ratio `p_t(x_t with v at i) / p_t(x_t) = m_t[v] / m_t[x_t^i]` with `m_t = p A_t`, the
      concrete score;
    - bridge `p(x_s^i | x_t) ~ m_s[x_s] P(sigma_t - sigma_s)[x_s, x_t^i]`.

    The one thing that a full posterior does not determine: at a token that the kernel shows to be
    clean (`Kernel.is_revealed`) it is certain, and says nothing of the leave-one-out posterior.
    Nothing needs it there, for such a token stays.

    Args:
        kernel: Where tokens jump.
        noise: How fast they jump.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> x_t = process.sample(torch.zeros(2, 6).long(), torch.tensor([0.2, 0.9]))
        >>> x_t.shape
        torch.Size([2, 6])
    """

    def __init__(self, kernel: Kernel, noise: NoiseSchedule) -> None:
        super().__init__()
        require_instance(Kernel, kernel=kernel)
        require_instance(NoiseSchedule, noise=noise)
        self.kernel = kernel
        self.noise = noise

    def sample(
        self,
        x_0: Int[Tensor, "B L"],
        t: Float[Tensor, "..."] | float,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_t given x_0; positions that are not free stay as they are."""
        t = torch.as_tensor(t, dtype=torch.float64, device=x_0.device)
        level = self._level(t, x_0)
        return keep_given(self.kernel.sample(x_0, level, generator), x_0, free)

    def sample_path(
        self,
        x_0: Int[Tensor, "B L"],
        times: Float[Tensor, " M"],
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "M B L"]:
        """Draw one path per sequence at increasing times, from its true joint distribution.

        Raises:
            ValueError: The times decrease somewhere.
        """
        if (times.diff() < 0).any() or (times < 0).any():
            raise ValueError("`times` must be >= 0 and must not decrease; sort them first.")
        path, x, before = [], x_0, torch.zeros_like(times[:1]).squeeze()
        for sigma in self.noise.sigma(times):
            x = keep_given(self.kernel.sample(x, sigma - before, generator), x_0, free)
            path.append(x)
            before = sigma
        return torch.stack(path)

    def sample_prior(
        self,
        tokens: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return what generation starts from: noise where it is free, else the given tokens."""
        noise = self.kernel.sample_prior(tuple(tokens.shape), generator, tokens.device)
        return keep_given(noise, tokens, free)

    def likelihood(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "B L V"]:
        """Return `A_t[x_0, x_t]` for every data token x_0."""
        sigma = self._level(t, x_t).to(dtype)
        return self.kernel.transition_to(x_t, sigma)[..., : self.kernel.vocab_size]

    def bridge(
        self,
        log_p: Float[Tensor, "B L V"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, "..."],
        s: Float[Tensor, "..."],
    ) -> Float[Tensor, "B L K"]:
        r"""Return the distribution of x_s given x_t, s <= t, at every position (Tweedie).

        The leave-one-out posterior carried to s, times the likelihood of x_t there. A token that
        nothing can have led to stays: one that is given although it is forbidden.

        Args:
            log_p: Unnormalized log leave-one-out posteriors.
            x_t: Tokens to start from.
            t: Their time.
            s: Time to land at.

        Raises:
            ValueError: s is later than t.
        """
        if s.device.type == "cpu" and bool((s > t).any()):  # elsewhere a look costs a wait
            raise ValueError("`s` must be at most t, got a later time; steps go down to the data.")
        sigma_t, sigma_s = self._level(t, x_t), self._level(s, x_t)
        p = self.kernel.on_states(self.kernel.normalize(log_p))
        law = self.kernel.evolve(p, sigma_s.to(p.dtype))
        law = law * self.kernel.transition_to(x_t, (sigma_t - sigma_s).to(p.dtype))
        total = law.sum(-1, keepdim=True)
        stays = total == 0
        law = law / total.masked_fill(stays, 1.0)
        return law.scatter_add_(-1, x_t[..., None], stays.to(law.dtype))

    def sample_bridge(
        self,
        log_p: Rows,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, "..."],
        s: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"] | None:
        """Draw x_s given x_t without all of `bridge`; None if the kernel knows no such way."""
        if not isinstance(self.kernel, SparseKernel):
            return None
        levels = self._level(t, x_t), self._level(s, x_t)
        return self.kernel.sample_bridge(log_p, x_t, *levels, generator, free=free)

    def overshoot(
        self, t: Float[Tensor, "*shape"], s: Float[Tensor, "*shape"], strength: float
    ) -> Float[Tensor, "*shape"]:
        """Return the times r <= s that lie `strength` steps t -> s past s in noise level, or 0."""
        sigma_t, sigma_s = self.noise.sigma(t), self.noise.sigma(s)
        r = self.noise.inverse((sigma_s - strength * (sigma_t - sigma_s)).clamp(min=0.0))
        return torch.minimum(r, s)

    def carry(
        self, law: Float[Tensor, "B L K"], s: Float[Tensor, "..."], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return the distributions of tokens at t, from those at s <= t."""
        sigma = self._level(t, law[..., 0]) - self._level(s, law[..., 0])
        return self.kernel.evolve(law, sigma.to(law.dtype))

    def renoise(
        self,
        x_s: Int[Tensor, "B L"],
        s: Float[Tensor, "..."],
        t: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_t given x_s, s <= t."""
        return self.kernel.sample(x_s, self._level(t, x_s) - self._level(s, x_s), generator)

    def bridge_divergence(
        self,
        log_p: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, ""],
        s: Float[Tensor, " J"],
    ) -> tuple[Float[Tensor, "J B L"], Float[Tensor, "J B L"]]:
        """Return KL( q(x_s | x_t, x_0) || bridge(log_p, x_t, t, s) ), nats per position.

        Of the tokens x_0, and the mean over tokens drawn from the prediction, see `Kernel`.
        """
        sigma_t, sigma_s = self.noise.sigma(t), self.noise.sigma(s)
        return self.kernel.bridge_divergence(log_p, x_0, x_t, sigma_t, sigma_s)

    def ratio(
        self, log_p: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        r"""Return `p_t(x_t with v at i) / p_t(x_t)` for every state v, 1 at v = x_t.

        Zero everywhere if x_t itself is impossible: nothing leads there. Where x_t is so unlikely
        that a ratio would leave the range of numbers, all of them, that of x_t included, are
        smaller by one factor: which jump is made does not change, and that one is made is certain.
        """
        p = self.kernel.on_states(self.kernel.normalize(log_p))
        m = self.kernel.evolve(p, self._level(t, x_t).to(p.dtype))
        own = m.gather(-1, x_t[..., None])
        least = m.detach().amax(-1, keepdim=True) / largest_ratio(m.dtype)
        own = torch.where(own > 0, torch.maximum(own, least), own)
        # Dividing by infinity gives 0 with the gradient 0; cutting off m / 0 would give it NaN.
        return m / own.masked_fill(own == 0, torch.inf)

    def ratio_of_tokens(
        self, x_0: Int[Tensor, "B L"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return `A_t[x_0, v] / A_t[x_0, x_t]`: the ratio where x_0 is known."""
        ahead = self.kernel.transition_from(x_0, self._level(t, x_t))
        return ahead / ahead.gather(-1, x_t[..., None])

    def reverse_rate(
        self, ratio: Float[Tensor, "B L K"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return the rates of the reverse jumps x_t -> v, zero at v = x_t.

        `R_t(x_t -> v) = beta(t) Q[v, x_t] ratio(v)` (Campbell et al., 2022, proposition 1).
        """
        return self.jump_rate_to(x_t, t).to(ratio.dtype) * ratio

    def jump_rate_to(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return the forward rates `beta(t) Q[v, x_t]` of the jumps v -> x_t, zero at v = x_t."""
        beta = expand_right(self.noise.beta(t), x_t.ndim + 1)
        return (beta * self.kernel.rate_to(x_t)).scatter(-1, x_t[..., None], 0.0)

    def jump_rate_from(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return the forward rates `beta(t) Q[x_t, v]` of the jumps x_t -> v, zero at v = x_t."""
        beta = expand_right(self.noise.beta(t), x_t.ndim + 1)
        return (beta * self.kernel.rate_from(x_t)).scatter(-1, x_t[..., None], 0.0)

    def leave_one_out_of_ratio(
        self, ratio: Float[Tensor, "B L K"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L V"]:
        """Return log leave-one-out posteriors that belong to given ratios.

        Ratios of an imperfect network need not belong to any; see `Kernel.deconvolve`.
        """
        p = self.kernel.deconvolve(ratio, expand_right(self.noise.sigma(t), ratio.ndim - 1))
        return positive_log(p[..., : self.kernel.vocab_size])

    def full_posterior(
        self, log_p: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L V"]:
        """Return log full posteriors from log leave-one-out posteriors (Bayes)."""
        log_p = self.kernel.data_only(log_p) + self.likelihood(x_t, t, log_p.dtype).log()
        if self.kernel.absorbing:  # clean is certain, and no NaN where a given token is forbidden
            clean = self.kernel.is_revealed(x_t)
            own = x_t[..., None] == torch.arange(log_p.shape[-1], device=x_t.device)
            certain = torch.where(own, 0.0, -torch.inf)
            log_p = torch.where(clean[..., None], certain, log_p)
        return torch.log_softmax(log_p, -1)

    def leave_one_out(
        self, log_p: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L V"]:
        """Return log leave-one-out posteriors from log full posteriors, not normalized.

        Tokens of likelihood 0 get -inf: a clean token is its own only explanation.
        """
        likelihood = self.likelihood(x_t, t, log_p.dtype)
        return torch.where(likelihood > 0, log_p - positive_log(likelihood), -torch.inf)

    def prior_divergence(self, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return KL( q(x_1 | x_0) || prior ) in nats per position, float64."""
        one = torch.ones((), dtype=torch.float64, device=x_0.device)
        return self.kernel.prior_divergence(self.noise.sigma(one))[x_0]

    def mask_ratio(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 - exp(-sigma(t)): the fraction of tokens that the absorbing kernel masks."""
        return -torch.expm1(-self.noise.sigma(t))

    def time_at_mask_ratio(self, ratio: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time at which the mask ratio is `ratio`, in [0, 1]."""
        return self.noise.inverse(-torch.log1p(-ratio)).clamp(0.0, 1.0)

    def masks_left(
        self, times: Float[Tensor, " M"], num_free: Int[Tensor, " B"]
    ) -> Int[Tensor, "M B"]:
        """Return how many of the free tokens are masked at decreasing times, from all to none.

        The expected number, rounded, with at least one token revealed per step while there are
        any: the one place where times become counts.
        """
        ratio = self.mask_ratio(times)
        left = torch.round(num_free * (ratio / ratio[0])[:, None]).long()
        step = torch.arange(len(times), device=left.device)[:, None]
        # Leave one for every later step, take one for every earlier.
        left = torch.maximum(left, torch.minimum(len(times) - 1 - step, num_free))
        return torch.minimum(left, (num_free - step).clamp(min=0))

    def time_of_masks(
        self, left: Int[Tensor, "*M B"], num_free: Int[Tensor, " B"]
    ) -> Float[Tensor, "*M B"]:
        """Return the times at which the expected numbers of masks are those: counts to times."""
        one = torch.ones((), dtype=torch.float64, device=left.device)
        return self.time_at_mask_ratio(self.mask_ratio(one) * left / num_free.clamp(min=1))

    def _level(self, t: Tensor, x: Tensor) -> Tensor:
        """Return sigma(t) with the axes of the tokens."""
        return expand_right(self.noise.sigma(t), x.ndim)


def keep_given(
    x: Int[Tensor, "B L"], given: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None
) -> Int[Tensor, "B L"]:
    """Return x where it is free, else the given tokens."""
    return x if free is None else torch.where(free, x, given)
