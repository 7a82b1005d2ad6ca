"""The weight of an error: how likely a token that was drawn blindly is still wrong in the data."""

from itertools import pairwise

import pytest
import torch

import exact
from cases import KERNELS, Blur, each_kernel
from ddm.denoisers import ExactDenoiser
from ddm.functional import times_like
from ddm.kernels import Absorbing, Uniform
from ddm.losses import NELBO
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic
from ddm.schedules import OptimalSteps, measure_step_costs
from ddm.schedules.optimal import retention as module
from ddm.schedules.optimal.retention import (
    LARGEST_WEIGHT,
    blind_errors,
    blind_ratio,
    retention,
    sign_test,
    still_seen,
)

FORGETFUL = [kernel for kernel in KERNELS if not isinstance(kernel, Absorbing)]
TIMES = torch.linspace(0, 1, 13, dtype=torch.float64) ** 2


def through(process, f, s, t, length):
    """Return E[f(x_t) | x_s] of functions f of x_t, (S, ...)."""
    return torch.einsum("st,t...->s...", exact.transition(process, s, t, length), f)


def exact_errors(process, joint, times=TIMES):
    """Return the mean errors of a cost table at `times` by enumeration of paths, (M, 2)."""
    length, rows, below = joint.ndim, [], float(times[1])
    x_t, denoiser = (
        exact.sequences(process.kernel.num_states, length),
        ExactDenoiser(process, joint),
    )
    for s, t in pairwise(times):
        ratio, before = blind_ratio(denoiser(x_t, times_like(t, x_t)), s)
        test = sign_test(denoiser(x_t, times_like(below, x_t)), s)
        seen = still_seen(test, through(process, ratio, below, float(t), length))
        p_t, p_below = (exact.marginal(process, joint, float(u)) for u in (t, below))
        rows.append(torch.stack([p_t @ before.sum(-1), p_below @ seen.sum(-1)]))
        below = float(t)
    return torch.stack(rows)


def exact_retention(process, joint, times=TIMES):
    """Return the exact retention at `times`."""
    return retention(exact_errors(process, joint, times)[None])


def blind_laws(process, joint, t):
    """Return the laws of x_t with one token drawn blindly, for every position, (L, S)."""
    length, size = joint.ndim, process.kernel.num_states
    law = exact.marginal(process, joint, t).reshape([size] * length)
    laws = []
    for i in range(length):
        shape = [size if k == i else 1 for k in range(length)]
        laws.append((law.sum(i, keepdim=True) * process.kernel.prior().reshape(shape)).flatten())
    return torch.stack(laws)


def product(law):
    """Return the joint law of two independent tokens."""
    law = torch.tensor(law, dtype=torch.float64)
    return torch.outer(law, law)


def parity(strength, length):
    """Return the law of bits whose parity is even with probability (1 + strength) / 2."""
    bits = exact.sequences(2, length)
    law = (1 + strength * (1 - 2 * (bits.sum(1) % 2)).double()) / 2**length
    return law.reshape([2] * length)


@pytest.mark.parametrize("kernel", FORGETFUL, ids=lambda k: type(k).__name__)
def test_it_is_a_distance_of_laws(kernel):
    """Before: the total variation of whole laws. After: at most that, here down to t = 0.

    The reverse channel is `p(x_0 | x_t) = p_0(x_0) P(x_0, x_t) / p_t(x_t)`, by Bayes.
    """
    process, joint, t, near = (
        ForwardProcess(kernel, LogLinear()),
        exact.random_joint(3, 3),
        0.3,
        1e-6,
    )
    times = torch.tensor([0, near, t], dtype=torch.float64)
    before, seen = exact_errors(process, joint, times)[-1]
    blind, p_0, p_t = (
        blind_laws(process, joint, t),
        joint.flatten(),
        exact.marginal(process, joint, t),
    )
    channel = p_0[:, None] * exact.transition(process, 0.0, t, 3) / p_t
    torch.testing.assert_close(before, (blind - p_t).abs().sum())
    left = (blind @ channel.mT - p_0).abs().sum()
    assert 0.5 * left < seen <= left * (1 + 1e-4)


@pytest.mark.parametrize("length", [2, 3, 5])
def test_all_tokens_repair_a_parity(length):
    """A law of the parity alone: the error in it shrinks as the channel of the parity says.

    With `m = strength rho^length` at t, what survives is `rho^length (1 - strength^2) / (1 - m^2)`,
    the determinant of the reverse channel between two parities, on any grid.
    """
    process, strength = ForwardProcess(Uniform(2), LogLinear()), 0.8
    times = torch.tensor([0, 1e-9, 0.05, 0.2, 0.5], dtype=torch.float64)
    keep = exact.correlation(process.kernel, process.noise.sigma(times)) ** length
    expected = keep * (1 - strength**2) / (1 - (strength * keep) ** 2)
    actual = exact_retention(process, parity(strength, length), times)
    torch.testing.assert_close(actual, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("law", [[0.6, 0.4], [0.9, 0.1]])
def test_independent_tokens_of_two_letters(law):
    """The channel's determinant: `rho(s) p_0(0) p_0(1) / (p_s(0) p_s(1))` on any grid."""
    process, joint = ForwardProcess(Uniform(2), LogLinear()), product(law)
    rho = exact.correlation(process.kernel, process.noise.sigma(TIMES))
    p = 0.5 + rho * (law[0] - 0.5)
    expected = rho * law[0] * law[1] / (p * (1 - p))
    torch.testing.assert_close(exact_retention(process, joint), expected, rtol=1e-9, atol=0)


def test_independent_tokens_keep_by_correlation():
    """Without context or preferences it is the one-token correlation, here within 3 %."""
    process = ForwardProcess(Uniform(3), LogLinear())
    actual = exact_retention(process, product([0.35, 0.33, 0.32]))
    rho = exact.correlation(process.kernel, process.noise.sigma(TIMES))
    torch.testing.assert_close(actual, rho, rtol=0.03, atol=0)


def test_context_repairs():
    """Between tokens that nearly always agree an error is forgotten sooner than by correlation."""
    process, agree = ForwardProcess(Uniform(3), LogLinear()), torch.eye(3, dtype=torch.float64) / 3
    kept = exact_retention(process, torch.lerp(product([1 / 3] * 3), agree, 0.9))
    rho = exact.correlation(process.kernel, process.noise.sigma(TIMES))
    assert (kept[2:-1] < 0.85 * rho[2:-1]).all()


@pytest.mark.parametrize("kernel", FORGETFUL, ids=lambda k: type(k).__name__)
def test_it_falls(kernel):
    """It falls from 1 at t = 0 to less at t = 1."""
    kept = exact_retention(ForwardProcess(kernel, LogLinear()), exact.random_joint(3, 2))
    assert kept[0] == 1
    assert (kept >= 0).all()
    assert (kept.diff() < 0).all()


@each_kernel
def test_measured(kernel):
    """Measured errors lie within 6 standard errors of enumeration (false alarm below 1e-6).

    With masks nothing is repaired, and nothing measured.
    """
    process, joint = ForwardProcess(kernel, LogLinear()), exact.random_joint(3, 2)
    index = torch.multinomial(joint.flatten(), 4000, replacement=True, generator=exact.seeded())
    x_0, denoiser = exact.sequences(3, 2)[index], ExactDenoiser(process, joint)
    costs = measure_step_costs(denoiser, x_0, TIMES, generator=exact.seeded())
    if isinstance(kernel, Absorbing):
        assert (retention(costs.errors) == 1).all()
    else:
        error = costs.errors.std(0) / len(x_0) ** 0.5
        expected = exact_errors(process, joint)
        assert ((costs.errors.mean(0) - expected).abs() <= 6 * error + 1e-12).all()


@pytest.mark.parametrize("masked", [False, True])
def test_large_vocabularies_look_at_every_so_many_th_token(masked, monkeypatch):
    """All starts together look at every free token once, and find what one look at all finds."""
    process = ForwardProcess(Uniform(3), LogLinear())
    joint, x_t = exact.random_joint(3, 3), exact.sequences(3, 3)[:7]
    free = torch.rand(x_t.shape, generator=exact.seeded()) < 0.6 if masked else None
    both = [ExactDenoiser(process, joint)(x_t, times_like(t, x_t), free) for t in (0.6, 0.4)]
    s = torch.tensor(0.4, dtype=torch.float64)
    whole = blind_errors(*both, s, first=5)
    monkeypatch.setattr(module, "LARGE", 1)  # every third token
    parts = [blind_errors(*both, s, first) for first in (3, 4, 5)]
    torch.testing.assert_close(sum(parts), whole)
    assert all((part[:, 0] < whole[:, 0]).any() for part in parts)


def test_where_nothing_is_known_nothing_is_forgotten():
    """Uniform independent tokens tell nothing of one another; no division by zero."""
    process = ForwardProcess(Uniform(3), LogLinear())
    assert (exact_retention(process, product([1 / 3] * 3)) == 1).all()


def test_no_token_outvotes_the_batch():
    """A token whose context has changed its mind counts with the largest weight, not with 1e9."""
    test = torch.tensor([[[0.5, -0.5]], [[0.5, -0.5]]], dtype=torch.float64)
    ratio = torch.tensor([[[1e9, 1e9 / 3]], [[1.2, 0.8]]], dtype=torch.float64)
    expected = torch.tensor([LARGEST_WEIGHT / 2, 0.2], dtype=torch.float64)
    torch.testing.assert_close(still_seen(test, ratio)[:, 0], expected)


def test_masks_are_never_repaired():
    """A kernel with a mask of its own that is not only absorbing has weights of 1, and no gap.

    Blind tokens from a prior of masks would all count as repaired, and every step as free. A single
    step costs the total correlation, measured with a standard error of .026 (6 of them).
    """
    kernel = Blur(3)
    process, joint = ForwardProcess(kernel, LogLinear()), exact.random_joint(3, 2, coupling=2.0)
    index = torch.multinomial(joint.flatten(), 4000, replacement=True, generator=exact.seeded())
    x_0, denoiser = exact.sequences(3, 2)[index], ExactDenoiser(process, joint)
    optimizer = OptimalSteps(num_times=12, pilot_times=6)
    table = optimizer.table(denoiser, Analytic(), x_0, generator=exact.seeded())
    assert (table.retention == 1).all()
    margins = exact.entropy(joint.sum(0)) + exact.entropy(joint.sum(1))
    assert table.excess[-1, 0] == pytest.approx(margins - exact.entropy(joint), abs=6 * 0.026)
    assert (kernel.prior_divergence(process.noise.sigma(torch.ones(()).double())) == 0).all()
    assert torch.isfinite(NELBO()(denoiser, x_0, 0.5, exact.seeded())).all()
