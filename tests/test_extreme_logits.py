"""Logits of 1e4, as from networks that train too fast: laws against sums in logarithms."""

import itertools

import pytest
import torch
from torch import nn

from cases import each_kernel, each_loss
from ddm import ForwardProcess, Gaussian
from ddm.denoisers import MeanDenoiser, PosteriorDenoiser, ScoreDenoiser
from ddm.functional import categorical
from ddm.noise import LogLinear
from ddm.samplers import Euler, TauLeaping

LARGE = (-1e4, 0.0, 1e4)
STEPS = [(1.0, 0.5), (0.5, 0.4999), (1e-6, 1e-9), (0.3, 0.0)]


class Constant(nn.Module):
    """A network whose output is a parameter."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x_t, t):
        return self.output


def predict(kind, kernel, t, dtype=torch.float64):
    """Return the prediction of all logits out of LARGE, with every state at its own position."""
    process = ForwardProcess(kernel, LogLinear())
    size = kernel.num_states if kind is ScoreDenoiser else kernel.vocab_size
    rows = torch.tensor(list(itertools.product(LARGE, repeat=size)), dtype=dtype)
    output = rows[:, None].expand(-1, kernel.num_states, -1).contiguous()
    x_t = torch.arange(kernel.num_states).expand(len(rows), -1)
    with torch.no_grad():
        return kind(Constant(output), process)(x_t, t)


def log_marginals(p, sigma):
    """Return log p(x_0) A(sigma), summed in logarithms."""
    log_p = torch.log_softmax(p.log_leave_one_out(), -1)[..., None]
    ahead = p.process.kernel.transition(sigma)[: p.process.kernel.vocab_size]
    return (log_p + ahead.log()).logsumexp(-2)


@each_kernel
@pytest.mark.parametrize("kind", [MeanDenoiser, PosteriorDenoiser])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_bridge(kernel, kind, t, s):
    """The bridge is `m_s[v] P(sigma_t - sigma_s)[v, x_t]`, normalized, summed in logarithms."""
    p = predict(kind, kernel, t)
    times = torch.tensor([t, s], dtype=torch.float64)
    sigma_t, sigma_s = p.process.noise.sigma(times)
    log_law = log_marginals(p, sigma_s) + kernel.transition(sigma_t - sigma_s).log().mT
    possible = (log_law > -torch.inf).any(-1)
    law = p.bridge(times[1].expand(len(p.x_t)))
    # Probabilities below the smallest number are zeros of the library.
    expected = torch.softmax(log_law, -1)[possible]
    reached = possible & (log_law.amax(-1) > -700)
    torch.testing.assert_close(law[reached], expected[reached[possible]], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(law.sum(-1), torch.ones_like(law[..., 0]), rtol=1e-9, atol=0)


@each_kernel
@pytest.mark.parametrize("kind", [MeanDenoiser, PosteriorDenoiser, ScoreDenoiser])
@pytest.mark.parametrize(("t", "s"), STEPS[:3])
def test_euler(kernel, kind, t, s):
    """The probability of a jump is its rate times the step, cut off and divided in logarithms."""
    p = predict(kind, kernel, t)
    times = torch.tensor([t, s], dtype=torch.float64)
    if kind is ScoreDenoiser:
        log_ratio = p.log_ratio()
    else:
        log_m = log_marginals(p, p.process.noise.sigma(times[0]))
        log_ratio = log_m - log_m.gather(-1, p.x_t[..., None])
        log_ratio = log_ratio.nan_to_num(nan=-torch.inf, posinf=-torch.inf)  # x_t cannot be
    rate = p.process.jump_rate_to(p.x_t, times[0])
    log_mean = log_ratio + rate.log() + (times[0] - times[1]).log()
    jump = (log_mean - log_mean.logsumexp(-1, keepdim=True).clamp(min=0.0)).exp()
    expected = jump.scatter_add(-1, p.x_t[..., None], 1 - jump.sum(-1, keepdim=True))
    law = Euler().law([p], times[1].expand(len(p.x_t)))
    torch.testing.assert_close(law, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("logits", "x", "expected"),
    [
        ((0.0, 1e4, -1e4), 0, (0.0, 0.0, 1.0)),  # one jump after the other, all upwards
        ((-1e4, 1e4, 0.0), 2, (1.0, 0.0, 0.0)),
        ((1e4, 0.0, 1e4), 1, (0.5, 0.0, 0.5)),  # up and down alike
        ((1e4, 0.0, 9e3), 1, (1.0, 0.0, 0.0)),
    ],
)
def test_more_jumps_than_numbers(logits, x, expected):
    """Jumps at rates beyond all numbers end where the faster direction leads, in law and in draws.

    The draws of two of a million jumps that differ by less than the scale are one in a thousand,
    which the tolerance of .005 of the law allows for, and 5 standard deviations of 2,000 draws are
    .056.
    """
    process = ForwardProcess(Gaussian(3), LogLinear())
    num = 2000
    output = torch.tensor(logits, dtype=torch.float32).expand(num, 1, 3)
    x_t = torch.full((num, 1), x)
    with torch.no_grad():
        p = ScoreDenoiser(Constant(output), process)(x_t, 1.0)
    s = torch.full((num,), 0.5, dtype=torch.float64)
    drawn = TauLeaping().draw([p], s, torch.Generator().manual_seed(0))
    share = torch.bincount(drawn.flatten(), minlength=3) / num
    wanted = torch.tensor(expected)
    torch.testing.assert_close(share, wanted, rtol=0, atol=0.056 if 0.5 in expected else 0.0)
    with torch.no_grad():
        first = ScoreDenoiser(Constant(output[:1]), process)(x_t[:1], 1.0).double()
    law = TauLeaping().law([first], s[:1])[0, 0]
    torch.testing.assert_close(law, wanted.double(), rtol=0, atol=0.005)


@each_loss
@each_kernel
@pytest.mark.parametrize("kind", [MeanDenoiser, PosteriorDenoiser, ScoreDenoiser])
def test_losses(kernel, loss, kind):
    """However wrong a network is, its loss is a number, and so is the gradient of a finite loss.

    Ratios of exp(1e4) have a score entropy beyond all numbers: infinite is the right value.
    """
    process = ForwardProcess(kernel, LogLinear())
    size = kernel.num_states if kind is ScoreDenoiser else kernel.vocab_size
    rows = torch.tensor(list(itertools.product(LARGE, repeat=size)))
    network = Constant(rows[:, None].expand(-1, 3, -1).contiguous())
    x_0 = torch.arange(3).expand(len(rows), -1)
    t = torch.linspace(1e-3, 1.0, len(rows), dtype=torch.float64)
    value = loss(kind(network, process), x_0, t, torch.Generator().manual_seed(0))
    assert not torch.isnan(value).any()
    if kind is not ScoreDenoiser:
        assert torch.isfinite(value).all()
    value[torch.isfinite(value)].sum().backward()
    gradient = network.output.grad[torch.isfinite(value)]
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize(
    ("probs", "reason"),
    [([0.0, 0.0], "all weights are 0"), ([torch.nan, 1.0], "NaN"), ([torch.inf, 1.0], "infinite")],
)
def test_draws_say_what_is_wrong(probs, reason):
    """Where nothing is left to draw, no network is blamed; the error names what it found."""
    with pytest.raises(ValueError, match=reason) as error:
        categorical(torch.tensor(probs))
    assert ("network" in str(error.value)) == (probs[1] != 0)
