"""What a schedule costs a sampler on some data, and the search for a cheaper one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.likelihood import sampler_nats
from ddm.orders import Entropy
from ddm.samplers import Reveal
from ddm.samplers.stopping import in_order, spent_in_order
from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.guard import keep_best
from ddm.schedules.setting import Setting

Along: TypeAlias = Callable[[Tensor], Tensor]
"""From the places in an order, (B, L), to sums over its first 1, 2, 3 ... positions, (B, L)."""


class Teacher:
    """Some sequences that a sampler is to draw: what they cost it, as a function of its schedule.

    Args:
        x_0: Data tokens.
        free: Positions that are generated.
        denoiser: The model.
        sampler: The sampler.
        seed: Seed of all paths, which are the same for all schedules.
        batch_size: Sequences per network call; all of them by default.
    """

    def __init__(
        self,
        x_0: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None,
        denoiser: Denoiser,
        sampler: Reveal,
        seed: int,
        batch_size: int | None = None,
    ) -> None:
        size = batch_size or len(x_0)
        everywhere = torch.ones_like(x_0, dtype=torch.bool) if free is None else free
        self.denoiser, self.sampler, self.seed = denoiser, sampler, seed
        self.batches = list(zip(x_0.split(size), everywhere.split(size), strict=True))
        self.length = int(everywhere.sum(-1).max())

    @property
    def most_steps(self) -> int:
        """The largest number of steps that every batch can make, one token per step at least."""
        return min(int(free.sum(-1).max()) for _, free in self.batches)

    @property
    def additive(self) -> bool:
        """Whether the cost of a step does not depend on the steps before."""
        order = self.sampler.reveal_order
        return (order.random or order.fixed) and self.sampler.near_certain == 0

    def times(self, shares: Float[np.ndarray, " N"]) -> tuple[float, ...]:
        """Return the times at which these shares of the free tokens are masked."""
        process = self.denoiser.process
        ratio = process.mask_ratio(torch.ones((), dtype=torch.float64)) * torch.from_numpy(shares)
        return 1.0, *process.time_at_mask_ratio(ratio)[1:-1].tolist(), 0.0

    def nats(self, schedule: SamplingSchedule) -> Float[np.ndarray, " B"]:
        """Return `-log p_sampler(x_0)`, or its bound, by sequence; N calls."""
        model = self.denoiser, self.sampler
        found = [
            sampler_nats(*model, x_0, schedule, free=free, generator=self._noise(x_0))
            for x_0, free in self.batches
        ]
        return torch.cat(found).cpu().numpy()

    def table(self, grid: Int[np.ndarray, " M"]) -> Float[np.ndarray, "M M"]:
        """Return the mean cost of the steps from grid[i] masks down to grid[j], j < i."""
        return self._sums(grid, [self._nats])[0]

    def tables(self, grid: Int[np.ndarray, " M"]) -> list[Float[np.ndarray, "M M"]]:
        """Return that table, and one of the sums of entropies without the largest; same calls."""
        return self._sums(grid, [self._nats, self._spent])

    def _nats(self, prediction: Prediction, x: Tensor, x_0: Tensor) -> Along:
        nats = self.sampler.nats(prediction, x_0, x != x_0)
        return lambda rank: in_order(nats, rank).cumsum(-1)

    def _spent(self, prediction: Prediction, x: Tensor, x_0: Tensor) -> Along:
        entropy = Entropy().scores(prediction)
        return lambda rank: spent_in_order(entropy, rank)

    @torch.no_grad()
    def _sums(
        self, grid: Int[np.ndarray, " M"], sums: Sequence[Callable[..., Along]]
    ) -> list[Float[np.ndarray, "M M"]]:
        """Return means over sequences of sums along the order, by where a step starts and ends."""
        found = [np.zeros((len(grid), len(grid))) for _ in sums]
        for x_0, free in self.batches:
            num_free, noise = free.sum(-1), self._noise(x_0)
            x = self.denoiser.process.sample_prior(x_0, free, noise)
            # The same share of every sequence, as in a schedule.
            share = torch.from_numpy(grid / self.length).to(x.device)
            left = (share[:, None] * num_free).round().long()
            for i in range(len(grid) - 1, 0, -1):
                t = self.denoiser.process.time_of_masks(left[i], num_free)
                prediction = self.denoiser(x, t, free)
                along = [one(prediction, x, x_0) for one in sums]
                for _ in range(draws := 16 if self.sampler.reveal_order.random else 1):
                    rank = self.sampler.reveal_order.rank(prediction, left[i], noise)
                    for table, one in zip(found, along, strict=True):
                        total = torch.nn.functional.pad(one(rank), (1, 0))
                        step = total.gather(-1, (left[i] - left[:i]).T).sum(0)
                        table[i, :i] += step.cpu().numpy() / draws
                x = torch.where(rank < (left[i] - left[i - 1])[:, None], x_0, x)
        return [table / sum(len(x_0) for x_0, _ in self.batches) for table in found]

    def search(self, num_steps: int, num_tries: int) -> Float[np.ndarray, " N"]:
        """Return the shares of masks of the best of some schedules of two parameters.

        A pattern search over the logarithms of a and b: a step to every side, and half of it where
        none is better.
        """

        def shares(at: tuple[float, float]) -> Float[np.ndarray, " N"]:
            a, b = np.exp(at)
            return (1 - np.linspace(0, 1, num_steps + 1) ** a) ** b

        tried: dict[tuple[float, float], float] = {}

        def cost(at: tuple[float, float]) -> float:
            if at not in tried:
                schedule = SamplingSchedule(self.times(shares(at)))
                tried[at] = float(self.nats(schedule).mean())
            return tried[at]

        best, step = min(((0.0, 0.0), (math.log(2), 0.0)), key=cost), 0.5
        while len(tried) < num_tries:
            a, b = best
            around = [(a + step, b), (a - step, b), (a, b + step), (a, b - step)]
            better = min(around[: num_tries - len(tried)], key=cost)
            if cost(better) < cost(best):
                best = better
            else:
                step /= 2
        return shares(best)

    def best(
        self, candidates: Mapping[str, SamplingSchedule], setting: Setting
    ) -> SamplingSchedule:
        """Return the first schedule, unless another one is surely cheaper (`keep_best`)."""
        nats = {name: self.nats(each) for name, each in candidates.items()}
        winner = keep_best(nats, [next(iter(nats))])
        means = {name: float(own.mean()) for name, own in nats.items()}
        info: dict[str, Any] = {"nats": means, "num_samples": len(nats[winner]), **asdict(setting)}
        return replace(candidates[winner], info=info)

    def _noise(self, x_0: Tensor) -> torch.Generator:
        return torch.Generator(x_0.device).manual_seed(self.seed)
