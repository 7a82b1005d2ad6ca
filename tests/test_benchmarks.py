"""The parts of the benchmark scripts that can be wrong: their formulas, and that they run."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ddm import Absorbing, CostTable, ForwardProcess, OptimalSteps, Uniform
from ddm.noise import Geometric, LogLinear
from ddm.samplers import Analytic
from ddm.schedules.setting import Setting

SMALL = {"num_times": 6, "pilot_times": 4}


@pytest.fixture(autouse=True)
def small(benchmarks, monkeypatch):
    """Keep the cost tables small."""
    import kernel_gain

    monkeypatch.setattr(kernel_gain, "GRID", SMALL)


def test_cells_are_measured_once(benchmarks):
    """After an interruption only what is missing is measured; other settings start again."""
    from _report import finish, resume

    calls = []

    def cell(name, fails=False):
        calls.append(name)
        if fails:
            raise KeyboardInterrupt
        return (len(name), name)

    settings = {"seeds": 3}
    with pytest.raises(KeyboardInterrupt):
        resume("study", settings, {"a": partial(cell, "a"), "bb": partial(cell, "bb", fails=True)})
    cells = {name: partial(cell, name) for name in ("a", "bb")}
    assert resume("study", settings, cells) == {"a": [1, "a"], "bb": [2, "bb"]}
    assert calls == ["a", "bb", "bb"]
    resume("study", {"seeds": 4}, cells)
    assert calls == ["a", "bb", "bb", "a", "bb"]
    finish("study", {}, Figure())
    assert {p.name for p in benchmarks.iterdir()} == {"study.json", "study.png"}


def test_predicted_gain():
    """With the density 2t, N equal steps cost `(4 - 1 / N^2) / 3` times what the optimal ones do.

    The k-th one advances `F = t^2` by `(2k + 1) / N^2`.
    """
    from kernel_gain import predicted_gain

    t = np.linspace(0, 1, 481)
    for n in (1, 2, 4, 16):
        assert predicted_gain(t, t[1:] + t[:-1], n) == pytest.approx((4 - 1 / n**2) / 3, rel=1e-12)


def test_quartiles():
    """If a step costs `(t^2 - s^2)^2`, a share t^2 of the optimal steps lies below t."""
    from kernel_gain import quartiles

    t = np.linspace(0, 1, 201)
    excess = np.tril(np.subtract.outer(t**2, t**2) ** 2, -1)
    zeros, ones = np.zeros_like(excess), np.ones_like(t)
    setting = Setting.of(ForwardProcess(Uniform(2), LogLinear()), Analytic())
    table = CostTable(t, excess, zeros, ones, 0.75, setting, 8, 2, 0)
    assert quartiles(table) == pytest.approx([0.25**0.5, 0.5**0.5, 0.75**0.5], rel=1e-3)


def test_kernel_gain_runs():
    """A small cell has finite gains, and the figure can be drawn from it."""
    from kernel_gain import NUM_STEPS, chains, draw, exact, gain, measure

    first, chain = next(iter(chains().items()))
    cell = measure(exact(Absorbing(12), LogLinear(), chain), chain, num_data=8, num_samples=4)
    assert all(0 < gain(cell, n) < math.inf for n in NUM_STEPS)
    assert draw({f"absorbing/LogLinear/{first}": cell | {"dependent": True}}).axes


def test_clocks():
    """A schedule carried to where it came from is the same, by every clock.

    Carried through alpha to another noise schedule of the same kernel, alpha is the same, to within
    the interpolation on the grid of the clocks.
    """
    from kernel_gain import chains, exact
    from transfer import CLOCKS, alpha, carried, clocks

    chain = chains()["stays with .95"]
    times = [1.0, 0.6, 0.25, 0.03, 0.0]
    source, target = (exact(Uniform(12), noise, chain) for noise in (LogLinear(), Geometric()))
    mine, theirs = clocks(source, chain), clocks(target, chain)
    for name in CLOCKS:
        assert carried(times, mine[name], mine[name]) == pytest.approx(times, rel=1e-9)
        assert (np.diff(carried(times, mine[name], theirs[name])) < 0).all()
    there = carried(times, mine["alpha"], theirs["alpha"])
    left = [
        alpha(d.process, torch.tensor(t, dtype=torch.float64)).numpy()
        for d, t in ((source, times), (target, there))
    ]
    np.testing.assert_allclose(left[1], left[0], atol=2e-2)


def test_transfer_runs(monkeypatch):
    """Small cells have the keys that the figure asks for."""
    import transfer

    monkeypatch.setattr(transfer, "NUM_STEPS", (8,))
    chain = transfer.chains()[transfer.RIGID]
    places = {
        name: partial(transfer.place, kernel, LogLinear(), chain, 8)
        for name, kernel in (("a", Absorbing(12)), ("b", Uniform(12)))
    }
    across = transfer.across_places(places)
    assert across["a -> b/8"].keys() == {*transfer.CLOCKS, "uniform"}
    stale = transfer.across_checkpoints(Absorbing(12), chain, (1, 2), 8)
    assert {"uniform/1/8", "uniform/2/8", "1/2/8"} <= stale.keys()
    result = {
        "kernels": across,
        "data, absorbing": across,
        "data, uniform": across,
        "checkpoints, absorbing": stale,
        "checkpoints, uniform": stale,
        "samplers": transfer.across_samplers(chain, 8, 4),
    }
    assert transfer.draw(result).axes


def test_break_even():
    """Optimising for 96 x 256 evaluations and saving 6 of 16 calls pays after 4,096 samples."""
    from worth_its_cost import break_even

    assert break_even(96 * 256, 16, 10) == 4096
    assert break_even(96 * 256, 16, 16) == math.inf


def test_worth_its_cost_runs():
    """All calls are counted: one per grid time, and the times of both parts add up to the whole."""
    import worth_its_cost

    optimizer = OptimalSteps(**SMALL)
    found = worth_its_cost.cost("2 x 64", "absorbing", optimizer, 2, 8)
    assert found["calls"] == sum(SMALL.values())
    assert found["network"] > 0 < found["search"]
    scatter = worth_its_cost.scatter("absorbing", optimizer, (8,), seeds=2)
    assert len(scatter["8"]["costs"]) == 2
    saving = worth_its_cost.saving("absorbing", 8, 4)
    assert saving["8"]["instead"] >= 1


def test_pairs_of_a_chain():
    """Pairs in the shares of their law have the distance 0; a stationary chain repeats its law."""
    from peers import pair_law, quality

    flat = torch.full((2,), 0.5, dtype=torch.float64)
    tokens = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert quality(tokens, (flat, flat.expand(2, -1)))["hellinger"] == pytest.approx(0, abs=1e-7)
    rows = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(pair_law((flat, rows), 7), flat[:, None] * rows)


def test_peers_runs():
    """The methods of this project give samples; peers that are not installed say so."""
    from peers import KERNELS, METHODS, Method, chains, draw, measure, summary

    from ddm.schedules import SamplingSchedule

    assert not Method(lambda denoiser, x, times: x, "no_such.package").installed
    chain, rows = chains()["CountDown, smoothing .002"], {}
    for kernel, group in METHODS.items():
        rows[f"{kernel}/data/0"] = {"broken": 0.002}
        for n in (4, 8, 32):
            method, schedule = group["ddm, Analytic"], SamplingSchedule.uniform(n)
            cell = measure(method, KERNELS[kernel], chain, schedule, 8, 0)
            rows[f"{kernel}/ddm, Analytic/uniform/{n}/0"] = cell
            assert 0 <= cell["overhead"] <= cell["seconds"]
    assert draw(summary(rows, seeds=1)).axes
