"""The step-cost objective: what every possible step costs, one network call per grid time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.optimize import isotonic_regression
from torch import Tensor
from tqdm.auto import tqdm

from ddm.denoisers import Denoiser, checked_call, chunks, times_like
from ddm.functional import gather_objects
from ddm.process import ForwardProcess
from ddm.samplers import Sampler
from ddm.samplers.sampler import CHUNK


@dataclass(frozen=True)
class StepCosts:
    r"""Measured costs `C(t_i -> t_j)` of every step down a grid, for every sequence.

    Attributes:
        times: Increasing grid from 0 to 1, (M + 1,).
        nats: `nats[b, i, j]` for j < i, nats per sequence, else 0; (B, M + 1, M + 1).
        num_calls: Network calls made, M per batch of sequences.
    """

    times: Float[Tensor, " T"]
    nats: Float[Tensor, "B T T"]
    num_calls: int


def excess(nats: Float[Tensor, "*B T T"]) -> Float[Tensor, "*B T T"]:
    """Return `C(i -> j)` minus the cost of taking every cell between i and j.

    What a step loses against its own refinement on the grid: >= 0 in the mean and, for an exact
    denoiser and the analytic sampler on a fine grid, the conditional total correlation that the
    step destroys.
    """
    cells = nats.diagonal(-1, -2, -1)  # the steps i + 1 -> i
    level = torch.cat([torch.zeros_like(cells[..., :1]), cells.cumsum(-1)], -1)
    return nats - (level[..., :, None] - level[..., None, :]).tril(-1)


def measure_step_costs(
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Int[Tensor, "B L"],
    times: Float[Tensor, " T"],
    *,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> StepCosts:
    r"""Measure `C(t -> s) = E sum_i KL( q(x_s^i | x_t^i, x_0^i) || Q(x_s^i | x_t) )` on a grid.

    One forward path per sequence serves all times; the network is called once per time and
    batch, and the cost of every landing time follows by algebra, in float64 and in pieces that
    bound the memory. The sum of C along a schedule is the NELBO of this sampler with this
    schedule, exactly. Under `torch.distributed` every process measures its own sequences and gets
    the costs of all; the call is collective.

    Args:
        denoiser: The model.
        sampler: The sampler that will be run; it states the cost of its step.
        x_0: Data tokens.
        times: Increasing grid from 0 to 1.
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
    batches = x_0.split(batch_size or len(x_0))
    bar: tqdm[Any] = tqdm(
        total=len(batches) * (len(times) - 1), desc="step costs", disable=not progress
    )
    mine: list[Tensor] = []
    failure: ValueError | None = None
    try:
        with torch.no_grad(), bar:
            for batch in batches:
                path = denoiser.process.sample_path(batch, times[1:], generator)
                rows = _rows(denoiser, sampler, batch, path, times, bar)
                mine.append(torch.stack(list(rows), 1).cpu())
    except ValueError as error:
        # One process that gives up must not leave the others waiting for its costs.
        failure = error
    parts: list[Tensor] = []
    for theirs, their_failure in gather_objects((mine, failure)):
        if their_failure is not None:
            raise their_failure
        parts += theirs
    return StepCosts(times.cpu(), torch.cat(parts), len(batches) * (len(times) - 1))


def _rows(
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Tensor,
    path: Tensor,
    times: Tensor,
    bar: tqdm[Any],
) -> Iterator[Tensor]:
    """Yield the costs of all steps down from t_i, (B, M + 1), for i = 0, 1, ..., M."""
    size = len(times)
    zero = torch.zeros(len(x_0), size, dtype=torch.float64, device=x_0.device)
    yield zero
    for i in range(1, size):
        prediction = checked_call(denoiser, path[i - 1], times_like(times[i], x_0))
        row, first = zero.clone(), 0
        for (piece,) in chunks([prediction], CHUNK):
            width = piece.x_t.shape[1]
            target = x_0[:, first : first + width]
            row[:, :i] += sampler.step_cost(piece.double(), target, times[:i]).T
            first += width
        bar.update()
        yield row


def monotone_costs(process: ForwardProcess, costs: StepCosts) -> Float[Tensor, "T T"]:
    r"""Return the mean costs of the absorbing kernel from its loss curve, made monotone.

    Here `C(t -> s) = (m(t) - m(s)) G(t)`, with the share m of masks and the cross-entropy of the
    masked tokens divided by it, G(t): one curve instead of a table, whose left-Riemann error is
    the excess cost (https://arxiv.org/abs/2511.04647). A token is harder to guess the fewer others
    are seen, so G increases with t and isotonic regression removes noise that a shortest path
    would exploit.
    """
    share = process.noised_share(costs.times)
    curves = costs.nats[:, 1:, 0] / share[1:]
    # A curve that does not vary (a single sequence, or constant data) needs no weighting.
    variance = curves.var(0, unbiased=False)
    weights = 1.0 / variance.clamp(min=1e-9 * float(variance.max()) or 1.0)
    curve = isotonic_regression(curves.mean(0).numpy(), weights=weights.numpy()).x
    g = torch.cat([torch.zeros(1, dtype=torch.float64), torch.from_numpy(curve.copy())])
    return ((share[:, None] - share[None, :]) * g[:, None]).tril(-1)
