"""Averages over neighbouring times: what they leave alone, and that they find better schedules."""

import numpy as np
import pytest
import torch
from scipy.stats import ttest_1samp

from ddm import Absorbing, CostTable, ForwardProcess, Gaussian, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import MarkovChainDenoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules.optimal.smoothing import WIDTHS, choose_width, signed_roots, smooth

TIMES = np.arange(41.0)


@pytest.mark.parametrize("width", WIDTHS)
def test_short_steps_of_equal_cells_stay(width):
    """A cost `kappa (t - s)^2` is left as it is, at the ends of the grid, too."""
    excess = np.tril((TIMES[:, None] - TIMES[None, :]) ** 2)
    assert np.allclose(smooth(signed_roots(excess), width), signed_roots(excess), atol=1e-9)


@pytest.mark.parametrize("width", WIDTHS)
def test_antisymmetry_stays(width):
    """A step of no length still costs nothing."""
    roots = signed_roots(np.random.default_rng(0).random((41, 41)))
    smoothed = smooth(roots, width)
    assert np.allclose(smoothed, -smoothed.T, atol=1e-12)


def test_exact_tables_are_left_alone():
    """Two measurements that agree are not averaged at all."""
    roots = signed_roots(np.random.default_rng(0).random((41, 41)))
    assert choose_width(roots, roots, np.ones(41)) == 0


def test_width_grows_with_the_noise():
    """Noise of a tenth of a cell is averaged over few times, of ten cells over many."""
    truth = 10 * np.sin(TIMES / 6)
    truth = truth[:, None] - truth[None, :]
    generator = np.random.default_rng(0)

    def noisy(size):
        noise = size * generator.standard_normal((41, 41))
        return truth + noise - noise.T

    small, large = (choose_width(noisy(size), noisy(size), np.ones(41)) for size in (0.1, 10))
    assert 0 < small < large


@pytest.mark.parametrize("kernel", [Absorbing(6), Uniform(6), Gaussian(6)], ids=repr)
def test_smoothed_tables_find_better_schedules(kernel, monkeypatch):
    """From 24 sequences, as judged by 1,024 others, in the mean over 8 data sets.

    One-sided t-test of the paired differences of log costs, mean over N = 4, 8, 16: tables that are
    no better pass once in a hundred.
    """
    chain = countdown_chain(6, 0.1)
    denoiser = MarkovChainDenoiser(ForwardProcess(kernel, LogLinear()), *chain)
    optimizer = OptimalSteps(num_times=24, pilot_times=8)

    def measure(num, seed):
        generator = torch.Generator().manual_seed(seed)
        x_0 = sample_chain(*chain, num, 16, generator)
        return optimizer.table(denoiser, Analytic(), x_0, generator=generator)

    judge = measure(1024, 1000)

    def log_costs(table: CostTable):
        return [np.log(judge.evaluate(table.schedule(n).times)) for n in (4, 8, 16)]

    smoothed = [np.mean(log_costs(measure(24, seed))) for seed in range(8)]
    monkeypatch.setattr("ddm.schedules.optimal.optimal_steps.choose_width", lambda *_: 0.0)
    measured = [np.mean(log_costs(measure(24, seed))) for seed in range(8)]
    assert ttest_1samp(np.subtract(smoothed, measured), 0, alternative="less").pvalue < 0.01
