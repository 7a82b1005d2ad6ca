"""Correctors and remasking rules of others, rebuilt on this project's samplers: baselines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from ddm.denoisers import Denoiser, Prediction
from ddm.functional import categorical, expand_right
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Sampler, Step

import torch
from torch import Tensor


class Psi(Sampler):
    """The reverse bridge with probability kappa, else x_0 noised anew (2602.21185)."""

    def __init__(self, kappa: float) -> None:
        self.kappa = kappa

    def law(self, predictions: Sequence[Prediction], s: Tensor) -> Tensor:
        """Return the mixture of both distributions."""
        p, clean = predictions[-1], torch.zeros_like(s)
        anew = p.process.carry(p.bridge(clean), clean, s)
        return self.kappa * p.bridge(s) + (1 - self.kappa) * anew


Rule = Callable[[Tensor], Tensor]
"""Largest probability that keeps the marginals -> the one that a revealed token is masked with."""


def cap(eta: float) -> Rule:
    """Return the rule of ReMDM-cap."""
    return lambda most: most.clamp(max=eta)


def rescale(eta: float) -> Rule:
    """Return the rule of ReMDM-rescale."""
    return lambda most: most * eta


class ReMDM(Sampler):
    """Analytic steps with masks that mask revealed tokens again (2503.00307, equations 5 and 8)."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule

    def law(self, predictions: Sequence[Prediction], s: Tensor) -> Tensor:
        """Return what is revealed, kept and masked again."""
        p = predictions[-1]
        shown_s, shown_t = (_shown(p.process, u) for u in (s, p.t))  # alpha
        # At t = 1 nothing is revealed; any probability will do.
        sigma = self.rule(((1 - shown_s) / shown_t.clamp(min=1e-12)).clamp(max=1.0))
        reveal = (shown_s - (1 - sigma) * shown_t) / (1 - shown_t)
        masked = ~p.process.kernel.is_revealed(p.x_t)
        some = expand_right(reveal, 2).where(masked, expand_right(1 - sigma, 2))[..., None]
        law = some * p.bridge(torch.zeros_like(s))
        law[..., p.process.kernel.mask] += 1 - some[..., 0]
        return law


class ReMDMLoop(ReMDM):
    """ReMDM-loop: half of the calls stay at the last level and mask as many as they reveal."""

    def steps(
        self,
        process: ForwardProcess,
        times: Tensor,
        free: Tensor,
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return steps along every second time, and as many from the last of them to itself."""
        down = times[::2]
        path = torch.cat([down[:-1], down[-2:-1].expand((len(times) - 1) // 2), down[-1:]])
        return [Step(t, s) for t, s in pairwise(path[:, None].expand(-1, len(free)))]

    def law(self, predictions: Sequence[Prediction], s: Tensor) -> Tensor:
        """Return the law of ReMDM on the level, the bridge elsewhere."""
        p = predictions[-1]
        return super().law(predictions, s) if bool((p.t == s).all()) else p.bridge(s)


class Gibbs(Sampler):
    """Analytic steps; tokens are drawn anew given all others after some of them (2605.22765).

    After every step but the first and the last, a call more and `num` tokens of each sequence:
    N / 2 + 1 steps make N calls. One at a time they leave the law of x_s as it is.
    """

    def __init__(self, num: int) -> None:
        self.num = num

    def law(self, predictions: Sequence[Prediction], s: Tensor) -> Tensor:
        """Return the law of every token given all others at time s."""
        p, clean = predictions[-1], torch.zeros_like(s)
        return p.process.carry(p.process.kernel.on_states(p.leave_one_out()), clean, s)

    def scores(self, law: Tensor, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what the positions with the largest scores are drawn anew by: chance."""
        return torch.rand(x.shape, generator=generator)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Tensor | None = None,
    ) -> Tensor:
        """Make an analytic step, and a correction."""
        x = Analytic().step(denoiser, x_t, step, generator, free=free)
        if bool((step.t == 1).all() | (step.s == 0).all()):
            return x
        law = self.law([denoiser(x, step.s, free).double()], step.s)
        chosen = self.scores(law, x, generator).topk(self.num, -1).indices
        drawn = categorical(law, generator)
        return x.scatter(-1, chosen, drawn.gather(-1, chosen))


class Informed(Gibbs):
    """The same at the tokens whose margin over the best other one is least (2407.21243).

    With Gumbel noise on the scores. Needs a network that predicts revealed tokens from the others.
    """

    def scores(self, law: Tensor, x: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return minus the margin in nats."""
        own, state = law.gather(-1, x[..., None]), torch.arange(law.shape[-1])
        other = law.where(x[..., None] != state, 0.0).amax(-1)
        gumbel = -torch.rand(x.shape, generator=generator, dtype=law.dtype).log().neg().log()
        return other.clamp(min=1e-300).log() - own[..., 0].clamp(min=1e-300).log() + gumbel


class Accept(Sampler):
    """Draw all tokens, accept those with least entropy and draw the others from the prior.

    The rule of DiffusionGemma for the uniform kernel, with as many accepted as the schedule says.
    """

    def law(self, predictions: Sequence[Prediction], s: Tensor) -> Tensor:
        """Return the posterior."""
        return predictions[-1].bridge(torch.zeros_like(s))

    def scores(self, law: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return what the positions with the least scores are accepted by."""
        return -torch.xlogy(law, law).sum(-1)

    def step(
        self,
        denoiser: Denoiser,
        x_t: Tensor,
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Tensor | None = None,
    ) -> Tensor:
        """Accept some tokens and replace the others."""
        process, s = denoiser.process, float(step.s[0])
        law = self.law([denoiser(x_t, step.t, free).double()], step.s)
        rank = self.scores(law, generator).argsort(-1).argsort(-1)
        ratio = process.mask_ratio(torch.tensor([s, 1.0], dtype=torch.float64))
        left = round(float(ratio[0] / ratio[1]) * x_t.shape[-1])
        noise = process.kernel.sample_prior(tuple(x_t.shape), generator)
        return torch.where(rank < x_t.shape[-1] - left, categorical(law, generator), noise)


class AcceptAtRandom(Accept):
    """The same with positions by chance."""

    def scores(self, law: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return random numbers."""
        return torch.rand(law.shape[:2], generator=generator)


def _shown(process: ForwardProcess, t: Tensor) -> Tensor:
    return 1 - process.mask_ratio(t)
