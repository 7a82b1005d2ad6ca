"""What samples say of schedules, with no labels: how far from data each of them leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, checked_call, chunks, evaluating
from ddm.files import reading
from ddm.functional import (
    gather_made,
    require_at_least,
    require_instance,
    require_number,
    seeded,
)
from ddm.kernels.sparse import CHUNK
from ddm.samplers import Sampler
from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.distances import (
    CONFIDENCE,
    Distance,
    energy_distance,
    log_distance,
    mean_distance,
    paired_error,
    t_test,
)

LEVELS = (0.125, 0.375, 0.625, 0.875)
"""Times that samples are noised to: high ones see the coarse, low ones the fine."""
MOST = 20.0
"""Nats that a token costs at most: one that is impossible must not outvote all others."""


@dataclass(frozen=True)
class Evidence:
    """What samples say of candidates.

    Attributes:
        winner: Name of the candidate that is chosen.
        distances: How far from data the samples of every candidate are, in units of those of the
            first one.
        errors: Standard errors of the logs of `distances`, from paired samples.
        confidence: How sure it is that the winner is closer than the first one, by the t-test of
            the paired differences; one half if it is the first one.
        num_samples: Samples of every candidate and number of steps.
        num_calls: Network calls made for it, on full batches.
    """

    winner: str
    distances: dict[str, float]
    errors: dict[str, float]
    confidence: float
    num_samples: int
    num_calls: int

    @classmethod
    def from_dict(cls, content: Any, path: str = "content") -> Evidence:  # noqa: ANN401
        """Build evidence from what `dataclasses.asdict` makes of it.

        Args:
            content: The entries of a file.
            path: What the message of an error calls it.

        Raises:
            ValueError: Entries are missing, of another kind or out of their range.
        """
        with reading(path, "evidence", "Optimized.save"):
            found = cls(**content)
            require_instance(
                dict,
                remedy="give a number to every candidate",
                distances=found.distances,
                errors=found.errors,
            )
            if found.winner not in list(found.distances):
                raise ValueError(
                    f"`winner` must be one of {list(found.distances)}, got {found.winner!r:.80}"
                )
            for name in found.distances:
                for kind in ("distances", "errors"):
                    value = getattr(found, kind)[name]
                    require_number(f"{kind}.{name}", value, 0, math.inf, "compare samples again")
            require_number("confidence", found.confidence, 0, 1, "it is a probability")
            require_at_least(0, num_samples=found.num_samples, num_calls=found.num_calls)
        return found

    def __str__(self) -> str:
        """Return the winner, with how much closer it is than the first candidate."""
        first = next(iter(self.distances))
        if self.winner == first:
            return f"{first} stays"
        closer, error = self.distances[self.winner], self.errors[self.winner]
        return f"{self.winner}: {closer:.2f} +- {closer * error:.2f} times as far as {first}"


def compare_samples(
    candidates: Mapping[str, Sequence[SamplingSchedule]],
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Int[Tensor, "B L"],
    num_samples: int,
    *,
    free: Bool[Tensor, "B L"] | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
) -> Evidence:
    r"""Compare schedules by samples; the first candidate is the one in use.

    Every candidate draws samples from the same noise. Two statistics say how far they are from
    data, and neither needs labels:

    - the energy distance of the tokens, which sees what is missing or wrong at large
      (`energy_distance`);
    - how well the network *denoises* samples: noised to four times, with the same noise, what
      their tokens cost in nats and what the prediction expects them to cost, in the mean against
      data and in units of the spread of data (`noised_costs`, `mean_distance`). Being too cheap
      counts like being too dear, so that samples that are all alike do not win.

    The mean of the logs of both, over the numbers of steps, compares candidates. The first one
    stays unless another one is closer by the paired one-sided t-test, with a confidence of 95 %
    divided by the number of challengers: a wrong move costs something.

    Under `torch.distributed` every process draws its own samples and all get the same evidence;
    the call is collective.

    Args:
        candidates: Schedules by name, for the same numbers of steps in the same order.
        denoiser: The model.
        sampler: The sampler that will be run.
        x_0: Data tokens; the first ones say what is given where not all positions are free.
        num_samples: Samples of every schedule, in each process.
        free: Positions that are generated, (B, L). None if all are free.
        batch_size: Sequences per network call; by default all of them.
        generator: Source of the noise, on the device of x_0.

    References:
        Energy statistics: a class of statistics based on distances (Szekely & Rizzo, 2013).

    Raises:
        ValueError: The network returns NaN.
    """
    size = batch_size or len(x_0)
    seed = int(torch.randint(2**31, (), generator=generator, device=x_0.device))

    num_rows = 0

    def seen(schedule: SamplingSchedule | None) -> tuple[Tensor, Tensor]:
        """Return samples, or the data, and their costs; every schedule has the same noise."""
        nonlocal num_rows
        parts = []
        rows = x_0 if schedule is None else x_0[:num_samples]
        for k, x in enumerate(rows.split(size)):
            mask = None if free is None else free[k * size :][: len(x)]
            if schedule is not None:
                noise = seeded(x_0.device, seed, k, 0)
                x = denoiser.process.sample_prior(x, mask, noise)
                samples = sampler(denoiser, x, schedule, free=mask, generator=noise)
                x, num_rows = samples.tokens, num_rows + samples.num_rows
            costs = noised_costs(denoiser, x, seeded(x_0.device, seed, k, 1), free=mask)
            parts.append((x.cpu(), costs.cpu()))
            num_rows += len(LEVELS) * len(x)
        return _cat(parts)

    def made() -> list[list[tuple[Tensor, Tensor]]]:
        with torch.no_grad(), evaluating(denoiser):
            return [[seen(None)], *([seen(s) for s in each] for each in candidates.values())]

    pieces = gather_made(made)
    everything = zip(*pieces, strict=True)
    ((data, known),), *samples = ([_cat(x) for x in zip(*each, strict=True)] for each in everything)
    ordinal = denoiser.process.kernel.ordinal
    found = {
        name: log_distance(
            [energy_distance(x, data, ordinal=ordinal) for x, _ in each]
            + [mean_distance(costs, known) for _, costs in each]
        )
        for name, each in zip(candidates, samples, strict=True)
    }
    return decide(found, len(samples[0][0][0]), -(-num_rows // size))


def decide(found: Mapping[str, Distance], num_samples: int, num_calls: int) -> Evidence:
    """Return the evidence: the first candidate stays unless another one is surely closer.

    Args:
        found: Log distances of all candidates.
        num_samples: Samples of every candidate and number of steps.
        num_calls: Network calls made.
    """
    first, *others = found
    errors = {name: paired_error(found[name], found[first]) for name in found}
    nearer = {name: found[first].value - found[name].value for name in found}
    sure = {name: t_test(nearer[name], errors[name], num_samples) for name in found}
    level = 1 - (1 - CONFIDENCE) / max(len(others), 1)
    winner = max([first, *(x for x in others if sure[x] >= level)], key=lambda x: nearer[x])
    distances = {name: math.exp(-log) for name, log in nearer.items()}
    return Evidence(winner, distances, errors, sure[winner], num_samples, num_calls)


def noised_costs(
    denoiser: Denoiser,
    x: Int[Tensor, "B L"],
    generator: torch.Generator,
    *,
    free: Bool[Tensor, "B L"] | None = None,
) -> Float[Tensor, "B F"]:
    """Return how well sequences are denoised from four noise levels, nats per sequence.

    What their tokens cost, `-log p(x | x_t)`, and what the prediction expects them to cost, its
    entropy, summed over free positions: two features per level. Four network calls.
    """
    features = []
    for level in LEVELS:
        t = max(level, denoiser.min_time)
        p = checked_call(denoiser, denoiser.process.sample(x, t, generator, free=free), t, free)
        nats = torch.zeros(2, len(x), dtype=torch.float64, device=x.device)
        for part, (piece,) in chunks([p], CHUNK):
            costs = -piece.double().log_posterior().clamp(min=-MOST)
            own = costs.gather(-1, x[:, part, None]).squeeze(-1)
            nats += piece.sum_free(torch.stack([own, (costs * (-costs).exp()).sum(-1)]))
        features.append(nats)
    return torch.cat(features).T


def _cat(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    tokens, costs = zip(*parts, strict=True)
    return torch.cat(tokens), torch.cat(costs)
