"""Generation in blocks, one after the other (semi-autoregressive)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.functional import require_at_least, seeded
from ddm.samplers import Sampler, Samples
from ddm.samplers.sampler import check_free
from ddm.schedule import SamplingSchedule, times_of
from ddm.schedules.optimizer import Optimized, ScheduleOptimizer


def block_masks(free: Bool[Tensor, "B L"], block_length: int) -> list[Bool[Tensor, "B L"]]:
    """Return the free positions of every block: columns from the first free one of any row on.

    Args:
        free: Positions that are generated.
        block_length: Columns per block.
    """
    require_at_least(1, block_length=block_length)
    anywhere = free.any(0)
    if not bool(anywhere.any()):
        return []
    column = torch.arange(free.shape[1], device=free.device)
    block = (column - anywhere.long().argmax()).div(block_length, rounding_mode="floor")
    masks = [free & (block == k) for k in range(int(block[-1]) + 1)]
    return [mask for mask in masks if bool(mask.any())]


def optimize_blocks(
    optimizer: ScheduleOptimizer,
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Int[Tensor, "B L"],
    num_steps: int | Sequence[int],
    block_length: int,
    *,
    free: Bool[Tensor, "B L"] | None = None,
    generator: torch.Generator | None = None,
) -> list[Optimized]:
    """Find schedules for every block, given what stands before it in data.

    As in `sample_blocks`, later blocks are masks with the absorbing kernel, else cut off. Early
    blocks have less to go by than late ones, so their schedules differ.

    Args:
        optimizer: The optimizer.
        denoiser: The model.
        sampler: The sampler of every block.
        x_0: Data tokens; sequences without a free position in a block are left out there.
        num_steps: The numbers of steps of a block to find schedules for, or one.
        block_length: Columns per block, counted from the first free one.
        free: Positions that are generated. None if all are.
        generator: Source of the noise, on the device of x_0.
    """
    check_free(free, x_0, denoiser.process)
    free = torch.ones_like(x_0, dtype=torch.bool) if free is None else free
    found = []
    for block in block_masks(free, block_length):
        rows, last = block.any(-1), int(block.any(0).nonzero().max()) + 1
        end = x_0.shape[1] if denoiser.process.kernel.absorbing else last
        later = free.any(0) & (torch.arange(x_0.shape[1], device=x_0.device) >= last)
        found.append(
            optimizer(
                WithoutColumns(denoiser, later[:end]),
                sampler,
                x_0[rows, :end],
                num_steps,
                free=block[rows, :end],
                generator=generator,
            )
        )
    return found


class WithoutColumns(Denoiser):
    """A denoiser that sees masks in some columns, whatever stands there; padding stays.

    Args:
        denoiser: The denoiser.
        hidden: The columns, (L,).
    """

    hidden: Bool[Tensor, " L"]

    def __init__(self, denoiser: Denoiser, hidden: Bool[Tensor, " L"]) -> None:
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.time_free, self.min_time = denoiser.time_free, denoiser.min_time
        self.calls_per_prediction = denoiser.calls_per_prediction
        self.register_buffer("hidden", hidden, False)

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Prediction:
        """Call the denoiser."""
        mask, pad = self.process.kernel.mask, getattr(self.denoiser, "pad", None)
        if mask is not None:
            hidden = self.hidden if pad is None else self.hidden & (x_t != pad)
            x_t = torch.where(hidden, mask, x_t)
        prediction: Prediction = self.denoiser(x_t, t, free)
        return prediction

    def start(self) -> Denoiser:
        """Return the same of what the denoiser returns for a run."""
        return WithoutColumns(self.denoiser.start(), self.hidden)

    def rows(self, index: Int[Tensor, " n"]) -> Denoiser:
        """Return the same of some rows of the denoiser."""
        return WithoutColumns(self.denoiser.rows(index), self.hidden)


@torch.no_grad()
def sample_blocks(
    sampler: Sampler,
    denoiser: Denoiser,
    x: Int[Tensor, "B L"],
    schedule: SamplingSchedule | Sequence[SamplingSchedule],
    block_length: int,
    *,
    free: Bool[Tensor, "B L"] | None = None,
    eos: int | None = None,
    generator: torch.Generator | None = None,
) -> Samples:
    """Generate block after block, each from noise to data along a schedule of its own.

    With the absorbing kernel the network sees the later blocks as masks, and so knows how many
    tokens follow; noise of other kernels would be read as text, so there the later blocks are cut
    off. Rows that have ended take part in no further block.

    Args:
        sampler: The sampler of every block.
        denoiser: The model.
        x: Noise where it is free, given tokens elsewhere, as for `Sampler.__call__`.
        schedule: The schedule of every block, or one for all.
        block_length: Columns per block, counted from the first free one.
        free: Positions that are generated. None if all are.
        eos: Id that ends a row: free positions behind the first that is generated hold it, too.
        generator: Source of all draws, on the device of x.

    Returns:
        The samples and what they cost, all blocks together.

    Raises:
        ValueError: Tokens or mask do not fit, or there are not as many schedules as blocks.
    """
    process = denoiser.process
    check_free(free, x, process)
    free = torch.ones_like(x, dtype=torch.bool) if free is None else free
    blocks = block_masks(free, block_length)
    plans = [schedule] * len(blocks) if isinstance(schedule, SamplingSchedule) else schedule
    if len(plans) != len(blocks):
        raise ValueError(
            f"`schedule` must be one, or one for each of the {len(blocks)} blocks, got "
            f"{len(plans)}; mend it or `block_length`."
        )
    for block, plan in zip(blocks, plans, strict=True):  # all that can be wrong, before any call
        sampler.steps(process, times_of(plan).to(x.device), block, seeded(x.device, 0))
    x, ended = x.clone(), torch.zeros_like(free)
    num_calls = num_rows = 0
    for block, plan in zip(blocks, plans, strict=True):
        rows = (block.any(-1) & ~ended.any(-1)).nonzero().squeeze(-1)
        if len(rows) == 0:
            continue
        last = x.shape[1] if process.kernel.absorbing else int(block.any(0).nonzero().max()) + 1
        part, mask = x[rows, :last], block[rows, :last]
        made = sampler.run(denoiser, part, plan, free=mask, generator=generator)
        x[rows, :last] = made.tokens
        num_calls, num_rows = num_calls + made.num_calls, num_rows + made.num_rows
        if eos is not None:
            ended |= block & (x == eos)
    if eos is not None:
        behind = free & (ended.cumsum(-1) > 0)
        x = torch.where(behind, eos, x)
    return Samples(x, num_calls, num_rows)
