"""Laws of cost tables in closed form: `E = (F(t) - F(s))^2`, `C = f(t) - f(s) + kappa h^2`."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from closed_form import GRID, level, squares, survival, table
from ddm import CostTable, ForwardProcess, OptimalSteps, SamplingSchedule, Uniform
from ddm.denoisers import ExactDenoiser
from ddm.functional import times_like
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import StepCosts
from ddm.schedules.optimal.excess import (
    SPLITS,
    control_coefficient,
    halved_excess,
    mean_excess,
    sequence_excess,
)
from ddm.schedules.optimal.optimal_steps import pilot_grid, placed_grid, squeezed
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.optimal.step_cost import step_costs
from ddm.schedules.setting import Setting

GAMMAS = (0.0, 0.5, 1.0)


def cost_of(times, gamma):
    """Return the cost of a schedule in closed form."""
    times = np.asarray(times)
    return float((survival(times[1:]) ** gamma * np.diff(level(times)) ** 2).sum())


def weighted(gamma, **entries):
    """Return the table with weights `survival^gamma`."""
    return table(retention=survival(GRID), gamma=gamma, **entries)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_costs_are_the_closed_form(gamma):
    """On the grid and off it, for F and w that are linear between its times."""
    for seed in range(5):
        inner = np.sort(np.random.default_rng(seed).random(6))[::-1]
        times = (1.0, *inner, 0.0)
        weights = np.interp(times[1:], GRID, survival(GRID) ** gamma)
        exact = (weights * np.diff(level(np.array(times))) ** 2).sum()
        assert weighted(gamma).evaluate(times) == pytest.approx(exact, rel=1e-9)


def test_optimum_without_weights():
    """For gamma = 0 the best N steps are equal in F and cost `F(1)^2 / N`, off the grid.

    Times are found to a thousandth of the steps, so costs are to a millionth; 3 sweeps leave more.
    """
    for n in (1, 2, 3, 5, 13, 65):
        schedule = table().schedule(n)
        assert table().cost(n) == pytest.approx(16 / n, rel=1e-3)
        assert level(np.array(schedule.times)) == pytest.approx(np.linspace(4, 0, n + 1), abs=0.02)
    for n in (66, 500):  # by the density
        assert table().cost(n) == pytest.approx(16 / n, rel=1e-3)
    assert table().asymptote == pytest.approx(16, rel=1e-9)
    assert table().steps_for(16 / 7 * 1.001) == 7
    assert table().steps_for(16 / 7 * 0.999) == 8
    assert table().steps_for(16 / 200) == 200


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_optimum_with_weights(gamma):
    """A general minimizer finds nothing better than the table; the table is as good, to 1e-3."""
    known = weighted(gamma)
    for n in (2, 5):

        def cost(gaps):
            times = 1 - np.concatenate([[0.0], (np.exp(gaps) / np.exp(gaps).sum()).cumsum()])
            times[-1] = 0.0
            return known.evaluate(times.tolist())

        best = min(
            float(minimize(cost, start, method="Nelder-Mead").fun)
            for start in (np.zeros(n), np.linspace(-1, 0, n))
        )
        assert known.cost(n) == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_many_steps_with_weights(gamma):
    """They are equal in `int sqrt(w) dF` and cost its square over N, as N grows."""
    fine = np.linspace(0, 1, 200001)
    root = survival(fine) ** (gamma / 2)
    mass = np.concatenate([[0.0], ((root[1:] + root[:-1]) / 2 * np.diff(level(fine))).cumsum()])
    known = weighted(gamma)
    assert known.asymptote == pytest.approx(mass[-1] ** 2, rel=1e-3)
    schedule = known.schedule(400)
    spent = np.interp(schedule.times, fine, mass)
    assert spent == pytest.approx(np.linspace(mass[-1], 0, 401), abs=2e-3)
    assert known.cost(400) == pytest.approx(mass[-1] ** 2 / 400, rel=5e-3)
    cells = np.interp(GRID, fine, mass)
    assert known.density == pytest.approx(np.diff(cells) / np.diff(GRID), rel=1e-3)


def test_times_leave_the_grid():
    """On a coarse grid the best times lie between its own, which cost more."""
    grid = np.linspace(0, 1, 9)
    excess = np.tril(np.subtract.outer(grid, grid) ** 2, -1)
    known = table(excess, times=grid)
    assert known.cost(3) == pytest.approx(1 / 3, rel=1e-5)
    values, _ = shortest_paths(excess, 8)
    assert values[3] == pytest.approx((9 + 9 + 4) / 64)
    assert known.schedule(3).times == pytest.approx((1, 2 / 3, 1 / 3, 0), abs=1e-3)


def test_min_time():
    """No schedule has a time between 0 and the smallest one, and none is worse for it than needed.

    With gamma = 0 the steps above `min_time` are equal in F, unless all of them are anyway.
    """
    for least in (0.1, 0.35, GRID[20]):
        known = table(min_time=least)
        for n in (1, 2, 3, 5, 12, 100):
            times = np.array(known.schedule(n).times)
            assert len(times) == n + 1
            assert not ((times > 0) & (times < least)).any()
            free = 16 / n if 4 / n >= level(least) else None
            last = level(least) ** 2
            bound = last + (4 - level(least)) ** 2 / (n - 1) if free is None else free
            assert known.cost(n) == pytest.approx(bound, rel=2e-3)
        assert known.floor == pytest.approx(last)
        assert known.asymptote == pytest.approx((4 - level(least)) ** 2, rel=1e-9)
        enough = last + (4 - level(least)) ** 2 / 1000
        assert known.steps_for(enough) in range(995, 1006)
        with pytest.raises(ValueError, match="`cost` must be positive and above"):
            known.steps_for(last)
    assert table().floor == 0
    assert table(min_time=0.1).schedule(2) == table().schedule(2)


@pytest.mark.parametrize("least", [0.0, 1e-3, 0.02, 0.3])
def test_grids_respect_the_smallest_time(least):
    """The network is called at no time below it; grids keep their numbers of times."""
    seen = []

    class Watched(ExactDenoiser):
        min_time = least

        def forward(self, x_t, t, free=None):
            seen.append(float(t.min()))
            return super().forward(x_t, t, free)

    denoiser = Watched(
        ForwardProcess(Uniform(2), LogLinear()), torch.eye(2, dtype=torch.float64) / 2
    )
    x_0 = torch.tensor([[0, 0], [1, 1]] * 8)
    optimizer = OptimalSteps(num_times=8, pilot_times=6)
    generator = torch.Generator().manual_seed(0)
    found = optimizer(denoiser, Analytic(), x_0, (3, 8, 20), generator=generator)
    assert len(seen) == found.num_calls == 14
    assert min(seen) >= least
    assert found.table.min_time == least
    assert all(s.times[-2] >= least for s in found.schedules.values())


def test_squeezed_grids():
    """Inner times keep their order and their ratios of distances; what is fine already stays."""
    times = torch.tensor([0.0, 0.1, 0.4, 0.7, 1.0], dtype=torch.float64)
    assert squeezed(times, 0.1) is times
    expected = torch.tensor([0.0, 0.4, 0.6, 0.8, 1.0], dtype=torch.float64)
    torch.testing.assert_close(squeezed(times, 0.4), expected)


def costs_of(times, kappa, num=3):
    """Return `C = f(t) - f(s) + kappa (t - s)^2` for every sequence, f(t) = b t^3."""
    t = torch.as_tensor(times)
    h = t[:, None] - t[None, :]
    slope = torch.arange(1.0, num + 1, dtype=torch.float64)[:, None, None]
    nats = slope * (t[:, None] ** 3 - t[None, :] ** 3) + torch.as_tensor(kappa) * h**2
    nats = nats.tril(-1)
    return StepCosts(t, nats, nats, torch.zeros(num, len(t) - 1, 2, dtype=torch.float64), 0)


def test_excess_against_infinitely_many_steps():
    """It is `kappa h^2` for cells, too, whatever f; for one cell nothing is known."""
    t = torch.as_tensor(GRID)
    expected = 3.0 * ((t[:, None] - t[None, :]) ** 2).tril(-1)
    costs = costs_of(GRID, 3.0)
    torch.testing.assert_close(mean_excess(costs), expected, rtol=0, atol=1e-11)
    each = sequence_excess(costs)
    torch.testing.assert_close(each, expected.expand_as(each), rtol=0, atol=1e-11)
    assert not mean_excess(costs_of([0.0, 1.0], 3.0)).any()


def test_control_coefficient():
    """It is `sum var(r) / max(sum var(r), n sum b^2)` for costs m + r + b, of which m is expected.

    r and m are orthogonal and b is the bias: least squares. What is known exactly needs no control.
    """
    r, m = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]]).double()[..., None, None]
    base = costs_of(np.linspace(0, 1, 4), 1.0, num=4)
    nats = base.nats[:1]
    for bias in (0.0, 0.1, 0.2, 1.0):
        expected = nats * (2 + 0.3 * m)
        costs = replace(base, nats=expected + nats * (0.2 * r + bias), expected=expected)
        variance = 0.04 * 4 / 3
        best = variance / max(variance, 4 * bias**2)
        assert control_coefficient(costs) == pytest.approx(best, rel=1e-9)
        controlled = costs.controlled(0.5)
        torch.testing.assert_close(controlled.nats, (costs.nats + expected) / 2)
    known = nats.expand(4, -1, -1)
    assert control_coefficient(replace(base, nats=known, expected=0 * known)) == 0


def test_small_costs_do_not_outvote_large_ones():
    """A bias of as many deviations in a hundred steps of 1e-6 nats changes the coefficient little.

    The one step that costs something has none: all of its surprise is taken off.
    """
    r, m = torch.tensor([[1.0, -1, 1, -1], [1, 1, -1, -1]]).double()[..., None, None]
    base = costs_of(np.linspace(0, 1, 16), 1.0, num=4)
    size = torch.full_like(base.nats[:1], 1e-6).tril(-1)
    bias = 5 * size
    size[:, -1, 0], bias[:, -1, 0] = 1.0, 0.0
    expected = size * (2 + 0.3 * m)
    costs = replace(base, nats=expected + 0.2 * r * size + bias, expected=expected)
    assert control_coefficient(costs) == pytest.approx(1, abs=1e-6)


def every_path(denoiser, law):
    """Return the costs of all (x_0, x_.5, x_1) of two bits, each as often as it is probable.

    The uniform kernel has flipped a bit by .5 with probability 1/4 (two bits of `flips`), and
    nothing is left of it at 1.
    """
    bits = torch.cartesian_prod(*[torch.arange(2)] * 8)
    x_0, flips, x_1 = bits[:, :2], bits[:, 2:6].reshape(-1, 2, 2).prod(-1), bits[:, 6:]
    times = torch.tensor([0.0, 0.5, 1.0]).double()
    number = (8 * law[x_0[:, 0], x_0[:, 1]]).round().long()
    x_0, x_half, x_1 = (x.repeat_interleave(number, 0) for x in (x_0, x_0 ^ flips, x_1))
    nats, expected = torch.zeros(2, len(x_0), 3, 3, dtype=torch.float64)
    for i, x_t in ((1, x_half), (2, x_1)):
        prediction = denoiser(x_t, times_like(float(times[i]), x_t))
        measured, hoped = step_costs(prediction, x_0, times[:i])
        nats[:, i, :i], expected[:, i, :i] = measured.mT, hoped.mT
    return StepCosts(times, nats, expected, torch.zeros(len(nats), 2, 2).double(), 0)


def test_control_of_exact_and_of_wrong_denoisers():
    """All of it for an exact denoiser, whatever is measured; c / n for one that is wrong.

    No sampling: every path is there as often as its probability says, n copies of all of them.
    """
    process = ForwardProcess(Uniform(2), LogLinear(eps=1e-12))
    law = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double() / 8
    right = every_path(ExactDenoiser(process, law), law)
    missed = sequence_excess(right) - sequence_excess(replace(right, nats=right.expected))
    assert float(missed.mean(0).abs().max()) < 1e-9
    assert control_coefficient(right) > 0.9
    wrong = every_path(ExactDenoiser(process, law.flip(0)), law)
    found = []
    for copies in (1, 10, 100):
        names = ("nats", "expected", "errors")
        arrays = {x: getattr(wrong, x).repeat(copies, 1, 1) for x in names}
        found.append(control_coefficient(replace(wrong, **arrays)))
    assert found[0] < 0.1
    assert found[1:] == pytest.approx([found[0] / 10, found[0] / 100], rel=1e-2)


def test_halves_are_all_sequences():
    """Every halving has each sequence once, and no two halvings are the same."""
    costs = costs_of(GRID, 2.0 ** torch.arange(20).double()[:, None, None], num=20)
    total, seen = sequence_excess(costs).sum(0), set()
    for first, second in halved_excess(costs):
        torch.testing.assert_close(10 * (first + second), total, rtol=1e-9, atol=1e-9)
        seen.add(float(first[-1, 0]))
    assert len(seen) == SPLITS


def test_excess_of_a_curvature_that_varies():
    """With `kappa(t) = 1 + t`, cells cost `kappa h^2` with that of their middle, to first order."""
    grid = np.linspace(0, 1, 41)
    kappa = 1 + (grid[:, None] + grid[None, :]) / 2
    cells = mean_excess(costs_of(grid, kappa)).diagonal(-1).numpy()
    middle = (grid[1:] + grid[:-1]) / 2
    assert cells[1:-1] == pytest.approx((1 + middle[1:-1]) / 1600, rel=1e-2)
    assert cells[[0, -1]] == pytest.approx((1 + middle[[0, -1]]) / 1600, rel=2e-2)


def test_negative_curvature_counts_as_none():
    """In the mean of the table; single sequences keep it, or their mean would be too large."""
    costs = costs_of(np.linspace(0, 1, 5), -1.0)
    assert (mean_excess(costs).diagonal(-1) == 0).all()
    assert (sequence_excess(costs).diagonal(-1, -2, -1) < 0).all()


class Known(OptimalSteps):
    """An optimizer that is told the costs, `kappa` for every sequence."""

    def __init__(self, kappa, **arguments):
        super().__init__(**arguments)
        self.kappa = torch.as_tensor(kappa, dtype=torch.float64)
        self.grids = []

    def measure(self, denoiser, x_0, times, **settings):
        """Return `kappa (F(t) - F(s))^2` and errors of which half is left after every cell."""
        self.grids.append(times.numpy())
        nats = self.kappa[:, None, None] * torch.from_numpy(squares(times.numpy()))
        errors = torch.tensor([1.0, 0.5]).double().expand(len(nats), len(times) - 1, 2).clone()
        return StepCosts(times, nats, nats, errors, len(times) - 1)


def measured(kappa, **arguments):
    """Return optimizer and table for known costs."""
    optimizer = Known(kappa, **arguments)
    denoiser = ExactDenoiser(
        ForwardProcess(Uniform(2), LogLinear()), torch.eye(2, dtype=torch.float64) / 2
    )
    x_0 = torch.zeros(len(kappa), 2, dtype=torch.int64)
    return optimizer, optimizer.table(denoiser, Analytic(), x_0)


def test_held_out_sequences_stay_out_of_the_table():
    """The last quarter changes nothing but `held_out`; each of the others changes the table."""
    kappa = np.linspace(1, 2, 16)
    optimizer, found = measured(kappa)
    assert (found.num_samples, found.num_held_out) == (12, 4)
    assert found.held_out[:, -1, 0] == pytest.approx(16 * kappa[-4:], rel=1e-3)
    assert found.excess[-1, 0] == pytest.approx(16 * kappa[:12].mean(), rel=1e-3)
    for k in range(16):
        other = kappa.copy()
        other[k] *= 3
        others, changed = measured(other)
        same = [
            np.array_equal(getattr(changed, f.name), getattr(found, f.name))
            for f in fields(CostTable)
            if f.name not in ("held_out", "seconds", "setting")
        ]
        assert all(same) == (k >= 12)
        if k >= 12:
            assert not np.array_equal(changed.held_out, found.held_out)
    assert len(optimizer.grids) == len(others.grids) == 2


def test_standard_error():
    """It is the standard deviation of the excess over sequences by the root of their number."""
    kappa = np.linspace(1, 2, 16)
    _, found = measured(kappa)
    expected = 16 * kappa[:12].std(ddof=1) / np.sqrt(12)
    assert found.standard_error[-1, 0] == pytest.approx(expected, rel=1e-3)


def test_weights_follow_the_errors():
    """Half of an error is left after every cell: w = 2^(-gamma k); the default gamma is .5."""
    for gamma, arguments in ((0.5, {}), (2.0, {"gamma": 2.0})):
        _, found = measured(np.ones(8), **arguments)
        assert found.weights == pytest.approx(0.5 ** (gamma * np.arange(37)), rel=1e-12)
        assert found.gamma == gamma
        assert found.num_calls == 12 + 36


def test_averages_are_chosen_by_what_counts():
    """Noise of late steps asks for an average if they count, gamma = 0, and not if they do not."""

    class Noisy(Known):
        def measure(self, denoiser, x_0, times, **settings):
            costs = super().measure(denoiser, x_0, times, **settings)
            noise = torch.from_numpy(np.random.default_rng(0).standard_normal(costs.nats.shape[1:]))
            noise = noise.tril(-3)  # cells stay, from which the excess is counted
            noise[:, :30] = 0
            sign = torch.tensor([1.0, -1.0]).double().repeat(len(x_0) // 2)[:, None, None]
            noisy = costs.nats * (1 + 0.5 * sign * noise.clamp(-1, 1))
            return replace(costs, nats=noisy, expected=noisy)

    denoiser = ExactDenoiser(
        ForwardProcess(Uniform(2), LogLinear()), torch.eye(2, dtype=torch.float64) / 2
    )
    widths = [
        Noisy(np.ones(16), gamma=gamma)
        .table(denoiser, Analytic(), torch.zeros(16, 2, dtype=torch.int64))
        .width
        for gamma in (0.0, 4.0)
    ]
    assert widths[0] > widths[1] == 0


def test_second_grid_follows_the_density_of_the_pilot():
    """It is equal in `int sqrt(w kappa)`, three quarters, and cells of the pilot, a quarter."""
    optimizer, _ = measured(np.ones(8), gamma=0.0, num_times=72, pilot_times=24)
    pilot, grid = optimizer.grids
    assert pilot == pytest.approx(pilot_grid(24).numpy())
    spent = 0.75 * level(grid) / 4 + 0.25 * np.interp(grid, pilot, np.linspace(0, 1, 25))
    assert spent == pytest.approx(np.linspace(0, 1, 73), abs=5e-3)
    assert not np.allclose(grid, np.interp(np.linspace(0, 1, 73), np.linspace(0, 1, 25), pilot))


def test_a_grid_without_costs_is_that_of_the_pilot():
    """A table of zeros places times as it has them itself."""
    zero = table(np.zeros((66, 66)))
    assert placed_grid(zero, 65).numpy() == pytest.approx(GRID)


def test_pilot_grid():
    """Half of the times are equally spaced, half log spaced from 1e-4; 25 of them are distinct."""
    for num in (4, 7, 24):
        times = pilot_grid(num).numpy()
        assert len(times) == num + 1
        half = num // 2
        even = np.linspace(0, 1, num - half + 1)
        log = 10 ** (-4 + 4 * np.arange(half) / half)
        assert times == pytest.approx(np.sort([*even, *log]))


def test_negative_costs_are_refused_beyond_the_slack():
    """The slack is 6 standard errors (more for few sequences), 5 % of one step, and .01 nats."""
    excess = squares()
    excess[40, 20] = 0.0
    error = np.zeros_like(excess)
    error[40, 20] = 0.1
    for num, factor in (
        (10**6, 5.998),
        (64, 6.99981),
        (8, 38.706),
    ):  # tables of Student's t at 1e-9
        slack = factor * 0.1 + 0.05 * 16 + 0.01
        for value, fine in ((-slack * 0.98, True), (-slack * 1.02, False)):
            excess[40, 20] = value
            known = {"standard_error": error, "num_samples": num}
            if fine:
                table(excess, **known)
            else:
                with pytest.raises(ValueError, match=r"`excess` must be >= 0, got -.* the step"):
                    table(excess, **known)


BAD = {
    "times": [
        GRID[::-1],
        GRID[:-1],
        GRID * 2,
        np.where(GRID == 0.1, np.nan, GRID),
        np.append(GRID[:-2], [1.0, 1.0]),
        np.zeros(0),
        GRID[:, None],
    ],
    "excess": [squares() * np.nan, squares() + np.inf, squares()[:-1], squares()[:, :-1]],
    "standard_error": [-squares(), squares() * np.nan, squares()[0]],
    "retention": [survival(GRID) * 1.5, survival(GRID) - 0.5, survival(GRID)[1:], GRID * np.nan],
    "gamma": [-5.0, 1e308, np.inf, np.nan],
    "min_time": [-0.1, 0.6, np.nan, np.inf],
    "width": [-1.0, 0.5, 1e308, np.nan],
    "seconds": [-1.0, np.nan, np.inf],
    "num_samples": [-1],
    "num_held_out": [-1],
    "num_calls": [-1],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_entries_are_refused_by_name(name, tmp_path):
    """In a constructor and in a file; in a file its name is told, too."""
    for value in BAD[name]:
        with pytest.raises(ValueError, match=f"`{name}` must"):
            replace(table(), **{name: value})
        content = table().to_dict()
        content[name] = value.tolist() if isinstance(value, np.ndarray) else value
        with pytest.raises(ValueError, match=rf"`a.json` must hold a cost table, but `{name}`"):
            CostTable.from_dict(content, "a.json")


def test_damaged_content_is_refused():
    """Missing, unknown and ragged entries, words for numbers, and another setting."""
    for change in (
        {"excess": [[0.0], [1.0, 2.0]]},
        {"times": ["a", "b"]},
        {"times": None},
        {"setting": {"kernel": "k"}},
        {"setting": 3},
        {"unknown": 1},
        {"gamma": "1"},
        {"min_time": None},
        {"num_samples": 2.5},
        {"num_calls": [1]},
    ):
        with pytest.raises(ValueError, match="`content` must hold a cost table, but"):
            CostTable.from_dict(table().to_dict() | change)
    content = table().to_dict()
    del content["gamma"]
    with pytest.raises(ValueError, match="`content` must hold a cost table, but"):
        CostTable.from_dict(content)


def test_held_out_needs_two_sequences_of_the_right_shape():
    """One sequence has no error; costs on another grid are refused."""
    for held_out in (squares()[None], np.zeros((4, 5, 5)), squares()):
        with pytest.raises(ValueError, match="`held_out` must have the shape"):
            table(held_out=held_out)
    with pytest.raises(ValueError, match="`held_out` must be finite"):
        table(held_out=np.full((2, 66, 66), np.nan))


def test_files_hold_no_held_out_sequences():
    """Files stay small, and those of the first version, with their means, are read."""
    content = table(held_out=np.zeros((9, 66, 66))).to_dict()
    assert "held_out" not in content
    assert content["num_held_out"] == 9
    old = CostTable.from_dict(content | {"held_out": squares().tolist()})
    assert old.held_out is None
    assert old.schedule(4) == table().schedule(4)


def test_infinite_costs_are_named():
    """Before anything is chosen by them."""
    with pytest.raises(ValueError, match="`excess` must be finite, got NaN or infinite values"):
        measured(np.full(8, np.inf))


def test_schedules_say_what_they_are():
    """Facts of the table travel with its schedules."""
    known = replace(table(), setting=Setting("Uniform(3)", "LogLinear()", "Analytic()"))
    schedule = known.schedule(3)
    assert schedule.source == "optimal"
    assert schedule.info == {
        "cost": known.cost(3),
        "num_samples": 64,
        "gamma": 0.0,
        "kernel": "Uniform(3)",
        "noise": "LogLinear()",
        "sampler": "Analytic()",
    }
    assert isinstance(schedule, SamplingSchedule)
