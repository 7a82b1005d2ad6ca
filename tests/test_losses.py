import numpy as np
import pytest
import torch
from torch import nn

import exact
from cases import NOISES, each_kernel, each_loss, each_noise, label
from ddm.denoisers import (
    ExactDenoiser,
    LogLeaveOneOut,
    LogPosterior,
    LogRatio,
    MeanDenoiser,
    PosteriorDenoiser,
    ScoreDenoiser,
)
from ddm.kernels import Absorbing
from ddm.losses import NELBO, CrossEntropy, Hybrid, ScoreEntropy
from ddm.noise import Exponential
from ddm.process import ForwardProcess
from exact import at, seeded, sequences

LENGTH = 2


class Table(nn.Module):
    """A network whose output is one trainable table of logits, whatever the tokens and times."""

    def __init__(self, *shape, scale=1.0, dtype=torch.float32):
        super().__init__()
        self.logits = nn.Parameter(scale * torch.randn(shape, generator=seeded(), dtype=dtype))

    def forward(self, x_t, t):
        return self.logits.expand(len(x_t), -1, -1)


def close(actual, expected, rtol=1e-9, atol=1e-9):
    """Compare to 1e-9: torch's matrix exponential of one matrix is off by up to 3e-11."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def problem(kernel, noise):
    """Return a process and a law of x_0 with full support."""
    process = ForwardProcess(kernel, noise)
    return process, exact.random_joint(kernel.vocab_size, LENGTH)


def expected_values(loss, denoiser, joint, times):
    """Return the mean of a loss over x_0 and x_t at every time, by enumeration."""
    weights = torch.stack(
        [exact.joint_of_times(denoiser.process, joint, 0.0, float(t)) for t in times]
    )
    # Which pairs are possible does not depend on the time.
    data, states = weights[0].nonzero(as_tuple=True)
    x, m = sequences(denoiser.process.kernel.num_states, LENGTH), len(times)
    prediction = denoiser(x[states].repeat(m, 1), times.repeat_interleave(len(states)))
    value = loss.value(prediction, x[data].repeat(m, 1)).double().reshape(m, -1)
    return (weights[:, data, states] * value).sum(-1)


def integral(loss, denoiser, joint, num_nodes=60):
    """Return the mean of a loss over t in (0, 1] by Gauss-Legendre quadrature.

    The integration variable is u with sigma = sigma(1) u^4: it resolves the logarithm of sigma
    near the data, and the steep ends of some noises do not matter.
    """
    noise = denoiser.process.noise
    top = noise.sigma(at(1.0))
    u, weight = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(num_nodes))
    u, weight = (u + 1) / 2, weight / 2
    t = noise.inverse(top * u**4)
    slope = 4 * top * u**3 / noise.beta(t)  # dt / du
    return float((weight * slope * expected_values(loss, denoiser, joint, t)).sum())


@each_kernel
@each_noise
def test_nelbo_is_entropy(kernel, noise):
    """The exact denoiser's NELBO, integrated over t, is the entropy of the data plus a known gap.

    In general the gap is KL(q_1 || prior). For the absorbing kernel, whose integral stops at the
    mask share of t = 1 and which has no prior term, what is left is H(x_0 | x_1).
    """
    process, joint = problem(kernel, noise)
    actual = integral(NELBO(), ExactDenoiser(process, joint), joint)
    q_1 = exact.marginal(process, joint, 1.0)
    if isinstance(kernel, Absorbing):
        both = exact.joint_of_times(process, joint, 0.0, 1.0)
        expected = exact.entropy(both) - exact.entropy(q_1)
    else:
        expected = exact.entropy(joint) + exact.kl(q_1, torch.kron(kernel.prior(), kernel.prior()))
    # 60 nodes leave 6e-10 where sigma(1) = 297 (exponential noise) and 1e-12 elsewhere.
    assert actual == pytest.approx(expected, abs=1e-8)


@each_kernel
def test_nelbo_given_tokens(kernel):
    """Averaged over the first token it is H(other tokens | first) plus the gap of the others.

    The gap is that of `test_nelbo_is_entropy`, of the law given the first token.
    """
    process = ForwardProcess(kernel, NOISES[0])
    joint = exact.random_joint(3, 1 + LENGTH)
    denoiser = ExactDenoiser(process, joint)
    free = torch.tensor([False, True, True])

    class Given(NELBO):
        """The loss of the last two tokens beside a first one that is given."""

        def __init__(self, first):
            self.first = first

        def value(self, prediction, x_0):
            x_0 = torch.nn.functional.pad(x_0, (1, 0), value=self.first)
            x_t = torch.nn.functional.pad(prediction.x_t, (1, 0), value=self.first)
            return super().value(denoiser(x_t, prediction.t, free.expand_as(x_t)), x_0)

    actual = expected = 0.0
    for first, law in enumerate(joint):
        share, law = float(law.sum()), law / law.sum()
        actual += share * integral(Given(first), ExactDenoiser(process, law), law)
        q_1 = exact.marginal(process, law, 1.0)
        if isinstance(kernel, Absorbing):
            both = exact.joint_of_times(process, law, 0.0, 1.0)
            gap = exact.entropy(both) - exact.entropy(q_1) - exact.entropy(law)
        else:
            gap = exact.kl(q_1, torch.kron(kernel.prior(), kernel.prior()))
        expected += share * gap
    expected += exact.entropy(joint) - exact.entropy(joint.sum((1, 2)))
    assert actual == pytest.approx(expected, abs=1e-8)


@each_kernel
@each_loss
def test_loss_given_tokens(kernel, loss):
    """It is the loss of the free tokens under their law given the others, row by row.

    Rows are given other tokens, none or all; given ones are never noised and cost nothing.
    """
    process = ForwardProcess(kernel, NOISES[0])
    joint = exact.random_joint(3, 1 + LENGTH)
    denoiser = ExactDenoiser(process, joint)
    x_0 = torch.randint(3, (40, 1 + LENGTH), generator=seeded())
    x_0[:, 0] = 1
    free = torch.ones_like(x_0, dtype=torch.bool)
    free[:10, 0] = False
    free[10:20] = False
    free[20:30, 1:] = False
    t = torch.linspace(0.1, 1.0, 40, dtype=torch.float64)
    x_t = process.sample(x_0, t, seeded(5), free=free)
    actual = loss(denoiser, x_0, t, seeded(5), free=free)
    assert (actual[10:20] == 0).all()
    given_first = ExactDenoiser(process, joint[1] / joint[1].sum())
    expected = loss.value(given_first(x_t[:10, 1:], t[:10]), x_0[:10, 1:])
    close(actual[:10], expected, rtol=1e-12, atol=1e-12)
    for row in range(20, 30):
        law = joint[:, x_0[row, 1], x_0[row, 2]]
        alone = ExactDenoiser(process, law / law.sum())
        expected = loss.value(alone(x_t[row : row + 1, :1], t[row : row + 1]), x_0[row, None, :1])
        close(actual[row], expected[0], rtol=1e-12, atol=1e-12)
    whole = loss.value(denoiser(x_t[30:], t[30:]), x_0[30:])
    close(actual[30:], whole, rtol=1e-12, atol=1e-12)


@each_loss
@pytest.mark.parametrize("t", [0.0, -0.1, 1.1, float("nan")])
def test_bad_times(loss, t):
    """A time at which there is nothing to predict, or that is none, is refused."""
    process, joint = problem(Absorbing(3), NOISES[0])
    x_0 = torch.zeros(4, LENGTH, dtype=torch.long)
    with pytest.raises(ValueError, match=r"`t` must lie in \(0, 1\]"):
        loss(ExactDenoiser(process, joint), x_0, t)
    assert loss(ExactDenoiser(process, joint), x_0, 0.5).shape == (4,)


@each_kernel
@each_noise
@each_loss
def test_exact_posterior_is_best(kernel, noise, loss):
    """At every noise level no posterior has a smaller expected loss than the exact one."""
    process, joint = problem(kernel, noise)
    times = noise.inverse(torch.tensor([0.01, 0.7, 4.0], dtype=torch.float64))
    best = expected_values(loss, ExactDenoiser(process, joint), joint, times)
    for seed in range(3):
        other = ExactDenoiser(process, exact.random_joint(kernel.vocab_size, LENGTH, seed=1 + seed))
        assert (expected_values(loss, other, joint, times) > best).all()


def random_posterior(process, x_t, t, dtype=torch.float64):
    """Return a posterior that belongs to no law, but admits x_t, as two kinds of prediction."""
    logits = torch.randn(*x_t.shape, process.kernel.vocab_size, generator=seeded(7), dtype=dtype)
    mean = LogLeaveOneOut(process, logits, x_t, t)
    return mean, LogPosterior(process, mean.log_posterior(), x_t, t)


def random_states(process, t, num=200):
    """Return data tokens and their noised versions."""
    x_0 = torch.randint(process.kernel.vocab_size, (num, LENGTH), generator=seeded(3))
    return x_0, process.sample(x_0, t, seeded(4))


@each_kernel
@each_noise
def test_score_entropy_is_nelbo(kernel, noise):
    """For any posterior the score entropy equals the NELBO, sequence by sequence.

    With the absorbing kernel the NELBO is a weighted cross-entropy and the score entropy goes the
    general way through the ratios, so this compares the two paths.
    """
    process = ForwardProcess(kernel, noise)
    for when in (1e-3, 0.3, 1.0):
        t = at(when, 200)
        x_0, x_t = random_states(process, t)
        for prediction in random_posterior(process, x_t, t):
            a, b = NELBO().value(prediction, x_0), ScoreEntropy().value(prediction, x_0)
            close(a, b, rtol=1e-8, atol=1e-8)


@each_kernel
@each_noise
def test_score_entropy_of_ratios(kernel, noise):
    """A network that gives exact ratios has the NELBO of the exact denoiser."""
    process, joint = problem(kernel, noise)
    t = float(noise.inverse(at(1.5)))
    x_t = sequences(kernel.num_states, LENGTH)
    prediction = LogRatio(process, exact.ratio(process, joint, t).log(), x_t, at(t, len(x_t)))
    oracle = ExactDenoiser(process, joint)(x_t, at(t, len(x_t)))
    x_0 = x_t.where(x_t < kernel.vocab_size, 0)  # a value that every x_t admits
    expected = NELBO().value(oracle, x_0)
    close(ScoreEntropy().value(prediction, x_0), expected)
    close(NELBO().value(prediction, x_0), expected, rtol=1e-7, atol=1e-7)


@each_kernel
def test_nelbo_rates(kernel):
    """The NELBO integrand is the path divergence of the reverse rates given x_0 and modeled.

    Both rates are taken from one-token laws by `expm`; `R1 log(R1 / R2) - R1 + R2` is summed.
    """
    process = ForwardProcess(kernel, NOISES[0])
    t = at(0.4, 200)
    x_0, x_t = random_states(process, t)
    prediction, _ = random_posterior(process, x_t, t)
    transition = exact.expm(kernel, process.noise.sigma(t[0]))
    into = process.noise.beta(t[0]) * exact.rate_matrix(kernel).fill_diagonal_(0.0).T[x_t]
    likelihood = transition.T[x_t]  # (B, L, K) over x_0
    true = into * transition[x_0] / likelihood.gather(-1, x_0[..., None])
    weight = prediction.posterior() / likelihood[..., : kernel.vocab_size]
    model = into * (weight.nan_to_num() @ transition[: kernel.vocab_size])
    nats = torch.xlogy(true, true / model).nan_to_num() - true + model
    expected = nats.sum((-1, -2)) + process.prior_divergence(x_0).sum(-1)
    close(NELBO().value(prediction, x_0), expected)


@each_kernel
def test_cross_entropy(kernel):
    """The exact denoiser's expected cross-entropy is sum_i H(x_0^i | x_t), by enumeration."""
    process, joint = problem(kernel, NOISES[0])
    times = torch.tensor([0.01, 0.5, 1.0], dtype=torch.float64)
    actual = expected_values(CrossEntropy(), ExactDenoiser(process, joint), joint, times)
    for value, t in zip(actual, times.tolist(), strict=True):
        posterior = exact.posterior(process, joint, t)
        nats = -torch.xlogy(posterior, posterior).sum((-1, -2))
        close(value, exact.marginal(process, joint, t) @ nats)


@each_kernel
@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_hybrid(kernel, weight):
    """The hybrid loss is NELBO + weight x cross-entropy."""
    process = ForwardProcess(kernel, NOISES[0])
    t = at(0.4, 200)
    x_0, x_t = random_states(process, t)
    prediction, _ = random_posterior(process, x_t, t)
    expected = NELBO().value(prediction, x_0) + weight * CrossEntropy().value(prediction, x_0)
    close(Hybrid(weight).value(prediction, x_0), expected, atol=1e-12)


@each_kernel
@each_loss
def test_sum_over_positions(kernel, loss):
    """A loss is a sum over positions, in nats per sequence: pieces of a prediction add up."""
    process = ForwardProcess(kernel, NOISES[0])
    t = at(0.4, 200)
    x_0, x_t = random_states(process, t)
    prediction, _ = random_posterior(process, x_t, t)
    places = [slice(i, i + 1) for i in range(LENGTH)]
    parts = [loss.value(prediction.positions(part), x_0[:, part]) for part in places]
    close(loss.value(prediction, x_0), sum(parts), atol=1e-12)


@each_kernel
@each_loss
def test_call(kernel, loss):
    """Calling a loss noises x_0 with the generator and makes one network call, times included."""
    process = ForwardProcess(kernel, NOISES[0])
    denoiser = MeanDenoiser(Table(LENGTH, kernel.num_states, dtype=torch.float64), process)
    t = torch.linspace(0.1, 1.0, 50, dtype=torch.float64)
    x_0 = torch.randint(3, (50, LENGTH), generator=seeded())
    calls = []
    denoiser.register_forward_hook(lambda *call: calls.append(call))
    value = loss(denoiser, x_0, t, seeded(5))
    assert len(calls) == 1
    assert value.shape == (50,)
    x_t = process.sample(x_0, t, seeded(5))
    assert torch.equal(value, loss.value(denoiser(x_t, t), x_0))


@each_kernel
@each_loss
@pytest.mark.parametrize("t", [1e-4, 0.5, 1.0])
def test_float32(kernel, loss, t):
    """In float32 a loss has the value that it has in float64, to 1e-3 relative.

    Near the data a divergence is a small difference of large rates, which costs a few digits.
    """
    process = ForwardProcess(kernel, NOISES[0])
    when = at(t, 200)
    x_0, x_t = random_states(process, when)
    high, _ = random_posterior(process, x_t, when)
    low = LogLeaveOneOut(process, high.output.float(), x_t, when)
    assert loss.value(low, x_0).dtype == torch.float32
    close(loss.value(low, x_0).double(), loss.value(high, x_0), rtol=1e-3, atol=1e-3)


@each_kernel
@each_loss
@pytest.mark.parametrize("noise", [*NOISES, Exponential(3.0, 100.0)], ids=label)
@pytest.mark.parametrize("denoiser_class", [MeanDenoiser, PosteriorDenoiser, ScoreDenoiser])
@pytest.mark.parametrize("t", [1e-4, 0.01, 0.5, 1.0])
def test_gradients(kernel, noise, loss, denoiser_class, t):
    """Losses and gradients are finite in float32 for random logits, down to t = 1e-4."""
    process = ForwardProcess(kernel, noise)
    backbone = Table(LENGTH, kernel.num_states, scale=3.0)
    denoiser = denoiser_class(backbone, process)
    x_0 = torch.randint(3, (500, LENGTH), generator=seeded())
    value = loss(denoiser, x_0, at(t, 500), seeded())
    assert value.dtype == torch.float32
    assert torch.isfinite(value).all()
    value.mean().backward()
    assert torch.isfinite(backbone.logits.grad).all()


def test_hybrid_errors():
    """A negative weight is refused."""
    with pytest.raises(ValueError, match="`weight` must be >= 0, got -1"):
        Hybrid(-1.0)
