"""Cost tables: shortest paths, exact identities, and what a table refuses."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binom

import exact
from cases import KERNELS, NOISES
from ddm import (
    Absorbing,
    CostTable,
    ForwardProcess,
    Gaussian,
    OptimalSteps,
    SamplingSchedule,
    Uniform,
)
from ddm.denoisers import DiscreteTime, ExactDenoiser, MeanDenoiser, PosteriorDenoiser
from ddm.functional import times_like
from ddm.noise import Cosine, LogLinear
from ddm.samplers import (
    Analytic,
    CallCounter,
    Euler,
    KGillespie,
    PredictorCorrector,
    TauLeaping,
    ThetaTrapezoidal,
)
from ddm.schedules import (
    Optimized,
    loss_curve_costs,
    measure_step_costs,
    shortest_paths,
)
from ddm.schedules.optimal.excess import excess
from ddm.schedules.optimal.retention import blind_ratio, sign_test, still_seen
from ddm.schedules.optimal.step_cost import step_costs
from ddm.schedules.setting import Setting

V, L = 3, 2
SMALL = {"num_times": 8, "pilot_times": 4}


def joint(seed=0):
    """Return a random law of two tokens that mostly agree."""
    weights = torch.rand(V, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights = 0.2 * weights + torch.eye(V, dtype=torch.float64)
    return weights / weights.sum()


def denoiser_of(kernel, law=None):
    """Return the exact denoiser of a law under log-linear noise."""
    return ExactDenoiser(ForwardProcess(kernel, LogLinear()), joint() if law is None else law)


def data(num, law=None, seed=0):
    """Draw sequences from the law."""
    law = joint() if law is None else law
    generator = torch.Generator().manual_seed(seed)
    index = torch.multinomial(law.flatten(), num, replacement=True, generator=generator)
    return torch.stack([index // V, index % V], 1)


def exact_nats(denoiser, times):
    """Return the exact mean costs of all steps, by enumeration of (x_0, x_t)."""
    kernel, process = denoiser.process.kernel, denoiser.process
    states = torch.tensor(list(itertools.product(range(kernel.num_states), repeat=L)))
    x_0 = denoiser.sequences.repeat_interleave(len(states), 0)
    x_t = states.repeat(V**L, 1)
    law = denoiser.log_joint.exp().repeat_interleave(len(states))
    nats = torch.zeros(len(times), len(times), dtype=torch.float64)
    for i in range(1, len(times)):
        rows = process.kernel.transition_from(x_0, process.noise.sigma(times[i]))
        weight = rows.gather(-1, x_t[..., None]).squeeze(-1).prod(-1) * law
        possible = weight > 0
        p = denoiser(x_t[possible], times_like(times[i], x_t[possible]))
        nats[i, :i] = (step_costs(p, x_0[possible], times[:i])[0] * weight[possible]).sum(-1)
    return nats


@pytest.mark.parametrize("seed", range(5))
def test_shortest_path_is_brute_force(seed):
    """For every N the path is the best of all schedules on the grid."""
    cost = np.random.default_rng(seed).random((7, 7))
    cost[5, 1] = np.inf
    values, paths = shortest_paths(cost, 6)
    for n in range(1, 7):
        every = [(6, *inner[::-1], 0) for inner in itertools.combinations(range(1, 6), n - 1)]
        totals = [sum(cost[a, b] for a, b in itertools.pairwise(path)) for path in every]
        assert values[n] == pytest.approx(min(totals), rel=1e-14)
        assert tuple(paths[n]) == every[int(np.argmin(totals))]


def test_shortest_path_refuses():
    """More steps than cells, or none, are refused."""
    for steps in (0, 3):
        with pytest.raises(ValueError, match="`max_steps` must be between 1 and the 2 cells"):
            shortest_paths(np.zeros((3, 3)), steps)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
@pytest.mark.parametrize("noise", NOISES, ids=lambda n: type(n).__name__)
def test_step_costs_are_divergences(kernel, noise):
    """Fast forms equal KL( q(x_s | x_t, x_0) || law of the sampler ), enumerated.

    The matrix exponential of a chain without detailed balance is good to 1e-9.
    """
    process, t = ForwardProcess(kernel, noise), torch.tensor(0.7, dtype=torch.float64)
    denoiser = ExactDenoiser(process, joint())
    x_0 = denoiser.sequences.repeat(4, 1)
    x_t = process.sample(x_0, t, torch.Generator().manual_seed(0))
    prediction = denoiser(x_t, times_like(t, x_t))
    levels = torch.tensor([0.5, 0.1, 0.0], dtype=torch.float64)
    cost, _ = step_costs(prediction, x_0, levels)
    assert cost.shape == (3, len(x_0))
    for s, row in zip(levels, cost, strict=True):
        ahead = exact.expm(kernel, noise.sigma(s))
        back = exact.expm(kernel, noise.sigma(t) - noise.sigma(s))
        q = ahead[x_0] * back.T[x_t]
        q = q / q.sum(-1, keepdim=True)
        q = torch.where(q < 1e-15, 0.0, q)  # rounding of expm where the chain cannot be
        law = Analytic().law([prediction], times_like(s, x_t))
        expected = (torch.xlogy(q, q) - torch.xlogy(q, law)).sum((-1, -2))
        torch.testing.assert_close(row, expected, rtol=1e-7, atol=1e-8)
    assert (cost >= -1e-9).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_path_divergence_is_the_sum_of_costs(kernel):
    """KL of the skeleton's paths = sum of step costs + one constant, whatever the schedule.

    With the exact denoiser, E log q(x_s | x_t) / prod law = sum of costs - sum of the information
    that one x_0 adds; telescoping leaves a constant. Enumerated for schedules of 1 to 3 steps.
    """
    denoiser = denoiser_of(kernel)
    process = denoiser.process
    states = torch.tensor(list(itertools.product(range(kernel.num_states), repeat=L)))
    data_law = torch.zeros(len(states), dtype=torch.float64)
    index = denoiser.sequences @ torch.tensor([kernel.num_states, 1])
    data_law[index] = denoiser.log_joint.exp()

    def forward(sigma):
        single = kernel.transition_from(torch.arange(kernel.num_states), sigma)
        return torch.kron(single, single)

    def path_divergence(times):
        total = 0.0
        for t, s in itertools.pairwise(times):
            sigma_t, sigma_s = (process.noise.sigma(torch.tensor(u)) for u in (t, s))
            sigma_t, sigma_s = sigma_t.double(), sigma_s.double()
            both = (data_law @ forward(sigma_s))[:, None] * forward(sigma_t - sigma_s)  # (s, t)
            at_t = both.sum(0)
            live = at_t > 0
            p = denoiser(states[live], times_like(t, states[live]))
            law = Analytic().law([p], times_like(s, states[live]))
            product = (law[:, 0, :, None] * law[:, 1, None, :]).flatten(1).T  # (s, t)
            true = both[:, live] / at_t[live]
            terms = torch.xlogy(true, true) - torch.xlogy(true, product)
            total += float((terms.sum(0) * at_t[live]).sum())
        return total

    times = torch.tensor([0.0, 0.1, 0.35, 0.7, 1.0], dtype=torch.float64)
    nats = exact_nats(denoiser, times)
    constants = []
    for path in ([4, 0], [4, 2, 0], [4, 1, 0], [4, 3, 1, 0]):
        cost = sum(float(nats[a, b]) for a, b in itertools.pairwise(path))
        constants.append(cost - path_divergence([float(times[k]) for k in path]))
    assert np.ptp(constants) < 1e-6  # times pass through float32 on their way into `torch.tensor`


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_excess_of_an_exact_denoiser(kernel):
    """No step gains by being long: the excess is >= 0 and grows with the step."""
    times = torch.linspace(0, 1, 9, dtype=torch.float64)
    nats = exact_nats(denoiser_of(kernel), times)
    over = excess(nats, nats.diagonal(-1))
    assert over.min() > -1e-10
    assert (over.diff(dim=1).tril(-2) < 1e-10).all()


@pytest.mark.parametrize("kernel", [Absorbing(V), Uniform(V)], ids=lambda k: type(k).__name__)
def test_measured_costs_are_the_exact_ones(kernel):
    """Measured means lie within 6 standard errors of enumeration (false alarm below 1e-7)."""
    denoiser, times = denoiser_of(kernel), torch.linspace(0, 1, 5, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    costs = measure_step_costs(denoiser, data(4000), times, generator=generator)
    error = costs.nats.std(0) / len(costs.nats) ** 0.5
    expected = exact_nats(denoiser, times)
    assert ((costs.nats.mean(0) - expected).abs() <= 6 * error + 1e-12).all()


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_costs_given_tokens(kernel):
    """They are those of the law given the tokens, row by row, on the same states.

    Rows are given other tokens, none or all, and share nothing with their neighbors.
    """
    process, joint = ForwardProcess(kernel, LogLinear()), exact.random_joint(V, 1 + L)
    denoiser, times = ExactDenoiser(process, joint), torch.linspace(0, 1, 5, dtype=torch.float64)
    x_0 = torch.randint(V, (12, 1 + L), generator=exact.seeded())
    free = torch.rand(12, 1 + L, generator=exact.seeded(1)) < 0.6
    free[0], free[1] = False, True
    settings = {"free": free, "batch_size": 5, "generator": exact.seeded(2)}
    costs = measure_step_costs(denoiser, x_0, times, **settings)
    generator = exact.seeded(2)
    path = torch.cat(
        [
            process.sample_path(x, times[1:], generator, free=f)
            for x, f in zip(x_0.split(5), free.split(5), strict=True)
        ],
        1,
    )
    assert (costs.nats[0] == 0).all()
    assert (costs.errors[0] == 0).all()
    for row in range(1, 12):
        which = free[row]
        if not which.any():
            continue
        alone = ExactDenoiser(process, exact.given_law(joint, x_0[row], which))
        below = None
        for i in range(1, 5):
            prediction = alone(path[i - 1, row, which][None], exact.at(float(times[i])))
            nats = step_costs(prediction, x_0[row, which][None], times[:i])
            for measured, expected in zip((costs.nats, costs.expected), nats, strict=True):
                found = measured[row, i, :i]
                torch.testing.assert_close(found, expected[:, 0], rtol=1e-9, atol=1e-11)
            if not kernel.absorbing:
                ratio, before = blind_ratio(prediction, times[i - 1])
                after = still_seen(sign_test(below or prediction, times[i - 1]), ratio)
                expected = torch.stack([before.sum(), after.sum()])
                torch.testing.assert_close(costs.errors[row, i - 1], expected, rtol=1e-8, atol=1e-9)
            below = prediction


def test_table_ignores_given_tokens():
    """What is given costs nothing, whatever the network says of it: tables are the same."""

    class Careless(ExactDenoiser):
        def forward(self, x_t, t, free=None):
            prediction = super().forward(x_t, t, free)
            output = prediction.output.clone()
            output[:, 0] = torch.linspace(-1e3, 1e3, V)
            return replace(prediction, features=output)

    process, joint = ForwardProcess(Uniform(V), LogLinear()), exact.random_joint(V, 1 + L)
    x_0, optimizer = torch.nn.functional.pad(data(32), (1, 0), value=2), OptimalSteps(**SMALL)
    free = (torch.arange(1 + L) > 0).expand(32, -1)
    found, expected = (
        optimizer(denoiser, Analytic(), x_0, 3, free=free, generator=exact.seeded())
        for denoiser in (Careless(process, joint), ExactDenoiser(process, joint))
    )
    assert found.schedules[3].times == expected.schedules[3].times
    assert np.array_equal(found.table.excess, expected.table.excess)


@pytest.fixture(scope="module")
def table():
    """Return a measured table."""
    optimizer = OptimalSteps(num_times=24, pilot_times=8)
    generator = torch.Generator().manual_seed(0)
    return optimizer.table(denoiser_of(Uniform(V)), Analytic(), data(256), generator=generator)


def test_table_is_consistent(table):
    """Costs fall with N, no fixed shape is better, and N may exceed the grid.

    Near the grid's own size times snap to the cells whose noise makes them cheap.
    """
    for numbers in (range(1, table.num_cells // 2 + 1), (25, 32, 48, 64, 100, 200)):
        assert (np.diff([table.cost(n) for n in numbers]) < 0).all()
    for n in (1, 2, 3, 5, 8, 16, 24, 100, 1000):
        schedule = table.schedule(n)
        assert schedule.num_steps == n
        for shape in (SamplingSchedule.uniform(n), SamplingSchedule.cosine(n)):
            assert table.evaluate(schedule.times) <= table.evaluate(shape.times) * (1 + 1e-9)
    for n in (200, 1000):  # for short steps the cost tends to its asymptote
        assert table.cost(n) == pytest.approx(table.asymptote / n, rel=0.05)


def test_steps_for(table):
    """It is the smallest number of steps that is enough, and grows beyond the grid."""
    for n in (1, 2, 4, 8, 12):
        assert table.steps_for(table.cost(n) * (1 + 1e-9)) == n
        assert table.steps_for(table.cost(n) * (1 - 1e-9)) == n + 1
    assert table.steps_for(1e-7) > table.num_cells
    with pytest.raises(
        ValueError, match="`cost` must be positive and above 0, what the last step costs, got 0"
    ):
        table.steps_for(0.0)


def test_calls_and_determinism():
    """A table costs pilot + grid calls per batch, all counted, and follows its generator."""
    counter = CallCounter(denoiser_of(Uniform(V)))
    optimizer = OptimalSteps(num_times=12, pilot_times=6, batch_size=16)

    def build(seed):
        return optimizer.table(
            counter, Analytic(), data(32), generator=torch.Generator().manual_seed(seed)
        )

    first = build(0)
    assert counter.num_calls == first.num_calls == 2 * (12 + 6)
    assert np.array_equal(build(0).excess, first.excess)
    assert not np.array_equal(build(1).excess, first.excess)


def test_pieces_do_not_matter(monkeypatch):
    """Costs are the same whether positions are treated at once or one by one."""
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    seen = []
    for chunk in (2**22, 1):
        monkeypatch.setattr("ddm.schedules.optimal.step_cost.CHUNK", chunk)
        generator = torch.Generator().manual_seed(0)
        denoiser = denoiser_of(Uniform(V))
        costs = measure_step_costs(denoiser, data(16), times, generator=generator)
        seen.append(costs.nats)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    "sampler",
    [Euler(), KGillespie(), PredictorCorrector(), ThetaTrapezoidal()],
    ids=lambda s: type(s).__name__,
)
def test_all_samplers_are_judged_by_the_analytic_step(sampler):
    """Their tables differ in whom they are for alone."""
    optimizer, tables = OptimalSteps(num_times=8, pilot_times=4), []
    for one in (sampler, Analytic()):
        generator = torch.Generator().manual_seed(0)
        tables.append(
            optimizer.table(denoiser_of(Absorbing(V)), one, data(32), generator=generator)
        )
    assert np.array_equal(tables[0].excess, tables[1].excess)
    assert type(sampler).__name__ in tables[0].setting.sampler


def test_round_trip(table, tmp_path):
    """What is loaded is what was saved, to the last bit; a truncated file is refused."""
    table.save(tmp_path / "table.json")
    again = CostTable.load(tmp_path / "table.json")
    for name in ("times", "excess", "standard_error", "retention"):
        assert np.array_equal(getattr(again, name), getattr(table, name))
    assert again.schedule(5) == table.schedule(5)
    assert list(tmp_path.iterdir()) == [tmp_path / "table.json"]
    text = (tmp_path / "table.json").read_text()
    (tmp_path / "table.json").write_text(text[: len(text) // 2])
    with pytest.raises(ValueError, match="damaged or cut off"):
        CostTable.load(tmp_path / "table.json")
    SamplingSchedule.uniform(2).save(tmp_path / "schedule.json")
    with pytest.raises(ValueError, match="must hold a cost table"):
        CostTable.load(tmp_path / "schedule.json")
    with pytest.raises(ValueError, match="must hold optimized schedules"):
        Optimized.load(tmp_path / "schedule.json")


@pytest.mark.parametrize(
    ("process", "sampler", "name"),
    [
        (ForwardProcess(Absorbing(V), LogLinear()), Analytic(), "kernel"),
        (ForwardProcess(Uniform(V + 1), LogLinear()), Analytic(), "kernel"),
        (ForwardProcess(Uniform(V), Cosine()), Analytic(), "noise"),
        (ForwardProcess(Uniform(V), LogLinear(1e-2)), Analytic(), "noise"),
        (ForwardProcess(Uniform(V), LogLinear()), Euler(), "sampler"),
    ],
)
def test_table_is_refused_elsewhere(table, process, sampler, name):
    """A table is of no use for another kernel, noise or sampler, and says which differs."""
    table.check(ForwardProcess(Uniform(V), LogLinear()), Analytic())
    with pytest.raises(ValueError, match=f"`{name}` must be the one that the table was"):
        table.check(process, sampler)


def test_a_broken_network_is_named():
    """NaN is refused with its time and count, before there is a table."""

    class Broken(torch.nn.Module):
        def forward(self, x_t, t):
            logits = torch.zeros(*x_t.shape, V)
            return logits.masked_fill((t < 0.5)[:, None, None], math.nan)

    denoiser = MeanDenoiser(Broken(), ForwardProcess(Uniform(V), LogLinear()))
    with pytest.raises(ValueError, match=r"got 48 NaN or infinite values of 48 at t = 0.0001"):
        OptimalSteps().table(denoiser, Analytic(), data(8))


def test_bad_arguments():
    """Arguments out of range, few sequences and bad grids are refused by name."""
    for arguments in ({"gamma": -1.0}, {"num_times": 3}, {"pilot_times": 1}):
        with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be"):
            OptimalSteps(**arguments)
    with pytest.raises(ValueError, match="`x_0` must hold at least 8 sequences, got 5"):
        OptimalSteps().table(denoiser_of(Uniform(V)), Analytic(), data(5))
    for times in ([0.0, 0.5], [0.0, 0.6, 0.4, 1.0]):
        with pytest.raises(ValueError, match="`times` must increase strictly from 0 to 1"):
            measure_step_costs(denoiser_of(Uniform(V)), data(8), torch.tensor(times))


def tokens_revealed(curve, num_steps):
    """Return the optimal masked grid, in tokens revealed, of an exact loss curve."""
    paths = shortest_paths(loss_curve_costs(np.array(curve)), num_steps)[1]
    return (len(curve) - paths[num_steps]).tolist()


def test_loss_curve_costs_written_out():
    """`Gamma(p, q) = (q - p) L(p) - sum of L` for every pair, and a flat curve costs nothing."""
    curve = np.random.default_rng(0).random(5)
    cost = loss_curve_costs(curve)
    for p, q in itertools.combinations(range(6), 2):
        expected = (q - p) * curve[p] - curve[p:q].sum()
        assert cost[5 - p, 5 - q] == pytest.approx(expected, abs=1e-14)
    assert abs(loss_curve_costs(np.ones(5))).max() < 1e-14


def binary_entropy(q):
    """Return the entropy of a coin in nats."""
    q = np.clip(q, 1e-300, 1.0)
    return -(q * np.log(q) + (1 - q) * np.log(np.clip(1 - q, 1e-300, 1.0)))


def noisy_repeated_bit(eta):
    """Return the loss curve of a hidden fair bit seen 128 times through noise eta."""
    loss = []
    for k in range(128):
        ones = np.arange(k + 1)
        given = [binom.pmf(ones, k, rate) for rate in (eta, 1 - eta)]
        bit = given[1] / (given[0] + given[1])
        next_one = bit * (1 - eta) + (1 - bit) * eta
        loss.append(float(((given[0] + given[1]) / 2 * binary_entropy(next_one)).sum()))
    return np.array(loss)


@pytest.mark.parametrize(("eta", "grid"), [(0.01, [0, 1, 2, 5, 128]), (0.30, [0, 6, 17, 40, 128])])
def test_published_grids_of_the_noisy_repeated_bit(eta, grid):
    """The best numbers of tokens to reveal in N = 4 steps (arXiv 2608.13520)."""
    assert tokens_revealed(noisy_repeated_bit(eta), 4) == grid


@pytest.mark.parametrize(("eta", "ratio"), [(0.01, 4.51), (0.30, 2.16), (0.45, 1.65)])
def test_published_ratios_of_the_noisy_repeated_bit(eta, ratio):
    """Equal steps in the logit of the revealed share cost so much more than the best (same source).

    Every token is revealed with probability u, from u = 1 / 128 to 127 / 128. The published numbers
    are limits for many steps; on 1,000 cells they are met to the digits that were printed.
    """
    loss, size = noisy_repeated_bit(eta), 128
    times = np.linspace(0.0, 1.0, 1001)
    shown = 1 / (1 + np.exp(-math.log(size - 1) * (1 - 2 * times)))  # t = 1: nearly all are masked
    seen = np.arange(size)
    now = binom.pmf(seen, size - 1, shown[:, None]) @ loss  # of a masked token, nats
    spent = binom.sf(seen, size, shown[:, None]) @ loss  # of all that are shown: d spent = d now du
    step = size * (shown[None, :] - shown[:, None]) * now[:, None]
    cost = np.tril(step - (spent[None, :] - spent[:, None]), -1)
    table = CostTable(
        times=times,
        excess=cost,
        standard_error=np.zeros_like(cost),
        retention=np.ones_like(times),
        gamma=0.0,
        setting=Setting("", "", ""),
        num_samples=0,
        num_held_out=0,
        num_calls=0,
    )
    one_block = 1000 * table.evaluate(SamplingSchedule.uniform(1000).times)
    assert one_block / table.asymptote == pytest.approx(ratio, abs=0.005)


def test_published_grid_of_a_markov_chain():
    """A binary chain of 64 tokens that flips with probability .1, N = 4 (same source)."""

    def flip(gap):
        return (1 - 0.8**gap) / 2

    num = 64
    loss = np.zeros(num)
    for i, k in itertools.product(range(num), range(num)):
        for a, b in itertools.product(range(i + 1), range(num - i)):  # gaps to seen neighbors
            used = (a or i) + (b or num - 1 - i)
            rest, seen = num - 1 - used, k - (a > 0) - (b > 0)
            if not 0 <= seen <= rest:
                continue
            weight = math.comb(rest, seen) / math.comb(num - 1, k)
            if a and b:
                p, q = flip(a), flip(b)
                agree = p * q + (1 - p) * (1 - q)
                value = agree * binary_entropy(p * q / agree)
                value += (1 - agree) * binary_entropy(p * (1 - q) / (1 - agree))
            else:
                value = binary_entropy(flip(a or b)) if a or b else math.log(2)
            loss[k] += weight * float(value) / num
    assert tokens_revealed(loss, 4) == [0, 9, 21, 39, 64]


def test_published_grid_of_parity_checks():
    """64 bits under 32 random parity checks (XORSAT, alpha = .5), N = 4 (same source).

    A token is a random linear form of 32 free bits: it is new, worth log 2, unless it lies in the
    span of the k revealed ones, whose dimension is a Markov chain.
    """
    free, num = 32, 64
    new = 1 - 2.0 ** (np.arange(free + 1) - free)  # by the dimension of the span
    dimension, loss = np.eye(free + 1)[0], []
    for _ in range(num):
        loss.append(float(dimension @ new) * math.log(2))
        dimension = dimension * (1 - new) + np.append(0.0, (dimension * new)[:-1])
    assert tokens_revealed(loss, 4) == [0, 32, 34, 38, 64]


@pytest.mark.parametrize(
    ("sampler", "kernel"),
    [(Euler(), Uniform(V)), (Euler(), Gaussian(V))],
    ids=lambda part: type(part).__name__,
)
def test_laws_of_frozen_rates(kernel, sampler):
    """Judged by the analytic step, their schedules beat uniform ones by exact terminal KL."""
    law = torch.lerp(torch.full((V, V), 1 / V**2), torch.eye(V) / V, 0.9).double()
    law = law / law.sum()
    denoiser, generator = denoiser_of(kernel, law), torch.Generator().manual_seed(0)
    optimizer = OptimalSteps(num_times=24, pilot_times=12)
    table = optimizer.table(denoiser, sampler, data(256, law), generator=generator)
    for n in (3, 4):
        optimal, uniform = (
            exact.kl(law, exact.sample_law(sampler, denoiser, schedule.times, L))
            for schedule in (table.schedule(n), SamplingSchedule.uniform(n))
        )
        assert optimal < 0.75 * uniform


def test_tau_leaping_is_refused():
    """No schedule is found for steps that the costs say nothing of; the error names the remedy."""
    denoiser = denoiser_of(Uniform(V))
    with pytest.raises(ValueError, match=r"got `TauLeaping`, .* optimize for `Analytic`"):
        OptimalSteps(**SMALL)(denoiser, TauLeaping(), data(8), 2)


@pytest.mark.parametrize("num_timesteps", [1000, 10])
def test_discrete_time_network(num_timesteps):
    """A D3PM network of T steps is asked at its own steps alone, and schedules stay above 1 / T."""
    steps = []

    process = ForwardProcess(Uniform(V), LogLinear())
    exactly = ExactDenoiser(process, joint())

    class D3PM(torch.nn.Module):
        def forward(self, x_t, step):
            assert step.dtype == torch.int64
            steps.extend(step.tolist())
            return exactly(x_t, (step + 1) / num_timesteps).log_posterior()

    denoiser = PosteriorDenoiser(D3PM(), process, time=DiscreteTime(num_timesteps))
    found = OptimalSteps(**SMALL)(denoiser, Analytic(), data(32), (2, 8), generator=exact.seeded())
    assert 0 <= min(steps) <= max(steps) == num_timesteps - 1
    assert found.table.min_time == 1 / num_timesteps
    for schedule in found.schedules.values():
        assert schedule.times[-2] >= 1 / num_timesteps
    steps.clear()
    x = process.sample_prior(data(32))
    Analytic()(denoiser, x, found.schedules[8], generator=exact.seeded())
    assert len(set(steps)) > 1
