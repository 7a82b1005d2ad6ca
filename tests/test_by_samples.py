"""Choice by samples: unbiased distances, an honest error, and no more calls than the table."""

import itertools

import pytest
import torch
from scipy.stats import binom, ttest_1samp

from ddm import Absorbing, ForwardProcess, Gaussian, OptimalSteps, SamplingSchedule, Uniform
from ddm.denoisers import Denoiser, ExactDenoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import BySamples, Optimized, compare_samples
from ddm.schedules.optimal.distances import (
    Distance,
    energy_distance,
    log_distance,
    mean_distance,
    paired_error,
)
from ddm.schedules.optimal.evidence import decide, noised_costs

PAIRS = torch.cartesian_prod(torch.arange(3), torch.arange(3))[:5]
"""Five sequences of two tokens."""
P = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.1], dtype=torch.float64)
Q = torch.tensor([0.1, 0.2, 0.3, 0.2, 0.2], dtype=torch.float64)


@pytest.mark.parametrize("ordinal", [False, True])
def test_energy_distance_is_not_biased(ordinal):
    """Its mean over all pairs of samples and of data is the distance of the laws, and 0 for one."""
    root = (PAIRS[:, None] != PAIRS).double().sum(-1).sqrt()
    norms = torch.cdist(PAIRS.double(), PAIRS.double()) if ordinal else root
    for law in (P, Q):
        mean = 0.0
        for rows in itertools.product(range(5), repeat=4):
            weight = P[list(rows[:2])].prod() * law[list(rows[2:])].prod()
            found = energy_distance(PAIRS[list(rows[:2])], PAIRS[list(rows[2:])], ordinal=ordinal)
            mean += float(weight) * found.value
        expected = 2 * P @ norms @ law - P @ norms @ P - law @ norms @ law
        assert mean == pytest.approx(float(expected), abs=1e-12)


def test_mean_distance_is_not_biased():
    """Given the data, its mean over samples is the squared difference, less the data's noise."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    features[:, 2] = 1.0  # what does not vary in data tells nothing
    data = features[[0, 1, 1, 3]]
    mean = 0.0
    for rows in itertools.product(range(5), repeat=3):
        mean += float(P[list(rows)].prod()) * mean_distance(features[list(rows)], data).value
    scale = data[:, :2].var(0)
    squares = (P @ features[:, :2] - data[:, :2].mean(0)) ** 2
    assert mean == pytest.approx(float(((squares - scale / 4) / scale).sum()), abs=1e-12)


def of(kind, x, y):
    """Return a distance between samples x and data y, or features of them."""
    if kind == "energy":
        return log_distance([energy_distance(x.long(), y.long(), ordinal=True)])
    return log_distance([mean_distance(x.double(), y.double())])


@pytest.mark.parametrize("kind", ["energy", "mean"])
def test_paired_error_is_that_of_the_jackknife(kind):
    """Leaving out one pair of samples, or one data sequence, at a time gives the same error.

    To first order in 1 / n, hence 5 % for 80 of each; what is left out changes the units, too.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 40, (80, 4), generator=generator)
    first, second = noise + 20, noise // 2 + torch.randint(0, 40, (80, 4), generator=generator)
    data = torch.randint(0, 40, (80, 4), generator=generator)
    keep = [[j for j in range(80) if j != k] for k in range(80)]
    pairs = [of(kind, first[j], data).value - of(kind, second[j], data).value for j in keep]
    others = [of(kind, first, data[j]).value - of(kind, second, data[j]).value for j in keep]
    variance = sum(79**2 / 80 * torch.tensor(x).var() for x in (pairs, others))
    found = paired_error(of(kind, first, data), of(kind, second, data))
    assert found == pytest.approx(float(variance**0.5), rel=0.05)


def test_samples_that_are_all_alike_are_far_from_data():
    """Tokens that are cheaper than data are as wrong as dear ones, by both statistics."""
    data = torch.arange(64).reshape(16, 4)
    alike, costs = data[:1].expand(16, 4), data.double()
    assert energy_distance(alike, data).value > 0
    cheap, dear = (mean_distance(costs + shift, costs).value for shift in (-50.0, 50.0))
    assert cheap == pytest.approx(dear)
    assert cheap > 0


def log_of(saved):
    """Return a candidate whose contributions to the log distance are given."""
    return Distance(float(saved.mean()), 0.0, saved, torch.zeros(2, dtype=torch.float64))


def test_decision_is_a_paired_test():
    """The confidence is that of the t-test; the first candidate stays unless it is above .975."""
    noise = torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = (noise - noise.mean()) / noise.std()
    first = torch.zeros(30, dtype=torch.float64)
    for mean in (-1.0, -0.36, -0.39, 0.3):
        other = log_of(noise + mean)
        found = decide({"a": log_of(first), "b": other, "c": log_of(noise + 9)}, 30, 0)
        sure = 1 - ttest_1samp(noise + mean, 0.0, alternative="less").pvalue
        assert (found.winner == "b") == (sure > 1 - 0.05 / 2)
        if found.winner == "b":
            assert found.confidence == pytest.approx(sure)
        assert found.distances["b"] == pytest.approx(2.718281828**mean)


def test_the_same_samples_tell_nothing():
    """A candidate with the schedule in use cannot take its place."""
    same = log_of(torch.arange(8.0, dtype=torch.float64))
    found = decide({"a": same, "b": same}, 8, 0)
    assert (found.winner, found.confidence, found.errors["b"]) == ("a", 0.5, 0.0)


def joint(coupling, size=128, num=3):
    """Return a law of three tokens and data from it."""
    generator = torch.Generator().manual_seed(1)
    logits = coupling * torch.randn(num**3, generator=generator, dtype=torch.float64)
    law = torch.softmax(logits, 0)
    rows = torch.multinomial(law, size, True, generator=generator)
    return law.reshape(num, num, num), torch.cartesian_prod(*[torch.arange(num)] * 3)[rows]


BAD, GOOD = SamplingSchedule.uniform(1), SamplingSchedule.uniform(8)


@pytest.mark.parametrize("kernel", [Absorbing(3), Uniform(3), Gaussian(3)], ids=repr)
def test_samples_tell_good_schedules_from_bad_ones(kernel):
    """One step is further from data than eight, whichever is in use; the seeds are fixed."""
    law, x_0 = joint(3.0, size=512)
    denoiser = ExactDenoiser(ForwardProcess(kernel, LogLinear()), law)
    for first, second in ((BAD, GOOD), (GOOD, BAD)):
        candidates = {"first": [first], "second": [second]}
        generator = torch.Generator().manual_seed(0)
        found = compare_samples(candidates, denoiser, Analytic(), x_0, 512, generator=generator)
        assert found.winner == ("second" if second is GOOD else "first")


def test_false_alarms():
    """Schedules of independent tokens are all exact: few of them take the place of the first.

    A wrong move has a chance of 5 %. Of 40 data sets more than 12 move with a chance of 1e-7.
    """
    law = torch.tensor([0.2, 0.8], dtype=torch.float64)
    denoiser = ExactDenoiser(ForwardProcess(Uniform(2), LogLinear()), law[:, None] * law)
    moves = 0
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        x_0 = (torch.rand(64, 2, generator=generator) < 0.8).long()
        candidates = {"first": [SamplingSchedule.uniform(2)], "second": [BAD]}
        found = compare_samples(candidates, denoiser, Analytic(), x_0, 32, generator=generator)
        moves += found.winner == "second"
    assert moves <= binom.isf(1e-7, 40, 0.05)


def test_costs_of_data_are_expected():
    """An exact denoiser expects what the tokens of its data cost, at every noise level.

    False alarms: 4 means within 5 standard errors, below 3e-6. An impossible token costs 20 nats.
    """
    _, x_0 = joint(2.0)
    counts = torch.zeros(3, 3, 3).double().index_put(tuple(x_0.T), torch.tensor(1.0).double(), True)
    own = ExactDenoiser(ForwardProcess(Uniform(3), LogLinear()), counts / counts.sum())
    costs = noised_costs(own, x_0.repeat(8, 1), torch.Generator().manual_seed(0))
    missed = costs[:, 0::2] - costs[:, 1::2]
    assert (missed.mean(0).abs() < 5 * missed.std(0) / len(missed) ** 0.5).all()
    never = (counts + 1).index_fill(0, torch.tensor([2]), 0.0)  # the first token is none of these
    never = ExactDenoiser(own.process, never / never.sum())
    costs = noised_costs(never, torch.full((4, 3), 2), torch.Generator().manual_seed(0))
    assert ((costs[:, 0::2] > 20) & (costs[:, 0::2] < 60)).all()


class Counted(Denoiser):
    """Counts the sequences of all calls."""

    def __init__(self, denoiser):
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.rows = 0

    def forward(self, x_t, t, free=None):
        self.rows += len(x_t)
        return self.denoiser(x_t, t, free)


@pytest.mark.parametrize("given", [False, True])
def test_calls(given):
    """The choice costs at most as much as the table, and what is said is what is made."""
    law, x_0 = joint(3.0)
    denoiser = Counted(ExactDenoiser(ForwardProcess(Uniform(3), LogLinear()), law))
    free = torch.tensor([False, True, True]).expand(128, 3) if given else None
    settings = {"free": free, "generator": torch.Generator().manual_seed(0)}
    optimizer = OptimalSteps(num_times=8, pilot_times=8, batch_size=48, select=BySamples())
    found = optimizer(denoiser, Analytic(), x_0, [8, 2, 4], **settings)
    table, evidence = 16 * 128, found.evidence
    assert table < denoiser.rows <= 2 * table
    assert evidence.num_calls == -(-(denoiser.rows - table) // 48)
    assert found.num_calls == found.table.num_calls + evidence.num_calls <= 2 * 16 * 3
    assert len(evidence.distances) == 6
    assert evidence.winner == f"gamma {found.table.gamma:g}"
    assert found.schedules[8].info["gamma"] == found.table.gamma
    assert Optimized.from_dict(found.to_dict()).evidence == evidence


def test_nothing_to_choose():
    """With masks all exponents are the same, and few sequences pay for no samples."""
    law, x_0 = joint(3.0)
    optimizer = OptimalSteps(num_times=8, pilot_times=8, select=BySamples())
    for kernel, rows in ((Absorbing(3), 128), (Uniform(3), 8)):
        denoiser = Counted(ExactDenoiser(ForwardProcess(kernel, LogLinear()), law))
        found = optimizer(denoiser, Analytic(), x_0[:rows], [2, 4])
        assert found.evidence is None
        assert (found.num_calls, denoiser.rows) == (16, 16 * rows)


def test_arguments():
    """What does not fit is refused with its name and value."""
    with pytest.raises(ValueError, match="`num_samples` must be at least 8, got 4"):
        BySamples(num_samples=4)
    with pytest.raises(ValueError, match=r"`gamma` must be .* got -1"):
        BySamples((-1.0,))
