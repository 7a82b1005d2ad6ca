from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

import exact
from ddm.datamodules import countdown_chain, sample_chain
from ddm.denoisers import ExactDenoiser, MarkovChainDenoiser
from ddm.kernels import Absorbing
from ddm.likelihood import sampler_nats
from ddm.noise import Cosine, LogLinear
from ddm.orders import Confidence, LeftToRight, Random, Spaced
from ddm.process import ForwardProcess
from ddm.samplers import (
    Analytic,
    CallCounter,
    EntropyBound,
    FirstHitting,
    KGillespie,
    Reveal,
)
from ddm.schedule import SamplingSchedule
from ddm.schedules import OptimalCounts, Optimized
from ddm.schedules.optimal.optimal_counts import counts_grid
from ddm.schedules.optimal.teacher import Teacher
from ddm.schedules.setting import Setting
from exact import seeded, sequences

LENGTH = 4
PROCESS = ForwardProcess(Absorbing(3), Cosine())
JOINT = exact.random_joint(3, LENGTH, coupling=2.0)
EXACT = ExactDenoiser(PROCESS, JOINT)
ALL = sequences(3, LENGTH)
FREE = torch.rand(81, LENGTH, generator=seeded()) < 0.8
FREE[0] = True


def data(num, seed=0):
    """Draw sequences from the joint."""
    return ALL[torch.multinomial(JOINT.flatten(), num, True, generator=seeded(seed))]


@pytest.mark.parametrize("order", [Spaced(jitter=0.0), LeftToRight()], ids=repr)
@pytest.mark.parametrize("free", [None, FREE], ids=["all", "some"])
def test_table_of_fixed_orders_is_exact(order, free):
    """The table's costs along any path sum to the mean likelihood of its schedule."""
    teacher = Teacher(ALL, free, EXACT, Reveal(order), seed=0, batch_size=30)
    table = teacher.table(np.arange(LENGTH + 1))
    for num in range(LENGTH):
        for inner in combinations(range(1, LENGTH), num):
            path = [LENGTH, *inner[::-1], 0]
            schedule = SamplingSchedule(teacher.times(np.array(path) / LENGTH))
            expected = float(teacher.nats(schedule).mean())
            if free is None:  # else rows of few tokens take one per step, where a share is none
                found = sum(table[i, j] for i, j in pairwise(path))
                assert found == pytest.approx(expected, abs=1e-9)
    one_by_one = -exact_nats(free)
    assert table.diagonal(-1).sum() == pytest.approx(one_by_one, abs=1e-9)


def exact_nats(free):
    """Return the mean log probability of the free tokens given the others, by enumeration."""
    log_p = []
    for row, x in enumerate(ALL):
        free_here = torch.ones(LENGTH, dtype=torch.bool) if free is None else free[row]
        given = exact.given_law(JOINT, x, free_here)
        log_p.append(float(given[tuple(x[free_here].tolist())].log()))
    return float(np.mean(log_p))


def test_counts_are_the_best():
    """For a fixed order no other counts have a lower likelihood cost, by trying all of them."""
    x_0, sampler = data(200), Reveal(Spaced(jitter=0.0))
    found = OptimalCounts()(EXACT, sampler, x_0, [2, 3], generator=seeded())
    teacher = Teacher(x_0[:150], None, EXACT, sampler, seed=0)
    for n, schedule in found.schedules.items():
        costs = []
        for inner in combinations(range(1, LENGTH), n - 1):
            times = teacher.times(np.array([LENGTH, *inner[::-1], 0]) / LENGTH)
            costs.append(float(sampler_nats(EXACT, sampler, x_0[:150], times).mean()))
        if schedule.source == "optimal counts":
            cost = float(sampler_nats(EXACT, sampler, x_0[:150], schedule).mean())
            assert cost == pytest.approx(min(costs), abs=1e-9)
        assert min(schedule.info["nats"].values()) <= schedule.info["nats"]["uniform"]
    assert found.num_calls == LENGTH + 3 * (2 + 3)


def test_random_order():
    """The table of the random order agrees with the mean bound over all paths."""
    teacher = Teacher(ALL.repeat(20, 1), None, EXACT, Reveal(), seed=1)
    table = teacher.table(np.arange(LENGTH + 1))
    nats = teacher.nats(SamplingSchedule(teacher.times(np.array([1.0, 0.5, 0.0]))))
    # Both are means over random paths; five standard errors of the rougher one.
    slack = 5 * float(nats.std()) / len(nats) ** 0.5
    assert table[4, 2] + table[2, 0] == pytest.approx(float(nats.mean()), abs=slack)


def test_search_where_the_table_misleads():
    """Orders that look at predictions are searched: never worse than uniform on their own data."""
    teacher = Teacher(data(100), None, EXACT, Reveal(Confidence()), seed=0)
    assert not teacher.additive
    shares = teacher.search(3, num_tries=10)
    uniform = teacher.nats(SamplingSchedule.uniform(3)).mean()
    assert teacher.nats(SamplingSchedule(teacher.times(shares))).mean() <= uniform + 1e-12
    found = OptimalCounts(num_tries=5)(EXACT, Reveal(Confidence()), data(64), [2])
    assert found.num_calls <= LENGTH + (3 + 5 + 1) * 2
    assert set(found.schedules[2].info["nats"]) == {
        "uniform",
        "cosine",
        "optimal counts",
        "searched counts",
    }


def test_independent_tokens_move_nothing():
    """Where counts do not matter uniform steps are kept."""
    joint = torch.full([3] * LENGTH, 3.0**-LENGTH, dtype=torch.float64)
    found = OptimalCounts()(ExactDenoiser(PROCESS, joint), Reveal(Spaced(jitter=0.0)), ALL, [2, 3])
    assert {s.source for s in found.schedules.values()} == {"uniform"}


def test_a_schedule_says_its_order(tmp_path):
    """It is saved with the sampler, and refused with another order."""
    sampler = Reveal(Spaced(jitter=0.0))
    found = OptimalCounts()(EXACT, sampler, data(40), 2, generator=seeded())
    found.save(tmp_path / "counts.json")
    schedule = Optimized.load(tmp_path / "counts.json").schedules[2]
    assert schedule == found.schedules[2]
    Setting.of(PROCESS, sampler).check(schedule.info, "it was found for", "find another")
    for other in (Reveal(Random()), Reveal(Spaced((2, 2))), KGillespie()):
        with pytest.raises(ValueError, match="`sampler` must be the one that it was found for"):
            Setting.of(PROCESS, other).check(schedule.info, "it was found for", "find another")


def test_grid():
    """All numbers of masks where they fit, else single tokens near all masks and few below."""
    assert counts_grid(5, 64).tolist() == [0, 1, 2, 3, 4, 5]
    grid = counts_grid(1000, 32)
    assert (np.diff(grid) > 0).all()
    assert (grid[0], grid[-1], grid[-2]) == (0, 1000, 999)
    assert len(grid) <= 32


@pytest.mark.parametrize(
    ("sampler", "num", "steps", "message"),
    [
        (Analytic(), 8, 2, "`sampler` must reveal as many tokens as a schedule says"),
        (FirstHitting(), 8, 2, "`sampler` must reveal as many tokens as a schedule says"),
        (Reveal(stop=EntropyBound()), 8, 2, "`Reveal` without a stopping rule"),
        (Reveal(), 7, 2, "`x_0` must hold at least 8 sequences, got 7"),
        (Reveal(), 8, 5, "`num_steps` must be at most 4, .* got 5"),
        (Reveal(), 8, 0, "`num_steps` must be at least 1, got 0"),
    ],
    ids=str,
)
def test_refusals(sampler, num, steps, message):
    """What has no counts to find is refused, with the reason."""
    with pytest.raises(ValueError, match=message):
        OptimalCounts()(EXACT, sampler, ALL[:num], steps)


def test_rule_makes_as_many_calls():
    """The rule for N calls makes about N, and loses less than N calls that are all alike.

    Random order on a chain, where sequences differ much in what is known of their tokens.
    """
    chain = countdown_chain(8, 0.01)
    denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(8), LogLinear()), *chain)
    x_0, held_out = sample_chain(*chain, 256, 24, seeded()).chunk(2)
    counts, sampler = OptimalCounts(), Reveal(Random())
    rule = counts.rule(denoiser, sampler, x_0, 5, generator=seeded())
    counter = CallCounter(denoiser)
    own = sampler_nats(counter, Reveal(stop=rule), held_out, [1.0, 0.0], generator=seeded())
    assert 4.2 < counter.num_rows / len(held_out) < 5.8
    found = counts(denoiser, sampler, x_0, 5, generator=seeded()).schedules[5]
    alike = sampler_nats(denoiser, sampler, held_out, found, generator=seeded())
    assert float(own.mean()) < float(alike.mean())


def test_rule_of_free_tokens():
    """Given tokens stay, and sequences of few tokens end early; a seed makes the same rule."""
    rule, same = (
        OptimalCounts(num_times=4).rule(EXACT, Reveal(), ALL, 2, free=FREE, generator=seeded())
        for _ in range(2)
    )
    assert rule.price == same.price
    x = PROCESS.sample_prior(ALL, FREE)
    samples = Reveal(stop=rule)(EXACT, x, [1.0, 0.0], free=FREE, generator=seeded())
    assert torch.equal(samples.tokens[~FREE], ALL[~FREE])
    assert (samples.tokens < 3).all()
    with pytest.raises(ValueError, match=r"`num_calls` must be at most 3, .* got 4"):
        OptimalCounts().rule(EXACT, Reveal(), ALL, 4)
    with pytest.raises(ValueError, match="`num_calls` must be at least 2, got 1"):
        OptimalCounts().rule(EXACT, Reveal(), ALL, 1)


def test_k_gillespie():
    """The sampler in random order is the special case that it is."""
    times = [1.0, 0.5, 0.0]
    nats = [
        sampler_nats(EXACT, s, ALL, times, generator=seeded()) for s in (KGillespie(), Reveal())
    ]
    torch.testing.assert_close(*nats)
    found = OptimalCounts()(EXACT, KGillespie(), data(40), [2], generator=seeded())
    assert found.schedules[2].info["sampler"] == "KGillespie()"


def test_short_sequences_are_found_before_the_table():
    """More steps than the held-out sequences have tokens: refused before any network call."""
    free = torch.ones(16, LENGTH, dtype=torch.bool)
    free[-4:, 2:] = False  # a quarter judges
    calls: list[int] = []
    hook = EXACT.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match="`num_steps` must be at most 2, the free tokens of the"):
        OptimalCounts()(EXACT, Reveal(), data(16), [2, 3], free=free)
    hook.remove()
    assert not calls
