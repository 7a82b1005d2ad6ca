"""The benchmarks with exact laws: what they compute, and that they run."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import exact
from ddm.files import read_json
from ddm.samplers import Analytic, Euler

pytestmark = pytest.mark.usefixtures("benchmarks")


@pytest.mark.parametrize("kernel", ["absorbing", "uniform", "gaussian"])
def test_bound_vs_error_is_exact(kernel):
    """Laws of samples and total correlations are those of brute force; the sum of CDE is a bound.

    The chain rule: KL(data || samples) <= KL of the first law + sum of CDE.
    """
    from bound_vs_error import World

    joint, grid = exact.random_joint(3, 2, coupling=2.0), (0.0, 0.1, 0.4, 1.0)
    world = World(kernel, joint, grid)
    process, cde = world.process, world.cde()
    laws = {sampler: world.sample_laws(sampler, 3) for sampler in (Analytic(), Euler())}
    for sampler, samples in laws.items():
        assert len(samples) == 2 ** (len(grid) - 2)
        for path, law in samples.items():
            times = [grid[k] for k in path]
            expected = exact.sample_law(sampler, world.denoiser, times, 2)
            torch.testing.assert_close(law[world.is_data], expected)
            if isinstance(sampler, Analytic):
                first = exact.kl(world.marginal(1.0), world.start())
                bound = first + sum(cde[step] for step in pairwise(path))
                assert exact.kl(joint, law[world.is_data]) <= bound + 1e-12
    both = exact.joint_of_times(process, joint, 0.1, 0.4)
    alone = exact.product_law(exact.bridge(process, joint, 0.1, 0.4).nan_to_num())
    p_t = both.sum(0)
    expected = float((torch.xlogy(both, both) - torch.xlogy(both, alone.T * p_t)).sum())
    assert cde[2, 1] == pytest.approx(expected, rel=1e-9)


def test_klub_of_a_grid():
    """Splits of masked steps add up: KLUB of a schedule is its CDE, whatever the tree."""
    from bound_vs_error import KLUB, World, tree_gain

    grid = (0.0, 0.2, 0.5, 0.7, 1.0)
    world = World("absorbing", exact.random_joint(2, 3, coupling=2.0), grid)
    cde, gain = world.cde(), tree_gain(world.klub(KLUB()), grid)
    for path in ((4, 2, 0), (4, 3, 1, 0), (4, 3, 2, 1, 0)):
        saved = cde[4, 0] - sum(cde[step] for step in pairwise(path))
        assert gain(path) == pytest.approx(saved, rel=1e-9)


def test_bound_vs_error_runs(benchmarks, monkeypatch):
    """The script writes what the report shows: ranks, regrets and a figure."""
    import bound_vs_error

    monkeypatch.setattr(bound_vs_error, "GRID", (0.0, 0.1, 0.3, 0.6, 1.0))
    joint = "repeated bit, flip 0.3"
    bound_vs_error.main(["--joints", joint, "--kernels", "uniform", "--num-steps", "2"])
    found = read_json(benchmarks / "bound_vs_error.json")["cells"][f"{joint}|uniform"]
    for cell in found.values():
        assert set(cell["KL"]["rank"]) == set(bound_vs_error.OBJECTIVES)
        assert min(cell["KL"]["regret"].values()) >= 0
    assert {p.name for p in benchmarks.iterdir()} == {"bound_vs_error.json", "bound_vs_error.png"}


def test_hierarchy_elsewhere():
    """Three steps on a line: halving gives 1/2, 1/4, 1/4 for thirds, a cost of 45/32.

    The numbers of tokens to reveal are the published ones (https://arxiv.org/abs/2608.13520), and
    the shortest path reaches the optima in closed form to what its grid allows.
    """
    from hierarchy_elsewhere import GREEDY, PROBLEMS, SHORTEST, compare

    line = compare(PROBLEMS["constants for a line"](), (3, 4))
    assert line["3"][GREEDY] / line["3"]["least"] == pytest.approx(45 / 32, rel=1e-3)
    assert line["4"][GREEDY] / line["4"]["least"] == pytest.approx(1, rel=1e-3)
    for name in ("DDPM, one Gaussian", "Euler, Gaussian flow"):
        for row in compare(PROBLEMS[name](), (2, 5)).values():
            assert row["least"] * (1 - 1e-4) <= row[SHORTEST] <= row["least"] * (1 + 1e-3)
    bits = PROBLEMS["masks of a repeated bit"]()
    revealed = np.array([0, 6, 17, 40, 128])
    assert compare(bits, (4,))["4"][SHORTEST] == pytest.approx(bits.total(128.0 - revealed))


def test_hierarchy_elsewhere_runs(benchmarks, capsys):
    """The script prints and writes the costs of all searches."""
    from hierarchy_elsewhere import SEARCHES, main

    main(["--problems", "constants for a line", "--num-steps", "2", "3"])
    printed = capsys.readouterr().out
    assert all(search in printed for search in SEARCHES)
    assert {p.suffix for p in benchmarks.iterdir()} == {".json", ".png"}


def test_biased_draw():
    """The frequency of rare jumps under the biased draw is the closed form, a third of the truth.

    Chi-square, false-alarm rate 1e-6.
    """
    from ablations import biased_draw, biased_jump

    jump, size, num = 0.001, 1000, 40_000
    probs = torch.full((size,), jump / (size - 1))
    probs[0] = 1 - jump
    generator, jumps = exact.seeded(), 0
    for _ in range(num // 2000):
        jumps += int((biased_draw(probs.expand(2000, -1), generator) != 0).sum())
    expected = biased_jump(jump, size)
    assert expected < 0.4 * jump
    law = torch.tensor([expected, 1 - expected], dtype=torch.float64)
    exact.assert_frequencies(np.array([jumps, num - jumps]), law)


def test_ablations_run(benchmarks, monkeypatch):
    """The script answers every question for every kernel, with few samples."""
    import ablations

    few = {"NUM_CALLS": (16,), "GAMMAS": (0.7,), "NUM_STEPS": (4, 16), "NUM_STEPS_DRAWN": (2,)}
    for name, values in few.items():
        monkeypatch.setattr(ablations, name, values)
    sizes = ["--seeds=1", "--num-samples=8", "--num-grid-sequences=8", "--num-reference=8"]
    ablations.main(["--kernels", "absorbing", *sizes, "--num-sequences", "8"])
    tables = read_json(benchmarks / "ablations.json")["tables"]["absorbing"]
    assert set(tables) == set(ablations.QUESTIONS)
    assert {p.suffix for p in benchmarks.iterdir()} == {".json", ".png"}
