"""Jump Your Steps: KLUB, golden-section search and hierarchical breakdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.denoisers import Denoiser, evaluating
from ddm.functional import gather_made, gather_objects, require_at_least, require_instance
from ddm.kernels import Kernel
from ddm.progress import progress_bar
from ddm.samplers import KGillespie, Sampler
from ddm.schedule import SamplingSchedule, step_numbers
from ddm.schedules.jys.golden_section import golden_section
from ddm.schedules.jys.hierarchy import Hierarchy, Split, num_searches
from ddm.schedules.jys.klub import KLUB, Departure, RevealKLUB, TokenKLUB
from ddm.schedules.optimizer import Optimized, ScheduleOptimizer
from ddm.schedules.setting import Setting


class JumpYourSteps(ScheduleOptimizer):
    r"""Split every step where the two halves differ most from the whole, round after round.

    The schedule with 2^K steps takes 2^K - 1 searches, each of them of one network call at the left
    end and one per probe, on every batch: `(2^K - 1) (1 + num_probes)` calls per batch. All
    numbers of steps up to 2^K come from the same searches; those that are no powers of two
    take only the splits of largest gain in their last round. Splits are greedy: later rounds never
    move a point. Under `torch.distributed` every process measures its own sequences and all find
    the same schedules; the call is collective.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761.

    Args:
        objective: What a split is worth. By default `RevealKLUB` for the sampler `KGillespie`,
            `TokenKLUB` for the absorbing kernel, `KLUB` for other kernels.
        num_probes: Largest number of split points that a search tries; 16 find a point to within
            a thousandth of the step. Few tokens left to reveal need fewer.
        batch_size: Sequences per network call; all of them by default. The network's answers at
            the left end are kept for all sequences during a search, so memory for
            `len(x_0) L V` of its outputs is needed in any case.

    Example:
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.datamodules import countdown_chain, sample_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Analytic
        >>> from ddm.schedules import JumpYourSteps
        >>> chain = countdown_chain(4, 0.01)
        >>> denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(4), LogLinear()), *chain)
        >>> found = JumpYourSteps()(denoiser, Analytic(), sample_chain(*chain, 16, 8), [2, 4])
        >>> found.schedules[4].num_steps
        4
    """

    def __init__(
        self,
        objective: KLUB | None = None,
        *,
        num_probes: int = 16,
        batch_size: int | None = None,
    ) -> None:
        require_instance(KLUB | None, objective=objective)
        require_at_least(1, num_probes=num_probes)
        if batch_size is not None:
            require_at_least(1, batch_size=batch_size)
        self.objective = objective
        self.num_probes = num_probes
        self.batch_size = batch_size

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        num_steps: int | Sequence[int],
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Optimized:
        """Find the schedules; see `ScheduleOptimizer`.

        Raises:
            ValueError: No sequence, no number of steps or more steps than tokens to reveal, or a
                network that returns NaN.
        """
        numbers = step_numbers(num_steps)
        self.check(denoiser, sampler, x_0, free, numbers)
        process = denoiser.process
        objective = self.objective or default_objective(process.kernel, sampler)
        facts = {
            "num_samples": sum(gather_objects(len(x_0))),
            "objective": repr(objective),
            **asdict(Setting.of(process, sampler)),
        }
        size = self.batch_size or len(x_0)
        masks = [None] * -(-len(x_0) // size) if free is None else free.split(size)
        batches = list(zip(x_0.split(size), masks, strict=True))
        most = x_0.shape[1] if free is None else max(gather_objects(int(free.sum(-1).max())))
        schedules, num_calls = {}, 0
        with progress_bar(total=num_searches(numbers), desc="splits", disable=not progress) as bar:

            def split(left: float, right: float) -> Split | None:
                nonlocal num_calls
                bar.update()
                if left - right <= objective.spacing:
                    return None
                gain = _Gain(objective, denoiser, sampler, batches, most, (left, right), generator)
                peak = golden_section(
                    gain, right, left, num_probes=self.num_probes, spacing=objective.spacing
                )
                num_calls += len(batches) * (1 + peak.num_probes)
                return Split(peak.at, peak.value)

            hierarchy = Hierarchy(objective.first(most), 0.0, split)
            for n in numbers:
                found = hierarchy(n)
                times = objective.times(process, list(found.points))
                info = {"klub": list(found.gains), "num_calls": num_calls, **facts}
                schedules[n] = SamplingSchedule(tuple(times), "jump-your-steps", info)
        return Optimized(schedules, num_calls)


class _Gain:
    """What splitting one step at m is worth, in the mean over the sequences of all processes."""

    def __init__(
        self,
        objective: KLUB,
        denoiser: Denoiser,
        sampler: Sampler,
        batches: Sequence[tuple[Tensor, Tensor | None]],
        most: int,
        step: tuple[float, float],
        generator: torch.Generator | None,
    ) -> None:
        self.objective = objective
        self.denoiser = denoiser
        self.sampler = sampler
        self.batches = batches
        self.most = most
        self.step = step
        self.generator = generator
        self.departures: list[Departure] = []

    def __call__(self, m: float) -> float:
        """Return nats per sequence; one network call per batch, two the first time."""
        nats = torch.cat(gather_made(lambda: self._measure(m)))
        wrong = int((~torch.isfinite(nats)).sum())
        if wrong:
            raise ValueError(
                f"`objective` must be finite, got {wrong} NaN or infinite values of {len(nats)} "
                f"for the split {self.step[0]:.4g} -> {m:.4g} -> {self.step[1]:.4g}."
            )
        return float(nats.mean())

    def _measure(self, m: float) -> Tensor:
        with evaluating(self.denoiser):
            if not self.departures:
                self.departures = [
                    self.objective.departure(
                        self.denoiser,
                        self.sampler,
                        x_0,
                        self.step[0],
                        self.generator,
                        free=free,
                        most=self.most,
                    )
                    for x_0, free in self.batches
                ]
            nats = [self.objective.between(d, m, self.step[1]) for d in self.departures]
        return torch.cat(nats).cpu()


def default_objective(kernel: Kernel, sampler: Sampler) -> KLUB:
    """Return the objective that fits a kernel and a sampler."""
    if isinstance(sampler, KGillespie):
        return RevealKLUB()
    return TokenKLUB() if kernel.absorbing else KLUB()
