"""Schedules in the form that other libraries' loops take."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import require_at_least
from ddm.process import ForwardProcess
from ddm.schedule import Schedule, times_of


def counts_per_step(
    process: ForwardProcess, schedule: Schedule, num_free: int | Sequence[int]
) -> list[list[int]]:
    """Return how many masked tokens every step reveals, for every sequence: `num_transfer_tokens`.

    What the loops of LLaDA and diffusers' `BlockRefinementScheduler` count. Each step reveals at
    least one token while there are any, and all of them are revealed in the end.

    Args:
        process: The forward process of the denoiser that the schedule is for.
        schedule: A schedule, or its times.
        num_free: Number of tokens to generate, of every sequence or of one.
    """
    numbers = [num_free] if isinstance(num_free, int) else list(num_free)
    left = process.masks_left(times_of(schedule), torch.tensor(numbers))
    counts: list[list[int]] = (-left.diff(dim=0)).T.tolist()
    return counts


def sglang_config(process: ForwardProcess, schedule: Schedule, block_length: int) -> str:
    """Return the YAML file of `scripts/sglang_counts.py`, an algorithm for SGLang.

    It holds the block size and, for every number of masks that a block may have (its first tokens
    may belong to the prompt), how many of them each call reveals.

    Args:
        process: The forward process of the denoiser that the schedule is for.
        schedule: A schedule of one block, or its times.
        block_length: Tokens of a block, 32 for LLaDA2.
    """
    require_at_least(1, block_length=block_length)
    counts = counts_per_step(process, schedule, range(1, block_length + 1))
    rows = "".join(f"  - {[n for n in row if n]}\n" for row in counts)
    return f"block_size: {block_length}\ncounts:\n{rows}"


def flow_matching_grid(process: ForwardProcess, schedule: Schedule) -> Float[Tensor, " T"]:
    r"""Return the `time_grid`, noise at 0 and data at 1, on which flow_matching takes our steps.

    Its Euler step from u by h replaces a token with the probability `1 - exp(-h / (1 - u))`
    (path with the scheduler `CondOTProbPath`), ours from t to s with `1 - m(s) / m(t)`, m being
    the mask ratio. They agree for `1 - u' = (1 - u) (1 - log(m(t) / m(s)))`. The last step draws
    the data, wherever it begins.

    Raises:
        ValueError: A step replaces more than 1 - 1 / e of the noise, which no Euler step can.
    """
    ratio = process.mask_ratio(times_of(schedule))
    grid = [0.0]
    for before, after in pairwise(ratio[:-1].tolist()):
        factor = 1 - torch.log(torch.tensor(before / after, dtype=torch.float64))
        if factor <= 0:
            raise ValueError(
                f"`schedule` must keep more than 1 / e of the masks in every step but the last, "
                f"got a step from {before:.4g} to {after:.4g}; use more steps."
            )
        grid.append(1 - (1 - grid[-1]) * float(factor))
    return torch.tensor([*grid, 1.0], dtype=torch.float64)
