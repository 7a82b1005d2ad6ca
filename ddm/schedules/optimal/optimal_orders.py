"""Optimal orders: which tokens first, and how many per call, chosen together by the likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.denoisers import Denoiser, evaluating
from ddm.functional import describe
from ddm.orders import Random, RevealOrder, Spaced, settings_of
from ddm.samplers import CallCounter, Reveal, Sampler
from ddm.schedule import SamplingSchedule, step_numbers
from ddm.schedules.optimal.guard import gain_over, keep_best
from ddm.schedules.optimal.optimal_counts import OptimalCounts
from ddm.schedules.optimizer import Optimized, ScheduleOptimizer


class OptimalOrders(ScheduleOptimizer):
    r"""Find which tokens come first and how many per call, together, in nats of the likelihood.

    Counts that are right for one order are wrong for another, so each order gets its own
    (`OptimalCounts`). The pairs of an order with its counts are then compared by what they cost,
    sequence by sequence, on those that neither search has used: random order stays unless another
    pair is surely cheaper, and of these the cheapest is kept, for every N on its own.

    A schedule names its order, and `sampler_of(schedule, sampler)` makes the sampler that it is
    for; a `DiscreteDiffusion` and the commands do that by themselves.

    Calls: those of `OptimalCounts`, and N more, for every order.

    Args:
        orders: The orders to choose from, beside random order; by default `Spaced`.
        counts: How counts are found; `OptimalCounts()` by default.

    Example:
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.datamodules import countdown_chain, sample_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.orders import Random, Spaced
        >>> from ddm.samplers import Reveal
        >>> from ddm.schedules import OptimalOrders
        >>> chain = countdown_chain(4, 0.01)
        >>> denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(4), LogLinear()), *chain)
        >>> x_0 = sample_chain(*chain, 16, 8)
        >>> found = OptimalOrders([Random(), Spaced()])(denoiser, Reveal(Random()), x_0, [4])
        >>> found.schedules[4].num_steps
        4
    """

    judged = True

    def __init__(
        self, orders: Sequence[RevealOrder] | None = None, *, counts: OptimalCounts | None = None
    ) -> None:
        self.orders = (Spaced(),) if orders is None else tuple(orders)
        self.counts = counts or OptimalCounts()

    @property
    def batch_size(self) -> int | None:
        """Sequences per network call; None for all of them."""
        return self.counts.batch_size

    def shaped(self, shape: Sequence[int]) -> OptimalOrders:
        """Return the optimizer with its orders on these axes."""
        return OptimalOrders([order.shaped(shape) for order in self.orders], counts=self.counts)

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
        """Find orders and schedules; see `ScheduleOptimizer`.

        Args:
            denoiser: The model.
            sampler: What else the sampler does, if it is a `Reveal`; its order is not used.
            x_0: Data tokens.
            num_steps: The numbers of calls to choose for, or one.
            free: Positions that are generated.
            generator: Source of the noise.
            progress: Show a bar.

        Raises:
            ValueError: As from `OptimalCounts`, or the kernel has no mask.
        """
        base = sampler if isinstance(sampler, Reveal) else Reveal()
        numbers = step_numbers(num_steps)
        self.check(denoiser, base, x_0, free, numbers)
        counter = CallCounter(denoiser)
        seed = int(torch.randint(2**31, (), generator=generator, device=x_0.device))
        orders = {describe(order): order for order in (Random(), *self.orders)}
        first = next(iter(orders))
        found, nats = {}, {}
        for name, order in orders.items():
            noise = torch.Generator(x_0.device).manual_seed(seed)
            ordered = base.ordered(order)
            found[name] = self.counts(
                counter, ordered, x_0, numbers, free=free, generator=noise, progress=progress
            ).schedules
            _, judge = self.counts.teachers(counter, ordered, x_0, free, seed)
            with evaluating(denoiser):
                nats[name] = {n: judge.nats(schedule) for n, schedule in found[name].items()}
                if name == first:
                    uniform = {n: judge.nats(SamplingSchedule.uniform(n)) for n in numbers}
        schedules = {}
        for n in numbers:
            costs = {name: nats[name][n] for name in orders}
            winner = keep_best(costs, [first])
            facts = {
                "order": settings_of(orders[winner]),
                "winner": winner,
                "costs": {
                    name: float(c.mean()) for name, c in {"uniform": uniform[n], **costs}.items()
                },
                **gain_over(uniform[n], costs[winner]),
            }
            chosen = found[winner][n]
            schedules[n] = replace(chosen, info=chosen.info | facts)
        return Optimized(schedules, counter.num_calls)
