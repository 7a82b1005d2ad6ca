"""The step-cost objective: what every possible step costs, one network call per grid time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ddm.denoisers import Denoiser, Prediction, check_output, chunks
from ddm.functional import gather_made
from ddm.kernels.sparse import CHUNK
from ddm.progress import progress_bar
from ddm.samplers.sampler import check_some_free
from ddm.schedules.optimal.retention import blind_errors


@dataclass(frozen=True)
class StepCosts:
    r"""Measured costs `C(t_i -> t_j)` of every step down a grid, for every sequence.

    Attributes:
        times: Increasing grid from 0 to 1, (M + 1,).
        nats: `nats[b, i, j]` for j < i, nats per sequence, else 0; (B, M + 1, M + 1).
        expected: The same, in the mean over x_0 drawn from the prediction.
        errors: How wrong blind tokens are before the step i + 1 -> i and after it, see
            `blind_errors`, (B, M, 2).
        num_calls: Network calls made, M per batch of sequences.
    """

    times: Float[Tensor, " T"]
    nats: Float[Tensor, "B T T"]
    expected: Float[Tensor, "B T T"]
    errors: Float[Tensor, "B M 2"]
    num_calls: int

    def part(self, which: slice | Int[Tensor, " N"]) -> StepCosts:
        """Return the costs of some of the sequences."""
        arrays = {x: getattr(self, x)[which] for x in ("nats", "expected", "errors")}
        return replace(self, **arrays)

    def controlled(self, coefficient: float) -> StepCosts:
        """Return costs with less noise: without a share of what the prediction did not expect.

        See `control_coefficient`.
        """
        return replace(self, nats=torch.lerp(self.nats, self.expected, coefficient))


def measure_step_costs(
    denoiser: Denoiser,
    x_0: Int[Tensor, "B L"],
    times: Float[Tensor, " T"],
    *,
    free: Bool[Tensor, "B L"] | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> StepCosts:
    r"""Measure `C(t -> s) = E sum_i KL( q(x_s^i | x_t^i, x_0^i) || p(x_s^i | x_t) )` on a grid.

    The law p is that of the analytic step, whatever the sampler. A law with rates frozen over the
    step is no objective: after a long step a token may have no chance to be where the data are,
    which costs infinitely much and matters little, since at t = 1 the state that it leaves is
    noise. Even when made finite, such a cost ranks schedules by the misfit of single tokens, most
    of which later steps repair.

    One forward path per sequence serves all times; the network is called once per time and
    batch, and the cost of every landing time follows by algebra, in float64 and in pieces that
    bound the memory. The sum of C along a schedule is the NELBO of the analytic sampler with this
    schedule, exactly. Under `torch.distributed` every process measures its own sequences and
    gets the costs of all; the call is collective.

    Args:
        denoiser: The model.
        x_0: Data tokens.
        times: Increasing grid from 0 to 1.
        free: Positions that are generated, (B, L); the others are given: they stay clean and cost
            nothing. None if all are free.
        batch_size: Sequences per network call; by default all of them.
        generator: Source of the forward noise, on the device of x_0.
        progress: Show a bar.

    Raises:
        ValueError: The network returns NaN or infinite outputs, or x_0 is empty.
    """
    if len(x_0) == 0:
        raise ValueError("`x_0` must hold at least one sequence, got none.")
    if len(times) < 2 or times[0] != 0 or times[-1] != 1 or (times.diff() <= 0).any():
        raise ValueError("`times` must increase strictly from 0 to 1, at least two of them.")
    times = times.to(x_0.device, torch.float64)
    denoiser.process.kernel.check_tokens(x_0, "x_0")
    check_some_free(free, x_0, denoiser.process)
    size = batch_size or len(x_0)
    masks = [None] * -(-len(x_0) // size) if free is None else free.split(size)
    batches = list(zip(x_0.split(size), masks, strict=True))
    bar = progress_bar(
        total=len(batches) * (len(times) - 1), desc="step costs", disable=not progress
    )

    def measured() -> list[tuple[Tensor, ...]]:
        mine = []
        with torch.no_grad(), bar:
            for tokens, mask in batches:
                path = denoiser.process.sample_path(tokens, times[1:], generator, free=mask)
                rows = zip(*_rows(denoiser, tokens, mask, path, times, bar), strict=True)
                nats, errors = (torch.stack(row, -2).cpu() for row in rows)
                mine.append((*torch.nn.functional.pad(nats, (0, 0, 1, 0)), errors))
        return mine

    parts = chain.from_iterable(gather_made(measured))
    nats, expected, errors = (torch.cat(part) for part in zip(*parts, strict=True))
    return StepCosts(times.cpu(), nats, expected, errors, len(batches) * (len(times) - 1))


def _rows(
    denoiser: Denoiser,
    x_0: Tensor,
    free: Tensor | None,
    path: Tensor,
    times: Tensor,
    bar: tqdm[Any],
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield nats (2, B, M + 1) and errors (B, 2) of the steps from t_1, t_2, ...."""
    kernel = denoiser.process.kernel
    # A revealed token stays; and blind tokens drawn from a prior of masks would tell nothing.
    repairs = kernel.mask is None
    below: Prediction | None = None
    for i in range(1, len(times)):
        row = torch.zeros(2, len(x_0), len(times), dtype=torch.float64, device=x_0.device)
        errors = row.new_zeros(len(x_0), 2)
        prediction = denoiser(path[i - 1], times[i], free)
        row[..., :i] = row_costs(prediction, x_0, times[:i])
        if repairs:
            judge = prediction if below is None else below  # near t = 0 it has its own context only
            below = prediction
            errors = blind_errors(prediction, judge, times[i - 1], first=i)
        bar.update()
        yield row, errors


def row_costs(
    prediction: Prediction, x_0: Int[Tensor, "B L"], s: Float[Tensor, " J"]
) -> Float[Tensor, "2 B J"]:
    """Return `step_costs` in pieces that bound the memory.

    With masks logits are made where tokens are still hidden: revealed ones stay, and cost nothing.

    Raises:
        ValueError: The outputs that are read are NaN or infinite.
    """
    p, kernel = prediction, prediction.process.kernel
    if not kernel.absorbing:
        check_output(p)
        pieces = chunks([p], CHUNK)
        parts = [step_costs(piece, x_0[:, part], s) for part, (piece,) in pieces]
        return torch.stack([torch.stack(part) for part in parts]).sum(0).mT
    hidden = ~kernel.is_revealed(p.x_t)
    index = (hidden if p.free is None else hidden & p.free).nonzero()
    nats = torch.zeros(2, len(s), *x_0.shape, dtype=torch.float64, device=x_0.device)
    for rows, columns, piece in p.tokens(*index.T):
        check_output(piece)
        found = step_costs(piece, x_0[rows, columns][:, None], s)
        nats[:, :, rows, columns] = torch.stack(found)
    return nats.sum(-1).mT


def step_costs(
    prediction: Prediction, x_0: Int[Tensor, "B L"], s: Float[Tensor, " J"]
) -> tuple[Float[Tensor, "J B"], Float[Tensor, "J B"]]:
    """Return `KL( q(x_s | x_t, x_0) || p(x_s | x_t) )` of the analytic step to each of the times s.

    No network call: the divergence between the bridges of x_0 and of its posterior, in nats per
    sequence, summed over free positions; and what the prediction expects it to be, its mean over
    x_0 drawn from the posterior.

    Args:
        prediction: The network's answer at one time t, the same for all sequences.
        x_0: Data tokens.
        s: Times to land at, each below t.
    """
    p = prediction
    nats = p.process.bridge_divergence(p.log_leave_one_out(), x_0, p.x_t, p.t[0], s)
    measured, expected = (p.sum_free(x) for x in nats)
    return measured, expected


def loss_curve_costs(curve: Float[np.ndarray, " L"]) -> Float[np.ndarray, "T T"]:
    r"""Return what it costs to reveal several tokens at once, from the exact curve of the data.

    `Gamma(p, q) = (q - p) L(p) - sum_{p <= k < q} L(k)` nats for the step from p to q revealed
    tokens. `shortest_paths` on it gives the optimal numbers of tokens to reveal at every step.

    References:
        Optimal inference schedules for masked diffusion models (Chen et al., 2025),
        https://arxiv.org/abs/2511.04647.

    Args:
        curve: L(k), the mean entropy in nats of a masked token given k revealed ones, all at random
            positions; for every k from 0 to one less than the length.

    Returns:
        `cost[i, j]` of the step from i masked tokens down to j < i, (L + 1, L + 1).
    """
    revealed = len(curve) - np.arange(len(curve) + 1)
    level = np.append(0.0, np.cumsum(curve))[revealed]
    own = np.append(curve, 0.0)[revealed]
    cost = (revealed[None, :] - revealed[:, None]) * own[:, None] - (
        level[None, :] - level[:, None]
    )
    return np.tril(cost, -1)
