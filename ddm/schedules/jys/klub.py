"""The KLUB objective: what splitting a step into two is worth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction, checked_call, chunks
from ddm.functional import positive_log
from ddm.kernels.sparse import CHUNK
from ddm.orders.order import mask_of
from ddm.process import ForwardProcess, keep_given
from ddm.samplers import Sampler
from ddm.schedules.jys.coupling import Coupling, DataCoupling, one_time


@dataclass(frozen=True)
class Departure:
    """What stays the same while the split point moves: the left end of a step.

    Attributes:
        denoiser: The model.
        sampler: The sampler that will be run.
        x_0: Data tokens, (B, L).
        prediction: The network's answer at the left end (x_t, t).
        free: Positions that are generated, (B, L), or None.
        most: The number of free tokens of the sequence that has most of them.
        seed: Seed of the noise of every split point: the same noise makes the objective a function.
        order: Uniform numbers, (B, L): masked tokens are revealed in their decreasing order.
            Empty where the objective does not need it.
    """

    denoiser: Denoiser
    sampler: Sampler
    x_0: Int[Tensor, "B L"]
    prediction: Prediction
    free: Bool[Tensor, "B L"] | None
    most: int
    seed: int
    order: Float[Tensor, "..."]

    def generator(self) -> torch.Generator:
        """Return a generator that starts from the seed."""
        return torch.Generator(self.x_0.device).manual_seed(self.seed)


class KLUB:
    r"""Divergence of the two-step sampler t -> m -> s from the one-step sampler t -> s.

    Both samplers agree until m. On (s, m] the two-step sampler follows what the network says at
    (x_m, m), the one-step sampler keeps what it said at (x_t, t). With their jump rates R_m and
    R_t out of the *same* current state x_m,

        `KLUB = E (m - s) sum_i sum_v [ R_m log(R_m / R_t) - R_m + R_t ](x_m -> v at i)`,

    Girsanov's integral over (s, m] with the integrand frozen at m ("technique 2" of the paper);
    a split that is worth more gives a better pair of steps ("technique 1").

    *The law that is kept.* The rates out of x_t say nothing about a token that has left x_t. What
    an analytic step keeps is the leave-one-out posterior `p(x_0) ~ p(x_0^i | x_t) / A_t[x_0, x_t]`:
    its law of x_s is the mixture of the bridges from x_0 to x_t, and that mixture is a Markov chain
    back in time, whose rates at any x_m on the way follow from Bayes' rule with the token x_m,

        `R_t(x_m -> v) = beta(m) Q[v, x_m] sum p(x_0) A_m[x_0, v] / sum p(x_0) A_m[x_0, x_m]`.

    So tokens that moved are compared like all others, and a difference of clocks is no part of
    the result: if the tokens are independent of each other it is zero for every kernel.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761: KLUB, techniques 1 and 2.

    Args:
        coupling: How x_m is drawn along with x_t; from data by default.
        compensator: Whether to keep the terms `- R_m + R_t`. The printed theorem leaves them out,
            which is right only where the total rates agree; without them the integrand may be
            negative.
    """

    spacing: float = 0.0
    """Distance of the admissible split points, 0 if there is no such restriction."""

    def __init__(self, coupling: Coupling | None = None, *, compensator: bool = True) -> None:
        self.coupling = coupling or DataCoupling()
        self.compensator = compensator

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        points: tuple[float, float, float],
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " B"]:
        """Return KLUB for one step and one split point; costs two network calls.

        Args:
            denoiser: The model.
            sampler: The sampler that will be run.
            x_0: Data tokens.
            points: The points t > m > s.
            free: Positions that are generated, (B, L); the others are given. None for all.
            generator: Source of the noise, on the device of x_0.

        Returns:
            Nats per sequence.

        Raises:
            ValueError: The points do not decrease, or the network returns NaN.
        """
        t, m, s = points
        if not t > m > s:
            raise ValueError(f"`points` must decrease strictly, got {points}.")
        return self.between(self.departure(denoiser, sampler, x_0, t, generator, free=free), m, s)

    def first(self, most: int) -> float:
        """Return the point that sampling of sequences with that many free tokens starts from."""
        return 1.0

    def times(self, process: ForwardProcess, points: list[float]) -> list[float]:
        """Return the times that belong to the points of a schedule."""
        return points

    def departure(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        t: float,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
        most: int | None = None,
    ) -> Departure:
        """Draw x_t and ask the network there: one network call for a whole search."""
        x_t = denoiser.process.sample(x_0, t, generator, free=free)
        prediction = checked_call(denoiser, x_t, t, free)
        seed = draw_seed(x_0.device, generator)
        most = x_0.shape[1] if most is None else most
        return Departure(denoiser, sampler, x_0, prediction, free, most, seed, torch.empty(0))

    def between(self, departure: Departure, m: float, s: float) -> Float[Tensor, " B"]:
        """Return KLUB for the split point m and the right end s; costs one network call."""
        x_0 = departure.x_0
        now, landing = torch.tensor([m, s], dtype=torch.float64, device=x_0.device)
        kept, noise = departure.prediction, departure.generator()
        x_m = self.coupling.draw(kept, departure.sampler, x_0, now, noise)
        x_m = keep_given(x_m, x_0, departure.free)
        return self._sum(kept, checked_call(departure.denoiser, x_m, now, departure.free), landing)

    def divergence(
        self, kept: Prediction, fresh: Prediction, s: Float[Tensor, "..."]
    ) -> Float[Tensor, " B"]:
        """Return the divergence on (s, m] for given answers at (x_t, t) and (x_m, m).

        Args:
            kept: The network's answer at the left end, float64.
            fresh: Its answer at the split point, float64.
            s: The right end.

        Returns:
            Nats per sequence.
        """
        process, m, x_m = fresh.process, one_time(fresh.t), fresh.x_t
        rate_m, rate_t = (
            process.reverse_rate(process.ratio(p.log_leave_one_out(), x_m, m), x_m, m)
            for p in (fresh, kept)
        )
        nats = rate_m * (positive_log(rate_m) - positive_log(rate_t))  # large, never infinite
        if self.compensator:
            nats = nats - rate_m + rate_t
        return (m - s) * fresh.sum_free(nats.sum(-1))

    def _sum(self, kept: Prediction, fresh: Prediction, s: Tensor) -> Tensor:
        """Add up the divergences of pieces that fit into memory."""
        pieces = chunks([kept, fresh], CHUNK)
        parts = [self.divergence(old.double(), new.double(), s) for _, (old, new) in pieces]
        return torch.stack(parts).sum(0)

    def __repr__(self) -> str:
        """Show what was measured."""
        return f"{type(self).__name__}({self.coupling!r}, compensator={self.compensator})"


class TokenKLUB(KLUB):
    r"""Divergence of the tokens at s: the integral of KLUB over time in closed form.

    Given x_m, the paths of both samplers on (s, m] are mixtures of the same bridges of the
    forward process (see `KLUB` for the law that is kept), so that Girsanov's integral is equal to
    the divergence of the laws they land at,

        `E sum_i KL( p(x_s^i | x_m; network at m) || p(x_s^i | x_m; network at t) )`.

    No rates, hence no clock, and no approximation in time. For the absorbing kernel it is the share
    of the masks that is revealed times the divergence of the normalized token laws,
    `(1 - a_s / a_m) sum_{i masked} KL( p(x_0^i | x_m) || p(x_0^i | x_t) )`, with a the share of
    masked tokens. `KLUB` is the same there for noise whose a is linear in t. For kernels under
    which tokens move more than once, `KLUB` has given the better schedules.

    Args:
        coupling: How x_m is drawn along with x_t; from data by default.
    """

    def __init__(self, coupling: Coupling | None = None) -> None:
        super().__init__(coupling)

    def divergence(
        self, kept: Prediction, fresh: Prediction, s: Float[Tensor, "..."]
    ) -> Float[Tensor, " B"]:
        """Return the divergence of the laws of x_s, nats per sequence."""
        m = one_time(fresh.t)
        law_m, law_t = (
            fresh.process.bridge(p.log_leave_one_out(), fresh.x_t, m, s) for p in (fresh, kept)
        )
        return fresh.sum_free((law_m * (positive_log(law_m) - positive_log(law_t))).sum(-1))


class RevealKLUB(TokenKLUB):
    r"""`TokenKLUB` for samplers that reveal a whole number of tokens per step (k-Gillespie).

    The points of a schedule are numbers of masks, from L down to 0. The order in which tokens are
    revealed is drawn once per sequence, and the network is called with the time at which the
    L - n-th token is revealed: an order statistic of the mask times of the forward process, which
    is how t is distributed given n. A step from m to s masks reveals the share `1 - s / m`.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761: k-Gillespie.

    Args:
        coupling: Whether revealed tokens come from data (the default) or from the sampler.
    """

    spacing: float = 1.0

    def first(self, most: int) -> float:
        """Return the number of masks that sampling starts from."""
        return float(most)

    def times(self, process: ForwardProcess, points: list[float]) -> list[float]:
        """Return the times at which the expected numbers of masks are those of the points."""
        left = torch.tensor(points).round().long()[:, None]
        times = process.time_of_masks(left, left[0])[:, 0].tolist()
        return [1.0, *times[1:-1], 0.0]

    def departure(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        t: float,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
        most: int | None = None,
    ) -> Departure:
        """Draw an order and the state with t masks, and ask the network there: one call."""
        order = torch.rand(x_0.shape, generator=generator, dtype=torch.float64, device=x_0.device)
        if free is not None:
            order = order.where(free, -1.0)  # given: "revealed" last, and never masked
        most = int((order >= 0).sum(-1).max()) if most is None else most
        x_t, time = _revealed(denoiser.process, order, x_0, t, most)
        prediction = checked_call(denoiser, x_t, time, free)
        seed = draw_seed(x_0.device, generator)
        return Departure(denoiser, sampler, x_0, prediction, free, most, seed, order)

    def between(self, departure: Departure, m: float, s: float) -> Float[Tensor, " B"]:
        """Return KLUB for m masks at the split point and s at the end; costs one network call."""
        kept, x_0, process = departure.prediction, departure.x_0, departure.denoiser.process
        end = torch.zeros((), dtype=torch.float64, device=x_0.device)
        tokens = self.coupling.draw(kept, departure.sampler, x_0, end, departure.generator())
        tokens = keep_given(tokens, x_0, departure.free)
        x_m, time = _revealed(process, departure.order, tokens, m, departure.most)
        landing = process.time_at_mask_ratio(process.mask_ratio(time) * (s / m))
        fresh = checked_call(departure.denoiser, x_m, time, departure.free)
        return self._sum(kept, fresh, landing)


def _revealed(
    process: ForwardProcess, order: Tensor, tokens: Tensor, masks: float, most: int
) -> tuple[Tensor, Tensor]:
    """Return the tokens with the given number of masks, and the times at which it is reached.

    Rows with fewer free tokens than `most` get their share of the masks.
    """
    num_free = (order >= 0).sum(-1)
    num = num_free - torch.round(num_free * (masks / most)).long()
    masked = (order >= 0) & (order.argsort(-1, descending=True).argsort(-1) >= num[:, None])
    # Mask times are independent and uniform in the mask ratio; the last one to be masked is
    # the first one to be revealed.
    latest = order.sort(-1, descending=True).values.gather(-1, (num - 1).clamp(min=0)[:, None])
    latest = latest.squeeze(-1).clamp(min=0.0).where(num > 0, 1.0)
    time = process.time_at_mask_ratio(process.mask_ratio(torch.ones_like(latest)) * latest)
    return torch.where(masked, mask_of(process.kernel), tokens), time


def draw_seed(device: torch.device, generator: torch.Generator | None = None) -> int:
    """Draw a seed for noise that several evaluations share."""
    return int(torch.randint(2**62, (), generator=generator, device=device))
