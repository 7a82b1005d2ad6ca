import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from cases import ONE_WAY, REVERSIBLE, Blur, each_kernel
from ddm.denoisers import LogRatio
from ddm.kernels import Absorbing, DenseKernel, Gaussian, Kernel, Uniform, log_sums
from ddm.noise import Exponential, LogLinear
from ddm.process import ForwardProcess
from ddm.schedule import SamplingSchedule
from exact import (
    assert_frequencies,
    at,
    expm,
    frequencies,
    rate_matrix,
    seeded,
    total_variation,
)

FLIP = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
# From far below to far above the relaxation time of every case.
LEVELS = [0.0, 1e-6, 0.07, 1.0, 3.0, 40.0]
each_level = pytest.mark.parametrize("sigma", LEVELS)


def close(actual, expected, tolerance=1e-9):
    """Compare to 1e-9: torch's matrix exponential of one matrix is off by up to 3e-11."""
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def level(sigma, *shape):
    """Return sigma as a float64 tensor."""
    return torch.full(shape, sigma, dtype=torch.float64)


def states(kernel):
    """Return all states of one token."""
    return torch.arange(kernel.num_states)


@each_kernel
def test_rates(kernel):
    """Rows of Q sum to 0, its entries off the diagonal are >= 0, `rate_to` gives the columns."""
    q = kernel.rate_from(states(kernel))
    close(q.sum(-1), torch.zeros(kernel.num_states).double(), 1e-14)
    assert (q - torch.diag(q.diagonal()) >= 0).all()
    assert torch.equal(kernel.rate_to(states(kernel)), q.T)


@each_kernel
@each_level
def test_transition_is_expm(kernel, sigma):
    """`evolve`, `transition_from` and `transition_to` are exp(sigma Q), row-stochastic."""
    x, expected = states(kernel), expm(kernel, sigma)
    sigma = level(sigma)
    rows = kernel.transition_from(x, sigma)
    close(rows, expected)
    close(kernel.transition_to(x, sigma), expected.T)
    close(kernel.evolve(torch.eye(len(x), dtype=torch.float64), sigma), expected)
    assert (rows >= 0).all()
    close(rows.sum(-1), torch.ones(len(x)).double(), 1e-12)


@each_kernel
def test_no_noise(kernel):
    """Impossible transitions have probability exactly 0 at sigma = 0."""
    rows = kernel.transition_from(states(kernel), level(0.0))
    assert (rows >= 0).all()
    close(rows, torch.eye(kernel.num_states).double(), 1e-14)


@each_kernel
@pytest.mark.parametrize("sigma", [1e-14, 1e-9])
def test_rare_jumps(kernel, sigma):
    """Short times keep the digits of rare jumps: P(sigma)[x, y] = sigma Q[x, y] + O(sigma^2).

    1e-8 relative: the second order at 1e-9, and some rounding.
    """
    x, q = states(kernel), rate_matrix(kernel)
    jump = q > 0
    for rows in (
        kernel.transition_from(x, level(sigma)),
        kernel.transition_to(x, level(sigma)).T,
    ):
        torch.testing.assert_close(rows[jump] / sigma, q[jump], rtol=1e-8, atol=0)


@each_kernel
@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (2, 2), (2,), (1, 2), (1, 1)])
def test_sigma_broadcasts(kernel, shape):
    """Sigma broadcasts against tokens (2, 2), whichever of its axes are there or have size 1."""
    tokens = torch.tensor([[0, 1], [2, 0]])
    sigma = torch.rand(shape, generator=seeded(), dtype=torch.float64)
    p = torch.rand(2, 2, kernel.num_states, generator=seeded(1), dtype=torch.float64)
    every = sigma.expand(2, 2)
    for i, j in np.ndindex(2, 2):
        matrix = expm(kernel, every[i, j])
        close(kernel.evolve(p, sigma)[i, j], p[i, j] @ matrix)
        close(kernel.transition_from(tokens, sigma)[i, j], matrix[tokens[i, j]])
        close(kernel.transition_to(tokens, sigma)[i, j], matrix[:, tokens[i, j]])
        assert kernel.sample(tokens, sigma, seeded()).shape == (2, 2)


@each_kernel
def test_token_shapes(kernel):
    """Tokens of any shape are accepted: one, a list, a batch of grids."""
    for shape in ((), (3,), (2, 3), (2, 2, 3)):
        x = torch.zeros(shape, dtype=torch.long)
        wanted = (*shape, kernel.num_states)
        for result in (
            kernel.rate_from(x),
            kernel.rate_to(x),
            kernel.transition_from(x, level(0.5)),
            kernel.transition_to(x, level(0.5)),
        ):
            assert result.shape == wanted
            assert result.dtype == torch.float64


@each_kernel
def test_prior_is_stationary(kernel):
    """The prior is a law and stationary: prior Q = 0 (for the absorbing kernel: absorbing)."""
    prior = kernel.prior()
    assert (prior >= 0).all()
    close(prior.sum(), torch.ones(()).double(), 1e-14)
    close(prior @ rate_matrix(kernel), torch.zeros_like(prior), 1e-14)
    if isinstance(kernel, Absorbing):
        assert prior[kernel.mask] == 1


@each_kernel
def test_chapman_kolmogorov(kernel):
    """P(a) P(b) = P(a + b)."""
    x = states(kernel)
    for a, b in ((0.01, 0.3), (0.4, 2.0), (5.0, 5.0)):
        two_steps = kernel.evolve(kernel.transition_from(x, level(a)), level(b))
        close(two_steps, kernel.transition_from(x, level(a + b)))


@each_kernel
@pytest.mark.parametrize("of_base", [False, True])
@pytest.mark.parametrize("sigma", [0.0, 0.07, 1.0, 2.0])
def test_deconvolve_inverts(kernel, of_base, sigma):
    """`deconvolve` finds p again from any multiple of `p P(sigma)`, also by the base class.

    Rounding grows by the condition number of P(sigma), at most exp(2 * 2.7) here.
    """
    p = torch.rand(5, kernel.num_states, generator=seeded(), dtype=torch.float64)
    p[..., kernel.vocab_size :] = 0.0
    p = p / p.sum(-1, keepdim=True)
    method = Kernel.deconvolve if of_base else type(kernel).deconvolve
    close(method(kernel, 7.0 * kernel.evolve(p, level(sigma)), level(sigma)), p)


@each_kernel
@pytest.mark.parametrize("shape", [(), (1,), (2, 1), (2, 2), (2,), (1, 2), (1, 1)])
def test_deconvolve_broadcasts(kernel, shape):
    """Sigma broadcasts against tokens (2, 2) in the inverse as it does in `evolve`."""
    sigma = torch.rand(shape, generator=seeded(), dtype=torch.float64)
    p = torch.rand(2, 2, kernel.num_states, generator=seeded(1), dtype=torch.float64)
    p[..., kernel.vocab_size :] = 0.0
    p = p / p.sum(-1, keepdim=True)
    close(kernel.deconvolve(kernel.evolve(p, sigma), sigma), p)


@each_kernel
@pytest.mark.parametrize("sigma", [0.0, 1e-9, 1.0, 40.0, 1e4])
def test_deconvolve_is_a_distribution(kernel, sigma):
    """Whatever it is given, and however much noise there is: non-negative and normalized."""
    q = torch.randn(50, kernel.num_states, generator=seeded(), dtype=torch.float64).exp()
    for dtype, rounding in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        p = kernel.deconvolve(q.to(dtype), level(sigma))
        assert (p >= 0).all()
        close(p.sum(-1).double(), torch.ones(50).double(), rounding)


@pytest.mark.parametrize("vocab_size", [8, 17, 64])
@pytest.mark.parametrize("num_steps", [4, 16])
def test_gaussian_ratios_make_the_law(vocab_size, num_steps):
    """Exact ratios of the Gaussian kernel, whose P is singular in float64, give the exact law.

    One token, analytic steps, so that the law is exact but for what rounding has made of the
    modes that are lost: a thousandth in total variation. With 64 values a rough law is lost before
    the last step, whatever is done; what remains is its smooth part, a law all the same.
    """
    process = ForwardProcess(Gaussian(vocab_size), LogLinear())
    law = torch.softmax(torch.randn(vocab_size, generator=seeded(), dtype=torch.float64), 0)
    x = torch.arange(vocab_size)[:, None]
    p = process.kernel.transition_from(torch.arange(vocab_size), process.noise.sigma(at(1.0)))
    now = law @ p
    for t, s in pairwise(SamplingSchedule.uniform(num_steps).times):
        when = at(t, vocab_size)
        ratio = process.ratio(law.log().expand(vocab_size, 1, -1), x, when)
        step = LogRatio(process, ratio.log(), x, when).bridge(at(s, vocab_size))
        now = now @ step[:, 0]
    close(now.sum(), torch.ones(()).double())
    assert total_variation(now, law) < (1e-3 if vocab_size < 64 else 0.5)


@each_level
def test_uniform_is_dense(sigma):
    """The uniform kernel equals the dense kernel with its matrix, in every method."""
    fast, x = Uniform(4), torch.arange(4)
    dense = DenseKernel(rate_matrix(fast))
    sigma = level(sigma)
    close(fast.transition_from(x, sigma), dense.transition_from(x, sigma))
    close(fast.transition_to(x, sigma), dense.transition_to(x, sigma))
    close(fast.prior(), dense.prior())
    if sigma > 0:
        close(fast.prior_divergence(sigma), dense.prior_divergence(sigma))
    assert torch.equal(fast.rate_from(x), dense.rate_from(x))
    assert torch.equal(fast.rate_to(x), dense.rate_to(x))


@each_kernel
@each_level
def test_expect(kernel, sigma):
    """`expect` is the mean of f over the states that each state becomes, P(sigma) f."""
    f = torch.randn(4, kernel.num_states, generator=seeded(), dtype=torch.float64)
    close(kernel.expect(f, level(sigma)), f @ expm(kernel, sigma).T)


@each_kernel
@pytest.mark.parametrize("sigma", [1e-6, 0.07, 1.0, 3.0, 40.0])
def test_prior_divergence(kernel, sigma):
    """The prior divergence is KL( P(sigma)[x_0, :] || prior ), by brute force.

    For the absorbing kernel it is that of the chain conditioned on being masked: 0.
    """
    actual = kernel.prior_divergence(level(sigma))
    assert actual.shape == (kernel.vocab_size,)
    rows = expm(kernel, sigma)[: kernel.vocab_size]
    if isinstance(kernel, Absorbing):
        rows = torch.nn.functional.one_hot(torch.full((3,), kernel.mask)).double()
    prior = kernel.prior()
    expected = torch.xlogy(rows, rows) - torch.xlogy(rows, prior)
    close(actual, expected.sum(-1))


@each_kernel
@pytest.mark.parametrize("sigma", [0.0, 0.02, 0.7, 5.0])
def test_sample(kernel, sigma):
    """Samples have the law P(sigma)[x, :] from every state x (chi-square at 1e-6)."""
    x = states(kernel)[:, None].expand(-1, 20_000)
    y = kernel.sample(x, level(sigma), seeded())
    law = expm(kernel, sigma)
    law = torch.where(law < 1e-15, 0.0, law)  # rounding of expm where the chain cannot go
    for state in range(kernel.num_states):
        assert_frequencies(frequencies(y[state], kernel.num_states), law[state])


@each_kernel
def test_sample_prior(kernel):
    """Prior samples are independent tokens with the law of the prior (chi-square at 1e-6)."""
    x = kernel.sample_prior((20_000, 2), seeded())
    assert x.shape == (20_000, 2)
    assert x.dtype == torch.int64
    k = kernel.num_states
    prior = kernel.prior()
    assert_frequencies(frequencies(x @ torch.tensor([k, 1]), k * k), torch.kron(prior, prior))


@each_kernel
def test_float32(kernel):
    """Results have the dtype of sigma or of the law passed in, to the accuracy of that dtype."""
    x, sigma = states(kernel), level(0.3)
    for method in (kernel.transition_from, kernel.transition_to):
        low = method(x, sigma.float())
        assert low.dtype == torch.float32
        torch.testing.assert_close(low.double(), method(x, sigma), rtol=1e-6, atol=1e-7)
    low = kernel.evolve(torch.eye(len(x)), sigma)
    assert low.dtype == torch.float32
    assert kernel.prior_divergence(sigma.float()).dtype == torch.float32


@each_kernel
@pytest.mark.parametrize(
    "cast", [lambda m: m.to(torch.float32), lambda m: m.float(), lambda m: m.half()]
)
def test_casting_changes_nothing(kernel, cast):
    """Casting a model to a low precision leaves its kernel as exact as before."""
    parent = torch.nn.Sequential(copy.deepcopy(kernel), torch.nn.Linear(1, 1))
    moved = cast(parent)[0]
    assert parent[1].weight.dtype != torch.float64
    assert all(buffer.dtype == torch.float64 for buffer in moved.buffers())
    x, sigma = states(kernel), level(0.3)
    assert torch.equal(moved.rate_from(x), kernel.rate_from(x))
    assert torch.equal(moved.transition_to(x, sigma), kernel.transition_to(x, sigma))
    assert torch.equal(moved.prior(), kernel.prior())


@each_kernel
def test_nothing_to_checkpoint(kernel):
    """Kernels add nothing to a checkpoint: everything follows from the constructor arguments."""
    assert not kernel.state_dict()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"width": 0.5},
        {"prior_std": 0.7},
        {"width": 2.0, "prior_std": 3.0, "spectral_gap": 4.0},
    ],
)
def test_gaussian(settings):
    """Detailed balance pi_i Q_ij = pi_j Q_ji with the Gaussian pi, and the spectral gap asked for.

    Eigenvalues are those of the unsymmetric Q by numpy (1e-9 for its eigensolver).
    """
    kernel = Gaussian(7, **settings)
    q, pi = rate_matrix(kernel), kernel.prior()
    i = torch.arange(7.0, dtype=torch.float64) - 3
    gaussian = torch.exp(-(i**2) / (2 * settings.get("prior_std", 14.0) ** 2))
    close(pi, gaussian / gaussian.sum(), 1e-12)
    close(pi[:, None] * q, (pi[:, None] * q).T, 1e-13)
    gaps = np.sort(-np.linalg.eigvals(q.numpy()).real)
    assert gaps[0] == pytest.approx(0, abs=1e-9)
    assert gaps[1] == pytest.approx(settings.get("spectral_gap", 1.0), rel=1e-9)
    assert kernel.reversible
    assert kernel.ordinal


def test_gaussian_jump_law():
    """Without scaling, jumps toward the center have the rate exp(-((d - 1) / width)^2)."""
    q = rate_matrix(Gaussian(6, width=2.0, prior_std=1.5, spectral_gap=None))
    for start, end in ((0, 1), (0, 3), (5, 4), (5, 2)):
        rate = math.exp(-(((abs(end - start) - 1) / 2.0) ** 2))
        assert float(q[start, end]) == pytest.approx(rate, rel=1e-14)


def test_tauldr_set_up():
    """TauLDR's CIFAR-10 set-up can be built and its noise forgets the data: KL < 1e-3 nats."""
    kernel = Gaussian(256, width=6.0, prior_std=512.0, spectral_gap=None)
    top = Exponential(scale=3.0, growth=100.0).sigma(torch.ones((), dtype=torch.float64))
    assert 0 <= float(kernel.prior_divergence(top).min())
    assert float(kernel.prior_divergence(top).max()) < 1e-3
    x = torch.arange(256)
    close(kernel.transition_from(x, level(0.1)), expm(kernel, 0.1))


def test_dense_symmetry_is_found():
    """Detailed balance is recognized, so that only the other chains pay for exponentials."""
    assert DenseKernel(REVERSIBLE).reversible
    assert not DenseKernel(ONE_WAY).reversible
    close(DenseKernel(REVERSIBLE).prior(), torch.tensor([0.2, 0.3, 0.5]).double(), 1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Absorbing(1), "`vocab_size` must be at least 2, got 1"),
        (lambda: Absorbing(4, mask=5), "`mask` must be an id .* in 0..4, .* got 5"),
        (lambda: Absorbing(2, mask=1), "leave at least 2 data tokens, got 1"),
        (lambda: Absorbing(4, mask=-1), "`mask` must be at least 0, got -1"),
        (lambda: Uniform(0), "`vocab_size` must be at least 2, got 0"),
        (lambda: Gaussian(1), "`vocab_size` must be at least 2, got 1"),
        (lambda: Gaussian(4, width=0.0), "`width` must be positive, got 0.0"),
        (lambda: Gaussian(4, prior_std=-1.0), "`prior_std` must be positive, got -1.0"),
        (lambda: Gaussian(4, spectral_gap=0.0), "`spectral_gap` must be positive or None, got 0.0"),
        (lambda: DenseKernel([[-1.0, 1.0]]), r"must be square, got shape \(1, 2\)"),
        (lambda: DenseKernel([[math.nan, 1.0], [1.0, -1.0]]), "must be finite"),
        (lambda: DenseKernel([[1.0, -1.0], [1.0, -1.0]]), r"got -1 at \(0, 1\)"),
        (lambda: DenseKernel([[-1.0, 2.0], [1.0, -1.0]]), "the worst sums to 1"),
        (lambda: DenseKernel(torch.zeros(2, 2)), "do not communicate"),
        (lambda: DenseKernel(torch.block_diag(FLIP, FLIP)), "do not communicate"),
        (lambda: DenseKernel([[-1.0, 1.0], [0.0, 0.0]]), "state 0 has stationary probability 0"),
        (lambda: DenseKernel([[0.0]]), "`vocab_size` must be at least 2, got 1"),
    ],
)
def test_errors(make, message):
    """Arguments that are no kernel are refused with the reason."""
    with pytest.raises(ValueError, match=message):
        make()


@each_kernel
def test_bridge_divergence_paths_agree(kernel):
    """A kernel's own `bridge_divergence` equals the general one of the base class."""
    generator = seeded()
    x_0 = torch.randint(3, (6, 4), generator=generator)
    top, levels = level(1.3), torch.tensor([1.1, 0.4, 1e-3, 0.0], dtype=torch.float64)
    x_t = kernel.sample(x_0, top, generator)
    log_p = torch.randn(6, 4, kernel.vocab_size, generator=generator, dtype=torch.float64)
    actual = kernel.bridge_divergence(log_p, x_0, x_t, top, levels)
    expected = Kernel.bridge_divergence(kernel, log_p, x_0, x_t, top, levels)
    for x, y in zip(actual, expected, strict=True):
        assert x.shape == (4, 6, 4)
        close(x, y)


def test_one_way_short_times():
    """Entries that need two jumps keep their digits: P = sigma^2 Q^2 / 2, at 1e-9 and below.

    A matrix exponential of low degree loses them. 1e-8 relative is the third order.
    """
    cycle = DenseKernel([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0], [1.0, 0.0, -1.0]])
    for sigma in (1e-9, 1e-12):
        p = cycle.transition(level(sigma))
        two = 0.5 * sigma**2
        for x, y in ((0, 2), (1, 0), (2, 1)):
            assert float(p[x, y]) == pytest.approx(two, rel=1e-8)


@pytest.mark.parametrize("law", [test_rates, test_prior_is_stationary, test_chapman_kolmogorov])
def test_own_kernel(law):
    """Three methods make a kernel; what the base class derives from them obeys the laws."""
    law(Blur(3))


@each_level
def test_own_kernel_is_expm(sigma):
    """The same, for its transition probabilities."""
    test_transition_is_expm(Blur(3), sigma)
    test_expect(Blur(3), sigma)


@pytest.mark.parametrize("mask", [0, 1, 3, 4])
def test_mask_among_tokens(mask):
    """A mask among the ids is the mask beyond them with other numbers, in every method."""
    beyond, among = Absorbing(4), Absorbing(5, mask=mask)
    new = torch.tensor([i for i in range(5) if i != mask] + [mask])  # new number of every state
    x = torch.arange(5)
    sigma = level(0.7)

    def renumbered(values):
        return values[..., new][new]

    for method in ("rate_from", "rate_to"):
        close(renumbered(getattr(among, method)(x)), getattr(beyond, method)(x))
    for method in ("transition_from", "transition_to"):
        close(renumbered(getattr(among, method)(x, sigma)), getattr(beyond, method)(x, sigma))
    close(among.prior()[new], beyond.prior())
    p = torch.rand(3, 5, generator=seeded(), dtype=torch.float64)
    close(among.evolve(p, sigma)[:, new], beyond.evolve(p[:, new], sigma))
    logits = torch.randn(2, 4, 5, generator=seeded(), dtype=torch.float64)
    close(among.normalize(logits)[..., new[:4]], beyond.normalize(logits[..., new[:4]]))
    assert (among.normalize(logits)[..., mask] == 0).all()
    x_0 = torch.randint(4, (2, 4), generator=seeded(1))
    close(among.log_prob(logits, new[x_0]), beyond.log_prob(logits[..., new[:4]], x_0))
    x_t = beyond.sample(x_0, sigma, seeded(2))
    levels = torch.tensor([0.3, 0.0], dtype=torch.float64)
    found = among.bridge_divergence(logits, new[x_0], new[x_t], sigma, levels)
    expected = beyond.bridge_divergence(logits[..., new[:4]], x_0, x_t, sigma, levels)
    for x, y in zip(found, expected, strict=True):
        close(x, y)


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.tensor([[0.0, 1.0]]), TypeError, "`tokens` must be integers, got torch.float32"),
        (torch.tensor([[True]]), TypeError, "must be integers, got torch.bool"),
        (torch.tensor([0, 1]), ValueError, r"must have the shape \(B, L\), got \(2,\)"),
        (torch.tensor([[0, 4]]), ValueError, "must lie in 0..3, .* got values from 0 to 4"),
        (torch.tensor([[-1, 2]]), ValueError, "got values from -1 to 2"),
        (torch.tensor([[0, 2]]), ValueError, "must not hold the mask, 2"),
    ],
)
def test_check_tokens(tokens, error, message):
    """What are no tokens of the data is refused by name; noised tokens may be masks."""
    kernel = Absorbing(4, mask=2)
    with pytest.raises(error, match=message):
        kernel.check_tokens(tokens)
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        kernel.check_tokens(torch.tensor([[0, 1, 3]], dtype=dtype))
    kernel.check_tokens(torch.tensor([[0, 2, 3]]), noised=True)


@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_log_sums(scale, monkeypatch):
    """Sums from counts in bins are those term by term, to 1e-6 per term, for all ratios a / b."""
    log_p = torch.log_softmax(scale * torch.randn(2, 3, 5000, generator=seeded()), -1)
    log_p[0, 0, 7] = -torch.inf  # a forbidden token
    log_p[1, 0, 7] += 30.0  # nearly certain
    log_p = torch.log_softmax(log_p, -1)
    ratio = torch.tensor([1e-12, 1e-3, 1.0, 1e3, 1e6, 1e12], dtype=torch.float64)
    one = torch.ones_like(ratio)
    binned, mean, total = log_sums.log_sums(log_p + 7.0, one, 1 / ratio)
    monkeypatch.setattr(log_sums, "EXACT", 5000)
    exact, exact_mean, _ = log_sums.log_sums(log_p, one, 1 / ratio)
    close(binned / 5000, exact / 5000, 2e-6)  # 1e-6 of it the rounding of logits + 7
    close(mean, exact_mean, 2e-4)
    close(total, log_p.logsumexp(-1) + 7.0, 1e-5)
    actual, actual_mean, _ = log_sums.log_sums(log_p, 0.3 * one, 0.2 * one)
    p = log_p.softmax(-1).double()
    terms = torch.log(0.3 * p + 0.2)
    close(actual[0] / 5000, terms.mean(-1), 1e-6)
    close(actual_mean[0], (p * terms).sum(-1), 1e-5)


@pytest.mark.parametrize("scale", [0.5, 5.0])
def test_uniform_divergence_of_a_large_vocabulary(scale):
    """With counted log probabilities it is the general one to 1e-5 nats, in the mean to 2e-4."""
    kernel = Uniform(1200)
    generator = seeded()
    x_0 = torch.randint(1200, (2, 3), generator=generator)
    x_t = kernel.sample(x_0, level(1.3), generator)
    x_t[0] = x_0[0]
    log_p = scale * torch.randn(2, 3, 1200, generator=generator)
    levels = torch.tensor([1.1, 0.4, 1e-3, 0.0], dtype=torch.float64)
    actual = kernel.bridge_divergence(log_p, x_0, x_t, level(1.3), levels)
    expected = Kernel.bridge_divergence(kernel, log_p, x_0, x_t, level(1.3), levels)
    for x, y, tolerance in zip(actual, expected, (1e-5, 2e-4), strict=True):
        close(x, y, tolerance)
