import pytest
import torch

import exact
from cases import NOISES, each_kernel, each_noise
from ddm.denoisers import ExactDenoiser
from ddm.kernels import Absorbing, Uniform
from ddm.noise import Constant
from ddm.process import ForwardProcess
from ddm.schedules.optimal.step_cost import step_costs
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


def logs(process, posterior, x_t, t):
    """Return log leave-one-out posteriors that belong to full posteriors at time t."""
    return process.leave_one_out(posterior.log(), x_t, at(t, len(x_t)))


@each_kernel
@each_noise
@each_span
def test_bridge(kernel, noise, s, t):
    """With the exact posterior the bridge is the law of x_s given x_t, by enumeration."""
    process, joint, x_t = problem(kernel, noise)
    p_0 = exact.posterior(process, joint, t)
    log_p = logs(process, p_0, x_t, t)
    law = process.bridge(log_p, x_t, at(t, len(x_t)), at(s, len(x_t)))
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
    log_p = logs(process, p_0, x_t, t)
    close(process.bridge(log_p, x_t, at(t, len(x_t)), at(s, len(x_t))), expected)


@each_kernel
@each_noise
@each_span
def test_bridge_divergence(kernel, noise, s, t):
    """The bridge divergence is KL( q(x_s | x_0, x_t) || bridge ) at every position."""
    process, joint, x_t = problem(kernel, noise)
    x_0 = sequences(kernel.vocab_size, LENGTH)
    pairs = torch.cartesian_prod(torch.arange(len(x_0)), torch.arange(len(x_t)))
    likelihood = exact.transition(process, 0.0, t, LENGTH)
    of_data = (x_0 * kernel.num_states ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)
    possible = likelihood[of_data[pairs[:, 0]], pairs[:, 1]] > 0
    data, states = pairs[possible].T
    p_0 = exact.posterior(process, joint, t)[states]
    x_0, x_t = x_0[data], x_t[states]
    log_p = logs(process, p_0, x_t, t)
    actual, mean = (x[0] for x in process.bridge_divergence(log_p, x_0, x_t, at(t)[0], at(s)))
    q = token_bridges(process, s, t)[x_0, x_t]
    law = exact.bridge(process, joint, s, t)[states]
    close(actual, (torch.xlogy(q, q) - torch.xlogy(q, law)).sum(-1))
    # In the mean over the data given x_t the prediction expects what there is, at every x_t.
    weight = (joint.flatten()[data] * likelihood[of_data[data], states])[:, None]
    sums = torch.zeros(len(likelihood[0]), LENGTH, dtype=torch.float64)
    close(*(sums.index_add(0, states, weight * x) for x in (actual, mean)))


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
    log_p = logs(process, exact.posterior(process, joint, t), x_t, t)
    # Relative, because beta and the ratios span many orders of magnitude.
    actual = process.ratio(log_p, x_t, when)
    close(process.reverse_rate(actual, x_t, when), expected, rtol=1e-8)
    possible = (into > 0) | (torch.arange(kernel.num_states) == x_t[..., None])
    close(actual[possible], ratio[possible], rtol=1e-8)


@each_kernel
@each_noise
@each_span
def test_ratio_of_tokens(kernel, noise, s, t):
    """Where x_0 is known the ratio is A_t[x_0, v] / A_t[x_0, x_t]."""
    process, _, x_0 = problem(kernel, noise)
    x_0 = x_0.clamp(max=kernel.vocab_size - 1)
    x_t = process.sample(x_0, t, seeded())
    matrix = expm(kernel, noise.sigma(at(t)))
    # Relative: a ratio to a rare token is large. 1e-7 for the exponential's rounding there.
    expected = matrix[x_0] / matrix[x_0, x_t][..., None]
    close(process.ratio_of_tokens(x_0, x_t, at(t, len(x_t))), expected, rtol=1e-7)


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
    unnormalized = one_out.log() + 3.0
    full = process.full_posterior(unnormalized, x_t, at(t, len(x_t)))
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
    actual = torch.softmax(process.leave_one_out(full.log(), x_t, at(t, len(x_t))), -1)
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
    """The ratio determines the posterior: `leave_one_out_of_ratio` inverts `ratio`.

    Rounding grows by the condition number of P(1.5), about exp(1.5 * 2.7).
    """
    process, joint, x_t = problem(kernel, noise)
    t = moderate_time(noise)
    when = at(t, len(x_t))
    p_0 = exact.posterior(process, joint, t)
    ratio = process.ratio(logs(process, p_0, x_t, t), x_t, when)
    for given in (exact.ratio(process, joint, t), ratio):
        log_p = process.leave_one_out_of_ratio(given, when)
        close(process.full_posterior(log_p, x_t, when).exp(), p_0)


@each_kernel
@each_noise
def test_posterior_of_impossible_ratio(kernel, noise):
    """Ratios that belong to no posterior still give a law."""
    process, _, x_t = problem(kernel, noise)
    shape = (len(x_t), LENGTH, kernel.num_states)
    ratio = torch.randn(shape, generator=seeded(), dtype=torch.float64).exp()
    ratio = ratio.scatter(-1, x_t[..., None], 1.0)
    for t in (1e-4, moderate_time(noise)):
        log_p = process.leave_one_out_of_ratio(ratio, at(t, len(x_t)))
        p_0 = process.full_posterior(log_p, x_t, at(t, len(x_t))).exp()
        assert (p_0 >= 0).all()
        close(p_0.sum(-1), torch.ones(shape[:2]).double(), atol=1e-12)


@each_kernel
def test_times_per_sequence(kernel):
    """A time per sequence and one time for all give the same results."""
    process, joint, x_t = problem(kernel, NOISES[0])
    s, t = at(0.2)[0], at(0.6)[0]
    log_p = logs(process, exact.posterior(process, joint, 0.6), x_t, 0.6)
    b = len(x_t)
    every_s, every_t = s.expand(b), t.expand(b)
    close(process.bridge(log_p, x_t, t, s), process.bridge(log_p, x_t, every_t, every_s))
    close(process.ratio(log_p, x_t, t), process.ratio(log_p, x_t, every_t))
    close(process.jump_rate_to(x_t, t), process.jump_rate_to(x_t, every_t))
    close(process.likelihood(x_t, t), process.likelihood(x_t, every_t))
    x_0 = x_t.clamp(max=kernel.vocab_size - 1)
    one = process.sample(x_0, t, seeded())
    assert torch.equal(one, process.sample(x_0, every_t, seeded()))
    assert torch.equal(one, process.sample(x_0, 0.6, seeded()))


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
def test_prior_divergence(kernel, noise):
    """The prior term is KL( q(x_1 | x_0) || prior ) at every position; 0 for absorbing."""
    process = ForwardProcess(kernel, noise)
    x_0 = sequences(kernel.vocab_size, LENGTH)
    actual = process.prior_divergence(x_0)
    if isinstance(kernel, Absorbing):
        assert (actual == 0).all()
        return
    rows = expm(kernel, noise.sigma(at(1.0)))
    divergence = (torch.xlogy(rows, rows) - torch.xlogy(rows, kernel.prior())).sum(-1)
    close(actual, divergence[x_0])


@each_noise
def test_mask_ratio(noise):
    """The mask ratio is 1 - exp(-sigma), and `time_at_mask_ratio` inverts it.

    Ratios close to 1 determine the time to 1e-16 / exp(-sigma) only, so sigma <= 6 here.
    """
    process = ForwardProcess(Absorbing(3), noise)
    sigma = torch.tensor([0.0, 1e-9, 0.1, 1.0, 6.0], dtype=torch.float64)
    t = noise.inverse(sigma)
    ratio = process.mask_ratio(t)
    close(ratio, 1 - torch.exp(-sigma), rtol=1e-12, atol=1e-15)
    close(process.time_at_mask_ratio(ratio), t, rtol=1e-11, atol=0)
    assert process.time_at_mask_ratio(torch.zeros(1).double()) == 0
    ends = process.time_at_mask_ratio(process.mask_ratio(at(1.0)))
    assert 0 <= float(ends) <= 1


@each_noise
def test_masks_left(noise):
    """Counts are the expected numbers of masks, rounded, and no step reveals nothing.

    Every row goes from all of its free tokens to none; where they run out the rest is zeros. The
    times that belong to the counts are those at which they are expected.
    """
    process = ForwardProcess(Absorbing(3), noise)
    num_free = torch.tensor([0, 1, 3, 40])
    for num_steps in (1, 2, 5, 40):
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        left = process.masks_left(times, num_free)
        assert left[0].tolist() == num_free.tolist()
        assert left[-1].tolist() == [0, 0, 0, 0]
        fall = -left.diff(dim=0)
        assert ((fall >= 1) | (left[:-1] == 0)).all()
        ratio = process.mask_ratio(times) / process.mask_ratio(times[0])
        if (-(40 * ratio).round().diff() >= 1).all():  # no step would reveal nothing
            assert torch.equal(left[:, 3], (40 * ratio).round().long())
        back = process.time_of_masks(left, num_free)
        expected = process.mask_ratio(back) / process.mask_ratio(at(1.0))
        close(expected[:, 3], left[:, 3].double() / 40, rtol=1e-9, atol=1e-12)


@each_kernel
def test_given_tokens_stay(kernel):
    """Tokens that are not free are never noised, in every row others."""
    process = ForwardProcess(kernel, NOISES[0])
    x_0 = torch.randint(kernel.vocab_size, (50, 6), generator=seeded())
    free = torch.rand(50, 6, generator=seeded(1)) < 0.5
    times = torch.tensor([0.3, 0.9], dtype=torch.float64)
    states = [
        process.sample(x_0, 0.9, seeded(2), free=free),
        *process.sample_path(x_0, times, seeded(2), free=free),
        process.sample_prior(x_0, free, seeded(2)),
    ]
    for x in states:
        assert torch.equal(x[~free], x_0[~free])
        assert (x != x_0).any()
    whole = process.sample(x_0, 0.9, seeded(2))
    assert torch.equal(states[0][free], whole[free])


@each_kernel
@each_noise
def test_forbidden_tokens(kernel, noise):
    """A logit of -inf forbids a token to be drawn; where it is there all the same, it may stay.

    Laws are laws, exact ones of the joint without the token.
    """
    process, joint, x_t = problem(kernel, noise)
    joint[..., 1] = 0.0
    joint[1] = 0.0
    joint = joint / joint.sum()
    t, s = 0.6, 0.3
    log_p = exact.leave_one_out(process, joint, t).log()
    possible = (torch.isfinite(log_p).any(-1)).all(-1)
    law = process.bridge(log_p, x_t, at(t, len(x_t)), at(s, len(x_t)))
    assert torch.isfinite(law[possible]).all()
    close(law[possible].sum(-1), torch.ones_like(law[possible].sum(-1)), atol=1e-12)
    reached = exact.marginal(process, joint, t) > 1e-300
    close(law[reached], exact.bridge(process, joint, s, t)[reached])


def test_infinite_noise():
    """Noise beyond the range of exp(-sigma) is nothing special: every token is masked at t = 1."""
    process = ForwardProcess(Absorbing(3), Constant(2000.0))
    denoiser = ExactDenoiser(process, exact.random_joint(3, 2))
    x_t = torch.tensor([[3, 1], [3, 3]])
    free = torch.tensor([[True, False], [True, True]])
    prediction = denoiser(x_t, at(1.0, 2), free)
    law = prediction.bridge(at(0.0, 2))
    given = denoiser.log_joint.exp().reshape(3, 3)[:, 1]
    close(law[0, 0, :3], given / given.sum())
    for nats in step_costs(prediction, torch.tensor([[0, 1], [2, 1]]), at(0.1)):
        assert torch.isfinite(nats).all()


def test_steps_back_are_refused():
    """A bridge to a later time is refused."""
    process, joint, x_t = problem(Uniform(3), NOISES[0])
    log_p = exact.leave_one_out(process, joint, 0.3).log()
    with pytest.raises(ValueError, match="`s` must be at most t"):
        process.bridge(log_p, x_t, at(0.3, len(x_t)), at(0.4, len(x_t)))
