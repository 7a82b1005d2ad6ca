"""The weight of an error: how much of a wrong state survives to the data."""

import itertools

import pytest
import torch

from cases import KERNELS
from ddm.denoisers import ExactDenoiser, times_like
from ddm.kernels import Absorbing, Gaussian, Uniform
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic
from ddm.schedules import StepCosts
from ddm.schedules.optimal_steps import retention

V, L = 3, 2
DATA = torch.tensor([[0, 1], [1, 2], [2, 2], [1, 1]])  # each with probability 1 / 4


def entropy(p):
    """Return the entropy of a law in nats."""
    return -torch.xlogy(p, p).sum(-1)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("sigma", [0.0, 0.01, 1.0, 20.0])
def test_noise_entropy(kernel, sigma):
    """It is the entropy of the rows of exp(sigma Q); 0 where masks tell which tokens are noise."""
    level = torch.tensor(sigma, dtype=torch.float64)
    actual = kernel.noise_entropy(level)
    tokens = torch.arange(kernel.vocab_size)
    expected = entropy(kernel.transition_from(tokens, level))
    if isinstance(kernel, Absorbing):
        expected = torch.zeros_like(expected)
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)


def exact_costs(process, times):
    """Return the exact mean costs of all steps on a grid, by enumeration of (x_0, x_t)."""
    joint = torch.zeros(V, V, dtype=torch.float64)
    joint[DATA[:, 0], DATA[:, 1]] = 1 / len(DATA)
    denoiser = ExactDenoiser(process, joint)
    states = torch.tensor(list(itertools.product(range(process.kernel.num_states), repeat=L)))
    x_0 = DATA.repeat_interleave(len(states), 0)
    x_t = states.repeat(len(DATA), 1)
    nats = torch.zeros(1, len(times), len(times), dtype=torch.float64)
    laws = []
    for i, t in enumerate(times):
        rows = process.kernel.transition_from(x_0, process.noise.sigma(t))
        weight = rows.gather(-1, x_t[..., None]).squeeze(-1).prod(-1) / len(DATA)
        laws.append(weight.reshape(len(DATA), len(states)))
        if i > 0:
            possible = weight > 0
            prediction = denoiser(x_t[possible], times_like(t, x_t[possible]))
            cost = Analytic().step_cost(prediction, x_0[possible], times[:i])
            nats[0, i, :i] = (cost * weight[possible]).sum(-1)
    return nats, torch.stack(laws)


@pytest.mark.parametrize("kernel", [Uniform(V), Gaussian(V)], ids=lambda k: type(k).__name__)
def test_retention_is_information_over_entropy(kernel):
    """On a fine grid it is I(x_0; x_s) / H(x_s), by enumeration.

    The cost of all cells below s bounds H(x_0 | x_s) from above and tends to it; on 120 cells the
    difference is below 2 % of the data's entropy.
    """
    process = ForwardProcess(kernel, LogLinear(1e-6))
    times = torch.linspace(0, 1, 121, dtype=torch.float64) ** 2
    nats, laws = exact_costs(process, times)
    state = entropy(laws.sum(1))
    information = entropy(laws.sum(2)) + state - entropy(laws.flatten(1))
    actual = retention(process, StepCosts(times, nats, 0), DATA)
    torch.testing.assert_close(actual, information / state, rtol=0.0, atol=0.02)
    assert actual[0] == 1
    assert (actual.diff() < 1e-12).all()


def test_masks_forget_nothing():
    """For the absorbing kernel every error survives, at all times, t = 1 included."""
    process = ForwardProcess(Absorbing(V), LogLinear())
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    nats, _ = exact_costs(process, times)
    assert (retention(process, StepCosts(times, nats, 0), DATA) == 1).all()
