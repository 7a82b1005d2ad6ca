"""One update of the schedules: measure, search, choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from ddm.callbacks.recent import RecentSequences
from ddm.denoisers import Denoiser
from ddm.functional import gather_objects, seeded
from ddm.samplers import Sampler
from ddm.schedules import (
    CostTable,
    Decision,
    Evidence,
    OptimalSteps,
    Optimized,
    SamplingSchedule,
    ScheduleOptimizer,
    choose,
)

LEAST = 8
"""Sequences that every process needs: a table keeps some of them to judge schedules."""


@dataclass(frozen=True)
class Updater:
    """How schedules are updated.

    Args:
        optimizer: What finds schedules.
        judge: What measures costs where the optimizer returns none.
        num_steps: Numbers of steps to find schedules for.
        smoothing: Share of the previous times that is kept.
    """

    optimizer: ScheduleOptimizer
    judge: OptimalSteps
    num_steps: Sequence[int]
    smoothing: float

    def __call__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        recent: RecentSequences,
        num: int,
        previous: Mapping[int, SamplingSchedule],
        seed: Sequence[int],
    ) -> tuple[Optimized, list[dict[str, Any]], tuple[int, int]]:
        """Return the schedules to keep, how each was chosen, and what it took; a collective call.

        What it took are the sequences of this process, and the network calls for each of them.

        Args:
            denoiser: The model.
            sampler: The sampler that will be run.
            recent: Sequences of this process.
            num: How many of them to measure on, at most.
            previous: The schedules that are in use.
            seed: Seed of the noise, another one in every process.

        Raises:
            ValueError: A process has too few sequences, or the optimizer refuses them.
        """
        x_0, free = _sequences(recent, denoiser, num)
        generator = seeded(x_0.device, *seed)
        settings: dict[str, Any] = {"free": free, "generator": generator}
        found = self.optimizer(denoiser, sampler, x_0, self.num_steps, **settings)
        table, num_calls = found.table, found.num_calls
        if table is None:
            table = self.judge.table(denoiser, sampler, x_0, **settings)
            num_calls += table.num_calls
        decisions = {
            n: _as_found(new)
            if self.optimizer.judged
            else self._decide(table, new, previous.get(n), found.evidence)
            for n, new in found.schedules.items()
        }
        kept = {n: decision.schedule for n, decision in decisions.items()}
        rows = [{"num_steps": n, **_facts(decision)} for n, decision in decisions.items()]
        size = getattr(self.optimizer, "batch_size", None) or len(x_0)
        price = max(1, num_calls // -(-len(x_0) // size))
        return Optimized(kept, num_calls, table, found.evidence), rows, (len(x_0), price)

    def _decide(
        self,
        table: CostTable,
        new: SamplingSchedule,
        old: SamplingSchedule | None,
        evidence: Evidence | None,
    ) -> Decision:
        """Choose between the previous schedule, the new one and those that need no search."""
        if old is not None and self.smoothing:
            pairs = zip(old.times, new.times, strict=True)
            mixed = tuple(self.smoothing * a + (1 - self.smoothing) * b for a, b in pairs)
            new = SamplingSchedule(mixed, new.source, new.info)
        return choose(table, new, old, evidence)


def _as_found(new: SamplingSchedule) -> Decision:
    """Keep what its optimizer has judged."""
    facts = {name: new.info[name] for name in ("gain", "gain_error", "confidence")}
    return Decision(new.info["winner"], new, new.info["costs"], **facts)


def _sequences(
    recent: RecentSequences, denoiser: Denoiser, num: int
) -> tuple[Tensor, Tensor | None]:
    """Return the latest sequences and their free positions; all processes go on, or none."""
    x_0, free = recent.latest(getattr(denoiser, "pad", None))
    fits = denoiser.fits(x_0, free).all(-1)
    if left_out := int((~fits).sum()):
        rank_zero_warn(
            f"{left_out} sequences are left out, with tokens that the model cannot draw."
        )
        x_0, free = x_0[fits], None if free is None else free[fits]
    x_0, free = x_0[-num:], None if free is None else free[-num:]
    seen = gather_objects((len(x_0), free is not None))
    if (least := min(num for num, _ in seen)) < LEAST:
        raise ValueError(
            f"{LEAST} sequences of one length are needed in every process, and training has seen "
            f"{least}"
        )
    if free is None and any(given for _, given in seen):
        free = torch.ones_like(x_0, dtype=torch.bool)
    return x_0, free


def _facts(decision: Decision) -> dict[str, Any]:
    times = decision.schedule.times
    fixed = {
        "uniform": SamplingSchedule.uniform(len(times) - 1),
        "cosine": SamplingSchedule.cosine(len(times) - 1),
    }
    # A previous schedule that is one of these is called so.
    names = [name for name, schedule in fixed.items() if schedule.times == times]
    return {
        "times": list(times),
        "winner": [*names, decision.winner][0],
        "costs": decision.costs,
        "gain": decision.gain,
        "gain_error": decision.gain_error,
        "confidence": decision.confidence,
    }
