"""What steps lose against their own refinement, and how much of its noise can be predicted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.schedules.optimal.step_cost import StepCosts

SPLITS = 8
"""How often sequences are halved to see what of a table is noise."""


def excess(nats: Float[Tensor, "*B T T"], cells: Float[Tensor, "*B M"]) -> Float[Tensor, "*B T T"]:
    """Return `C(i -> j)` minus the cost of taking every cell between i and j.

    What a step loses against its own refinement on the grid: >= 0 in the mean and, for an exact
    denoiser and the analytic sampler on a fine grid, the conditional total correlation that the
    step destroys.

    Args:
        nats: Costs of all steps.
        cells: Costs of the cells.
    """
    level = torch.cat([torch.zeros_like(cells[..., :1]), cells.cumsum(-1)], -1)
    return nats - (level[..., :, None] - level[..., None, :]).tril(-1)


def residuals(times: Float[Tensor, " T"], merged: Float[Tensor, "*B K"]) -> Float[Tensor, "*B M"]:
    """Return what every cell still costs against infinitely many steps, linear in `merged`.

    Merging the cells of widths h_1 and h_2 next to a time costs `2 kappa h_1 h_2`, which measures
    kappa there; a cell costs `kappa h^2` with the mean kappa of its ends.

    Args:
        times: Increasing grid, (M + 1,).
        merged: What it costs to merge the two cells next to every inner time, K = M - 1.
    """
    widths = times.diff()
    if merged.shape[-1] == 0:
        return torch.zeros(*merged.shape[:-1], 1, dtype=merged.dtype)
    kappa = merged / (2 * widths[1:] * widths[:-1])
    ends = torch.cat([kappa[..., :1], kappa, kappa[..., -1:]], -1)
    return (ends[..., 1:] + ends[..., :-1]) / 2 * widths**2


def mean_excess(costs: StepCosts) -> Float[Tensor, "T T"]:
    """Return the mean over sequences of what steps cost against infinitely many short ones."""
    mean = costs.nats.mean(0)
    # Merging costs something in truth, not necessarily in the mean of few sequences.
    return excess(mean, _cells(mean) - residuals(costs.times, _merged(mean).clamp(min=0.0)))


def halved_excess(costs: StepCosts) -> Iterator[tuple[Float[Tensor, "T T"], Float[Tensor, "T T"]]]:
    """Yield the means over a random half of the sequences and over the other one, several times."""
    generator, num = torch.Generator().manual_seed(0), len(costs.nats)
    for _ in range(SPLITS):
        first, second = torch.randperm(num, generator=generator).tensor_split(2)
        yield mean_excess(costs.part(first)), mean_excess(costs.part(second))


def sequence_excess(costs: StepCosts) -> Float[Tensor, "B T T"]:
    """Return the same for every single sequence, linear in its costs."""
    nats = costs.nats
    return excess(nats, _cells(nats) - residuals(costs.times, _merged(nats)))


def _cells(nats: Float[Tensor, "*B T T"]) -> Float[Tensor, "*B M"]:
    """Return the costs of the steps i + 1 -> i."""
    return nats.diagonal(-1, -2, -1)


def _merged(nats: Float[Tensor, "*B T T"]) -> Float[Tensor, "*B K"]:
    """Return what steps over two cells cost above those over each of them."""
    cells = _cells(nats)
    return nats.diagonal(-2, -2, -1) - cells[..., 1:] - cells[..., :-1]


def control_coefficient(costs: StepCosts) -> float:
    r"""Return how much of the unexpected is to be taken off the excess costs, from 0 to 1.

    A cost c is noisy because of the drawn x_0, and the prediction knows its mean m over x_0. For an
    exact denoiser c - m is zero in the mean, given x_t, and m has the same mean as c with less
    noise. A network is wrong in the mean by some b. The mean of `c - k (c - m)` over n sequences
    has the squared error `var(c - k (c - m)) / n + k^2 b^2`, which is smallest at
    `k = cov(c, c - m) / (var(c - m) + n b^2)`. The mean of c - m squared estimates
    `b^2 + var(c - m) / n`. So the bias stays below the noise: the more sequences there are, the
    less a prediction that is wrong is asked. All of it is summed over steps in nats, in which a
    schedule pays: in units of their own variances hundreds of steps that cost next to nothing
    would outvote the few long ones that decide.

    Args:
        costs: Those of the sequences that the table is made from.
    """
    own = sequence_excess(costs)
    missed = own - sequence_excess(replace(costs, nats=costs.expected))
    mean, num = missed.mean(0), len(own)
    shared = float((own * (missed - mean)).sum()) / (num - 1)
    noise, bias = float(missed.var(0).sum()), float(num * (mean**2).sum())
    return min(max(shared / max(noise, bias), 0.0), 1.0) if noise > 0 else 0.0
