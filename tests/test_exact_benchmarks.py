"""The benchmarks with exact laws: what they compute, and that they run."""

import pytest
import torch
from _report import RESULTS
from problems import NEAR, ORDINARY, SMALL_KERNELS, Enumerated, joints
from regret import DEFAULT, ExactSteps, study, summary

import exact
from ddm import Absorbing, Uniform
from ddm.files import read_json
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


def test_means_given_a_later_state():
    """`E[f(x_t) | x_s]` is a product of the transition matrix of whole sequences with f."""
    world = Enumerated(Uniform(3), exact.random_joint(3, 2))
    f = torch.randn(9, 2, generator=exact.seeded(), dtype=torch.float64)
    expected = exact.transition(world.process, 0.2, 0.7, 2) @ f
    torch.testing.assert_close(world.mean(f, 0.7, 0.2), expected)
