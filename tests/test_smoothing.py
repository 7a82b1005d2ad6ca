"""Averages over neighboring times: what they leave alone, and that they find better schedules."""

import numpy as np
import pytest
import torch
from scipy.stats import wilcoxon

from ddm import Absorbing, CostTable, ForwardProcess, Gaussian, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import MarkovChainDenoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules.optimal.smoothing import WIDTHS, choose_width, signed_roots, smooth

TIMES = np.arange(41.0)


def width_of(first, second, weights):
    """Return the width that is chosen by one pair of measurements."""
    return choose_width([(first, second)], TIMES, weights)


@pytest.mark.parametrize("width", WIDTHS)
def test_short_steps_of_equal_cells_stay(width):
    """A cost `kappa (t - s)^2` is left as it is, at the ends of the grid, too."""
    excess = np.tril((TIMES[:, None] - TIMES[None, :]) ** 2)
    assert np.allclose(smooth(signed_roots(excess), TIMES, width), signed_roots(excess), atol=1e-9)


@pytest.mark.parametrize("width", WIDTHS)
def test_roots_that_are_linear_in_time_stay(width):
    """A cost `c (t - s)^2` keeps uniform steps the best ones, whatever the grid."""
    times = np.linspace(0, 1, 41) ** 3
    roots = np.subtract.outer(times, times)
    assert np.allclose(smooth(roots, times, width), roots, rtol=0, atol=1e-12)


def test_the_widest_average_sees_nothing_but_uniform_steps():
    """It is proportional to t - s whatever was measured, up to the ends of the weights."""
    times = np.linspace(0, 1, 41) ** 3
    roots = signed_roots(np.random.default_rng(0).random((41, 41)))
    smoothed, line = smooth(roots, times, WIDTHS[-1]), np.subtract.outer(times, times)
    assert np.allclose(smoothed, smoothed[-1, 0] * line, rtol=0, atol=1e-2 * smoothed[-1, 0])


def test_all_halvings_count():
    """The noise of one pair of halves asks for an average; that of another one is heard, too."""
    truth = np.subtract.outer(np.sin(TIMES / 6), np.sin(TIMES / 6))
    noise = np.random.default_rng(0).standard_normal((41, 41))
    quiet, noisy = (truth, truth), (truth + noise, truth - noise.T)
    widths = [choose_width(x, TIMES, np.ones(41)) for x in ([quiet], [quiet, noisy], [noisy])]
    assert widths[0] == 0
    assert 0 < widths[1]
    assert choose_width([noisy, quiet], TIMES, np.ones(41)) == widths[1]


@pytest.mark.parametrize("width", WIDTHS)
def test_antisymmetry_stays(width):
    """A step of no length still costs nothing."""
    roots = signed_roots(np.random.default_rng(0).random((41, 41)))
    smoothed = smooth(roots, TIMES, width)
    assert np.allclose(smoothed, -smoothed.T, atol=1e-12)


def test_exact_tables_are_left_alone():
    """Two measurements that agree are not averaged at all."""
    roots = signed_roots(np.random.default_rng(0).random((41, 41)))
    assert width_of(roots, roots, np.ones(41)) == 0


@pytest.mark.parametrize("width", WIDTHS[1:5])
def test_weights_are_gaussian(width):
    """Far from the ends an average over one time has the weights of a normal law."""
    for k in (14, 20, 23):
        single = np.zeros((41, 41))
        single[k] = 1.0  # the same for all times that steps end at
        expected = np.exp(-((20 - k) ** 2) / (2 * width**2)) / (width * np.sqrt(2 * np.pi))
        assert smooth(single, TIMES, width)[20] == pytest.approx(expected, rel=1e-2, abs=1e-4)


def test_largest_of_the_nearly_best_widths():
    """Of widths whose error of prediction is within 5 % of the smallest, the largest is taken."""
    chosen, strict, loose = [], [], []
    for seed in range(12):
        generator = np.random.default_rng(seed)
        noise = generator.standard_normal((2, 41, 41))
        truth = 10 * np.sin(np.subtract.outer(TIMES, TIMES) / 12)
        first, second = truth + noise - noise.swapaxes(1, 2)
        lower, weights = np.tril_indices(41, -1), generator.random(41)
        errors = []
        for width in WIDTHS:
            missed = [smooth(a, TIMES, width) - b for a, b in ((first, second), (second, first))]
            errors.append(sum((m[lower] ** 2 * weights[lower[1]]).sum() for m in missed))
        nearly = [
            [w for w, e in zip(WIDTHS, errors, strict=True) if e <= f * min(errors)]
            for f in (1.0, 1.05, 1.15)
        ]
        strict.append(nearly[0][-1])
        loose.append(nearly[2][-1])
        chosen.append(width_of(first, second, weights))
        assert chosen[-1] == nearly[1][-1]
    assert chosen != strict
    assert chosen != loose


def test_noise_without_weight_does_not_matter():
    """Where errors count nothing, noise is no reason to average."""
    generator = np.random.default_rng(0)
    truth = 10 * np.sin(TIMES / 6)
    first = truth[:, None] - truth[None, :]
    second, weights = first.copy(), np.ones(41)
    rows, columns = np.tril_indices(41, -1)
    late = columns > 25
    second[rows[late], columns[late]] += generator.standard_normal(late.sum())
    assert width_of(first, second, weights) > 0
    weights[26:] = 0.0
    assert width_of(first, second, weights) == 0


def test_width_grows_with_the_noise():
    """Noise of a tenth of a cell is averaged over few times, of ten cells over many."""
    truth = 10 * np.sin(TIMES / 6)
    truth = truth[:, None] - truth[None, :]
    generator = np.random.default_rng(0)

    def noisy(size):
        noise = size * generator.standard_normal((41, 41))
        return truth + noise - noise.T

    small, large = (width_of(noisy(size), noisy(size), np.ones(41)) for size in (0.1, 10))
    assert 0 < small < large


@pytest.mark.parametrize("kernel", [Absorbing(6), Uniform(6), Gaussian(6)], ids=repr)
def test_smoothed_tables_find_better_schedules(kernel, monkeypatch):
    """From 24 sequences, as judged by 1,024 others, in the mean over 8 data sets.

    One-sided signed-rank test of the paired differences of log costs, mean over N = 4, 8, 16:
    tables that are no better pass once in a hundred.
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
    assert wilcoxon(smoothed, measured, alternative="less").pvalue < 0.01
