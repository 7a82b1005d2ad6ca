"""Optimal counts: how many tokens each call reveals, for any order, by the exact likelihood."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.denoisers import Denoiser, evaluating
from ddm.functional import require_at_least
from ddm.progress import progress_bar
from ddm.samplers import CallCounter, KGillespie, Priced, Reveal, Sampler
from ddm.schedule import SamplingSchedule, step_numbers
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.optimal.teacher import Teacher
from ddm.schedules.optimizer import Optimized, ScheduleOptimizer
from ddm.schedules.setting import Setting


class OptimalCounts(ScheduleOptimizer):
    r"""Find how many tokens each call reveals, for any order, in nats of the sampler's likelihood.

    One pass along the sampler's own path, one token after the other where the grid is fine, gives
    at every number of masks the running sum of `-log p(x_0^i)` in the order: the cost of
    revealing 1, 2, 3 ... tokens in one call. The shortest path with N edges through that table is a
    schedule, for every N at once.

    For a random order, and for one where the masked positions alone decide (`RevealOrder.fixed`),
    that path is optimal: the states that a step starts from do not depend on the steps before. For
    others, confidence for instance, they do, and the table misleads. There the likelihood itself is
    searched, by teacher forcing, over two numbers: the share of masks left after k of N calls is
    `(1 - (k / N)^a)^b`, which holds uniform steps (a = b = 1) and shapes like the cosine.

    A quarter of the sequences makes no choice: on these, by paired differences of the likelihood,
    the best of the schedules found, uniform and cosine steps is kept; uniform steps if none is
    surely better (`keep_best`). A schedule says which sampler, and so which order, it belongs to.

    Calls, each on a part of the sequences: one for every grid point of the table, and for every N
    the guard's `3 N`; where the likelihood is searched `(num_tries + 1) N` more.

    Args:
        num_times: Numbers of masks at which the table is measured, but at least twice as many as
            there are steps; all of them if there are fewer.
        num_tries: Schedules that the search tries for an order whose table may mislead.
        batch_size: Sequences per network call; all of them by default.

    Example:
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.datamodules import countdown_chain, sample_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.orders import Spaced
        >>> from ddm.samplers import Reveal
        >>> from ddm.schedules import OptimalCounts
        >>> chain = countdown_chain(4, 0.01)
        >>> denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(4), LogLinear()), *chain)
        >>> x_0 = sample_chain(*chain, 16, 8)
        >>> found = OptimalCounts()(denoiser, Reveal(Spaced()), x_0, [4])
        >>> found.schedules[4].num_steps
        4
    """

    def __init__(
        self, *, num_times: int = 64, num_tries: int = 16, batch_size: int | None = None
    ) -> None:
        require_at_least(2, num_times=num_times)
        require_at_least(2, num_tries=num_tries)
        self.num_times = num_times
        self.num_tries = num_tries
        self.batch_size = batch_size

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
            ValueError: Fewer than 8 sequences, a sampler that does not reveal by schedule, or more
                steps than tokens or than the grid has.
        """
        numbers = step_numbers(num_steps)
        self.check(denoiser, sampler, x_0, free, numbers)
        if len(x_0) < 8:
            raise ValueError(
                f"`x_0` must hold at least 8 sequences, got {len(x_0)}; some hundred are needed "
                "for counts that do not fit noise."
            )
        counter = CallCounter(denoiser)
        seed = int(torch.randint(2**31, (), generator=generator, device=x_0.device))
        search, judge = self.teachers(counter, sampler, x_0, free, seed)
        grid = counts_grid(search.length, max(self.num_times, 2 * max(numbers)))
        if max(numbers) >= len(grid):
            raise ValueError(
                f"`num_steps` must be at most {len(grid) - 1}, what {search.length} free tokens "
                f"allow, got {max(numbers)}; use fewer steps."
            )
        if max(numbers) > (most := min(search.most_steps, judge.most_steps)):
            raise ValueError(
                f"`num_steps` must be at most {most}, the free tokens of the longest sequence in "
                f"the batch that has the fewest, got {max(numbers)}; use fewer steps, raise "
                "`batch_size`, or leave short sequences out."
            )
        with evaluating(denoiser):
            _, paths = shortest_paths(search.table(grid), max(numbers))
            schedules = {}
            for n in progress_bar(numbers, desc="counts", disable=not progress):
                shares = {"optimal counts": grid[paths[n]] / search.length}
                if not search.additive:
                    shares["searched counts"] = search.search(n, self.num_tries)
                candidates = {
                    "uniform": SamplingSchedule.uniform(n),
                    "cosine": SamplingSchedule.cosine(n),
                }
                for name, share in shares.items():
                    candidates[name] = SamplingSchedule(search.times(share), name)
                schedules[n] = judge.best(candidates, Setting.of(denoiser.process, sampler))
        return Optimized(schedules, counter.num_calls)

    def rule(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        num_calls: int,
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
    ) -> Priced:
        """Return the rule that spends about N calls by sequence: one call per grid point.

        The price of a call is what the N-th one saves the mean sequence, so it makes about N calls;
        fewer where the last ones save nothing. `samples.num_rows` counts what was made.

        Args:
            denoiser: The model.
            sampler: The sampler that the rule is for, without a rule.
            x_0: Data tokens.
            num_calls: The number of calls N, at least 2.
            free: Positions that are generated.
            generator: Source of the noise.

        Raises:
            ValueError: As from the search for schedules, or `num_calls` is out of range.
        """
        require_at_least(2, num_calls=num_calls)
        self.check(denoiser, sampler, x_0, free, [num_calls])
        seed = int(torch.randint(2**31, (), generator=generator, device=x_0.device))
        teacher = Teacher(x_0, free, denoiser, as_reveal(sampler), seed, self.batch_size)
        grid = counts_grid(teacher.length, max(self.num_times, 2 * num_calls))
        if num_calls + 1 >= len(grid):
            raise ValueError(
                f"`num_calls` must be at most {len(grid) - 2}, two fewer than the tokens to "
                f"reveal, got {num_calls}; ask for fewer calls."
            )
        with evaluating(denoiser):
            cost, spent = teacher.tables(grid)
        values, _ = shortest_paths(cost, num_calls + 1)
        finest = np.concatenate([[0.0], np.diagonal(cost, -1).cumsum()])
        excess = cost - (finest[:, None] - finest)
        price = max(0.0, (values[num_calls - 1] - values[num_calls + 1]) / 2)
        return Priced(
            torch.from_numpy(grid), torch.from_numpy(excess), torch.from_numpy(spent), price
        )

    def teachers(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None,
        seed: int,
    ) -> tuple[Teacher, Teacher]:
        """Return what counts are found with, and the sequences, a quarter, that judge them."""
        held_out = max(2, len(x_0) // 4)
        common = denoiser, as_reveal(sampler), seed, self.batch_size
        search, judge = (
            Teacher(x_0[part], None if free is None else free[part], *common)
            for part in (slice(-held_out), slice(-held_out, None))
        )
        return search, judge


def as_reveal(sampler: Sampler) -> Reveal:
    """Return a sampler that reveals tokens along a schedule as a `Reveal`, without its temper.

    A temper leaves the order alone, and with `top_k` most data have no probability.

    Raises:
        ValueError: It does not.
    """
    if isinstance(sampler, Reveal) and sampler.stop is None:
        plain = copy(sampler)
        plain.temper = None
        return plain
    if isinstance(sampler, KGillespie):
        return Reveal()
    raise ValueError(
        f"`sampler` must reveal as many tokens as a schedule says, got {sampler!r}; use `Reveal` "
        "without a stopping rule."
    )


def counts_grid(length: int, num_times: int) -> Int[np.ndarray, " M"]:
    """Return increasing numbers of masks from 0 to all; close to all, where first tokens are."""
    if length <= num_times:
        return np.arange(length + 1)
    half = num_times // 2
    revealed = np.concatenate(
        [np.geomspace(1, length, half), np.linspace(0, length, num_times - half)]
    )
    return np.unique(length - revealed.round()).astype(np.int64)
