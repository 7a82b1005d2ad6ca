"""The benchmarks with exact laws: what they compute, and that they run."""

import math

import _corrector_search
import correctors
import guards
import held_out
import numpy as np
import problems
import pytest
import selection
import step_errors
import torch
from _correctors import Gibbs, Psi, ReMDM, cap, rescale
from _held_out_joints import first_nine, second_nine
from _report import RESULTS
from problems import NEAR, ORDINARY, SMALL_KERNELS, Enumerated, joints
from regret import DEFAULT, ExactSteps, study, summary

import exact
from ddm import Absorbing, ForwardProcess, Uniform
from ddm.denoisers import LogLeaveOneOut
from ddm.files import read_json
from ddm.noise import LogLinear
from ddm.orders import Spaced
from ddm.samplers import Analytic
from ddm.schedules.optimal.step_cost import step_costs


def test_regret_is_small():
    """On a few joints the schedules stay within the bounds of the whole study, all exact.

    A search finds again what is known to be best.
    """
    names = ("soft parity, beta = 1.0", "CountDown, V = 4, L = 3, smoothing 0.01")
    laws, known = (
        {name: joints()[name] for name in names},
        read_json(RESULTS / "regret.json")["best"],
    )
    searched = f"{names[0]}|uniform|2"
    expected = known.pop(searched)
    rows = list(study(laws, list(SMALL_KERNELS), (2, 3), known))
    for row in rows:
        assert 0 < row["best"] <= min(row["nats"].values()) * (1 + 1e-12)
    found = next(row["best_times"] for row in rows if row["key"] == searched)
    assert found == pytest.approx(expected, abs=1e-3)
    for kernel, groups in summary(rows).items():
        median, worst = groups[ORDINARY][DEFAULT]
        assert median <= (0.03 if kernel == "absorbing" else 0.05)
        assert worst <= (0.10 if kernel == "absorbing" else 0.15)
        assert groups[NEAR][DEFAULT][1] <= 0.35


@pytest.mark.parametrize("kernel", [Absorbing(3), Uniform(3)])
def test_regret_knows_the_law_of_the_samples(kernel):
    """Its costs and its propagated law are those of the library's sampler, written out."""
    joint = exact.random_joint(3, 2)
    world = Enumerated(kernel, joint)
    times = (1.0, 0.6, 0.2, 0.0)
    law = exact.sample_law(Analytic(), world.denoiser, times, 2)
    expected = exact.kl(joint, law)
    assert world.divergence(world.start(), times) == pytest.approx(expected, rel=1e-9)
    marginal = exact.marginal(world.process, joint, 0.4)
    torch.testing.assert_close(world.marginal(0.4), marginal)
    grid = torch.tensor([0.0, 0.3, 0.7, 1.0], dtype=torch.float64)
    nats = ExactSteps(world).measure(None, None, grid).nats[0]
    x_0 = world.denoiser.sequences
    t, s = float(grid[2]), grid[:1]
    both = exact.joint_of_times(world.process, joint, 0.0, t)
    total = 0.0
    for index, row in enumerate(exact.index_of(x_0, kernel.num_states)):
        live = both[row] > 0
        p = world.denoiser(world.states[live], exact.at(t, int(live.sum())))
        cost = step_costs(p, x_0[index].expand(int(live.sum()), -1), s)[0][0]
        total += float(cost @ both[row][live])
    assert float(nats[2, 0]) == pytest.approx(total, rel=1e-9)


def test_held_out_joints_are_laws():
    """Each has its own name, can be enumerated, and is the law that its name says."""
    laws = first_nine() | second_nine()
    for law in laws.values():
        assert float(law.sum()) == pytest.approx(1, rel=1e-12)
        assert law.numel() <= 256
    assert laws.keys().isdisjoint(joints())
    likely = {name: int((law > 0.5 * law.max()).sum()) for name, law in laws.items()}
    # Catalan number of 3, two letters twice, the permutations of four, multisets of four letters,
    # and the words of three bits.
    names = ("brackets", "copies", "permutations", "sorted", "linear code")
    assert [likely[name] for name in names] == [5, 9, 24, 35, 8]
    urn = laws["urn"].reshape(-1)
    assert float(urn[0]) == pytest.approx(231 / 1024, rel=1e-12)  # E[p^6], p of the arcsine law


def test_held_out_runs(benchmarks):
    """Rivals that need data and those that do not are compared in every cell that they have."""
    sizes = ["--seeds=2", "--num-data=16", "--num-steps", "2", "3"]
    held_out.main(["--joints=first and last", "--settings=Gaussian", *sizes])
    found = read_json(benchmarks / "held_out.json")["ratios"]["Gaussian"][held_out.OURS]
    assert {name: row["cells"] for name, row in found.items()} == {
        "uniform": 2,
        "cosine": 2,
        "JYS": 2,
        "JYS as released": 1,
        held_out.BEST: 2,
    }


def test_selection_of_exponents():
    """What was chosen is compared with the default and the best exponent, over numbers of steps."""
    law = first_nine()["first and last"]
    row = selection.on_joint(law, "uniform", 24, 0)
    assert row["worth"].keys() == {*row["distances"], selection.UNIFORM}
    assert row["calls_of_choice"] <= row["calls_of_table"]
    worth = {
        selection.UNIFORM: {"4": 9.0, "8": 9.0},
        selection.DEFAULT: {"4": 2.0, "8": 8.0},
        "gamma 2": {"4": 1.0, "8": 4.0},
        "gamma 0": {"4": 4.0, "8": 4.0},
    }
    rows = [{"worth": worth, "winner": name} for name in ("gamma 2", "gamma 0")]
    found = selection.summary(rows)
    assert found["chosen over best, worst"] == pytest.approx(2)
    assert found["default over best, mean"] == pytest.approx(2)
    assert found["chosen over default, best"] == pytest.approx(0.5)
    assert found["chosen within 5 % of the best"] == 0.5


def test_error_of_one_step():
    """What is left at 0 of the error of one step is as the exact posterior of x_0 says."""
    joint = exact.random_joint(3, 2)
    world = Enumerated(Uniform(3), joint)
    t, s = 0.7, 0.4
    marginal = exact.marginal(world.process, joint, s)
    posterior = exact.joint_of_times(world.process, joint, 0.0, s) / marginal  # of x_0 by x_s
    law = world.step(world.marginal(t), t, s)
    left = step_errors.left_at_zero(world, t, s)
    torch.testing.assert_close(left, posterior @ law)
    found = step_errors.prices(world, np.array([0.0, s, t, 1.0]))[step_errors.ORACLE]
    assert found[2, 1] == pytest.approx(exact.kl(joint, left), rel=1e-6)
    assert found[3, 0] == pytest.approx(world.divergence(world.marginal(1.0), (1.0, 0.0)), rel=1e-9)


def test_step_errors_run(benchmarks):
    """Every price has its regret; where laws are soft, that of the oracle is next to none."""
    step_errors.main(["--joints", "soft parity, beta = 1.0", "--settings=uniform", "--num-steps=2"])
    (rows,) = read_json(benchmarks / "step_errors.json")["regret"].values()
    assert rows.keys() == {DEFAULT, "r^0", step_errors.ORACLE, step_errors.VARIATION, "uniform"}
    assert min(min(x) for x in rows.values()) >= 0
    assert rows[step_errors.ORACLE][-1] < 1e-3 < rows["uniform"][-1]


def test_losses_beyond_the_error():
    """A cell is lost if the ratio is above 1 by more than twice its error."""
    cells = {
        "a": {"x": {"2": [1.2, 0.05]}, "y": {"2": [1.0, 0.05]}},
        "b": {"x": {"2": [1.2, 0.15]}, "y": {"2": [1.0, 0.0]}},
    }
    found = held_out.comparison(cells, "x", "y")
    assert found["a, N = 2"] == pytest.approx([1.2, 2 * math.hypot(0.05, 0.06)])
    assert [ratio - error > 1 for ratio, error in found.values()] == [True, False]


def test_means_given_a_later_state():
    """`E[f(x_t) | x_s]` is a product of the transition matrix of whole sequences with f."""
    world = Enumerated(Uniform(3), exact.random_joint(3, 2))
    f = torch.randn(9, 2, generator=exact.seeded(), dtype=torch.float64)
    expected = exact.transition(world.process, 0.2, 0.7, 2) @ f
    torch.testing.assert_close(world.mean(f, 0.7, 0.2), expected)


@pytest.mark.parametrize("kernel", [Absorbing(3), Uniform(3)])
def test_one_token_drawn_anew_keeps_the_law(kernel):
    """A Gibbs step at one position, given all others at time s, leaves the law of x_s as it is."""
    world = Enumerated(kernel, exact.random_joint(3, 2))
    s = 0.4
    law = Gibbs(1).law([world.prediction(s)], exact.at(s, len(world.states)))
    before = world.marginal(s)
    others = before[exact.neighbors(kernel.num_states, 2)].sum(-1)  # x without position i
    own = law.gather(-1, world.states[..., None])[..., 0]
    torch.testing.assert_close(others * own, before[:, None].expand(-1, 2), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rule", [cap(0.1), rescale(0.5), rescale(1.0)])
def test_remasking_keeps_the_marginals(rule):
    """If x_0 is known, a step of ReMDM leads from q(x_t | x_0) to q(x_s | x_0)."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    known = torch.tensor([0.0, -torch.inf, -torch.inf], dtype=torch.float64)
    x = torch.tensor([[0], [3]])  # all that x_0 = 0 can be
    said = LogLeaveOneOut(process, known.expand(2, 1, 3), x, exact.at(0.7, 2))
    law = ReMDM(rule).law([said], exact.at(0.5, 2))[:, 0]
    q = [exact.expm(process.kernel, process.noise.sigma(exact.at(u)))[0] for u in (0.7, 0.5)]
    torch.testing.assert_close(q[0][x[:, 0]] @ law, q[1])


def test_psi_keeps_the_marginals():
    """If x_0 is known, any mixture of bridge and fresh noise leads from q(x_t | x_0) to q(x_s)."""
    process = ForwardProcess(Uniform(3), LogLinear())
    known = torch.tensor([0.0, -torch.inf, -torch.inf], dtype=torch.float64)
    x = torch.arange(3)[:, None]
    said = LogLeaveOneOut(process, known.expand(3, 1, 3), x, exact.at(0.7, 3))
    law = Psi(0.3).law([said], exact.at(0.5, 3))[:, 0]
    q = [exact.expm(process.kernel, process.noise.sigma(exact.at(u)))[0] for u in (0.7, 0.5)]
    torch.testing.assert_close(q[0] @ law, q[1])


def test_correctors_run(benchmarks, monkeypatch):
    """Every method makes the calls it is allowed; the search never ends above the predictor."""
    monkeypatch.setattr(correctors, "NUM_CALLS", (4,))
    monkeypatch.setattr(correctors, "MODEL_CALLS", (4,))
    monkeypatch.setattr(correctors, "LENGTH", 8)
    monkeypatch.setattr(problems, "GRID", {"num_times": 6, "pilot_times": 4})
    monkeypatch.setattr(_corrector_search, "EVALUATIONS", 4)
    sizes = ["--seeds=1", "--num-samples=4", "--num-data=16", "--num-model=2"]
    chains, model = ["masks", "uniform"], "countdown_uniform"
    correctors.main(
        [*sizes, "--joints", "soft parity, beta = 1.0", "--chains", *chains, "--models", model]
    )
    found = read_json(benchmarks / "correctors.json")
    for row in found["joints"].values():
        assert 0 < row["Renoise"] <= row["Analytic"]
    for name in (*chains, model):
        assert {key for row in found["tables"][name]["broken"].values() for key in row} == {"4"}


def test_guards(monkeypatch):
    """Rules keep what they say, and the nats of what is kept are those of the sampler's law."""
    costs = {"uniform": np.array([2.0, 2.1]), "cosine": np.array([1.9, 2.1]), "found": np.zeros(2)}
    for of_counts, of_orders in guards.RULES.values():
        assert (of_counts(costs), of_orders(costs)) == ("found", "found")
    noisy = {"uniform": np.array([2.0, 2.0]), "cosine": np.array([1.0, 3.1])}
    noisy["found"] = np.array([2.9, 1.0])
    kept = [of_counts(noisy) for of_counts, _ in guards.RULES.values()]
    assert kept == ["uniform", "uniform", "found", "found"]
    monkeypatch.setattr(guards, "ORDERS", {name: Spaced(jitter=0.0) for name in guards.ORDERS})
    found = guards.measure(first_nine()["copies"], 2, 16, 2)
    for questions in found.values():
        assert questions["order against random order"] == [0.0, 0.0]
        assert questions["both"] == questions["counts, spaced order"]
        assert guards.summary([found], "t-test, 84 %", "both")["of"] == 1
