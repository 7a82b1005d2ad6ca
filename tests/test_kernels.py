import copy
import math

import numpy as np
import pytest
import torch

from cases import ONE_WAY, REVERSIBLE, each_kernel
from ddm.kernels import Absorbing, DenseKernel, Gaussian, Kernel, Uniform
from ddm.noise import Exponential
from exact import assert_frequencies, expm, frequencies, rate_matrix, seeded

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
@pytest.mark.parametrize("sigma", [0.0, 0.07, 1.0, 2.0])
def test_negative_sigma_inverts(kernel, sigma):
    """`evolve` with -sigma undoes `evolve` with sigma, for vectors of any sign.

    Rounding grows by the condition number of P(sigma), at most exp(2 * 2.7) here.
    """
    p = torch.randn(5, kernel.num_states, generator=seeded(), dtype=torch.float64)
    close(kernel.evolve(kernel.evolve(p, level(sigma)), level(-sigma)), p)


@each_level
def test_uniform_is_dense(sigma):
    """The uniform kernel equals the dense kernel with its matrix, in every method."""
    fast, x = Uniform(4), torch.arange(4)
    dense = DenseKernel(rate_matrix(fast))
    sigma = level(sigma)
    close(fast.transition_from(x, sigma), dense.transition_from(x, sigma))
    close(fast.transition_to(x, sigma), dense.transition_to(x, sigma))
    close(fast.prior(), dense.prior())
    close(fast.correlation(sigma), dense.correlation(sigma))
    if sigma > 0:
        close(fast.prior_divergence(sigma), dense.prior_divergence(sigma))
    assert torch.equal(fast.rate_from(x), dense.rate_from(x))
    assert torch.equal(fast.rate_to(x), dense.rate_to(x))


@each_kernel
@each_level
def test_correlation(kernel, sigma):
    """The maximal correlation is the second singular value of sqrt(pi_x / pi_y) P[x, y].

    The absorbing kernel is exempt by definition: its errors are never repaired, so it says 1.
    """
    actual = kernel.correlation(level(sigma))
    if isinstance(kernel, Absorbing):
        assert actual == 1
        return
    root = kernel.prior().sqrt()
    channel = (root[:, None] * expm(kernel, sigma) / root).numpy()
    close(actual, torch.tensor(np.linalg.svd(channel, compute_uv=False)[1]))
    several = kernel.correlation(level(sigma, 2, 3))
    close(several, actual.expand(2, 3), 1e-15)


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
    assert kernel.correlation(sigma.float()).dtype == torch.float32
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
    """Without scaling, jumps towards the centre have the rate exp(-((d - 1) / width)^2)."""
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
    """Detailed balance is recognised, so that only the other chains pay for exponentials."""
    assert DenseKernel(REVERSIBLE).reversible
    assert not DenseKernel(ONE_WAY).reversible
    close(DenseKernel(REVERSIBLE).prior(), torch.tensor([0.2, 0.3, 0.5]).double(), 1e-7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Absorbing(1), "`vocab_size` must be at least 2, got 1"),
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
    p_0 = torch.rand(6, 4, kernel.num_states, generator=generator, dtype=torch.float64)
    likelihood = kernel.transition_to(x_t, top)
    p_0 = torch.where(likelihood > 0, p_0, 0.0)
    p_0[..., kernel.vocab_size :] = 0.0
    tilted = torch.where(likelihood > 0, p_0 / p_0.sum(-1, keepdim=True) / likelihood, 0.0)
    close(
        kernel.bridge_divergence(tilted, x_0, x_t, top, levels),
        Kernel.bridge_divergence(kernel, tilted, x_0, x_t, top, levels),
    )
