"""How long errors live: what part of them later steps repair, measured beside the step costs."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.kernels.sparse import CHUNK, cached

LARGEST_WEIGHT = 10.0
"""Largest weight of a token in the estimate of `still_seen`."""
LARGE = 4096
"""Vocabulary above which only some of the tokens are looked at, for the cost of so many words."""


def retention(errors: Float[Tensor, "B M 2"]) -> Float[Tensor, " T"]:
    r"""Return how much of an error made at each grid time survives to t = 0.

    A self-correcting kernel forgets part of what went wrong at s, because later steps redraw
    tokens in the light of their context. In every cell of the grid a token is drawn blindly, from
    the prior, in a context that is right. A test sees how wrong it is before the cell's exact step
    and after it, in the context of *that* time (`blind_ratio`, `sign_test`, `still_seen`), in total
    variation. The ratio is the chance that what was wrong stays wrong, and the product over all
    cells below s that it is still wrong at t = 0. It is 1 for the absorbing kernel: a revealed
    token stays.

    An error is repaired when its token is redrawn, or when others are redrawn so that it fits: for
    two letters of which only the parity of L tokens is known it is the contraction of the parity,
    the power L of that of a token whose context does not change. For independent tokens without
    preferences it is the maximal correlation of the one-token channel. Total
    variation is linear in the probability of an error; the product of contractions of a divergence
    would overstate what is forgotten.

    Args:
        errors: How wrong blind tokens are before every cell's step and after it, see
            `blind_errors`.
    """
    before, after = errors.sum(0).T
    # Where the context says nothing there is nothing to compare with.
    known = before > 1e-9 * len(errors)
    stays = torch.where(known, after / before, 1.0).clamp(0.0, 1.0)
    return torch.cat([torch.ones(1, dtype=torch.float64), stays.cumprod(0)])


def blind_errors(
    prediction: Prediction, judge: Prediction, s: Float[Tensor, ""], first: int = 0
) -> Float[Tensor, "B 2"]:
    r"""Return how wrong blind tokens are before a step down to s and after it, in every sequence.

    `retention` reads a ratio of means over all sequences. With a vocabulary above `LARGE` every
    `V / LARGE`-th free token is enough for it, and a row of the table costs little more than
    without.

    Args:
        prediction: At the time t where tokens are drawn blindly.
        judge: At s, by which they are judged after the step.
        s: Time to land at.
        first: Number of the step: which of the free tokens begin.

    Returns:
        Sums over the tokens looked at of the errors of `blind_ratio` and of `still_seen`.
    """
    kernel, x_t = prediction.process.kernel, prediction.x_t
    free = torch.ones_like(x_t, dtype=torch.bool) if prediction.free is None else prediction.free
    stride = -(-kernel.num_states // LARGE)
    index = free.nonzero()
    index = index[first % max(1, min(stride, len(index))) :: stride]
    errors = torch.zeros(*x_t.shape, 2, dtype=torch.float64, device=x_t.device)
    for part in index.split(max(1, min(CHUNK, cached(x_t.device)) // kernel.num_states)):
        rows, columns = part.T
        ratio, before = blind_ratio(prediction.at(rows, columns).double(), s)
        test = sign_test(judge.at(rows, columns).double(), s)
        errors[rows, columns] = torch.stack([before, still_seen(test, ratio)], -1).squeeze(1)
    return errors.sum(1)


def blind_ratio(
    prediction: Prediction, s: Float[Tensor, ""]
) -> tuple[Float[Tensor, "B L K"], Float[Tensor, "B L"]]:
    r"""Draw a token blindly at t: how that changes the law of x_s, and how wrong it is before.

    Blindly means from the kernel's prior, in a context x_t that is right. The law of the sequence
    is then off by the factor `f(x_t) = prior(x_t^i) / p(x_t^i | x_t without i)`, and after an exact
    step down to s by the factor `E[f | x_s]`. Not for masks, which tell what is noise.

    Returns:
        `E[f | x_s^i, x_t without i]` for every token x_s^i, and twice the total variation distance
        of the prior to what the context says of the token, per position.
    """
    process, kernel = prediction.process, prediction.process.kernel
    sigma_t, sigma_s = process.noise.sigma(prediction.t[0]), process.noise.sigma(s)
    now = kernel.evolve(kernel.on_states(prediction.leave_one_out()), sigma_t)
    # States that the context rules out are lost in rounding; no token is drawn there.
    blind = torch.where(now > 1e-12, kernel.prior().to(now.device), 0.0)
    blind = blind / blind.sum(-1, keepdim=True)
    ratio = torch.where(now > 1e-12, blind / now, 0.0)
    return kernel.expect(ratio, sigma_t - sigma_s), (blind - now).abs().sum(-1)


def sign_test(prediction: Prediction, s: Float[Tensor, ""]) -> Float[Tensor, "B L K"]:
    """Return a test for blind tokens in x_s, by the context that a prediction saw.

    It says +1 of a token that the prior finds likelier than its context does, else -1. Returned
    times the probability in the context, so that a sum over tokens is an expectation.
    """
    process, kernel = prediction.process, prediction.process.kernel
    expected = kernel.evolve(kernel.on_states(prediction.leave_one_out()), process.noise.sigma(s))
    return expected * torch.sign(kernel.prior().to(expected.device) - expected)


def still_seen(test: Float[Tensor, "B L K"], ratio: Float[Tensor, "B L K"]) -> Float[Tensor, "B L"]:
    """Return what `sign_test` at s sees of tokens drawn blindly at t, see `blind_ratio`.

    In the mean at most twice the total variation distance at s of the laws of whole sequences,
    per position. Weights are cut, so that one token whose context has changed its mind
    does not outvote the batch.
    """
    weight = (test.abs() * ratio).sum(-1, keepdim=True)
    cut = ratio * (LARGEST_WEIGHT / weight).clamp(max=1.0)
    return (test * (cut - 1.0)).sum(-1)
