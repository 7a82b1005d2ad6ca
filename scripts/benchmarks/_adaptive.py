"""Calls that every sequence makes as it needs, against as many calls of optimal counts.

Rules end up at a mean number of calls between two whole ones; as many calls on average are made by
sequences of which some take the lower and some the higher number, at optimal counts of each.
"""

from __future__ import annotations

from functools import cache
from math import ceil, floor
from typing import Any

from ddm.denoisers import Denoiser
from ddm.likelihood import sampler_nats
from ddm.orders import Random, RevealOrder, Spaced
from ddm.samplers import CallCounter, EntropyBound, Reveal, StoppingRule
from ddm.schedules import OptimalCounts

import torch
from torch import Tensor

NUM_CALLS = 4, 8
BOUNDS = 1.0, 4.0


def compare(denoiser: Denoiser, x_0: Tensor, num_samples: int, seed: int) -> dict[str, Any]:
    """Return mean calls, nats, and nats less those of optimal counts, by order and rule."""
    search, judge = x_0[:num_samples].chunk(2)
    counts, found = OptimalCounts(num_times=48), {}

    orders: dict[str, RevealOrder] = {"random": Random(), "spaced": Spaced()}
    for name, order in orders.items():

        @cache
        def alike(num: int, order: RevealOrder = order) -> Tensor:
            noise = torch.Generator().manual_seed(seed)
            schedule = counts(denoiser, Reveal(order), search, num, generator=noise).schedules[num]
            noise = torch.Generator().manual_seed(seed)
            return sampler_nats(denoiser, Reveal(order), judge, schedule, generator=noise)

        rules: dict[str, StoppingRule] = {
            f"entropy bound {bound:g}": EntropyBound(bound) for bound in BOUNDS
        }
        for num in NUM_CALLS:
            noise = torch.Generator().manual_seed(seed)
            priced = counts.rule(denoiser, Reveal(order), search, num, generator=noise)
            rules[f"priced, for {num} calls"] = priced
        for key, rule in rules.items():
            counter, noise = CallCounter(denoiser), torch.Generator().manual_seed(seed)
            sampler = Reveal(order, stop=rule)
            own = sampler_nats(counter, sampler, judge, [1.0, 0.0], generator=noise)
            calls = counter.num_rows / len(judge)
            low, high = floor(calls), ceil(calls)
            same = alike(low) + (calls - low) * (alike(high) - alike(low))
            found[f"{name}, {key}"] = {
                "calls": calls,
                "nats": float(own.mean()),
                "less optimal counts": float((own - same).mean()),
            }
    return found
