"""The step-cost objective: what every possible step costs, one network call per grid time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.optimize import isotonic_regression
from torch import Tensor
from tqdm.auto import tqdm

from ddm.denoisers import (
    Denoiser,
    Prediction,
    checked_call,
    chunks,
    given_prompt,
    times_like,
)
from ddm.functional import gather_objects
from ddm.kernels import Absorbing, DenseKernel, Kernel
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, PredictorCorrector, Sampler
from ddm.samplers.sampler import CHUNK

LARGEST_WEIGHT = 10.0
"""Largest weight of a token in the estimate of `still_seen`."""


@dataclass(frozen=True)
class StepCosts:
    r"""Measured costs `C(t_i -> t_j)` of every step down a grid, for every sequence.

    Attributes:
        times: Increasing grid from 0 to 1, (M + 1,).
        nats: `nats[b, i, j]` for j < i, nats per sequence, else 0; (B, M + 1, M + 1).
        analytic: What the steps i + 1 -> i and i + 1 -> i - 1 cost with the analytic law, the
            latter 0 for i = 0; (B, M, 2).
        errors: How wrong blind tokens are before the step i + 1 -> i and after it, see
            `blind_ratio` and `still_seen`, (B, M, 2).
        num_calls: Network calls made, M per batch of sequences.
    """

    times: Float[Tensor, " T"]
    nats: Float[Tensor, "B T T"]
    analytic: Float[Tensor, "B M 2"]
    errors: Float[Tensor, "B M 2"]
    num_calls: int

    def part(self, which: slice) -> StepCosts:
        """Return the costs of some of the sequences."""
        return replace(
            self, nats=self.nats[which], analytic=self.analytic[which], errors=self.errors[which]
        )


def judged(sampler: Sampler) -> Sampler:
    """Return the sampler that states what a step of `sampler` costs.

    A law with rates frozen over the step is no objective: after a long step a token may have no
    chance to be where the data are, which costs infinitely much and matters little, since at t = 1
    the state that a token leaves is noise. Mixed with the analytic law its cost is finite and still
    ranks schedules by the misfit of single tokens, most of which later steps repair; the cost of
    the analytic step ranks them as their errors do (scripts/benchmarks/bound_vs_error.py).
    """
    if isinstance(sampler, PredictorCorrector):
        return judged(sampler.predictor)
    by_its_law = type(sampler).step_cost is Sampler.step_cost
    return Analytic() if by_its_law else sampler


def excess(
    nats: Float[Tensor, "*B T T"], cells: Float[Tensor, "*B M"] | None = None
) -> Float[Tensor, "*B T T"]:
    """Return `C(i -> j)` minus the analytic cost of taking every cell between i and j.

    What a step loses against its own refinement on the grid: >= 0 in the mean and, for an exact
    denoiser and the analytic sampler on a fine grid, the conditional total correlation that the
    step destroys.

    Args:
        nats: Costs of all steps.
        cells: Costs of the cells with the analytic law; by default those of `nats`.
    """
    if cells is None:
        cells = nats.diagonal(-1, -2, -1)  # the steps i + 1 -> i
    level = torch.cat([torch.zeros_like(cells[..., :1]), cells.cumsum(-1)], -1)
    return nats - (level[..., :, None] - level[..., None, :]).tril(-1)


def measure_step_costs(
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Int[Tensor, "B L"],
    times: Float[Tensor, " T"],
    *,
    prompt_mask: Bool[Tensor, " L"] | None = None,
    batch_size: int | None = None,
    generator: torch.Generator | None = None,
    progress: bool = False,
) -> StepCosts:
    r"""Measure `C(t -> s) = E sum_i KL( q(x_s^i | x_t^i, x_0^i) || Q(x_s^i | x_t) )` on a grid.

    One forward path per sequence serves all times; the network is called once per time and
    batch, and the cost of every landing time follows by algebra, in float64 and in pieces that
    bound the memory. The sum of C along a schedule is the NELBO of the sampler that states C, with
    this schedule, exactly. Under `torch.distributed` every process measures its own sequences and
    gets the costs of all; the call is collective.

    Args:
        denoiser: The model.
        sampler: The sampler that will be run; `judged` says whose step is measured.
        x_0: Data tokens.
        times: Increasing grid from 0 to 1.
        prompt_mask: Positions that are given: they stay clean and cost nothing.
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
    mine: list[tuple[Tensor, Tensor, Tensor]] = []
    failure: ValueError | None = None
    try:
        with torch.no_grad(), bar:
            for batch in batches:
                given, free = given_prompt(denoiser, batch, prompt_mask)
                path = given.process.sample_path(free, times[1:], generator)
                rows = zip(*_rows(given, sampler, free, path, times, bar), strict=True)
                nats, analytic, errors = (torch.stack(row, 1).cpu() for row in rows)
                mine.append((torch.nn.functional.pad(nats, (0, 0, 1, 0)), analytic, errors))
    except ValueError as error:
        # One process that gives up must not leave the others waiting for its costs.
        failure = error
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for theirs, their_failure in gather_objects((mine, failure)):
        if their_failure is not None:
            raise their_failure
        parts += theirs
    nats, analytic, errors = (torch.cat(part) for part in zip(*parts, strict=True))
    return StepCosts(times.cpu(), nats, analytic, errors, len(batches) * (len(times) - 1))


def _rows(
    denoiser: Denoiser,
    sampler: Sampler,
    x_0: Tensor,
    path: Tensor,
    times: Tensor,
    bar: tqdm[Any],
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield nats (B, M + 1), analytic (B, 2) and errors (B, 2) of the steps from t_1, t_2, ...."""
    sampler = judged(sampler)
    repairs = not isinstance(denoiser.process.kernel, Absorbing)  # a revealed token stays
    below: Prediction | None = None
    for i in range(1, len(times)):
        prediction = checked_call(denoiser, path[i - 1], times_like(times[i], x_0))
        row = torch.zeros(len(x_0), len(times), dtype=torch.float64, device=x_0.device)
        analytic, errors, first = row[:, :2].clone(), row[:, :2].clone(), 0
        judge = prediction if below is None else below  # near t = 0 the only context is its own
        for piece, piece_below in chunks([prediction, judge], CHUNK):
            p, width = piece.double(), piece.x_t.shape[1]
            target = x_0[:, first : first + width]
            cost = sampler.step_cost(p, target, times[:i]).T
            row[:, :i] += cost
            if isinstance(sampler, Analytic):
                near = cost[:, -2:].flip(1)  # one cell below, two cells below
            else:
                near = Analytic().step_cost(p, target, times[max(0, i - 2) : i].flip(0)).T
            analytic[:, : near.shape[1]] += near
            if repairs:
                ratio, before = blind_ratio(p, times[i - 1])
                test = sign_test(piece_below.double(), times[i - 1])
                errors += torch.stack([before, still_seen(test, ratio)], -1)
            first += width
        if repairs:
            below = prediction
        bar.update()
        yield row, analytic, errors


def blind_ratio(
    prediction: Prediction, s: Float[Tensor, ""]
) -> tuple[Float[Tensor, "B L K"], Float[Tensor, " B"]]:
    r"""Draw a token blindly at t: how that changes the law of x_s, and how wrong it is before.

    Blindly means from the kernel's prior, in a context x_t that is right. The law of the sequence
    is then off by the factor `f(x_t) = prior(x_t^i) / p(x_t^i | x_t without i)`, and after an exact
    step down to s by the factor `E[f | x_s]`. Not for masks, which tell what is noise.

    Returns:
        `E[f | x_s^i, x_t without i]` for every token x_s^i, and twice the total variation distance
        of the prior to what the context says of the token, summed over positions.
    """
    process, kernel = prediction.process, prediction.process.kernel
    sigma_t, sigma_s = process.noise.sigma(prediction.t[0]), process.noise.sigma(s)
    now = kernel.evolve(_context(prediction), sigma_t)
    # States that the context rules out are lost in rounding; no token is drawn there.
    blind = torch.where(now > 1e-12, kernel.prior().to(now.device), 0.0)
    blind = blind / blind.sum(-1, keepdim=True)
    ratio = torch.where(now > 1e-12, blind / now, 0.0)
    return _expectation(kernel, ratio, sigma_t - sigma_s), (blind - now).abs().sum((1, 2))


def sign_test(prediction: Prediction, s: Float[Tensor, ""]) -> Float[Tensor, "B L K"]:
    """Return a test for blind tokens in x_s, by the context that a prediction saw.

    It says +1 of a token that the prior finds likelier than its context does, else -1. Returned
    times the probability in the context, so that a sum over tokens is an expectation.
    """
    process, kernel = prediction.process, prediction.process.kernel
    expected = kernel.evolve(_context(prediction), process.noise.sigma(s))
    return expected * torch.sign(kernel.prior().to(expected.device) - expected)


def still_seen(test: Float[Tensor, "B L K"], ratio: Float[Tensor, "B L K"]) -> Float[Tensor, " B"]:
    """Return what `sign_test` at s sees of tokens drawn blindly at t, see `blind_ratio`.

    In the mean at most twice the total variation distance at s of the laws of whole sequences,
    summed over positions. Weights are cut, so that one token whose context has changed its mind
    does not outvote the batch.
    """
    weight = (test.abs() * ratio).sum(-1, keepdim=True)
    cut = ratio * (LARGEST_WEIGHT / weight).clamp(max=1.0)
    return (test * (cut - 1.0)).sum((1, 2))


def _context(prediction: Prediction) -> Float[Tensor, "B L V"]:
    """Return what all other tokens say of x_0^i."""
    p = prediction
    return p.process.leave_one_out(p.log_posterior(), p.x_t, p.t).exp()


def _expectation(kernel: Kernel, f: Tensor, sigma: Tensor) -> Tensor:
    """Return E[f(y)] for y drawn from P(sigma)[x, :], for every state x."""
    if isinstance(kernel, DenseKernel):
        return f @ kernel.transition(sigma).mT
    prior = kernel.prior().to(f.device)  # detailed balance: pi(x) P[x, y] = pi(y) P[y, x]
    return kernel.evolve(f * prior, sigma) / prior


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
