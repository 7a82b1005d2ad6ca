"""What held-out sequences cost: under the network's bound, and drawn by the sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.estimate import RatioEstimate, spread_times
from ddm.functional import seeded
from ddm.likelihood import sampler_nats
from ddm.losses import Loss
from ddm.samplers import Sampler
from ddm.schedule import SamplingSchedule
from ddm.schedules.setting import sampler_of

EVALUATION, LIKELIHOOD = 1, 3
"""First words of the seeds; 0 and 2 are those of training and prediction (`ddm.module`)."""

JUDGED = 64
"""Sequences, at most, that the sampler is measured on: the first of each process here."""


@dataclass(kw_only=True, eq=False)
class HeldOutBits:
    """Bits per token of held-out sequences, counted batch by batch.

    Every sequence costs `num_draws` network calls, each of the first 64 up to `num_calls` more.

    Args:
        denoiser: The model.
        bound: The bound on -log p that its predictions have, in nats.
        sampler: How samples are drawn.
        schedule: Makes the schedule of a number of steps.
        length: Number L of tokens per sequence.
        num_draws: Draws of the noise for every sequence.
        num_calls: Calls of the sampler whose likelihood is measured; 0 leaves it out, as do
            samplers that make more calls than steps.
        rank: Number of this process.
        world_size: Number of processes.
    """

    denoiser: Denoiser
    bound: Loss
    sampler: Sampler
    schedule: Callable[[int], SamplingSchedule]
    length: int
    num_draws: int
    num_calls: int
    rank: int
    world_size: int
    _of_bound: RatioEstimate = field(default_factory=RatioEstimate, init=False)
    _of_sampler: RatioEstimate = field(default_factory=RatioEstimate, init=False)

    def update(self, x_0: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None) -> None:
        """Measure a batch; where some tokens are given, the free ones alone count."""
        first = self._of_bound.num_sequences
        rows = torch.arange(first, first + len(x_0)) * self.world_size + self.rank
        tokens = torch.full_like(rows, x_0.shape[1]) if free is None else free.sum(-1)
        self._of_bound.update(self._bound_nats(x_0, rows, free), tokens)
        left = JUDGED - self._of_sampler.num_sequences
        if left > 0:
            self._judge(x_0[:left], None if free is None else free[:left], tokens[:left])

    def compute(self) -> dict[str, float]:
        """Return bits per token with their standard errors, over all processes, by name.

        A collective call. The names of the sampler are missing where it was not measured, and all
        values are NaN where there was no sequence.
        """
        estimates = {"bits_per_token": self._of_bound, "sampler_bits_per_token": self._of_sampler}
        values: dict[str, float] = {}
        for name, estimate in estimates.items():
            bits, error = (nats / math.log(2) for nats in estimate.compute())
            if estimate is self._of_bound or not math.isnan(bits):
                values |= {name: bits, f"{name}_error": error}
        return values

    def _bound_nats(
        self, x_0: Int[Tensor, "B L"], rows: Int[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Float[Tensor, " B"]:
        """Return the bound in nats per sequence, float64; rows are their numbers in the data."""
        nats = torch.zeros(len(x_0), dtype=torch.float64, device=x_0.device)
        for draw in range(self.num_draws):
            t = spread_times(rows * self.num_draws + draw).to(x_0.device)
            # Row by row: the noise of a sequence must not depend on those beside it.
            noised = [
                self.denoiser.process.sample(
                    x_0[b : b + 1],
                    t[b : b + 1],
                    seeded(x_0.device, EVALUATION, row, draw),
                    free=None if free is None else free[b : b + 1],
                )
                for b, row in enumerate(rows.tolist())
            ]
            nats += self.bound.value(self.denoiser(torch.cat(noised), t, free), x_0)
        return nats / self.num_draws

    def _judge(
        self, x_0: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None, tokens: Int[Tensor, " B"]
    ) -> None:
        """Measure what sequences cost the sampler; `tokens` are the numbers of free ones."""
        num_steps = min(self.num_calls, int(tokens.max()))
        if num_steps < 1:
            return
        schedule = self.schedule(num_steps)
        sampler = sampler_of(schedule, self.sampler)
        if sampler.num_evals(num_steps, self.length) > num_steps:
            return
        generator = seeded(x_0.device, LIKELIHOOD, self.rank, self._of_sampler.num_sequences)
        nats = sampler_nats(self.denoiser, sampler, x_0, schedule, free=free, generator=generator)
        self._of_sampler.update(nats, tokens)
