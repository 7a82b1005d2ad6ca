"""The forward process: the only place where t meets Q."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.functional import expand_right
from ddm.kernels import Kernel
from ddm.noise import NoiseSchedule


class ForwardProcess(nn.Module):
    r"""The noising process: every token runs the chain `beta(t) Q` independently.

    Conventions: t in [0, 1], 0 is data and 1 is noise; times are float64, one scalar or one per
    sequence (B,). With `A_t = P(sigma(t))` the law of x_t given x_0 is the row `A_t[x_0, :]`.
    Posteriors over x_0 have V entries, laws and rates of x_t have K.

    Three descriptions of one denoiser are converted into each other here:

    - full posterior `p(x_0^i | x_t)`;
    - leave-one-out posterior `p(x_0^i | x_t without position i)`, which multiplied by the
      likelihood `A_t[x_0, x_t^i]` gives the full one;
    - ratio `p_t(x_t with v at i) / p_t(x_t)`, the concrete score.

    Args:
        kernel: Where tokens jump.
        noise: How fast they jump.
    """

    def __init__(self, kernel: Kernel, noise: NoiseSchedule) -> None:
        super().__init__()
        self.kernel = kernel
        self.noise = noise

    def sample(
        self,
        x_0: Int[Tensor, "B L"],
        t: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_t given x_0."""
        return self.kernel.sample(x_0, expand_right(self.noise.sigma(t), x_0.ndim), generator)

    def sample_path(
        self,
        x_0: Int[Tensor, "B L"],
        times: Float[Tensor, " M"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "M B L"]:
        """Draw one path per sequence and return it at increasing times, from its true joint law.

        Raises:
            ValueError: The times decrease somewhere.
        """
        if (times.diff() < 0).any() or (times < 0).any():
            raise ValueError("`times` must be >= 0 and must not decrease; sort them first.")
        path, x, before = [], x_0, torch.zeros_like(times[:1]).squeeze()
        for sigma in self.noise.sigma(times):
            x = self.kernel.sample(x, sigma - before, generator)
            path.append(x)
            before = sigma
        return torch.stack(path)

    def likelihood(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."], dtype: torch.dtype = torch.float64
    ) -> Float[Tensor, "B L V"]:
        """Return `A_t[x_0, x_t]` for every data token x_0."""
        sigma = expand_right(self.noise.sigma(t), x_t.ndim).to(dtype)
        return self.kernel.transition_to(x_t, sigma)[..., : self.kernel.vocab_size]

    def bridge(
        self,
        p_0: Float[Tensor, "B L V"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, "..."],
        s: Float[Tensor, "..."],
    ) -> Float[Tensor, "B L K"]:
        r"""Return the analytic law of x_s given x_t, s < t, at every position.

        `p(x_s | x_t) = sum_{x_0} p_0(x_0) A_s[x_0, x_s] B[x_s, x_t] / A_t[x_0, x_t]` with
        `B = P(sigma(t) - sigma(s))`: the posterior of x_0 carried through the exact bridge.
        """
        sigma_t = expand_right(self.noise.sigma(t), x_t.ndim)
        sigma_s = expand_right(self.noise.sigma(s), x_t.ndim)
        back = self.kernel.transition_to(x_t, (sigma_t - sigma_s).to(p_0.dtype))
        law = self.kernel.evolve(self._tilt(p_0, x_t, t), sigma_s.to(p_0.dtype)) * back
        return law / law.sum(-1, keepdim=True)

    def bridge_divergence(
        self,
        p_0: Float[Tensor, "B L V"],
        x_0: Int[Tensor, "B L"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, ""],
        s: Float[Tensor, " J"],
    ) -> Float[Tensor, "J B"]:
        """Return KL( q(x_s | x_t, x_0) || bridge(p_0, x_t, t, s) ), nats per sequence."""
        return self.kernel.bridge_divergence(
            self._tilt(p_0, x_t, t), x_0, x_t, self.noise.sigma(t), self.noise.sigma(s)
        )

    def ratio(
        self, p_0: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        r"""Return `p_t(x_t with v at i) / p_t(x_t)` for every state v, 1 at v = x_t.

        Equals `sum_{x_0} p_0(x_0) A_t[x_0, v] / A_t[x_0, x_t]`.
        """
        sigma = expand_right(self.noise.sigma(t), x_t.ndim).to(p_0.dtype)
        return self.kernel.evolve(self._tilt(p_0, x_t, t), sigma)

    def reverse_rate(
        self, p_0: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return the rates of the reverse jumps x_t -> v, zero at v = x_t.

        `R_t(x_t -> v) = beta(t) Q[v, x_t] ratio(v)` (Campbell et al., 2022, proposition 1).
        """
        return self.rate_of_ratio(self.ratio(p_0, x_t, t), x_t, t)

    def rate_of_ratio(
        self, ratio: Float[Tensor, "B L K"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L K"]:
        """Return the reverse rates that belong to given ratios, zero at v = x_t."""
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

    def posterior_of_ratio(
        self, ratio: Float[Tensor, "B L K"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L V"]:
        """Return the full posterior that belongs to given ratios.

        Inverts `ratio` by running the chain backwards. Ratios of an imperfect network need not
        belong to any posterior: negative entries are cut off and the rest is normalised.
        """
        sigma = expand_right(self.noise.sigma(t), x_t.ndim).to(ratio.dtype)
        tilted = self.kernel.evolve(ratio, -sigma)[..., : self.kernel.vocab_size]
        p_0 = (tilted * self.likelihood(x_t, t, ratio.dtype)).clamp(min=0.0)
        return p_0 / p_0.sum(-1, keepdim=True)

    def full_posterior(
        self, log_p: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L V"]:
        """Return the log full posterior from (unnormalised) log leave-one-out posteriors."""
        return torch.log_softmax(log_p + self.likelihood(x_t, t, log_p.dtype).log(), -1)

    def leave_one_out(
        self, log_p: Float[Tensor, "B L V"], x_t: Int[Tensor, "B L"], t: Float[Tensor, "..."]
    ) -> Float[Tensor, "B L V"]:
        """Return the log leave-one-out posterior from the log full posterior.

        Where the likelihood is 0 (a revealed token of the absorbing kernel) the full posterior
        does not determine it; those entries are -inf.
        """
        log_likelihood = self.likelihood(x_t, t, log_p.dtype).log()
        possible = torch.isfinite(log_likelihood)
        return torch.log_softmax(torch.where(possible, log_p - log_likelihood, -torch.inf), -1)

    def prior_kl(self, x_0: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Return KL( q(x_1 | x_0) || prior ) in nats per sequence, float64."""
        one = torch.ones((), dtype=torch.float64, device=x_0.device)
        return self.kernel.prior_divergence(self.noise.sigma(one))[x_0].sum(-1)

    def noised_share(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return 1 - exp(-sigma(t)): the share of masked tokens under the absorbing kernel."""
        return -torch.expm1(-self.noise.sigma(t))

    def time_of_share(self, share: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return the time at which the noised share is `share`, in [0, 1]."""
        return self.noise.inverse(-torch.log1p(-share)).clamp(0.0, 1.0)

    def _tilt(self, p_0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return `p_0(x_0) / A_t[x_0, x_t]` on all K states, zero where x_0 cannot lead to x_t."""
        likelihood = self.likelihood(x_t, t, p_0.dtype)
        # Dividing by infinity gives 0 with the gradient 0; cutting off p_0 / 0 would give it NaN.
        tilted = p_0 / likelihood.where(likelihood > 0, torch.inf)
        if self.kernel.num_states == self.kernel.vocab_size:
            return tilted
        return torch.cat([tilted, torch.zeros_like(tilted[..., :1])], -1)
