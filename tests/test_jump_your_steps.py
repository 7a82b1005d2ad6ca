"""Jump Your Steps: search, hierarchy and objectives against enumeration and closed forms."""

import importlib.util
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from cases import each_kernel
from ddm.backbones import MLP
from ddm.datamodules import countdown_chain, sample_chain
from ddm.denoisers import (
    Denoiser,
    ExactDenoiser,
    LogPosterior,
    MarkovChainDenoiser,
    MeanDenoiser,
    ScoreDenoiser,
)
from ddm.functional import categorical
from ddm.kernels import Absorbing, Gaussian, Uniform
from ddm.metrics import CountDownError
from ddm.noise import Cosine, LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, CallCounter, Euler, KGillespie
from ddm.schedules import (
    KLUB,
    DataCoupling,
    Hierarchy,
    JumpYourSteps,
    PathCoupling,
    RevealKLUB,
    SamplingSchedule,
    Split,
    TokenKLUB,
    golden_section,
)
from ddm.schedules.jys import klub
from exact import (
    assert_frequencies,
    at,
    expm,
    frequencies,
    given_law,
    kl,
    product_law,
    random_joint,
    seeded,
    sequences,
)

T, M, S = 0.9, 0.5, 0.2


def released():
    """Return the module of the baseline, which lies outside of the package."""
    path = Path(__file__).parents[1] / "scripts" / "benchmarks" / "_released_jys.py"
    spec = importlib.util.spec_from_file_location("_released_jys", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def countdown(kernel, noise=None, smoothing=0.0, num=256, length=16):
    """Return the exact denoiser of the CountDown chain and sequences of it."""
    initial, transition = countdown_chain(kernel.vocab_size, smoothing)
    denoiser = MarkovChainDenoiser(
        ForwardProcess(kernel, noise or LogLinear()), initial, transition
    )
    return denoiser, sample_chain(initial, transition, num, length, seeded())


def independent(kernel, length=6):
    """Return the exact denoiser of independent tokens and sequences of them."""
    law = torch.arange(1, kernel.vocab_size + 1, dtype=torch.float64)
    law = law / law.sum()
    denoiser = MarkovChainDenoiser(
        ForwardProcess(kernel, LogLinear()), law, law.expand(kernel.vocab_size, -1), slack=0.0
    )
    return denoiser, categorical(law.expand(64, length, -1), seeded())


# Golden section ----------------------------------------------------------------------------------

UNIMODAL = {
    "parabola": lambda x, top: -((x - top) ** 2),
    "kink": lambda x, top: -abs(x - top),
    "skewed": lambda x, top: -((x - top) ** 2) * (1 if x < top else 30),
    "step": lambda x, top: float(x < top) * (x - top),
}


@pytest.mark.parametrize("name", UNIMODAL)
@pytest.mark.parametrize(("lower", "width"), [(0.0, 1.0), (0.3, 1e-2), (0.7, 1e-4), (1 / 3, 1e-9)])
@pytest.mark.parametrize("place", [0.02, 0.31, 0.5, 0.93])
@pytest.mark.parametrize("num_probes", [6, 12, 18])
def test_golden_section_shrinks_like_the_golden_ratio(name, lower, width, place, num_probes):
    """After n probes the maximum is known to within 0.618^(n - 1) of the bracket, of any width."""
    seen = []

    def objective(x):
        seen.append(x)
        return UNIMODAL[name]((x - lower) / width, place)

    peak = golden_section(
        objective, lower, lower + width, num_probes=num_probes, margin=0.0, tolerance=0.0
    )
    assert peak.num_probes == len(seen) == len(set(seen)) <= num_probes
    assert all(lower < x < lower + width for x in seen)
    assert peak.value == max(UNIMODAL[name]((x - lower) / width, place) for x in seen)
    # The plateau of "step" is as high as its maximum.
    error = max(0.0, place - (peak.at - lower) / width) if name == "step" else None
    error = abs((peak.at - lower) / width - place) if error is None else error
    rounding = 4 * np.spacing(1.0) / width
    assert error <= 0.6181 ** (num_probes - 1) + rounding


def test_golden_section_with_one_probe():
    """One probe is allowed: the golden section of the bracket is the peak."""
    peak = golden_section(lambda x: -x, 0, 1, num_probes=1, margin=0.0)
    assert peak.num_probes == 1
    assert peak.value == -peak.at == pytest.approx((math.sqrt(5) - 3) / 2, abs=1e-15)


def test_golden_section_stops_at_the_tolerance():
    """A bracket of 0.01 of the first one takes 1 + ceil(log(0.01) / log(0.618)) = 11 probes."""
    peak = golden_section(lambda x: -abs(x - 0.4), 0, 1, num_probes=99, tolerance=0.01, margin=0.0)
    assert peak.num_probes == 11


@pytest.mark.parametrize("slope", [-1.0, 1.0, 0.0])
def test_golden_section_stays_off_the_ends(slope):
    """A maximum at an end is approached up to the margin; a flat objective gives an inner point."""
    peak = golden_section(lambda x: slope * x, 2.0, 2.001, num_probes=40, margin=0.05)
    low, high = 2.0 + 0.05e-3, 2.001 - 0.05e-3
    assert low < peak.at < high
    if slope:
        assert peak.at == pytest.approx(high if slope > 0 else low, abs=1e-6)


def test_golden_section_on_whole_numbers_finds_every_peak():
    """With a spacing the maximum of any concave function is found exactly."""
    for cells in range(2, 40):
        for top in range(1, cells):
            seen = []
            peak = golden_section(
                lambda x, top=top, seen=seen: seen.append(x) or -abs(x - top / 4),
                0.0,
                cells / 4,
                spacing=0.25,
            )
            assert peak.at == top / 4, (cells, top)
            assert len(seen) == len(set(seen)) == peak.num_probes
            assert all(4 * x == round(4 * x) and 0 < 4 * x < cells for x in seen)


def test_golden_section_errors():
    """Values that are not finite, brackets without room and senseless arguments are refused."""
    with pytest.raises(ValueError, match=r"must be finite, got nan at 0\.38"):
        golden_section(lambda x: math.nan, 0, 1, margin=0.0)
    with pytest.raises(ValueError, match="to have a point in between"):
        golden_section(lambda x: x, 0.5, np.nextafter(0.5, 1))
    with pytest.raises(ValueError, match="to have a point in between"):
        golden_section(lambda x: x, 3, 4, spacing=1.0)
    with pytest.raises(ValueError, match="`num_probes`"):
        golden_section(lambda x: x, 0, 1, num_probes=0)
    with pytest.raises(ValueError, match="`margin`"):
        golden_section(lambda x: x, 0, 1, margin=0.5)


# Hierarchy ---------------------------------------------------------------------------------------


def test_hierarchy_is_nested_and_searches_every_step_once():
    """Points of earlier rounds stay; N steps take 2^ceil(log2 N) - 1 searches, all N together."""
    searched = []

    def split(left, right):
        searched.append((left, right))
        return Split(right + 0.3 * (left - right), left - right)

    hierarchy = Hierarchy(1.0, 0.0, split)
    found = {n: hierarchy(n).points for n in (1, 2, 4, 8, 6)}
    assert len(searched) == len(set(searched)) == 7
    for n, points in found.items():
        assert len(points) == n + 1
        assert all(a > b for a, b in pairwise(points))
    for small, large in ((1, 2), (2, 4), (4, 6), (6, 8)):
        assert set(found[small]) < set(found[large])


def test_hierarchy_spends_an_incomplete_round_on_the_largest_gains():
    """Three steps split the half whose split is worth more, and say what it is worth."""
    hierarchy = Hierarchy(1.0, 0.0, lambda a, b: Split((a + b) / 2, 1.0 - b))
    assert hierarchy(3).points == (1.0, 0.5, 0.25, 0.0)
    assert hierarchy(3).gains == (1.0, 1.0)
    hierarchy = Hierarchy(1.0, 0.0, lambda a, b: Split((a + b) / 2, a + b))
    assert hierarchy(3).points == (1.0, 0.75, 0.5, 0.0)
    assert hierarchy(3).gains == (1.5, 1.0)


def test_hierarchy_goes_on_where_there_is_room():
    """A step that cannot be split is passed over; without any left, the limit is named."""
    hierarchy = Hierarchy(5.0, 0.0, lambda a, b: Split(b + 1, 1.0) if a - b > 1 else None)
    assert hierarchy(4).points == (5.0, 3.0, 2.0, 1.0, 0.0)
    assert hierarchy(5).points == (5.0, 4.0, 3.0, 2.0, 1.0, 0.0)
    with pytest.raises(ValueError, match=r"at most 5, for no step can be split .* got 6"):
        hierarchy(6)


# Couplings and the law that is kept --------------------------------------------------------------


@each_kernel
def test_data_coupling_has_the_law_of_the_forward_path(kernel):
    """(x_m, x_t) is distributed as on a path x_0 -> x_m -> x_t, though x_t is drawn first."""
    process = ForwardProcess(kernel, LogLinear())
    x_0 = torch.ones(20_000, 1, dtype=torch.long)
    x_t = process.sample(x_0, torch.tensor(T, dtype=torch.float64), seeded(1))
    said = LogPosterior(process, torch.zeros(20_000, 1, 3), x_t, at(T, 20_000))
    x_m = DataCoupling().draw(said, Analytic(), x_0, at(M)[0], seeded(2))
    sigma = process.noise.sigma(torch.tensor([M, T], dtype=torch.float64))
    joint = expm(kernel, sigma[0])[1][:, None] * expm(kernel, sigma[1] - sigma[0])
    k = kernel.num_states
    assert_frequencies(frequencies(x_m * k + x_t, k * k), joint.clamp(min=0).flatten())


def _said(process, law, x, t):
    """Return the prediction at (x, t) whose leave-one-out posterior is `law`, at one position."""
    log_p = process.full_posterior(law.log().expand(len(x), 1, -1), x, at(t, len(x)))
    return LogPosterior(process, log_p, x, at(t, len(x)))


def _two_laws(vocab_size):
    laws = torch.rand(2, vocab_size, generator=seeded(3), dtype=torch.float64) + 0.05
    return laws / laws.sum(-1, keepdim=True)


@each_kernel
def test_kept_law_is_what_an_analytic_step_does(kernel):
    """From x_t to m and on to s with the law that is kept is the same as from x_t to s at once."""
    process = ForwardProcess(kernel, LogLinear())
    x = torch.arange(kernel.num_states)[:, None]
    kept = _said(process, _two_laws(kernel.vocab_size)[0], x, T)
    to_m, to_s = kept.bridge(at(M, len(x)))[:, 0], kept.bridge(at(S, len(x)))[:, 0]
    for i in range(kernel.num_states):
        start = _said(process, _two_laws(kernel.vocab_size)[0], x[i].expand(len(x), 1), T)
        reached = to_m[i] > 0  # elsewhere no law follows
        onward = process.bridge(start.log_leave_one_out(), x, at(M)[0], at(S)[0])[:, 0]
        composed = (to_m[i, reached, None] * onward[reached]).sum(0)
        torch.testing.assert_close(composed, to_s[i], rtol=0, atol=1e-12)


@each_kernel
def test_token_klub_is_girsanovs_integral_of_klub(kernel):
    """The integrand of KLUB along the path, integrated over (s, m], is `TokenKLUB`."""
    process, num = ForwardProcess(kernel, Cosine()), kernel.num_states
    law_t, law_m = _two_laws(kernel.vocab_size)
    nodes, weights = np.polynomial.legendre.leggauss(40)
    start = num - 1  # the mask, where there is one
    kept = _said(process, law_t, torch.full((num, 1), start), T)
    x = torch.arange(num)[:, None]
    fresh = _said(process, law_m, x, M)
    closed = TokenKLUB().divergence(kept, fresh, at(S)[0])
    integral = torch.zeros(num, dtype=torch.float64)
    for node, weight in zip(nodes, weights, strict=True):
        u = (M + S) / 2 + (M - S) / 2 * node
        path = fresh.bridge(at(u, num))[:, 0]  # (x_m, x_u)
        rate = KLUB().divergence(kept, _said(process, law_m, x, u), at(0.0)[0]) / u
        assert (rate >= -1e-14).all()
        integral += (M - S) / 2 * weight * (path @ rate)
    torch.testing.assert_close(integral, closed, rtol=1e-9, atol=1e-12)
    assert float(closed.max()) > 1e-3


@each_kernel
def test_path_divergence_bounds_that_of_the_samples(kernel):
    """Data processing: KL of the laws at s is at most E TokenKLUB, and both are positive."""
    process = ForwardProcess(kernel, LogLinear())
    denoiser = ExactDenoiser(process, random_joint(3, 2, coupling=2.0))
    x = sequences(kernel.num_states, 2)
    x_t = x[-1:]  # all masks, where there are any
    to_m = product_law(denoiser(x_t, at(T)).bridge(at(M)))[0]
    x = x[to_m > 0]
    kept = denoiser(x_t.expand(len(x), 2), at(T, len(x)))
    fresh = denoiser(x, at(M, len(x)))
    nats = TokenKLUB().divergence(kept, fresh, at(S)[0])
    two = product_law(fresh.bridge(at(S, len(x))))
    one = product_law(process.bridge(kept.log_leave_one_out(), x, at(M)[0], at(S)[0]))
    weight = to_m[to_m > 0]
    torch.testing.assert_close(weight @ one, product_law(denoiser(x_t, at(T)).bridge(at(S)))[0])
    assert 0 < kl(weight @ two, weight @ one) <= float(weight @ nats)


# Objectives --------------------------------------------------------------------------------------


@each_kernel
@pytest.mark.parametrize("coupling", [DataCoupling(), PathCoupling()])
def test_independent_tokens_give_nothing_to_gain(kernel, coupling):
    """Without dependence no split is worth anything, whatever moved and whatever the clocks say."""
    denoiser, x_0 = independent(kernel)
    for objective in (KLUB(coupling), KLUB(coupling, compensator=False), TokenKLUB(coupling)):
        nats = objective(denoiser, Analytic(), x_0, (T, M, S), generator=seeded())
        assert nats.shape == (64,)
        assert nats.abs().max() < 1e-12
    if isinstance(kernel, Absorbing):
        nats = RevealKLUB(coupling)(denoiser, KGillespie(), x_0, (5, 3, 1), generator=seeded())
        assert nats.abs().max() < 1e-12


def test_released_objective_sees_clocks_and_moved_tokens():
    """The baseline has its artifacts: (m - s) L log(t / m) for masks, nats for moved tokens."""
    denoiser, x_0 = independent(Absorbing(3))
    gain = released().released_gain(denoiser, x_0.repeat(20, 1), (T, M, 0.0), 0)
    assert gain == pytest.approx(M * 6 * math.log(T / M), rel=0.05)
    denoiser, x_0 = independent(Uniform(3))
    assert released().released_gain(denoiser, x_0, (T, M, S), 0) > 1.0


@each_kernel
@pytest.mark.parametrize("parametrization", [MeanDenoiser, ScoreDenoiser])
def test_networks_of_any_parametrization_have_a_finite_gain(kernel, parametrization):
    """Ratios that belong to no posterior, as an untrained network gives, leave the gain usable."""
    torch.manual_seed(0)
    denoiser = parametrization(
        MLP(kernel.num_states, length=6), ForwardProcess(kernel, LogLinear())
    )
    x_0 = torch.randint(3, (16, 6), generator=seeded())
    for coupling in (DataCoupling(), PathCoupling()):
        nats = KLUB(coupling)(denoiser, Analytic(), x_0, (T, M, S), generator=seeded())
        assert torch.isfinite(nats).all()
        assert (nats >= -1e-12).all()


def test_objectives_agree_for_the_absorbing_kernel():
    """`KLUB` and `TokenKLUB` are the same for log-linear noise, with or without compensator."""
    denoiser, x_0 = countdown(Absorbing(8), num=16)
    values = [
        objective(denoiser, Analytic(), x_0, (T, M, S), generator=seeded())
        for objective in (TokenKLUB(), KLUB(), KLUB(compensator=False))
    ]
    assert values[0].mean() > 0.1
    for other in values[1:]:
        torch.testing.assert_close(other, values[0], rtol=1e-9, atol=1e-9)


def test_token_klub_does_not_depend_on_the_clock():
    """With times mapped to the same shares of masks, two noise schedules give the same value."""
    values = []
    for noise in (LogLinear(), Cosine()):
        denoiser, x_0 = countdown(Absorbing(8), noise, num=16)
        share = torch.tensor([T, M, S], dtype=torch.float64)
        points = tuple(denoiser.process.time_at_mask_ratio(share).tolist())
        values.append(TokenKLUB()(denoiser, Analytic(), x_0, points, generator=seeded()))
    torch.testing.assert_close(*values, rtol=1e-7, atol=1e-9)


def test_pieces_do_not_change_the_value(monkeypatch):
    """Working through positions in pieces gives the same sums."""
    denoiser, x_0 = countdown(Gaussian(8), num=8)
    whole = KLUB()(denoiser, Analytic(), x_0, (T, M, S), generator=seeded())
    monkeypatch.setattr(klub, "CHUNK", 3 * 8 * 8)
    pieces = KLUB()(denoiser, Analytic(), x_0, (T, M, S), generator=seeded())
    torch.testing.assert_close(pieces, whole, rtol=1e-12, atol=1e-12)


def test_same_noise_for_all_split_points():
    """A search sees a function: the same point gives the same value, and masks are nested."""
    denoiser, x_0 = countdown(Absorbing(8), num=8)
    left = KLUB().departure(denoiser, Analytic(), x_0, T, seeded())
    assert torch.equal(KLUB().between(left, M, S), KLUB().between(left, M, S))
    early, late = (
        DataCoupling().draw(left.prediction, Analytic(), x_0, at(m)[0], left.generator())
        for m in (0.6, 0.4)
    )
    assert ((early != 8) <= (late != 8)).all()


# Whole numbers of tokens -------------------------------------------------------------------------


def test_reveal_klub_draws_states_with_whole_numbers_of_masks():
    """Exactly n masks, at the time of an order statistic: E share = (n + 1) / (L + 1)."""
    denoiser, x_0 = countdown(Absorbing(8), num=4000, length=7)
    for n in (7, 5, 1):
        said = RevealKLUB().departure(denoiser, KGillespie(), x_0, float(n), seeded()).prediction
        assert ((said.x_t == 8).sum(-1) == n).all()
        assert ((said.x_t == 8) | (said.x_t == x_0)).all()
        share = denoiser.process.mask_ratio(said.t) / denoiser.process.mask_ratio(at(1.0))
        # Standard error of a mean of 4000 order statistics: below 0.003.
        assert float(share.mean()) == pytest.approx(1.0 if n == 7 else (n + 1) / 8, abs=0.015)


def test_reveal_klub_is_the_share_revealed_times_the_token_divergence():
    """Two masks in the middle of a known sequence: (1 - s / m) sum KL over what is masked at m."""
    denoiser, x_0 = countdown(Absorbing(4), smoothing=0.1, num=32, length=4)
    objective = RevealKLUB()
    left = objective.departure(denoiser, KGillespie(), x_0, 3.0, seeded())
    # The same order: of three masks one is revealed next.
    order = left.order.argsort(-1, descending=True)
    x_m = x_0.scatter(1, order[:, 2:], 4)
    p_t = denoiser(left.prediction.x_t, at(0.5, 32)).posterior()
    p_m = denoiser(x_m, at(0.5, 32)).posterior()
    tokens = (torch.xlogy(p_m, p_m) - torch.xlogy(p_m, p_t)).sum(-1)
    expected = (1 - 1 / 2) * torch.where(x_m == 4, tokens, 0.0).sum(-1)
    torch.testing.assert_close(objective.between(left, 2.0, 1.0), expected)


@pytest.mark.parametrize("coupling", [DataCoupling(), PathCoupling()])
@pytest.mark.parametrize("noise", [LogLinear(), Cosine()])
def test_k_gillespie_schedules_are_whole_numbers_of_tokens(coupling, noise):
    """The sampler reveals exactly the numbers that were found, at most one step per token."""
    denoiser, x_0 = countdown(Absorbing(8), noise, num=64, length=11)
    optimizer = JumpYourSteps(RevealKLUB(coupling))
    found = optimizer(denoiser, KGillespie(), x_0, [4, 8, 11], generator=seeded())
    for n, schedule in found.schedules.items():
        times = torch.tensor(schedule.times, dtype=torch.float64)
        left = 11 * denoiser.process.mask_ratio(times) / denoiser.process.mask_ratio(times[:1])
        assert left.sub(left.round()).abs().max() < 1e-9
        free = torch.ones(2, 11, dtype=torch.bool)
        steps = KGillespie().steps(denoiser.process, times, free)
        grid = torch.stack([*(step.t for step in steps), steps[-1].s])
        torch.testing.assert_close(grid, times[:, None].expand(-1, 2), rtol=0, atol=1e-9)
        assert len(times) == n + 1
    with pytest.raises(ValueError, match="at most 11"):
        JumpYourSteps()(denoiser, KGillespie(), x_0, [12], generator=seeded())


# Jump Your Steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "num_steps"), [(Absorbing(8), 4), (Gaussian(8), 4)])
def test_schedules_beat_the_uniform_one(kernel, num_steps):
    """CountDown with exact posteriors: fewer broken pairs with the same number of calls."""
    denoiser, x_0 = countdown(kernel, smoothing=0.002)
    found = JumpYourSteps()(denoiser, Analytic(), x_0, [num_steps], generator=seeded(1))
    errors = []
    for schedule in (found.schedules[num_steps], SamplingSchedule.uniform(num_steps)):
        noise = kernel.sample_prior((1024, 16), seeded(2))
        samples = Analytic()(denoiser, noise, schedule.times, generator=seeded(3))
        metric = CountDownError(8)
        metric.update(samples.tokens)
        errors.append(float(metric.compute()))
    # 15,360 pairs: .112 against .136 and .047 against .409, with standard errors near .003.
    assert errors[0] < 0.9 * errors[1]


@pytest.mark.parametrize(
    ("kernel", "objective"),
    [
        (Uniform(3), KLUB()),
        (Gaussian(3), TokenKLUB()),
        (Absorbing(3), TokenKLUB()),
        (Absorbing(3), KLUB()),
        (Absorbing(3), RevealKLUB()),
    ],
)
def test_klub_given_tokens(kernel, objective):
    """It is that of the law given the tokens, row by row, on the same states."""
    process, joint = ForwardProcess(kernel, LogLinear()), random_joint(3, 4, coupling=2.0)
    x_0 = torch.randint(3, (9, 4), generator=seeded())
    free = torch.rand(9, 4, generator=seeded(1)) < 0.6
    free[0], free[1] = False, True
    calls = []

    class Recording(ExactDenoiser):
        def forward(self, x_t, t, free=None):
            calls.append((x_t, t))
            return super().forward(x_t, t, free)

    reveal = isinstance(objective, RevealKLUB)
    points = (3.0, 2.0, 1.0) if reveal else (T, M, S)
    denoiser = Recording(process, joint)
    nats = objective(denoiser, Analytic(), x_0, points, free=free, generator=seeded(2))
    assert nats[0] == 0
    (x_t, t), (x_m, m) = calls
    for states in (x_t, x_m):
        assert torch.equal(states[~free], x_0[~free])
    for row in range(1, 9):
        which = free[row]
        alone = ExactDenoiser(process, given_law(joint, x_0[row], which))
        kept, fresh = (
            alone(states[row, which][None], when[row, None])
            for states, when in ((x_t, t), (x_m, m))
        )
        end = process.time_at_mask_ratio(process.mask_ratio(m[row]) / 2) if reveal else at(S)[0]
        expected = objective.divergence(kept, fresh, end)
        torch.testing.assert_close(nats[row], expected[0], rtol=1e-9, atol=1e-11)


def test_reveal_klub_counts_of_ragged_rows():
    """Rows with fewer free tokens have their share of the masks, rounded."""
    denoiser = ExactDenoiser(ForwardProcess(Absorbing(3), LogLinear()), random_joint(3, 4))
    x_0 = torch.randint(3, (3, 4), generator=seeded())
    free = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 0], [0, 0, 0, 0]]).bool()
    for masks, expected in ((4, [4, 2, 0]), (2, [2, 1, 0]), (0, [0, 0, 0])):
        left = RevealKLUB().departure(
            denoiser, KGillespie(), x_0, float(masks), seeded(), free=free
        )
        assert (left.prediction.x_t == 3).sum(-1).tolist() == expected


@pytest.mark.parametrize("sampler", [Analytic(), KGillespie()])
def test_schedules_given_tokens(sampler):
    """With one token given there are as many steps as others, at most."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    denoiser = ExactDenoiser(process, random_joint(3, 4, coupling=2.0))
    x_0 = torch.randint(3, (12, 4), generator=seeded())
    free = (torch.arange(4) > 0).expand(12, -1)
    optimizer = JumpYourSteps(num_probes=5, batch_size=5)
    found = optimizer(denoiser, sampler, x_0, [2, 3], free=free, generator=seeded())
    assert [len(found.schedules[n]) for n in (2, 3)] == [3, 4]
    if isinstance(sampler, KGillespie):
        with pytest.raises(ValueError, match="at most 3"):
            optimizer(denoiser, sampler, x_0, 4, free=free, generator=seeded())


def test_a_search_asks_with_given_tokens_and_the_longest_row():
    """Every batch keeps its given tokens, and counts masks of the longest row of all batches."""
    process, asked, most = ForwardProcess(Absorbing(3), LogLinear()), [], []

    class Recording(ExactDenoiser):
        def forward(self, x_t, t, free=None):
            asked.append((x_t, free))
            return super().forward(x_t, t, free)

    class Counting(RevealKLUB):
        def departure(self, *args, **named):
            most.append(named["most"])
            return super().departure(*args, **named)

    x_0 = torch.randint(3, (4, 4), generator=seeded())
    free = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0], [0, 1, 1, 0]]).bool()
    optimizer = JumpYourSteps(num_probes=3, batch_size=2, objective=Counting())
    denoiser = Recording(process, random_joint(3, 4))
    optimizer(denoiser, KGillespie(), x_0, 2, free=free, generator=seeded())
    assert most == [4, 4]
    parts = {
        tuple(mask.flatten().tolist()): tokens
        for mask, tokens in zip(free.split(2), x_0.split(2), strict=True)
    }
    for x_t, mask in asked:
        given = parts[tuple(mask.flatten().tolist())]
        assert torch.equal(x_t[~mask], given[~mask])


@pytest.mark.parametrize("batch_size", [None, 5])
def test_network_calls(batch_size):
    """(2^K - 1)(1 + num_probes) calls per batch serve every number of steps up to 2^K."""
    denoiser, x_0 = countdown(Uniform(4), num=12, length=5)
    counter = CallCounter(denoiser)
    optimizer = JumpYourSteps(num_probes=5, batch_size=batch_size)
    found = optimizer(counter, Euler(), x_0, [8, 2, 6, 1], generator=seeded())
    batches = 1 if batch_size is None else 3
    assert found.num_calls == counter.num_calls == batches * 7 * (1 + 5)
    assert counter.num_rows == 12 * 7 * (1 + 5)
    spent = {n: schedule.info["num_calls"] for n, schedule in found.schedules.items()}
    assert spent == {1: 0, 2: batches * 6, 6: batches * 42, 8: batches * 42}


def test_schedules_know_where_they_came_from(tmp_path):
    """Gains and setting travel with the file; the same seed gives the same schedule."""
    denoiser, x_0 = countdown(Absorbing(4), num=12, length=5)
    one, two = (
        JumpYourSteps(KLUB(PathCoupling()))(denoiser, Euler(), x_0, [1, 4], generator=seeded())
        for _ in range(2)
    )
    assert one == two
    assert one.schedules[1].times == (1.0, 0.0)
    schedule = one.schedules[4]
    schedule.save(tmp_path / "schedule.json")
    assert SamplingSchedule.load(tmp_path / "schedule.json") == schedule
    assert schedule.source == "jump-your-steps"
    assert schedule.info["num_samples"] == 12
    assert schedule.info["kernel"].startswith("Absorbing")
    assert schedule.info["sampler"] == "Euler()"
    assert "PathCoupling" in schedule.info["objective"]
    assert len(schedule.info["klub"]) == 3
    assert min(schedule.info["klub"]) > 0


class Broken(Denoiser):
    """A denoiser whose output is NaN at three places below a time."""

    def forward(self, x_t, t, free=None):
        """Return logits."""
        output = torch.zeros(*x_t.shape, 4)
        output[0, 0, :3] = torch.where(t[0] < 0.5, math.nan, 0.0)
        return LogPosterior(self.process, torch.log_softmax(output, -1), x_t, t)


class Certain(torch.nn.Module):
    """A network that is sure of the token 0 early and of the token 1 late."""

    def forward(self, x_t, t, free=None):
        """Return logits."""
        logits = torch.full((*x_t.shape, 4), -math.inf)
        logits[t >= 0.95, ..., 0] = 0.0
        logits[t < 0.95, ..., 1] = 0.0
        return logits


def test_errors():
    """What cannot work is refused, with the number and the place of what is wrong."""
    process = ForwardProcess(Uniform(4), LogLinear())
    x_0 = torch.zeros(3, 5, dtype=torch.long)
    jys = JumpYourSteps()
    # A NaN spoils the softmax of its position: 4 of 60 outputs.
    with pytest.raises(ValueError, match=r"got 4 NaN or infinite values of 60 at t = 0\.38"):
        jys(Broken(process), Analytic(), x_0, [2], generator=seeded())
    denoiser, _ = countdown(Uniform(4))
    with pytest.raises(ValueError, match="`x_0` must hold at least one"):
        jys(denoiser, Analytic(), x_0[:0], [2])
    with pytest.raises(ValueError, match="`num_steps` must be at least 1, got 0"):
        jys(denoiser, Analytic(), x_0, [0])
    with pytest.raises(ValueError, match="`num_steps` must hold"):
        jys(denoiser, Analytic(), x_0, [])
    with pytest.raises(ValueError, match="`points` must decrease strictly"):
        KLUB()(denoiser, Analytic(), x_0, (0.5, 0.5, 0.2))
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        jys(denoiser, KGillespie(), x_0, [2])
    for settings in ({"num_probes": 0}, {"batch_size": 0}):
        with pytest.raises(ValueError, match=f"`{next(iter(settings))}` must be at least 1"):
            JumpYourSteps(**settings)


def test_certainty_is_finite():
    """A network that excludes at one time what it says at another gains much, not infinitely."""
    process = ForwardProcess(Absorbing(4), LogLinear())
    x_0 = torch.full((3, 5), 1)
    found = JumpYourSteps()(_AsLaw(Certain(), process), Analytic(), x_0, 2, generator=seeded())
    assert math.isfinite(found.schedules[2].info["klub"][0])


class _AsLaw(MeanDenoiser):
    """A mean denoiser that hands out log laws, in which -inf is allowed."""

    def forward(self, x_t, t, free=None):
        """Make one network call."""
        return LogPosterior(self.process, self.backbone(x_t, t), x_t, t)
