"""The exponent of the weights, chosen by samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.functional import gather_objects, require_at_least
from ddm.samplers import Sampler
from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.cost_table import CostTable
from ddm.schedules.optimal.evidence import LEVELS, Evidence, compare_samples
from ddm.schedules.optimal.validation import check_gamma

FEWEST = 8
"""Samples of a candidate; fewer tell nothing."""


class BySamples:
    """Chooses the exponent of the weights by samples: the one that leads closest to data.

    No exponent serves all models, and samples tell which one a model asks for. Every exponent
    draws samples, from the same noise, for the two smallest numbers of steps, where schedules
    differ most; their energy distance to data and how well the network denoises them say how far
    from data they are (`compare_samples`). One exponent is chosen for all numbers of steps, and the
    one in use stays unless another one is surely closer. Uniform steps are compared, too, for the
    guard (`choose`), which needs no costs then.

    Args:
        gammas: Exponents that may take the place of the one in use.
        num_samples: Samples of every candidate and number of steps; by default as many as cost no
            more network calls than the table.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> from ddm import ForwardProcess, OptimalSteps, Uniform
        >>> from ddm.datamodules import countdown_chain, sample_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Analytic
        >>> from ddm.schedules import BySamples
        >>> chain = countdown_chain(4, 0.01)
        >>> denoiser = MarkovChainDenoiser(ForwardProcess(Uniform(4), LogLinear()), *chain)
        >>> optimizer = OptimalSteps(num_times=8, pilot_times=4, select=BySamples((0.0, 2.0)))
        >>> found = optimizer(denoiser, Analytic(), sample_chain(*chain, 64, 8), [2, 4])
        >>> sorted(found.evidence.distances)
        ['gamma 0', 'gamma 0.5', 'gamma 2', 'uniform']
    """

    def __init__(
        self,
        gammas: Sequence[float] = (0.0, 0.25, 0.5, 1.0, 2.0),
        *,
        num_samples: int | None = None,
    ) -> None:
        if num_samples is not None:
            require_at_least(FEWEST, num_samples=num_samples)
        self.gammas = tuple(check_gamma(gamma) for gamma in gammas)
        self.num_samples = num_samples

    def weigh(
        self,
        table: CostTable,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        numbers: Sequence[int],
        *,
        free: Bool[Tensor, "B L"] | None = None,
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[CostTable, Evidence | None]:
        """Return the table with the exponent that samples ask for, and the evidence.

        The table comes back as it is, without evidence, where all exponents have the same
        schedules, as with masks, or where so few sequences pay for less than 8 samples.
        """
        judged = sorted(numbers)[:2]
        gammas = dict.fromkeys((table.gamma, *self.gammas))
        tables = {f"gamma {gamma:g}": replace(table, gamma=gamma) for gamma in gammas}
        candidates = {name: [t.schedule(n) for n in judged] for name, t in tables.items()}
        if len({tuple(s.times for s in each) for each in candidates.values()}) < 2:
            return table, None
        candidates["uniform"] = [SamplingSchedule.uniform(n) for n in judged]
        most, length = table.num_calls, x_0.shape[1] if free is None else int(free.sum(-1).max())
        price = len(candidates) * sum(sampler.num_evals(n, length) + len(LEVELS) for n in judged)
        if batch_size is not None:
            most //= -(-len(x_0) // batch_size)
        num = self.num_samples or int((most - len(LEVELS)) * len(x_0) / price)
        num = min(gather_objects(min(num, len(x_0))))
        if num < FEWEST:
            return table, None
        evidence = compare_samples(
            candidates, denoiser, sampler, x_0, num, free=free, batch_size=batch_size,
            generator=generator,
        )  # fmt: skip
        return tables.get(evidence.winner, table), evidence
