"""The keep-best guard: unbiased costs, paired differences, and no gain where there is none."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom, ttest_rel

from closed_form import GRID, level, squares, survival, table
from ddm import ForwardProcess, OptimalSteps, SamplingSchedule, Uniform
from ddm.denoisers import ExactDenoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import Evidence, choose, keep_best
from ddm.schedules.optimal.distances import CONFIDENCE
from ddm.schedules.optimal.guard import gain_over


def sequence_costs(known, schedule):
    """Return what a schedule costs every held-out sequence."""
    return known.sequence_costs(schedule.times)


def costs_of(known, **schedules):
    """Return what schedules cost every held-out sequence, by name."""
    return {name: sequence_costs(known, schedule) for name, schedule in schedules.items()}


UNIFORM = SamplingSchedule.uniform(4)
BETTER = SamplingSchedule((1.0, 0.85, 0.67, 0.43, 0.0))


def noisy(num, size, seed=0):
    """Return excess costs of sequences: `(F(t) - F(s))^2` and noise of its own for every step."""
    noise = np.random.default_rng(seed).standard_normal((num, len(GRID), len(GRID)))
    return squares() + size * np.tril(noise, -1)


def test_costs_on_the_grid_are_entries_of_the_table():
    """The cost of a schedule is the sum of weighted entries, sequence by sequence; below 0, too."""
    costs = noisy(5, 9.0)
    known = table(held_out=costs, retention=survival(GRID), gamma=2.0)
    k = np.array([65, 50, 33, 7, 0])
    expected = sum(survival(GRID[j]) ** 2 * costs[:, i, j] for i, j in itertools.pairwise(k))
    found = sequence_costs(known, SamplingSchedule(tuple(GRID[k])))
    assert found == pytest.approx(expected, rel=1e-12)
    assert found.min() < 0


def test_costs_off_the_grid():
    """Steps within a cell and over many are right to second order in the width of the cells.

    Exact where cells cost alike; halving all cells divides the error by four, or by three at least.
    """
    times = (1.0, 0.777, 0.7701, 0.4303, 0.1234, 0.1201, 0.0)
    errors = []
    for num in (32, 64):
        grid = np.linspace(0, 1, num + 1)
        for power in (1, 2):
            excess = np.tril(np.subtract.outer(grid**power, grid**power) ** 2, -1)
            known = table(
                excess,
                times=grid,
                retention=np.ones(num + 1),
                held_out=excess[None] * [[[1.0]], [[2.0]]],
            )
            exact = sum((a**power - b**power) ** 2 for a, b in itertools.pairwise(times))
            found = sequence_costs(known, SamplingSchedule(times))
            assert found[1] == pytest.approx(2 * found[0], rel=1e-12)
            errors.append(abs(found[0] - exact))
    assert errors[0] < 1e-13
    assert errors[2] < 1e-13
    assert errors[3] < errors[1] / 3 < 1e-3


def test_costs_are_linear():
    """The cost of the mean is the mean of the costs: nothing is cut off, so means have no bias."""
    costs = noisy(6, 5.0)
    each = sequence_costs(table(held_out=costs), BETTER)
    mean = np.broadcast_to(costs.mean(0), (2, *costs.shape[1:]))
    assert sequence_costs(table(held_out=mean), BETTER)[0] == pytest.approx(each.mean(), rel=1e-9)


def test_confidence_is_that_of_the_paired_t_test():
    """One minus the one-sided p-value of scipy's `ttest_rel`; gain and error by the ratio."""
    known = table(held_out=noisy(12, 0.1))
    new, uniform = sequence_costs(known, BETTER), sequence_costs(known, UNIFORM)
    decision = choose(known, BETTER)
    test = ttest_rel(new, uniform, alternative="less")
    assert decision.winner == "new"
    assert decision.confidence == pytest.approx(1 - test.pvalue, abs=1e-12)
    cosine = sequence_costs(known, SamplingSchedule.cosine(4)).mean()
    means = {"uniform": uniform.mean(), "cosine": cosine, "new": new.mean()}
    assert decision.costs == pytest.approx(means)
    assert decision.gain == pytest.approx(1 - new.mean() / uniform.mean())
    left_out = [  # the jackknife knows the error of a ratio, too, to first order
        1 - np.delete(new, k).mean() / np.delete(uniform, k).mean() for k in range(12)
    ]
    jackknife = np.std(left_out) * np.sqrt(11)
    assert decision.gain_error == pytest.approx(jackknife, rel=0.2)
    facts = {name: decision.schedule.info[name] for name in ("gain", "gain_error", "confidence")}
    assert facts == {name: getattr(decision, name) for name in facts}
    assert str(decision) == f"gain {decision.gain:.1%} +- {decision.gain_error:.1%}"


def test_exact_costs_decide():
    """Without noise the optimum is kept, with the gain in closed form: F spaced equally."""
    known = table(held_out=np.broadcast_to(squares(), (4, *squares().shape)))
    best = known.schedule(4)
    decision = choose(known, best)
    uniform = (np.diff(level(np.array(UNIFORM.times))) ** 2).sum()
    assert decision.winner == "new"
    assert decision.gain == pytest.approx(1 - level(1.0) ** 2 / 4 / uniform, abs=0.005)
    assert decision.gain_error == pytest.approx(0, abs=1e-9)
    assert decision.confidence == 1
    again = choose(known, best, best)
    assert again.winner == "previous"
    assert again.gain == pytest.approx(decision.gain)


def test_held_out_sequences_decide():
    """A schedule that is best for the table loses where other sequences prefer another one."""
    flat = np.tril((np.arange(66)[:, None] - np.arange(66)) ** 2.0, -1)
    known = table(flat, held_out=np.broadcast_to(squares(), (4, *flat.shape)))
    new = known.schedule(4)
    assert known.evaluate(new.times) < known.evaluate(BETTER.times)
    costs = costs_of(known, new=new, other=BETTER)
    assert keep_best(costs, ["new"]) == "other"
    assert costs["other"].mean() < costs["new"].mean()


def test_the_first_stays_unless_another_is_surely_better():
    """It is kept at a difference below the paired error, and given up well above it."""
    for size, winner in ((0.05, "new"), (20.0, "previous")):
        known = table(held_out=noisy(8, size))
        decision = choose(known, BETTER, SamplingSchedule.uniform(4))
        assert decision.winner == winner
        assert list(decision.costs) == ["previous", "uniform", "cosine", "new"]
    assert decision.gain == decision.gain_error == 0
    assert decision.confidence == 0.5
    assert str(decision) == "no gain"


def test_the_first_schedule_needs_no_proof():
    """Without a previous one the new one is kept where it costs less than uniform steps.

    Unless a fixed one is surely better; and where it costs more, it has to be surely better.
    """
    fixed = {"uniform": UNIFORM, "cosine": SamplingSchedule.cosine(4)}
    dear = SamplingSchedule((1.0, 0.02, 0.01, 0.005, 0.0))
    for seed, size, new, winner, proven in (
        (0, 0.05, BETTER, "new", "new"),
        (5, 2.0, BETTER, "new", "uniform"),
        (0, 2.0, BETTER, "uniform", "uniform"),
        (0, 0.05, dear, "cosine", "cosine"),
    ):
        known = table(held_out=noisy(8, size, seed))
        assert choose(known, new).winner == winner
        assert keep_best(costs_of(known, **fixed, new=new), ["uniform"]) == proven


def test_samples_decide_where_they_were_asked():
    """Whatever costs say: what is found is kept, or uniform steps where these are closer to data.

    The schedule in use was found for an older network and is not asked.
    """
    known = table(held_out=noisy(8, 0.05))
    dear = SamplingSchedule((1.0, 0.02, 0.01, 0.005, 0.0))
    for far, new, winner in ((0.9, BETTER, "uniform"), (1.1, dear, "new"), (1.0, dear, "new")):
        said = Evidence("b", {"a": 1.3, "b": 1.0, "uniform": far}, {}, 0.5, 8, 0)
        decision = choose(known, new, BETTER, said)
        assert decision.winner == winner
        assert decision.schedule.times == (new if winner == "new" else UNIFORM).times
        assert decision.costs["new"] == pytest.approx(sequence_costs(known, new).mean())


def test_more_challengers_have_to_be_surer():
    """With k challengers each must pass at a level of 1 - (1 - confidence) / k (Bonferroni)."""
    known = table(held_out=noisy(12, 1.0, seed=1))
    better = sequence_costs(known, BETTER), sequence_costs(known, UNIFORM)
    pvalue = ttest_rel(*better, alternative="less").pvalue
    worse = {f"worse_{k}": SamplingSchedule((1.0, 0.02, 0.01, 0.005, 0.0)) for k in range(2)}
    candidates = {"uniform": UNIFORM, "new": BETTER}
    for more, k in (({}, 1), (worse, 3)):
        for margin, winner in ((1.001, "new"), (0.999, "uniform")):
            level = 1 - k * pvalue * margin
            costs = costs_of(known, **candidates, **more)
            assert keep_best(costs, ["uniform"], confidence=level) == winner


def test_independent_tokens_have_no_gain():
    """Where all schedules cost nothing, uniform steps stay, in 95 % of the cases at least.

    24 tables of 32 sequences; more than 5 claims in 24 cases of .05 happen once in 500 times.
    By the costs that they were made from, tables promise to halve the cost in a quarter of them.
    """
    law = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    joint = law[:, None] * law
    denoiser = ExactDenoiser(ForwardProcess(Uniform(3), LogLinear()), joint)
    optimizer, claims, apparent = OptimalSteps(num_times=8, pilot_times=4), 0, 0
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        x_0 = torch.multinomial(law, 64, replacement=True, generator=generator).reshape(32, 2)
        fresh = optimizer.table(denoiser, Analytic(), x_0, generator=generator)
        new = fresh.schedule(4)
        claims += choose(fresh, new).gain != 0
        apparent += fresh.evaluate(new.times) < 0.5 * fresh.evaluate(UNIFORM.times)
    assert binom.sf(5, 24, 0.05) < 1 / 500
    assert claims <= 5
    assert apparent > 5


def test_rounding_of_times_is_no_gain():
    """Who saves a share of .0005 is kept and claims nothing, of .002 it claims that."""
    for share, claimed in ((0.0005, 0.0), (0.002, 0.002)):
        uniform = np.linspace(1, 2, 8)
        facts = gain_over(uniform, (1 - share) * uniform)
        assert facts["confidence"] > CONFIDENCE
        assert facts["gain"] == pytest.approx(claimed, rel=1e-9)


def test_flat_tables_have_no_gain():
    """Rounding is no gain: exact costs of zero keep uniform steps."""
    rounding = 1e-14 * noisy(4, 1.0)
    decision = choose(table(np.zeros((66, 66)), held_out=rounding), BETTER)
    assert (decision.winner, decision.gain, decision.confidence) == ("uniform", 0.0, 0.5)


def test_nothing_is_saved_where_nothing_is_spent():
    """Costs below zero are noise: no schedule can be better than one that costs nothing."""
    below = table(held_out=-np.broadcast_to(squares(), (4, 66, 66)))
    far = SamplingSchedule((1.0, 0.5, 0.3, 0.1, 0.0))
    assert sequence_costs(below, far).mean() < sequence_costs(below, UNIFORM).mean() < 0
    decision = choose(below, far)
    assert (decision.winner, decision.gain) == ("uniform", 0.0)
    assert keep_best(costs_of(below, uniform=UNIFORM, far=far), ["far"]) == "far"


def test_refusals(tmp_path):
    """A table from a file judges nobody; no candidates and other confidences are refused."""
    known = table(held_out=noisy(4, 0.1))
    known.save(tmp_path / "table.json")
    for without in (type(known).load(tmp_path / "table.json"), replace(known, held_out=None)):
        with pytest.raises(ValueError, match="`table` must hold the costs of held-out sequences"):
            choose(without, BETTER)
    with pytest.raises(ValueError, match="`in_use` must name at least one candidate"):
        keep_best({"uniform": np.zeros(4)}, [])
    for confidence in (0.4, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"`confidence` must be in \[0.5, 1\)"):
            keep_best({"uniform": np.ones(4)}, ["uniform"], confidence=confidence)


def test_gain_is_a_ratio_and_its_error_that_of_one():
    """`1 - mean(c) / mean(u)`, with the error of the mean of `c - (1 - gain) u`, over mean(u)."""
    uniform, cost = np.array([2.0, 3.0, 4.0, 3.0]), np.array([1.0, 1.5, 2.2, 1.3])
    facts = gain_over(uniform, cost)
    assert facts["gain"] == pytest.approx(0.5, abs=1e-12)
    rest = [0.0, 0.0, 0.2, -0.2]
    assert facts["gain_error"] == pytest.approx(np.std(rest, ddof=1) / 2 / 3, abs=1e-12)


def test_no_gain_where_uniform_steps_are_not_known_to_cost_anything():
    """Half of nothing is saved, however surely the difference is known."""
    uniform = np.array([-5.0, 7.0, -6.0, 8.0])
    facts = gain_over(uniform, uniform - [1.0, 0.9, 1.1, 1.0])
    assert facts["confidence"] > 0.99
    assert facts["gain"] == facts["gain_error"] == 0
