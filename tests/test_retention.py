"""The weight of an error: how likely a token that was drawn blindly is still wrong in the data."""

from itertools import pairwise

import pytest
import torch

import exact
from cases import KERNELS, each_kernel
from ddm.denoisers import ExactDenoiser, times_like
from ddm.kernels import Absorbing, Uniform
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic
from ddm.schedules import StepCosts, measure_step_costs
from ddm.schedules.optimal_steps import retention
from ddm.schedules.step_cost import blind_errors

FORGETFUL = [kernel for kernel in KERNELS if not isinstance(kernel, Absorbing)]
TIMES = torch.linspace(0, 1, 13, dtype=torch.float64) ** 2


def exact_errors(process, joint, t, s):
    """Return the mean of `blind_errors` by enumeration of x_t, (2,)."""
    x_t = exact.sequences(process.kernel.num_states, joint.ndim)
    p_t = exact.marginal(process, joint, float(t))
    possible = p_t > 0
    prediction = ExactDenoiser(process, joint)(x_t[possible], times_like(t, x_t[possible]))
    return p_t[possible] @ blind_errors(prediction, s)


def exact_retention(process, joint):
    """Return the exact retention at TIMES."""
    errors = [exact_errors(process, joint, t, s) for s, t in pairwise(TIMES)]
    cells = torch.zeros(1, len(TIMES) - 1, 2, dtype=torch.float64)
    nats = torch.zeros(1, len(TIMES), len(TIMES), dtype=torch.float64)
    return retention(StepCosts(TIMES, nats, cells, torch.stack(errors)[None], 0))


def product(law):
    """Return the joint law of two independent tokens."""
    law = torch.tensor(law, dtype=torch.float64)
    return torch.outer(law, law)


@pytest.mark.parametrize("kernel", FORGETFUL, ids=lambda k: type(k).__name__)
def test_blind_errors_written_out(kernel):
    """They are total variation distances before and after the reverse channel, by Bayes.

    The channel of a token is `p(x_s | x_t) = p_s(x_s) P(x_s, x_t) / p_t(x_t)` in its context.
    """
    process, joint, s, t = ForwardProcess(kernel, LogLinear()), exact.random_joint(3, 2), 0.2, 0.5
    context = exact.leave_one_out(process, joint, t)
    sigma_s, sigma_t = process.noise.sigma(torch.tensor([s, t], dtype=torch.float64))
    now, then = (context @ exact.expm(kernel, sigma) for sigma in (sigma_t, sigma_s))
    channel = then[..., :, None] * exact.expm(kernel, sigma_t - sigma_s) / now[..., None, :]
    blind = kernel.prior()
    after = torch.einsum("bist,t->bis", channel, blind)
    distances = torch.stack([(blind - now).abs().sum(-1), (after - then).abs().sum(-1)], -1)
    expected = exact.marginal(process, joint, t) @ distances.sum(1)
    actual = exact_errors(process, joint, t, torch.tensor(s, dtype=torch.float64))
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("law", [[0.6, 0.4], [0.9, 0.1]])
def test_independent_tokens_of_two_letters(law):
    """The channel's determinant: `rho(s) p_0(0) p_0(1) / (p_s(0) p_s(1))` on any grid."""
    process, joint = ForwardProcess(Uniform(2), LogLinear()), product(law)
    rho = process.kernel.correlation(process.noise.sigma(TIMES))
    p = 0.5 + rho * (law[0] - 0.5)
    expected = rho * law[0] * law[1] / (p * (1 - p))
    torch.testing.assert_close(exact_retention(process, joint), expected, rtol=1e-9, atol=0)


def test_independent_tokens_keep_by_correlation():
    """Without context or preferences it is the one-token correlation, here within 3 %."""
    process = ForwardProcess(Uniform(3), LogLinear())
    actual = exact_retention(process, product([0.35, 0.33, 0.32]))
    rho = process.kernel.correlation(process.noise.sigma(TIMES))
    torch.testing.assert_close(actual, rho, rtol=0.03, atol=0)


def test_context_repairs():
    """Between tokens that nearly always agree an error is forgotten sooner than by correlation."""
    process, agree = ForwardProcess(Uniform(3), LogLinear()), torch.eye(3, dtype=torch.float64) / 3
    kept = exact_retention(process, torch.lerp(product([1 / 3] * 3), agree, 0.9))
    rho = process.kernel.correlation(process.noise.sigma(TIMES))
    assert (kept[2:-1] < 0.85 * rho[2:-1]).all()


@each_kernel
def test_it_falls(kernel):
    """It falls from 1 at t = 0 to less at t = 1; for masks it is 1 at all times."""
    process = ForwardProcess(kernel, LogLinear())
    kept = exact_retention(process, exact.random_joint(3, 2))
    assert kept[0] == 1
    assert (kept >= 0).all()
    if isinstance(kernel, Absorbing):
        assert (kept == 1).all()
    else:
        assert (kept.diff() < 0).all()


def test_measured_is_exact():
    """Measured errors lie within 6 standard errors of enumeration (false alarm below 1e-6)."""
    process, joint = ForwardProcess(Uniform(3), LogLinear()), exact.random_joint(3, 2)
    index = torch.multinomial(joint.flatten(), 4000, replacement=True, generator=exact.seeded())
    x_0, denoiser = exact.sequences(3, 2)[index], ExactDenoiser(process, joint)
    costs = measure_step_costs(denoiser, Analytic(), x_0, TIMES, generator=exact.seeded())
    error = costs.errors.std(0) / len(x_0) ** 0.5
    pairs = pairwise(TIMES)
    expected = torch.stack([exact_errors(process, joint, t, s) for s, t in pairs])
    assert ((costs.errors.mean(0) - expected).abs() <= 6 * error + 1e-12).all()


def test_where_nothing_is_known_nothing_is_forgotten():
    """Uniform independent tokens tell nothing of one another; no division by zero."""
    process = ForwardProcess(Uniform(3), LogLinear())
    kept = exact_retention(process, product([1 / 3] * 3))
    assert torch.isfinite(kept).all()
