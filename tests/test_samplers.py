import functools
import inspect
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import exact
from cases import (
    KERNELS,
    NOISES,
    SAMPLERS,
    each_factorized,
    each_kernel,
    each_legal_pair,
    each_noise,
    each_revealing,
    each_sampler,
    label,
)
from ddm.denoisers import (
    Denoiser,
    ExactDenoiser,
    LogLeaveOneOut,
    LogPosterior,
    LogRatio,
    MeanDenoiser,
    ScoreDenoiser,
)
from ddm.kernels import Absorbing, Gaussian, Uniform, sparse
from ddm.losses import NELBO
from ddm.noise import Constant, Cosine, Geometric, LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import (
    Analytic,
    CallCounter,
    Euler,
    FirstHitting,
    KGillespie,
    PredictorCorrector,
    Renoise,
    Step,
    TauLeaping,
    ThetaTrapezoidal,
)
from ddm.schedules import SamplingSchedule
from ddm.schedules.optimal.step_cost import step_costs
from exact import assert_frequencies, at, frequencies, seeded, sequences

LENGTH = 2
TIMES = [1.0, 0.6, 0.3, 0.0]


class Recording(Denoiser):
    """A denoiser that writes down what it is called with."""

    def __init__(self, denoiser):
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.time_free = denoiser.time_free
        self.calls = []

    def forward(self, x_t, t, free=None):
        self.calls.append((x_t.clone(), t.clone()))
        return self.denoiser(x_t, t, free)


class Lookup(nn.Module):
    """A network of random logits that depend on the whole sequence, and on time if asked to."""

    def __init__(self, num_states, length, *, time_free):
        super().__init__()
        shape = (num_states**length, length, num_states)
        self.table = torch.randn(shape, generator=seeded(11), dtype=torch.float64)
        self.num_states = num_states
        self.time_free = time_free

    def forward(self, x_t, t):
        return self.table[exact.index_of(x_t, self.num_states)]


def close(actual, expected, rtol=0.0, atol=1e-12):
    """Compare to 1e-12: sums of a few dozen float64 products."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def exact_denoiser(kernel, noise, length=LENGTH, coupling=1.0):
    """Return the exact denoiser of a random law of x_0, and that law."""
    joint = exact.random_joint(kernel.vocab_size, length, coupling)
    return ExactDenoiser(ForwardProcess(kernel, noise), joint), joint


def random_predictions(kernel, noise, t, form, num=2, batch=50):
    """Return predictions of an imperfect network for the stages of a step."""
    process = ForwardProcess(kernel, noise)
    size = kernel.num_states if form is LogRatio else kernel.vocab_size
    generator = seeded(2)
    predictions = []
    for _ in range(num):
        x_t = torch.randint(kernel.num_states, (batch, LENGTH), generator=generator)
        output = torch.randn(batch, LENGTH, size, generator=generator, dtype=torch.float64)
        predictions.append(form(process, output, x_t, at(t, batch)))
    return predictions


# Laws --------------------------------------------------------------------------------------------


@each_factorized
@each_kernel
@each_noise
def test_steps_are_stochastic(kernel, noise, sampler):
    """Every step of an exact denoiser is a stochastic matrix; the last one leaves no noise."""
    denoiser, _ = exact_denoiser(kernel, noise)
    for t, s in pairwise(TIMES):
        matrix = exact.step_matrix(sampler, denoiser, t, s, LENGTH)
        assert (matrix >= 0).all()
        close(matrix.sum(-1), torch.ones(len(matrix)).double())
    masked = (sequences(kernel.num_states, LENGTH) >= kernel.vocab_size).any(-1)
    assert (matrix[:, masked] == 0).all()


@each_legal_pair
@pytest.mark.parametrize("form", [LogLeaveOneOut, LogRatio], ids=lambda form: form.__name__)
def test_law_of_any_network(kernel, sampler, form):
    """Laws are laws whatever the network says, also where some sequences are at s = 0."""
    for noise in (NOISES[0], Constant(20.0)):
        t = float(noise.inverse(at(1.5)))
        for num in (1, 2):
            predictions = random_predictions(kernel, noise, t, form, num)
            s = torch.linspace(0.0, 0.9 * t, 50, dtype=torch.float64)
            law = sampler.law(predictions, s)
            assert law.shape == (50, LENGTH, kernel.num_states)
            assert (law >= 0).all()
            close(law.sum(-1), torch.ones(50, LENGTH).double())
            if num == 1:
                assert (law[0, :, kernel.vocab_size :] == 0).all()


@each_factorized
@each_kernel
@each_noise
def test_last_step_is_posterior(kernel, noise, sampler):
    """The step to s = 0 is one stage and draws from the exact posterior of x_0."""
    denoiser, joint = exact_denoiser(kernel, noise)
    x_t = sequences(kernel.num_states, LENGTH)
    assert len(sampler.stages(at(0.4), at(0.0))) == 1
    law = sampler.law([denoiser(x_t, at(0.4, len(x_t)))], at(0.0, len(x_t)))
    posterior = exact.posterior(denoiser.process, joint, 0.4)
    # 1e-9: torch's matrix exponential of one matrix is off by up to 3e-11.
    close(law[..., : kernel.vocab_size], posterior, atol=1e-9)


@each_kernel
@each_noise
def test_analytic_is_exact_for_one_token(kernel, noise):
    """At L = 1 analytic steps compose to the exact law of the data from the exact law at t = 1.

    From the prior the error is at most the mismatch of the prior.
    """
    denoiser, joint = exact_denoiser(kernel, noise, length=1)
    start = exact.marginal(denoiser.process, joint, 1.0)
    law = exact.sample_law(Analytic(), denoiser, TIMES, 1, start)
    # 1e-9: torch's matrix exponential of one matrix is off by up to 3e-11.
    close(law, joint, atol=1e-9)
    law = exact.sample_law(Analytic(), denoiser, TIMES, 1)
    mismatch = exact.total_variation(start, kernel.prior())
    assert exact.total_variation(law, joint) <= mismatch + 1e-9


@each_factorized
@each_kernel
def test_order_of_convergence(kernel, sampler):
    """The error falls like (largest step)^order: log2(TV_16 / TV_32) is within 0.25 of `order`.

    The joint is so weakly coupled that no extrapolated rate of a second-order step is cut off, and
    sampling starts from the exact law at t = 1, so that no prior mismatch hides the error. Reverse
    rates of the absorbing kernel grow like 1 / t, which gives an error of order h^2 log(1 / h) and
    reads as 1.77; first-order samplers read between 0.89 and 1.07.
    """
    denoiser, joint = exact_denoiser(kernel, Constant(0.5), coupling=0.1)
    start = exact.marginal(denoiser.process, joint, 1.0)
    errors = []
    for num_steps in (16, 32):
        times = SamplingSchedule.uniform(num_steps).times
        law = exact.sample_law(sampler, denoiser, times, LENGTH, start)
        errors.append(exact.total_variation(law, joint))
    assert errors[1] > 1e-7  # far above rounding
    assert math.log2(errors[0] / errors[1]) == pytest.approx(sampler.order, abs=0.25)


def test_analytic_is_euler_for_log_linear_masking():
    """Under log-linear noise the Euler step of the absorbing kernel is the exact bridge."""
    for t in (1.0, 0.5, 1e-3):
        predictions = random_predictions(Absorbing(3), LogLinear(), t, LogLeaveOneOut, num=1)
        for share in (0.9, 0.5, 0.0):
            s = at(share * t, 50)
            close(Analytic().law(predictions, s), Euler().law(predictions, s))


@each_kernel
@each_noise
def test_corrector_keeps_the_law(kernel, noise):
    """Reverse plus forward rates have the law of x_s as their stationary law: q_s G = 0.

    Relative to the largest flow, with 1e-9 for torch's matrix exponential.
    """
    denoiser, joint = exact_denoiser(kernel, noise)
    s = float(noise.inverse(at(0.8)))
    x = sequences(kernel.num_states, LENGTH)
    prediction = denoiser(x, at(s, len(x)))
    rate = prediction.reverse_rate() + denoiser.process.jump_rate_from(x, at(s, len(x)))
    target = exact.neighbors(kernel.num_states, LENGTH).flatten(1)
    generator = torch.zeros(len(x), len(x), dtype=torch.float64)
    generator.scatter_add_(1, target, rate.flatten(1))
    generator -= torch.diag(generator.sum(-1))
    q_s = exact.marginal(denoiser.process, joint, s)
    flow = (q_s[:, None] * generator).abs().max()
    close(q_s @ generator / flow, torch.zeros(len(x)).double(), atol=1e-9)


@each_kernel
@each_noise
def test_corrector_law(kernel, noise):
    """A correction jumps with the probability 1 - exp(-total) of the rates at s, frozen.

    Its duration is `step_size` times that of the step; rates are those of the time reversal, by
    enumeration, plus the forward ones (1e-9: torch's matrix exponential).
    """
    denoiser, joint = exact_denoiser(kernel, noise)
    t, s = 0.5, 0.3
    x = sequences(kernel.num_states, LENGTH)
    said = [denoiser(x, at(t, len(x))), denoiser(x, at(s, len(x)))]
    law = PredictorCorrector(step_size=0.7).law(said, at(s, len(x)))
    jumps = exact.rate_matrix(kernel).fill_diagonal_(0.0)
    reverse = jumps.T[x] * exact.ratio(denoiser.process, joint, s)
    mean = 0.7 * (t - s) * noise.beta(at(s)) * (reverse + jumps[x])
    total = mean.sum(-1, keepdim=True)
    expected = mean * -torch.expm1(-total) / total.clamp(min=1e-300)
    expected = expected.scatter(-1, x[..., None], torch.exp(-total))
    close(law, expected, atol=1e-9)


@each_kernel
@each_noise
@pytest.mark.parametrize("strength", [0.3, 1.0, 1e6])
def test_renoising_keeps_the_marginals(kernel, noise, strength):
    """If x_0 is known, x_t ~ q(x_t | x_0) becomes x_s ~ q(x_s | x_0), whatever the strength.

    1e-9: torch's matrix exponential.
    """
    process = ForwardProcess(kernel, noise)
    x = torch.arange(kernel.num_states)[:, None]
    t, s = float(noise.inverse(at(1.2))), float(noise.inverse(at(0.7)))
    for x_0 in range(kernel.vocab_size):
        known = torch.eye(kernel.vocab_size, dtype=torch.float64)[x_0].log()
        said = LogLeaveOneOut(process, known.expand(len(x), 1, -1), x, at(t, len(x)))
        law = Renoise(strength).law([said], at(s, len(x)))[:, 0]
        before, after = (exact.expm(kernel, noise.sigma(at(u)))[x_0] for u in (t, s))
        close(before @ law, after, atol=1e-9)


@each_kernel
@each_noise
def test_renoising_without_end_forgets_the_state(kernel, noise):
    """A very large strength draws x_0 from its posterior and noises it: Psi with kappa = 0."""
    denoiser, joint = exact_denoiser(kernel, noise)
    x, t, s = sequences(kernel.num_states, LENGTH), 0.6, 0.5
    law = Renoise(1e6).law([denoiser(x, at(t, len(x)))], at(s, len(x)))
    posterior = exact.posterior(denoiser.process, joint, t)
    channel = exact.expm(kernel, noise.sigma(at(s)))[: kernel.vocab_size]
    close(law, posterior @ channel, atol=1e-9)


def test_renoising_masks_is_remasking():
    """With masks it is ReMDM, equation 5, with sigma = 1 - alpha_s / alpha_r."""
    noise = Constant(2.0)
    (p,) = random_predictions(Absorbing(3), noise, 0.7, LogLeaveOneOut, num=1)
    law = Renoise(0.5).law([p], at(0.6, 50))
    alpha_t, alpha_s, alpha_r = (math.exp(-2.0 * u) for u in (0.7, 0.6, 0.55))
    sigma = 1 - alpha_s / alpha_r
    shown = (alpha_s - (1 - sigma) * alpha_t) / (1 - alpha_t)
    for v in range(3):
        own = (p.x_t == v).double()
        expected = torch.where(p.x_t == 3, shown * p.posterior()[..., v], (1 - sigma) * own)
        close(law[..., v], expected)


def test_renoising_corrects():
    """In the limit of short steps it is the reverse process plus `strength` times the corrector.

    So (law - stay) / h tends to (1 + strength) R_t + strength Q beta; off by O(h) at h = 1e-6.
    """
    for kernel in (Uniform(3), KERNELS[-1]):
        denoiser, _ = exact_denoiser(kernel, Constant(1.3))
        x, h = sequences(kernel.num_states, LENGTH), 1e-6
        p = denoiser(x, at(0.5, len(x)))
        law = Renoise(0.7).law([p], at(0.5 - h, len(x)))
        rate = 1.7 * p.reverse_rate() + 0.7 * p.process.jump_rate_from(x, p.t)
        jumps = law.scatter(-1, x[..., None], 0.0) / h
        close(jumps, rate, rtol=1e-4, atol=1e-4)


def test_tau_leaping_ordinal_law():
    """The ordinal leap is x + sum_v n_v (v - x), cut off, with n_v ~ Poisson: by enumeration."""
    kernel = Gaussian(3)
    prediction = random_predictions(kernel, Constant(1.0), 0.9, LogLeaveOneOut, num=1)[0]
    s = 0.2
    law = TauLeaping().law([prediction], at(s, 50))
    mean = prediction.reverse_rate() * (prediction.t - s)[:, None, None]
    counts = torch.cartesian_prod(*[torch.arange(60)] * 2)  # the tail beyond 60 is below 1e-16
    assert float(mean.max()) < 12
    for b, i in ((0, 0), (7, 1), (20, 0), (33, 1)):
        x = int(prediction.x_t[b, i])
        others = torch.tensor([v for v in range(3) if v != x])
        m = mean[b, i, others]
        log_p = counts * m.log() - m - torch.lgamma(counts.double() + 1)
        landing = (x + counts @ (others - x)).clamp(0, 2)
        expected = torch.zeros(3).double().index_add(0, landing, log_p.sum(-1).exp())
        close(law[b, i], expected)


def test_tau_leaping_categorical_law():
    """A categorical leap needs exactly one jump: of independent Poisson numbers, one is 1."""
    kernel = Uniform(3)
    prediction = random_predictions(kernel, Constant(1.0), 0.9, LogLeaveOneOut, num=1)[0]
    law = TauLeaping().law([prediction], at(0.2, 50))
    mean = prediction.reverse_rate() * (prediction.t - 0.2)[:, None, None]
    none = torch.exp(-mean)
    for v in range(3):
        one = mean[..., v] * none[..., v]
        for other in range(3):
            one = one * (none[..., other] if other != v else 1.0)
        jumps = prediction.x_t != v
        close(law[..., v][jumps], one[jumps])


# Draws -------------------------------------------------------------------------------------------


@each_factorized
@each_kernel
def test_draws_have_the_law(kernel, sampler, monkeypatch):
    """`step` draws from the law that its stages compose to, from every state (chi-square at 1e-6).

    Ordinal tau-leaping draws Poisson numbers where its law is a Fourier transform. Positions are
    drawn one by one, as they are when the vocabulary is large.
    """
    monkeypatch.setattr(sparse, "CHUNK", 1)
    denoiser, _ = exact_denoiser(kernel, Constant(2.0))
    x = sequences(kernel.num_states, LENGTH)
    num_draws = 1000
    for t, s in ((0.9, 0.4), (0.3, 0.0)):
        matrix = exact.step_matrix(sampler, denoiser, t, s, LENGTH)
        b = len(x) * num_draws
        drawn = sampler.step(
            denoiser, x.repeat_interleave(num_draws, 0), Step(at(t, b), at(s, b)), seeded()
        )
        index = exact.index_of(drawn, kernel.num_states).reshape(len(x), num_draws)
        for row, law in zip(index, matrix, strict=True):
            # Fourier transforms leave 1e-17 where the chain cannot go.
            assert_frequencies(frequencies(row, len(x)), torch.where(law < 1e-13, 0.0, law))


@pytest.mark.parametrize("kernel", [Absorbing(3), Absorbing(4, mask=1), Uniform(3)], ids=label)
@pytest.mark.parametrize("form", [LogLeaveOneOut, LogPosterior, LogRatio], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("t", "s"), [(0.9, 0.4), (0.9, 0.89), (0.3, 0.0), (1.0, 0.0)])
def test_sparse_draws_have_the_law(kernel, form, t, s, monkeypatch):
    """Analytic steps that touch what changes draw from the law that the general path states.

    For any network, token by token and at other times in other rows (chi-square at 1e-6).
    """
    monkeypatch.setattr(sparse, "CHUNK", 20_000)
    num, times = 20_000, torch.tensor([t, 0.5 * (t + s)], dtype=torch.float64)
    (few,) = random_predictions(kernel, Constant(2.0), t, form, num=1, batch=2)
    when = times.repeat_interleave(num)
    whole = form(
        few.process, few.output.repeat_interleave(num, 0), few.x_t.repeat_interleave(num, 0), when
    )
    law = Analytic().law([replace(few, t=times)], at(s, 2))
    drawn = Analytic().draw([whole], at(s, 2 * num), seeded()).reshape(2, num, LENGTH)
    for b, i in np.ndindex(2, LENGTH):
        counts = frequencies(drawn[b, :, i], kernel.num_states)
        assert_frequencies(counts, torch.where(law[b, i] < 1e-13, 0.0, law[b, i]))


@each_factorized
@each_kernel
def test_samples_have_the_law(kernel, sampler):
    """Samples from the prior have the law that the steps compose to (chi-square at 1e-6)."""
    denoiser, _ = exact_denoiser(kernel, NOISES[0])
    x = kernel.sample_prior((5000, LENGTH), seeded())
    before = x.clone()
    tokens = sampler(denoiser, x, TIMES, generator=seeded(1)).tokens
    assert torch.equal(x, before), "the argument is left alone"
    law = exact.sample_law(sampler, denoiser, TIMES, LENGTH)
    assert_frequencies(frequencies(exact.index_of(tokens, 3), len(law)), law)


@each_legal_pair
def test_reproducible(kernel, sampler):
    """The same generator gives the same samples, another one gives others."""
    denoiser, _ = exact_denoiser(kernel, NOISES[0])
    x = kernel.sample_prior((50, LENGTH), seeded())
    a, b, c = (sampler(denoiser, x, [1, 0.4, 0], generator=seeded(k)).tokens for k in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_progress(capsys, monkeypatch):
    """Sampling is silent unless a progress bar is asked for."""
    monkeypatch.setattr("ddm.progress.SECONDS", 0.0)
    denoiser, _ = exact_denoiser(Uniform(3), NOISES[0])
    x = torch.zeros(2, LENGTH, dtype=torch.long)
    Analytic()(denoiser, x, TIMES)
    assert capsys.readouterr() == ("", "")
    Analytic()(denoiser, x, TIMES, progress=True)
    assert "3/3" in capsys.readouterr().err


# Samplers that reveal tokens by number -----------------------------------------------------------


def test_one_token_per_step_is_exact():
    """Drawing one token at a time in random order gives the joint law: the oracle's own check."""
    joint = exact.random_joint(3, 3)
    close(exact.reveal_law(joint, [1, 1, 1]), joint.flatten())
    assert exact.total_variation(exact.reveal_law(joint, [2, 1]), joint) > 0.01


@each_noise
def test_first_hitting_is_exact(noise):
    """First-hitting samples have the law of the data, whatever the times (chi-square at 1e-6)."""
    denoiser, joint = exact_denoiser(Absorbing(3), noise, length=3)
    x = torch.full((20_000, 3), 3)
    samples = FirstHitting()(denoiser, x, [1.0, 0.0], generator=seeded())
    assert_frequencies(frequencies(exact.index_of(samples.tokens, 3), 27), joint.flatten())


@pytest.mark.parametrize(
    "noise", [LogLinear(0.3), Cosine(0.3), Constant(1.0), Geometric(1e-3, 8.0)], ids=label
)
def test_first_hitting_times(noise):
    """The first token is revealed at the largest of L masking times (chi-square at 1e-6).

    Given that a token is masked at t = 1, its masking time has the distribution function
    share(t) / share(1); so the L-th power of that at the largest time is uniform.
    """
    process = ForwardProcess(Absorbing(3), noise)
    free = torch.ones(5000, 3, dtype=torch.bool)
    times = torch.tensor([1.0, 0.0], dtype=torch.float64)
    steps = FirstHitting().steps(process, times, free, seeded())
    grid = torch.stack([*(step.t for step in steps), steps[-1].s])
    assert grid.shape == (4, 5000)
    assert (grid.diff(dim=0) < 0).all()
    assert (grid[-1] == 0).all()
    share = process.mask_ratio(grid[0]) / process.mask_ratio(at(1.0))
    tenth = (share**3 * 10).long().clamp(max=9)
    assert_frequencies(frequencies(tenth, 10), torch.full((10,), 0.1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("times", "counts"),
    [
        ([1.0, 0.0], [3]),
        ([1.0, 0.7, 0.0], [1, 2]),
        ([1.0, 0.3, 0.0], [2, 1]),
        ([1.0, 0.99, 0.98, 0.0], [1, 1, 1]),
        ([1.0, 0.01, 0.005, 0.0], [1, 1, 1]),
    ],
)
def test_k_gillespie_law(times, counts):
    """The schedule says how many tokens a step reveals, and the samples have that law.

    The oracle enumerates all subsets; chi-square at 1e-6.
    """
    denoiser, joint = exact_denoiser(Absorbing(3), LogLinear(), length=3)
    x = torch.full((20_000, 3), 3)
    samples = KGillespie()(denoiser, x, times, generator=seeded())
    law = exact.reveal_law(joint, counts)
    assert_frequencies(frequencies(exact.index_of(samples.tokens, 3), 27), law)


@each_noise
@pytest.mark.parametrize("num_steps", [1, 2, 5, 12, 40])
def test_k_gillespie_counts(noise, num_steps):
    """Every step reveals a whole number >= 1 of tokens, the same for all sequences.

    The network is called with the time at which the expected share of masks is the true one, and
    revealed tokens never change.
    """
    kernel, length = Absorbing(3), 40
    process = ForwardProcess(kernel, noise)
    denoiser = Recording(MeanDenoiser(Constants(3), process))
    times = SamplingSchedule.uniform(num_steps).times
    tokens = KGillespie()(denoiser, torch.full((8, length), 3), times, generator=seeded()).tokens
    states = [*(x_t for x_t, _ in denoiser.calls), tokens]
    masks = torch.stack([(x == kernel.mask).sum(-1) for x in states])
    assert masks[0].tolist() == [length] * 8
    assert masks[-1].tolist() == [0] * 8
    assert (masks == masks[:, :1]).all()
    assert (masks.diff(dim=0) <= -1).all()
    for before, after in pairwise(states):
        seen = before != kernel.mask
        assert torch.equal(before[seen], after[seen])
    top = process.mask_ratio(at(1.0))
    for (_, t), number in zip(denoiser.calls, masks, strict=False):
        close(process.mask_ratio(t) / top, number.double() / length, atol=1e-9)
    # Where every step has a token to reveal, the counts are those of the forward process.
    wanted = (process.mask_ratio(torch.tensor(times, dtype=torch.float64)) / top * length).round()
    if (wanted.diff() <= -1).all():
        assert masks[:, 0].tolist() == wanted.tolist()


class Constants(nn.Module):
    """A network that always prefers the same token, in float32."""

    def __init__(self, num_tokens, *, time_free=False):
        super().__init__()
        self.logits = torch.randn(num_tokens, generator=seeded())
        self.time_free = time_free

    def forward(self, x_t, t):
        return self.logits.expand(*x_t.shape, -1)


@each_revealing
@pytest.mark.parametrize("kernel", KERNELS[1:], ids=label)
def test_revealing_needs_a_mask(kernel, sampler):
    """Samplers that reveal masks refuse other kernels, before any network call."""
    denoiser = Recording(exact_denoiser(kernel, NOISES[0])[0])
    x = kernel.sample_prior((4, LENGTH), seeded())
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        sampler(denoiser, x, [1.0, 0.0])
    assert not denoiser.calls


def test_k_gillespie_needs_tokens():
    """More steps than tokens to reveal are refused, before any network call."""
    denoiser = Recording(exact_denoiser(Absorbing(3), NOISES[0])[0])
    with pytest.raises(ValueError, match="got 3 steps for 2 tokens"):
        KGillespie()(denoiser, torch.full((4, 2), 3), TIMES)
    assert not denoiser.calls


# Costs -------------------------------------------------------------------------------------------


@each_legal_pair
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_number_of_calls(kernel, sampler, num_steps):
    """Network calls are what `num_evals` says, each with all rows, at times from 1 downwards."""
    length = 3
    denoiser = Recording(exact_denoiser(kernel, NOISES[0], length)[0])
    x = kernel.sample_prior((5, length), seeded())
    times = SamplingSchedule.uniform(num_steps).times
    samples = sampler(denoiser, x, times, generator=seeded())
    assert samples.num_calls == len(denoiser.calls) == sampler.num_evals(num_steps, length)
    # With masks, rows that are finished are not asked again.
    rows = sum(len(x_t) for x_t, _ in denoiser.calls)
    assert samples.num_rows == rows
    assert rows == 5 * samples.num_calls or (kernel.absorbing and rows < 5 * samples.num_calls)
    assert samples.tokens.shape == (5, length)
    assert ((samples.tokens >= 0) & (samples.tokens < kernel.vocab_size)).all()
    when = [t for _, t in denoiser.calls]
    assert all(t.dtype == torch.float64 and (t > 0).all() for t in when)
    assert all(b.max() <= a.max() for a, b in pairwise(when))
    if not isinstance(sampler, FirstHitting):  # whose first token is revealed some time after 1
        close(when[0], torch.ones(5).double(), atol=1e-9)


# Reuse of network calls --------------------------------------------------------------------------


@each_factorized
def test_reuse_changes_nothing(sampler):
    """Reusing the rows of a time-free model gives the same samples and evaluates fewer rows."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    x = torch.full((20, 3), 3)
    times = SamplingSchedule.uniform(24).times
    results, calls = [], []
    for time_free in (False, True):
        denoiser = Recording(MeanDenoiser(Lookup(4, 3, time_free=time_free), process))
        results.append(sampler(denoiser, x, times, generator=seeded()))
        calls.append(sum(len(x_t) for x_t, _ in denoiser.calls))
        assert results[-1].num_calls == len(denoiser.calls)
        assert results[-1].num_rows == calls[-1]
    plain, reused = results
    assert torch.equal(plain.tokens, reused.tokens)
    assert reused.num_calls <= plain.num_calls <= sampler.num_evals(24, 3)
    assert reused.num_rows < plain.num_rows / 2


@each_revealing
def test_reuse_of_revealing_samplers(sampler):
    """Samplers that change every row at every step have nothing to reuse and lose nothing."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    results = [
        sampler(
            MeanDenoiser(Lookup(4, 3, time_free=time_free), process),
            torch.full((20, 3), 3),
            TIMES,
            generator=seeded(),
        )
        for time_free in (False, True)
    ]
    assert torch.equal(results[0].tokens, results[1].tokens)
    assert results[0].num_rows == results[1].num_rows == 60


def test_call_counter_rows():
    """Only rows with a changed token are evaluated; the others keep their output at a new time."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    inner = Recording(MeanDenoiser(Lookup(4, 3, time_free=True), process))
    counter = CallCounter(inner)
    x = torch.tensor([[3, 3, 3], [3, 0, 3], [1, 3, 3]])
    counter(x, at(0.9, 3))
    y = x.clone()
    y[1, 2] = 2
    prediction = counter(y, at(0.5, 3))
    assert torch.equal(inner.calls[-1][0], y[1:2])
    fresh = inner.denoiser(y, at(0.5, 3))
    close(prediction.output, fresh.output, atol=0.0)
    close(prediction.posterior(), fresh.posterior(), atol=0.0)
    assert torch.equal(prediction.t, fresh.t)
    assert torch.equal(prediction.x_t, fresh.x_t)
    assert (counter.num_calls, counter.num_rows) == (2, 4)
    counter(y, at(0.2, 3))
    assert (counter.num_calls, counter.num_rows) == (2, 4)


@pytest.mark.parametrize("kernel", KERNELS[1:], ids=label)
def test_no_reuse_without_masks(kernel):
    """Other kernels than the absorbing one change rows all the time, so nothing is kept."""
    process = ForwardProcess(kernel, LogLinear())
    counter = CallCounter(MeanDenoiser(Lookup(3, 2, time_free=True), process))
    x = torch.zeros(4, 2, dtype=torch.long)
    counter(x, at(0.9, 4))
    counter(x, at(0.5, 4))
    assert (counter.num_calls, counter.num_rows) == (2, 8)


def test_finished_rows_are_not_asked():
    """A row without masks costs nothing, whatever the network's form, and keeps its tokens."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    inner = Recording(ScoreDenoiser(Lookup(4, 3, time_free=False), process))
    counter = CallCounter(inner)
    x = torch.tensor([[3, 3, 3], [3, 0, 3], [1, 3, 3]])
    counter(x, at(0.9, 3))
    y = torch.tensor([[3, 3, 0], [1, 0, 2], [1, 3, 3]])
    prediction = counter(y, torch.tensor([0.5, 0.0, 0.3], dtype=torch.float64))
    assert torch.equal(inner.calls[-1][0], y[[0, 2]])
    assert torch.equal(prediction.bridge(at(0.0, 3))[1].argmax(-1), y[1])
    assert counter.num_rows == 5


# Given tokens ------------------------------------------------------------------------------------


def some_given(num_rows):
    """Return tokens, and a mask in which rows have none, some at various places, or all given."""
    free = torch.ones(4, 3, dtype=torch.bool)
    free[1, 1] = False
    free[2, [0, 2]] = False
    free[3] = False
    tokens = torch.tensor([1, 0, 2]).expand(4 * num_rows, -1)
    return tokens, free.repeat_interleave(num_rows, 0)


def given_laws(joint):
    """Return the laws of the free tokens of the kinds of rows of `some_given`."""
    laws = (joint, joint[:, 0, :], joint[1, :, 2])
    return [law.flatten() / law.sum() for law in laws]


@each_legal_pair
def test_given_tokens_never_change(kernel, sampler):
    """Every network call and the result have the given tokens, other rows their own."""
    denoiser = Recording(exact_denoiser(kernel, NOISES[0], 3)[0])
    tokens, free = some_given(2)
    x = denoiser.process.sample_prior(tokens, free, seeded())
    samples = sampler(denoiser, x, [1, 0.4, 0], free=free, generator=seeded())
    for states in [*(x_t for x_t, _ in denoiser.calls if len(x_t) == 8), samples.tokens]:
        assert torch.equal(states[~free], tokens[~free])
    assert ((samples.tokens >= 0) & (samples.tokens < kernel.vocab_size)).all()


@each_revealing
def test_given_law(sampler):
    """With an exact denoiser and one token per step, samples follow the law given the tokens.

    Rows are given tokens at other places, none, or all (chi-square at 1e-6).
    """
    denoiser, joint = exact_denoiser(Absorbing(3), LogLinear(), length=3)
    tokens, free = some_given(10_000)
    x = denoiser.process.sample_prior(tokens, free)
    times = [1.0, 0.66, 0.33, 0.0]
    drawn = sampler(denoiser, x, times, free=free, generator=seeded()).tokens
    for kind, law in enumerate(given_laws(joint)):
        rows = slice(kind * 10_000, (kind + 1) * 10_000)
        index = exact.index_of(drawn[rows][:, free[rows][0]], 3)
        assert_frequencies(frequencies(index, law.numel()), law)
    assert torch.equal(drawn[30_000:], tokens[30_000:])


@each_kernel
def test_given_law_of_steps(kernel):
    """A step given tokens is the step of the exact denoiser of the joint given them.

    Compared with the laws by enumeration, row by row: what is given is clean at every time, and
    no row looks at another.
    """
    process = ForwardProcess(kernel, LogLinear())
    joint = exact.random_joint(3, 3)
    denoiser = ExactDenoiser(process, joint)
    middle = ExactDenoiser(process, joint[:, 1, :] / joint[:, 1, :].sum())
    x = sequences(kernel.num_states, 2)
    rows = torch.stack([x[:, 0], torch.ones(len(x), dtype=torch.long), x[:, 1]], 1)
    free = torch.tensor([[True, False, True]]).expand(len(x), -1)
    both = torch.cat([rows, rows.clamp(max=2)])
    every = torch.cat([free, torch.zeros_like(free)])
    law = denoiser(both, at(0.7, len(both)), every).bridge(at(0.2, len(both)))
    expected = middle(x, at(0.7, len(x))).bridge(at(0.2, len(x)))
    close(law[: len(x), [0, 2]], expected, atol=1e-9)


@pytest.mark.parametrize("kernel", [Absorbing(4, mask=2), Uniform(4)], ids=label)
def test_padding_is_given(kernel):
    """Sequences of other lengths follow the law given their length (chi-square at 1e-6).

    Token 3 is padding: the joint knows sequences of one and of two tokens. Padding that is given
    says that there is one; where both are free the model draws the length, too.
    """
    joint = torch.zeros(4, 4, dtype=torch.float64)
    joint[:2, :2] = torch.tensor([[0.1, 0.2], [0.3, 0.05]])
    joint[:2, 3] = torch.tensor([0.25, 0.1])
    process = ForwardProcess(kernel, LogLinear())
    tokens = torch.tensor([[0, 0], [0, 3]]).repeat_interleave(10_000, 0)
    free = torch.tensor([[True, True], [True, False]]).repeat_interleave(10_000, 0)
    denoiser = ExactDenoiser(process, joint)
    x = process.sample_prior(tokens, free, seeded())
    times = SamplingSchedule.uniform(2 if kernel.absorbing else 1)
    sampler = FirstHitting() if kernel.absorbing else Analytic()
    drawn = sampler(denoiser, x, times, free=free, generator=seeded(1)).tokens
    short = frequencies(drawn[10_000:, 0], 4)
    if kernel.absorbing:  # one token per call is exact; two in one call are not
        assert_frequencies(frequencies(exact.index_of(drawn[:10_000], 4), 16), joint.flatten())
    assert_frequencies(short, joint[:, 3])
    assert (drawn[10_000:, 1] == 3).all()


@each_revealing
def test_given_tokens_of_a_score(sampler):
    """Sequences whose masks are used up wait for the others, whatever the network's form.

    At t = 0 a score denoiser has no finite output; nothing of it reaches the samples.
    """
    process = ForwardProcess(Absorbing(3), LogLinear())
    denoiser = ScoreDenoiser(Lookup(4, 3, time_free=False), process)
    tokens, free = some_given(1)
    x = process.sample_prior(tokens, free)
    samples = sampler(denoiser, x, TIMES, free=free, generator=seeded())
    assert ((samples.tokens >= 0) & (samples.tokens < 3)).all()
    assert torch.equal(samples.tokens[~free], tokens[~free])


def test_forbidden_tokens_may_be_given():
    """A token whose logit is -inf is never drawn, and may be given; a mask is any id.

    The mask's own logit, as masked language models have it, is not read.
    """

    class Forbidding(nn.Module):
        def forward(self, x_t, t):
            logits = torch.zeros(*x_t.shape, 6)
            logits[..., 5] = -torch.inf
            logits[..., 2] = 50.0
            return logits

    for kernel in (Absorbing(6, mask=2), Absorbing(6)):
        process = ForwardProcess(kernel, LogLinear())
        denoiser = MeanDenoiser(Forbidding(), process)
        tokens = torch.tensor([[5, 0, 0, 1]]).expand(500, -1)
        free = torch.tensor([[False, True, True, False]]).expand(500, -1)
        x = process.sample_prior(tokens, free)
        for sampler in SAMPLERS:
            drawn = sampler(denoiser, x, [1.0, 0.4, 0.0], free=free, generator=seeded()).tokens
            assert torch.equal(drawn[~free], tokens[~free])
            wanted = {0, 1, 3, 4} if kernel.mask == 2 else {2}
            assert set(drawn[free].tolist()) == wanted


def test_nothing_to_sample():
    """First hitting with everything given returns it and calls no network."""
    denoiser = Recording(exact_denoiser(Absorbing(3), NOISES[0])[0])
    given, free = torch.tensor([[2, 0]]), torch.zeros(1, 2, dtype=torch.bool)
    samples = FirstHitting()(denoiser, given, TIMES, free=free)
    assert torch.equal(samples.tokens, given)
    assert not denoiser.calls


MASKS = torch.full((4, 2), 3)
NONE_FREE = torch.zeros(4, 2, dtype=torch.bool)
BAD_TOKENS = [
    (MASKS, NONE_FREE[:, :1], ValueError, r"`free` must have the shape \(4, 2\)"),
    (MASKS, NONE_FREE.long(), TypeError, "`free` must be boolean"),
    (MASKS, NONE_FREE, ValueError, "`x, where it is given,` must lie in 0..2"),
    (MASKS - 4, ~NONE_FREE, ValueError, "`x` must lie in 0..3, .* got values from -1"),
    (MASKS + 1, None, ValueError, "`x` must lie in 0..3, .* to 4"),
    (MASKS.double(), None, TypeError, "`x` must be integers"),
    (MASKS - 1, ~NONE_FREE, ValueError, "`x` must hold masks where it is free"),
    (MASKS[0], None, ValueError, r"`x` must have the shape \(B, L\)"),
]


@each_sampler
@pytest.mark.parametrize(("x", "free", "error", "message"), BAD_TOKENS)
def test_bad_tokens(sampler, x, free, error, message):
    """Tokens or a mask that do not fit are refused with the reason, before any network call."""
    denoiser = Recording(exact_denoiser(Absorbing(3), NOISES[0])[0])
    with pytest.raises(error, match=message):
        unchecked(sampler)(denoiser, x, [1.0, 0.0], free=free)
    assert not denoiser.calls


def unchecked(sampler):
    """Return the call of a sampler without the checks of shapes that only the tests have."""
    return functools.partial(inspect.unwrap(type(sampler).__call__), sampler)


@each_sampler
def test_integers_of_any_width(sampler):
    """Tokens may be of any integer type, also none, or no row at all; samples are int64."""
    denoiser, _ = exact_denoiser(Absorbing(3), NOISES[0])
    for x in (MASKS.int(), MASKS.to(torch.uint8), MASKS[:0]):
        tokens = sampler(denoiser, x, [1.0, 0.0], generator=seeded()).tokens
        assert tokens.dtype == torch.int64
        assert tokens.shape == x.shape


@each_sampler
def test_nothing_is_free(sampler):
    """Where everything is given, it is returned."""
    denoiser, _ = exact_denoiser(Absorbing(3), NOISES[0])
    given = torch.tensor([[2, 0], [1, 1]])
    free = torch.zeros(2, 2, dtype=torch.bool)
    assert torch.equal(sampler(denoiser, given, TIMES, free=free).tokens, given)


@each_sampler
def test_schedules_and_times(sampler):
    """A schedule is accepted wherever its times are."""
    denoiser, _ = exact_denoiser(Absorbing(3), NOISES[0])
    schedule = SamplingSchedule.uniform(2)
    times = torch.tensor(schedule.times, dtype=torch.float64)
    a, b, c = (
        sampler(denoiser, MASKS, s, generator=seeded()).tokens
        for s in (schedule, schedule.times, times)
    )
    assert torch.equal(a, b)
    assert torch.equal(a, c)


BAD_TIMES = [
    ([1.0], "at least 2 times"),
    ([1.0, math.nan, 0.0], "finite"),
    ([0.9, 0.0], "start at 1"),
    ([1.0, 0.1], "end at 0"),
    ([0.0, 1.0], "reverse an increasing grid"),
    ([1.0, 0.3, 0.3, 0.0], "decrease strictly"),
    ([1.0, 0.3, 0.4, 0.0], "decrease strictly"),
]


@each_sampler
@pytest.mark.parametrize(("times", "message"), BAD_TIMES)
def test_bad_times(sampler, times, message):
    """A grid that is no schedule is refused with the reason, before any network call."""
    denoiser = Recording(exact_denoiser(Absorbing(3), NOISES[0])[0])
    with pytest.raises(ValueError, match=message):
        sampler(denoiser, torch.full((4, 2), 3), times)
    assert not denoiser.calls


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ThetaTrapezoidal(theta=0.0), "`theta` must lie strictly between 0 and 1, got 0.0"),
        (lambda: ThetaTrapezoidal(theta=1.0), "`theta` must lie strictly between 0 and 1, got 1.0"),
        (lambda: PredictorCorrector(num_corrections=0), "`num_corrections` must be at least 1"),
        (lambda: PredictorCorrector(step_size=0.0), "`step_size` must be positive, got 0.0"),
        (lambda: PredictorCorrector(KGillespie()), "one factorized stage, got `KGillespie`"),
        (
            lambda: PredictorCorrector(ThetaTrapezoidal()),
            "one factorized stage, got `ThetaTrapezoidal`",
        ),
    ],
)
def test_errors(make, message):
    """Settings that make no sampler are refused with the reason."""
    with pytest.raises(ValueError, match=message):
        make()


# Large vocabularies ------------------------------------------------------------------------------


class LargestTensor(TorchDispatchMode):
    """Record the number of elements of the largest tensor that any operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return result


VOCABULARY = 50_257


def largest_tensor(kernel_class, use):
    """Return the elements of the largest tensor of a call, in units of one law (B, L, K)."""
    kernel = kernel_class(VOCABULARY)
    batch, length = 2, 3
    denoiser = MeanDenoiser(Constants(VOCABULARY), ForwardProcess(kernel, LogLinear()))
    x_0 = torch.randint(VOCABULARY, (batch, length), generator=seeded())
    with LargestTensor() as largest:
        use(denoiser, x_0)
    return largest.numel / (batch * length * kernel.num_states)


@pytest.mark.parametrize("kernel_class", [Absorbing, Uniform])
@each_factorized
def test_large_vocabulary_sampling(kernel_class, sampler):
    """With 50,257 tokens sampling needs no tensor larger than one law (B, L, K)."""

    def use(denoiser: Denoiser, x_0: torch.Tensor) -> None:
        x = denoiser.process.kernel.sample_prior(tuple(x_0.shape), seeded())
        tokens = sampler(denoiser, x, [1.0, 0.5, 0.0], generator=seeded()).tokens
        assert ((tokens >= 0) & (tokens < VOCABULARY)).all()

    assert largest_tensor(kernel_class, use) <= 1


@pytest.mark.parametrize("kernel_class", [Absorbing, Uniform])
def test_large_vocabulary_everything_else(kernel_class):
    """With 50,257 tokens neither losses nor step costs need more than one law (B, L, K)."""

    def use(denoiser: Denoiser, x_0: torch.Tensor) -> None:
        value = NELBO()(denoiser, x_0, at(0.5, 2), seeded())
        assert torch.isfinite(value).all()
        path = denoiser.process.sample_path(x_0, torch.tensor([0.2, 0.7]).double(), seeded())
        levels = torch.tensor([0.4, 0.0], dtype=torch.float64)
        prediction = denoiser(path[1], at(0.7, 2)).double()
        for nats in step_costs(prediction, x_0, levels):
            assert torch.isfinite(nats).all()

    assert largest_tensor(kernel_class, use) <= 1


def test_ordinal_tau_leaping_memory():
    """Ordinal tau-leaping draws without its law, whose Fourier transform would not fit images."""
    kernel = Gaussian(16)
    denoiser = MeanDenoiser(Constants(16), ForwardProcess(kernel, LogLinear()))
    x = kernel.sample_prior((2, 100), seeded())
    with LargestTensor() as largest:
        TauLeaping()(denoiser, x, [1.0, 0.5, 0.0], generator=seeded())
    assert largest.numel <= 2 * 100 * 16
