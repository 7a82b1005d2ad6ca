import pytest
import torch

import exact
from cases import NOISES, each_kernel, each_noise
from ddm.kernels import Absorbing, Uniform
from ddm.process import ForwardProcess
from exact import assert_frequencies, at, expm, frequencies, seeded, sequences

LENGTH = 2
SPANS = [(0.0, 1.0), (0.0, 0.3), (0.2, 0.7), (0.9, 1.0), (1e-4, 2e-4)]
each_span = pytest.mark.parametrize(("s", "t"), SPANS)


def close(actual, expected, rtol=1e-9, atol=1e-9):
    """Compare to 1e-9: torch's matrix exponential of one matrix is off by up to 3e-11."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def problem(kernel, noise):
    """Return a process, a law of x_0 with full support and all sequences of states."""
    process = ForwardProcess(kernel, noise)
    joint = exact.random_joint(kernel.vocab_size, LENGTH)
    return process, joint, sequences(kernel.num_states, LENGTH)


def moderate_time(noise):
    """Return the time with sigma = 1.5, where P(sigma) is far from singular for every case."""
    return float(noise.inverse(torch.tensor(1.5, dtype=torch.float64)))


def token_bridges(process, s, t):
    """Return q(x_s | x_0, x_t) by Bayes, (K, K, K) for x_0, x_t, x_s, NaN for impossible pairs."""
    level = process.noise.sigma(torch.tensor([s, t], dtype=torch.float64))
    ahead = expm(process.kernel, level[0])
    back = expm(process.kernel, level[1] - level[0])
    both = ahead[:, None, :] * back.T
    return both / both.sum(-1, keepdim=True)


@each_kernel
@each_noise
@each_span
def test_bridge(kernel, noise, s, t):
    """With the exact posterior the bridge is the law of x_s given x_t, by enumeration."""
    process, joint, x_t = problem(kernel, noise)
    p_0 = exact.posterior(process, joint, t)
    law = process.bridge(p_0, x_t, at(t, len(x_t)), at(s, len(x_t)))
    assert (law >= 0).all()
    close(law.sum(-1), torch.ones(len(x_t), LENGTH).double(), atol=1e-14)
    close(law, exact.bridge(process, joint, s, t))


@each_kernel
@each_noise
@each_span
def test_bridge_of_any_posterior(kernel, noise, s, t):
    """The bridge mixes q(x_s | x_0, x_t) with the weights of any posterior that x_t allows."""
    process, _, x_t = problem(kernel, noise)
    p_0 = torch.rand(len(x_t), LENGTH, kernel.vocab_size, generator=seeded(), dtype=torch.float64)
    p_0 = torch.where(process.likelihood(x_t, at(t)) > 0, p_0, 0.0)
    p_0 = p_0 / p_0.sum(-1, keepdim=True)
    bridges = token_bridges(process, s, t)[: kernel.vocab_size, x_t]  # (V, S, L, K)
    expected = torch.einsum("slv,vslk->slk", p_0, bridges.nan_to_num())
    close(process.bridge(p_0, x_t, at(t, len(x_t)), at(s, len(x_t))), expected)


@each_kernel
@each_noise
@each_span
def test_bridge_divergence(kernel, noise, s, t):
    """The bridge divergence is KL( q(x_s | x_0, x_t) || bridge ) summed over positions."""
    process, joint, x_t = problem(kernel, noise)
    x_0 = sequences(kernel.vocab_size, LENGTH)
    pairs = torch.cartesian_prod(torch.arange(len(x_0)), torch.arange(len(x_t)))
    likelihood = exact.transition(process, 0.0, t, LENGTH)
    of_data = (x_0 * kernel.num_states ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)
    possible = likelihood[of_data[pairs[:, 0]], pairs[:, 1]] > 0
    data, states = pairs[possible].T
    p_0 = exact.posterior(process, joint, t)[states]
    x_0, x_t = x_0[data], x_t[states]
    actual = process.bridge_divergence(p_0, x_0, x_t, at(t)[0], at(s))[0]
    q = token_bridges(process, s, t)[x_0, x_t]
    law = exact.bridge(process, joint, s, t)[states]
    close(actual, (torch.xlogy(q, q) - torch.xlogy(q, law)).sum((-1, -2)))


@each_kernel
@each_noise
@pytest.mark.parametrize("t", [1e-4, 0.3, 1.0])
def test_reverse_rate(kernel, noise, t):
    """Reverse rates are those of the time reversal: R_t(x -> y) = q_t(y) R(y -> x) / q_t(x)."""
    process, joint, x_t = problem(kernel, noise)
    when = at(t, len(x_t))
    ratio = exact.ratio(process, joint, t)
    into = exact.rate_matrix(kernel).T[x_t] * noise.beta(when)[:, None, None]
    expected = (into * ratio).scatter(-1, x_t[..., None], 0.0)
    p_0 = exact.posterior(process, joint, t)
    # Relative, because beta and the ratios span many orders of magnitude.
    close(process.reverse_rate(p_0, x_t, when), expected, rtol=1e-8)
    possible = (into > 0) | (torch.arange(kernel.num_states) == x_t[..., None])
    close(process.ratio(p_0, x_t, when)[possible], ratio[possible], rtol=1e-8)


@each_kernel
@each_noise
def test_jump_rates(kernel, noise):
    """Forward rates are beta(t) Q without its diagonal, by rows and by columns."""
    process, _, x_t = problem(kernel, noise)
    t = at(0.4, len(x_t))
    jumps = exact.rate_matrix(kernel).fill_diagonal_(0.0)
    beta = noise.beta(t)[:, None, None]
    close(process.jump_rate_from(x_t, t), beta * jumps[x_t])
    close(process.jump_rate_to(x_t, t), beta * jumps.T[x_t])


@each_kernel
@each_noise
@pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])
def test_leave_one_out_to_full(kernel, noise, t):
    """Leave-one-out posterior times likelihood is the full posterior; both by enumeration."""
    process, joint, x_t = problem(kernel, noise)
    one_out = exact.leave_one_out(process, joint, t)
    unnormalised = one_out.log() + 3.0
    full = process.full_posterior(unnormalised, x_t, at(t, len(x_t)))
    close(full.exp(), exact.posterior(process, joint, t))


@each_kernel
@each_noise
@pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])
def test_full_to_leave_one_out(kernel, noise, t):
    """The full posterior divided by the likelihood is the leave-one-out posterior.

    Where a token excludes all others (absorbing, revealed) it is known to be that token only.
    """
    process, joint, x_t = problem(kernel, noise)
    full = exact.posterior(process, joint, t)
    actual = process.leave_one_out(full.log(), x_t, at(t, len(x_t))).exp()
    expected = exact.leave_one_out(process, joint, t)
    if isinstance(kernel, Absorbing):
        expected = torch.where((x_t == kernel.mask)[..., None], expected, full)
    # Rounding of the posterior, 1e-11, is divided by the smallest likelihood, 3e-4 at t = 1e-3.
    close(actual, expected, rtol=1e-7, atol=1e-8)
    back = process.full_posterior(actual.log(), x_t, at(t, len(x_t)))
    close(back.exp(), full)


@each_kernel
@each_noise
def test_ratio_to_posterior(kernel, noise):
    """The ratio determines the posterior: `posterior_of_ratio` inverts `ratio`.

    Rounding grows by the condition number of P(1.5), about exp(1.5 * 2.7).
    """
    process, joint, x_t = problem(kernel, noise)
    t = moderate_time(noise)
    when = at(t, len(x_t))
    p_0 = exact.posterior(process, joint, t)
    close(process.posterior_of_ratio(exact.ratio(process, joint, t), x_t, when), p_0)
    close(process.posterior_of_ratio(process.ratio(p_0, x_t, when), x_t, when), p_0)


@each_kernel
@each_noise
def test_posterior_of_impossible_ratio(kernel, noise):
    """Ratios that belong to no posterior still give a law."""
    process, _, x_t = problem(kernel, noise)
    shape = (len(x_t), LENGTH, kernel.num_states)
    ratio = torch.randn(shape, generator=seeded(), dtype=torch.float64).exp()
    ratio = ratio.scatter(-1, x_t[..., None], 1.0)
    for t in (1e-4, moderate_time(noise)):
        p_0 = process.posterior_of_ratio(ratio, x_t, at(t, len(x_t)))
        assert (p_0 >= 0).all()
        close(p_0.sum(-1), torch.ones(shape[:2]).double(), atol=1e-12)


@each_kernel
def test_times_per_sequence(kernel):
    """A time per sequence and one time for all give the same results."""
    process, joint, x_t = problem(kernel, NOISES[0])
    s, t = at(0.2)[0], at(0.6)[0]
    p_0 = exact.posterior(process, joint, 0.6)
    b = len(x_t)
    every_s, every_t = s.expand(b), t.expand(b)
    close(process.bridge(p_0, x_t, t, s), process.bridge(p_0, x_t, every_t, every_s))
    close(process.reverse_rate(p_0, x_t, t), process.reverse_rate(p_0, x_t, every_t))
    close(process.likelihood(x_t, t), process.likelihood(x_t, every_t))
    x_0 = x_t.clamp(max=kernel.vocab_size - 1)
    one = process.sample(x_0, t, seeded())
    assert torch.equal(one, process.sample(x_0, every_t, seeded()))


@each_kernel
@each_noise
def test_sample(kernel, noise):
    """Given x_0, tokens of x_t are independent with the law exp(sigma(t) Q)[x_0, :].

    Every sequence has its own time and position (chi-square at 1e-6).
    """
    process = ForwardProcess(kernel, noise)
    x_0 = torch.tensor([[0, 2], [1, 1], [2, 0]]).repeat_interleave(6000, 0)
    t = torch.tensor([0.1, 0.4, 1.0], dtype=torch.float64).repeat_interleave(6000)
    k = kernel.num_states
    index = exact.index_of(process.sample(x_0, t, seeded()), k)
    for j in range(3):
        first, second = x_0[6000 * j]
        matrix = expm(kernel, noise.sigma(t[6000 * j]))
        law = torch.kron(matrix[first], matrix[second])
        law = torch.where(law < 1e-15, 0.0, law)  # rounding of expm
        assert_frequencies(frequencies(index[6000 * j : 6000 * (j + 1)], k * k), law)


@each_kernel
@each_noise
def test_sample_path(kernel, noise):
    """A path has the true joint law at all its times: P(a)[x_0, x_s] P(b)[x_s, x_t].

    Pairs at distinct times are compared by chi-square at 1e-6; at equal times they are equal.
    """
    process = ForwardProcess(kernel, noise)
    times = torch.tensor([0.0, 0.15, 0.5, 0.5, 1.0], dtype=torch.float64)
    x_0 = torch.arange(3)[:, None].expand(-1, 6000)
    path = process.sample_path(x_0, times, seeded())
    assert path.shape == (5, 3, 6000)
    assert torch.equal(path[0], x_0)
    assert torch.equal(path[2], path[3])
    level = noise.sigma(times)
    k = kernel.num_states
    for early, late in ((1, 2), (2, 4)):
        ahead = expm(kernel, level[early])
        on = expm(kernel, level[late] - level[early])
        for token in range(3):
            law = (ahead[token][:, None] * on).flatten()
            law = torch.where(law < 1e-15, 0.0, law)  # rounding of expm
            pairs = path[early, token] * k + path[late, token]
            assert_frequencies(frequencies(pairs, k * k), law)


def test_sample_path_errors():
    """Times of a path must not decrease or be negative."""
    process = ForwardProcess(Uniform(3), NOISES[0])
    x_0 = torch.zeros(1, 2, dtype=torch.long)
    for times in ([0.5, 0.2], [-0.1, 0.2]):
        with pytest.raises(ValueError, match="`times` must be >= 0 and must not decrease"):
            process.sample_path(x_0, torch.tensor(times, dtype=torch.float64))


@each_kernel
@each_noise
def test_prior_kl(kernel, noise):
    """The prior term is KL( q(x_1 | x_0) || prior ) summed over positions; 0 for absorbing."""
    process = ForwardProcess(kernel, noise)
    x_0 = sequences(kernel.vocab_size, LENGTH)
    actual = process.prior_kl(x_0)
    if isinstance(kernel, Absorbing):
        assert (actual == 0).all()
        return
    rows = expm(kernel, noise.sigma(at(1.0)))
    divergence = (torch.xlogy(rows, rows) - torch.xlogy(rows, kernel.prior())).sum(-1)
    close(actual, divergence[x_0].sum(-1))


@each_noise
def test_noised_share(noise):
    """The noised share is the masked share 1 - exp(-sigma), and `time_of_share` inverts it.

    Shares close to 1 determine the time to 1e-16 / exp(-sigma) only, so sigma <= 6 here.
    """
    process = ForwardProcess(Absorbing(3), noise)
    sigma = torch.tensor([0.0, 1e-9, 0.1, 1.0, 6.0], dtype=torch.float64)
    t = noise.inverse(sigma)
    share = process.noised_share(t)
    close(share, 1 - torch.exp(-sigma), rtol=1e-12, atol=1e-15)
    close(process.time_of_share(share), t, rtol=1e-11, atol=0)
    assert process.time_of_share(torch.zeros(1).double()) == 0
    ends = process.time_of_share(process.noised_share(at(1.0)))
    assert 0 <= float(ends) <= 1
