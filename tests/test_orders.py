import copy
import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from torch import nn

import exact
from cases import KERNELS, ORDERS, each_kernel, each_order, each_rule, label
from ddm.denoisers import ExactDenoiser, MeanDenoiser
from ddm.functional import describe
from ddm.kernels import Absorbing, Uniform
from ddm.likelihood import sampler_nats
from ddm.noise import LogLinear
from ddm.orders import (
    Confidence,
    Entropy,
    LeftToRight,
    Margin,
    Measured,
    Random,
    Spaced,
    averaged_over_offsets,
    measure_dependence,
)
from ddm.process import ForwardProcess
from ddm.samplers import (
    Analytic,
    EntropyBound,
    KGillespie,
    Priced,
    Reveal,
    Step,
    Temper,
    ThetaTrapezoidal,
    Threshold,
)
from ddm.schedules.optimal.shortest_path import shortest_paths
from ddm.schedules.setting import Setting
from exact import at, seeded, sequences

PROCESS = ForwardProcess(Absorbing(3), LogLinear())
JOINT = exact.random_joint(3, 3)
EXACT = ExactDenoiser(PROCESS, JOINT)
ALL = sequences(3, 3)
FREE = torch.ones(1, 3, dtype=torch.bool)
ONE_EACH = [1.0, 0.66, 0.33, 0.0]
MANY = [order for order in ORDERS if not order.random]


def close(actual, expected, atol=1e-12):
    """Compare to 1e-12: sums of a few dozen float64 products."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=atol)


def law_of(sampler, times):
    """Return the law of the samples, (27,), by following all states a sampler may pass."""
    states = {(3, 3, 3): 1.0}
    for step in sampler.steps(PROCESS, torch.tensor(times, dtype=torch.float64), FREE):
        after = {}
        for state, weight in states.items():
            x = torch.tensor([state])
            here = sampler.time(PROCESS, x, step, FREE)
            if not (x == 3).any():
                after[state] = after.get(state, 0) + weight
                continue
            prediction = EXACT(x, here)
            chosen = sampler.choose(prediction, step)[0]
            law = sampler.law([prediction], torch.zeros_like(here))[0]
            kept = [chosen.nonzero().squeeze(1).tolist(), ALL[:, chosen].unique(dim=0).tolist()]
            for tokens in kept[1]:
                new, p = list(state), weight
                for place, token in zip(kept[0], tokens, strict=True):
                    new[place] = token
                    p = p * float(law[place, token])
                after[tuple(new)] = after.get(tuple(new), 0) + p
        states = after
    return torch.tensor([states.get(tuple(x), 0.0) for x in ALL.tolist()], dtype=torch.float64)


def prediction_of(x, logits=None):
    """Return what a network says that knows every token's logits whatever the others are."""

    class Fixed(nn.Module):
        def forward(self, x_t, t):
            shape = (*x_t.shape, 3)
            return torch.zeros(shape).double() if logits is None else logits.expand(shape)

    return MeanDenoiser(Fixed(), PROCESS)(x, at(0.5, len(x)))


# One token per call ------------------------------------------------------------------------------


@each_order
def test_one_token_per_call_is_exact(order):
    """With one token per call the likelihood of every sequence is the model's, in any order.

    Likewise the law of the samples, enumerated where the order is deterministic.
    """
    nats = sampler_nats(EXACT, Reveal(order), ALL, ONE_EACH, generator=seeded())
    close(nats, -JOINT.flatten().log())
    if not order.random:
        close(law_of(Reveal(order), ONE_EACH), JOINT.flatten())


@each_order
@each_rule
def test_careful_rules_are_exact(order, rule):
    """A rule that allows one token per call samples the model's law, whatever the schedule."""
    nats = sampler_nats(EXACT, Reveal(order, stop=rule), ALL, [1.0, 0.0], generator=seeded())
    close(nats, -JOINT.flatten().log())


# Several tokens per call -------------------------------------------------------------------------

BELOW = torch.ones(4, 4).tril(-2).double()
DETERMINISTIC = [
    *(Reveal(order) for order in MANY),
    *(Reveal(order, temper=Temper(0.7, top_p=0.95)) for order in MANY),
    *(Reveal(order, near_certain=0.9) for order in MANY),
    *(Reveal(order, stop=EntropyBound(1.0)) for order in MANY),
    *(Reveal(order, stop=Threshold(0.4)) for order in MANY),
    *(Reveal(order, stop=Priced(range(4), 0.3 * BELOW, 2 * BELOW, 0.2)) for order in MANY),
]


@pytest.mark.parametrize("sampler", DETERMINISTIC, ids=label)
def test_likelihood_is_that_of_the_sampler(sampler):
    """Teacher forcing returns the likelihood of the enumerated law, which sums to 1."""
    times = [1.0, 0.4, 0.0]
    law = law_of(sampler, times)
    close(law.sum(), torch.ones(()).double())
    close((-sampler_nats(EXACT, sampler, ALL, times)).exp(), law)


def test_random_order_is_a_bound():
    """Every path of the random order costs what its subsets do, and their mean is a bound."""
    times = [1.0, 0.7, 0.0]
    marginals = [JOINT.sum([k for k in range(3) if k != i]) for i in range(3)]
    possible = []
    for x in ALL.tolist():
        paths = []
        for first in range(3):
            p, law = float(marginals[first][x[first]]), JOINT.select(first, x[first])
            law = law / law.sum()
            rest = [x[k] for k in range(3) if k != first]
            paths.append(-math.log(p * float(law.sum(1)[rest[0]]) * float(law.sum(0)[rest[1]])))
        possible.append(paths)
    possible = torch.tensor(possible, dtype=torch.float64)
    generator = seeded()
    draws = [sampler_nats(EXACT, KGillespie(), ALL, times, generator=generator) for _ in range(60)]
    gaps = (torch.stack(draws)[..., None] - possible).abs()
    assert gaps.min(-1).values.max() < 1e-12
    # 60 draws miss one of three paths for one of 27 sequences with probability 1e-9.
    assert gaps.min(0).values.max() < 1e-12
    assert (possible.mean(-1) > -exact.reveal_law(JOINT, [1, 2]).log() - 1e-12).all()


@each_kernel
def test_bound_of_factorized_samplers(kernel):
    """A step costs KL(q(x_s | x_t, x_0) || bridge), by enumeration; one step is -log posterior."""
    process, joint = ForwardProcess(kernel, LogLinear()), exact.random_joint(3, 2)
    denoiser, t, s = ExactDenoiser(process, joint), 0.7, 0.3
    states, x_0 = sequences(kernel.num_states, 2), torch.tensor([[2, 1]])
    down, up = (
        exact.expm(kernel, float(process.noise.sigma(torch.tensor(u, dtype=torch.float64))))
        for u in (s, t)
    )
    across = exact.transition(process, s, t, 1)
    possible = ((states == x_0) | (states == kernel.mask)) if kernel.absorbing else states >= 0
    law, q = exact.bridge(process, joint, s, t), []
    for i in range(2):
        token = x_0[0, i]
        q.append(down[token, None, :] * across.T[states[:, i]] / up[token, states[:, i], None])
    q = torch.stack(q, 1)
    expected = (torch.xlogy(q, q) - torch.xlogy(q, law)).sum((1, 2))
    step = Step(at(t, len(states)), at(s, len(states)))
    _, nats = Analytic().teach(denoiser, states, x_0.expand_as(states), step, seeded())
    rows = possible.all(-1)
    close(nats[rows], expected[rows], atol=1e-9)


def test_bound_of_one_step():
    """In one step all samplers of the absorbing kernel draw all tokens from their marginals."""
    one = [sampler_nats(EXACT, sampler, ALL, [1.0, 0.0]) for sampler in (Analytic(), KGillespie())]
    close(*one)


@pytest.mark.parametrize("kernel", KERNELS, ids=label)
def test_bound_is_above_the_likelihood(kernel):
    """The mean N-step bound is at least -log p_sampler(x_0), which is enumerated."""
    process, joint = ForwardProcess(kernel, LogLinear()), exact.random_joint(3, 2)
    denoiser, times = ExactDenoiser(process, joint), [1.0, 0.5, 0.0]
    law = exact.sample_law(Analytic(), denoiser, times, 2).reshape(-1)
    x_0 = sequences(3, 2).repeat_interleave(400, 0)
    nats = sampler_nats(denoiser, Analytic(), x_0, times, generator=seeded()).reshape(9, 400)
    # Five standard errors below is a false alarm in fewer than one of 1e6 cases.
    slack = 5 * nats.std(-1) / 400**0.5 + 1e-3
    assert (nats.mean(-1) > -law.log() - slack).all()


# Given tokens and calls --------------------------------------------------------------------------


@each_order
def test_given_tokens(order):
    """Given tokens never change, and count as revealed: the likelihood is that given them."""
    free = torch.tensor([[True, False, True]]).expand(27, -1)
    nats = sampler_nats(EXACT, Reveal(order), ALL, [1.0, 0.5, 0.0], free=free, generator=seeded())
    given = JOINT / JOINT.sum((0, 2), keepdim=True)
    close(nats, -given.flatten().log())
    x = PROCESS.sample_prior(ALL, free)
    drawn = Reveal(order)(EXACT, x, [1.0, 0.0], free=free, generator=seeded()).tokens
    assert torch.equal(drawn[:, 1], ALL[:, 1])
    assert (drawn < 3).all()


@pytest.mark.parametrize("stop", [EntropyBound(0.0), Threshold(1.0)], ids=label)
def test_rows_finish_at_their_own_call(stop):
    """Sequences that are finished cost nothing; the calls are those of the slowest sequence."""
    free = torch.tensor([[True] * 3, [True, False, False], [False] * 3, [True, True, False]])
    x = PROCESS.sample_prior(ALL[[0, 1, 2, 3]], free)
    seen = []
    samples = Reveal(Spaced(jitter=0.0), stop=stop)(
        EXACT, x, [1.0, 0.0], free=free, generator=seeded(), on_state=lambda x, t: seen.append(t)
    )
    # The row where all is given is evaluated once, in the first call, like those that need it.
    assert (samples.num_calls, samples.num_rows) == (3, 4 + 2 + 1)
    expected = torch.tensor([[2, 0, 0, 1.5], [1, 0, 0, 0], [0] * 4], dtype=torch.float64) / 3
    ratio = torch.stack([PROCESS.mask_ratio(t) for t in seen[1:]])
    close(ratio / PROCESS.mask_ratio(at(1.0)), expected, atol=1e-9)


def test_certain_tokens_cost_no_call():
    """Where all follows from one token, an entropy bound of 0 needs two calls for any length."""
    joint = torch.zeros(3, 3, 3, 3).double()
    for v in range(3):
        joint[v, v, v, v] = 1 / 3
    denoiser, x = ExactDenoiser(PROCESS, joint), torch.full((5, 4), 3)
    for sampler in (Reveal(stop=EntropyBound(0.0)), Reveal(near_certain=1e-9)):
        samples = sampler(denoiser, x, [1.0, 0.7, 0.4, 0.2, 0.0], generator=seeded())
        assert samples.num_calls == 2
        assert (samples.tokens == samples.tokens[:, :1]).all()


def test_rows_with_fewer_tokens_than_steps():
    """A sequence with fewer free tokens than steps ends early; the others go on."""
    free = torch.tensor([[True] * 3, [False, True, False]])
    x = PROCESS.sample_prior(ALL[:2], free)
    samples = Reveal(Spaced(jitter=0.0))(EXACT, x, ONE_EACH, free=free, generator=seeded())
    assert (samples.num_calls, samples.num_rows) == (3, 2 + 1 + 1)
    assert (samples.tokens < 3).all()


# Orders ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (3, 4), (2, 2, 3)])
def test_farthest_first(shape):
    """Every position of a call is farthest from what is revealed or was chosen before.

    The edges of long axes count at twice their distance. Compared with a search over all masked
    positions, sequence by sequence; what comes after the number asked for is ranked behind it, and
    revealed tokens at the end.
    """
    order, x = Spaced(shape, jitter=0.0), torch.randint(4, (20, 12), generator=seeded())
    x[:, 0], x[0, 1:] = 0, 3
    masks = (x == 3).sum(-1)
    num = (masks / 2).ceil().long()
    ranks = order.rank(prediction_of(x), num)
    sizes = shape or (12,)
    place = torch.cartesian_prod(*[torch.arange(n).double() for n in sizes]).reshape(12, -1)
    long = [k for k, n in enumerate(sizes) if 2 * n >= max(sizes)]
    edge = [min(2 * float(min(p[k] + 1, sizes[k] - p[k])) for k in long) for p in place]
    for row in range(20):
        near = [k for k in range(12) if x[row, k] != 3]
        sequence = ranks[row].argsort().tolist()
        assert set(sequence[masks[row] :]) == set(near)
        for chosen in sequence[: num[row]]:
            away = [min(float((place[i] - place[j]).norm()) for j in near) for i in range(12)]
            far = [min(pair) for pair in zip(away, edge, strict=True)]
            assert far[chosen] == pytest.approx(max(far), abs=1e-12)
            near.append(chosen)


@pytest.mark.parametrize("order", [o for o in MANY if o.fixed], ids=label)
def test_fixed_orders_go_on(order):
    """A fixed order continues what fewer tokens per call began."""
    x, free = torch.full((1, 3), 3), torch.tensor([3])
    whole = order.rank(prediction_of(x), free).argsort(-1)
    x[0, whole[0, 0]] = 1
    rest = order.rank(prediction_of(x), free - 1).argsort(-1)
    assert torch.equal(rest[0, :2], whole[0, 1:])


def test_certainty():
    """Confidence, entropy and margin rank by the numbers they are named after."""
    p = torch.tensor([[[0.4, 0.4, 0.2], [0.5, 0.25, 0.25], [0.45, 0.1, 0.45]]]).double()
    prediction, num = prediction_of(torch.full((1, 3), 3), p.log()), torch.tensor([3])
    assert Confidence().rank(prediction, num).tolist() == [[2, 0, 1]]
    assert Margin().rank(prediction, num).tolist() == [[1, 0, 2]]
    assert Entropy().rank(prediction, num).tolist() == [[2, 1, 0]]


def test_blocks():
    """Blocks go from left to right, and the order inside them is the other's."""
    p = torch.tensor([0.4, 0.6, 0.9, 0.5, 0.8, 0.7]).double()
    logits = torch.stack([p, (1 - p) / 2, (1 - p) / 2], -1).log()[None]
    x = torch.tensor([[3, 3, 3, 0, 3, 3]])
    rank = LeftToRight(3, Confidence()).rank(prediction_of(x, logits), torch.tensor([5]))
    assert rank.tolist() == [[2, 1, 0, 5, 3, 4]]
    assert LeftToRight(3).rank(prediction_of(x), torch.tensor([5])).tolist() == [[0, 1, 2, 5, 3, 4]]


def test_entropy_bound():
    """The bound admits the longest beginning whose entropies, less the largest, are below it."""
    logits = 3 * torch.randn(40, 8, 3, generator=seeded()).double()
    x = torch.where(torch.rand(40, 8, generator=seeded(1)) < 0.7, 3, 0)
    prediction, masks = prediction_of(x, logits), (x == 3).sum(-1)
    rank = Confidence().rank(prediction, masks)
    p = logits.softmax(-1)
    entropy = -(p * p.log()).sum(-1)
    for bound in (0.0, 0.3, 1.5):
        count = EntropyBound(bound).count(prediction, rank, masks)
        for row in range(40):
            values = entropy[row, rank[row].argsort()][: masks[row]].tolist()
            sizes = range(1, len(values) + 1)
            allowed = [k for k in sizes if sum(values[:k]) - max(values[:k]) <= bound + 1e-12]
            assert int(count[row]) == max(allowed, default=0)


def test_price_of_a_call():
    """The mean sequence takes the path of least nats and calls; one in doubt makes more calls.

    The least is that of all shortest paths, each with the price of its calls.
    """
    size, price = 9, 0.4
    number = torch.arange(size).double()
    steps = (number[:, None] - number).clamp(min=0)
    excess = (steps - 1).clamp(min=0) ** 2 * (1 + torch.rand(size, size, generator=seeded())) / 20
    entropy = math.log(3) * (steps - 1).clamp(min=0)  # of tokens that nothing is known about
    values, _ = shortest_paths(excess.numpy(), size - 1)
    least = min(value + n * price for n, value in enumerate(values) if n)
    calls = {}
    for name, usual in {"mean": entropy, "in doubt": entropy / 8, "sure": 8 * entropy}.items():
        rule = Priced(range(size), excess, usual, price)
        left, cost, calls[name] = size - 1, 0.0, 0
        while left:
            x = torch.tensor([[3] * left + [0] * (size - 1 - left)])
            prediction = prediction_of(x, torch.zeros(1, size - 1, 3).double())
            rank = torch.arange(size - 1)[None]
            landing = left - int(rule.count(prediction, rank, torch.tensor([left])))
            cost += float(excess[left, landing]) + price
            left, calls[name] = landing, calls[name] + 1
        if name == "mean":
            assert cost == pytest.approx(least, abs=1e-12)
    assert calls["sure"] < calls["mean"] < calls["in doubt"]


def test_price_of_shorter_sequences():
    """A sequence with fewer free tokens goes through the same shares as a whole one."""
    rule = Priced([0, 2, 4, 8], 100 * torch.ones(4, 4).tril(-2), torch.ones(4, 4), 0.0)
    free = torch.tensor([[True] * 8, [True] * 4 + [False] * 4, [False] * 8])
    x = torch.full((3, 8), 3).where(free, 0)
    prediction = replace(prediction_of(x, torch.zeros(3, 8, 3).double()), free=free)
    rank = torch.arange(8).expand(3, -1)
    for masks, expected in (([8, 4, 0], [4, 2, 0]), ([4, 2, 0], [2, 1, 0]), ([2, 1, 0], [2, 1, 0])):
        assert rule.count(prediction, rank, torch.tensor(masks)).tolist() == expected


def test_temper():
    """Temperature, top-k and top-p by their definitions; what is drawn never moves the ranks."""
    p = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)
    close(Temper(0.5)(p), torch.tensor([25, 9, 4, 0]).double() / 38)
    close(Temper(top_k=1)(p), torch.tensor([1.0, 0, 0, 0]).double())
    close(Temper(top_p=0.5)(p), torch.tensor([1.0, 0, 0, 0]).double())
    close(Temper(top_p=0.51)(p), torch.tensor([0.625, 0.375, 0, 0], dtype=torch.float64))
    roots = torch.tensor([0.5**0.5, 0.3**0.5, 0, 0], dtype=torch.float64)
    close(Temper(2.0, top_k=2)(p), roots / roots.sum())
    close(Temper()(p), p)
    prediction = EXACT(torch.full((1, 3), 3), at(1.0))
    step = Step(at(1.0), at(0.5), torch.tensor([2]))
    for order in MANY:
        plain, tempered = (Reveal(order, temper=t) for t in (None, Temper(0.1, top_p=0.3)))
        assert torch.equal(plain.choose(prediction, step), tempered.choose(prediction, step))


# Measured dependence -----------------------------------------------------------------------------


@pytest.mark.parametrize("given", [False, True])
def test_measured_dependence(given):
    """With an exact denoiser the estimate is the mutual information given what is given.

    Two tokens that are equal and a third that is independent: log 3 between the two.
    """
    joint = torch.zeros(3, 3, 3).double()
    for v in range(3):
        joint[v, :, v] = 1 / 9
    x_0 = torch.tensor([[v, u, v] for v in range(3) for u in range(3)]).repeat(20, 1)
    free = torch.tensor([True, not given, True]).expand(x_0.shape)
    found = measure_dependence(ExactDenoiser(PROCESS, joint), x_0, 4, free=free, generator=seeded())
    expected = torch.zeros(3, 3).double()
    expected[0, 2] = expected[2, 0] = math.log(3)
    # Pairs with a position that is given were never seen: they have the mean of all.
    seen = [0, 2] if given else [0, 1, 2]
    close(found[seen][:, seen], expected[seen][:, seen])


def test_measured_is_greedy():
    """Each position is the one that depends least on what comes before, and tells most."""
    generator = seeded()
    dependence = torch.rand(7, 7, generator=generator).double()
    dependence = (dependence + dependence.T).fill_diagonal_(0.0) / 2
    x = torch.randint(4, (6, 7), generator=generator)
    num = (x == 3).sum(-1)
    rank = Measured(dependence, jitter=0.0).rank(prediction_of(x), num)
    for b in range(6):
        known = (x[b] != 3).nonzero()[:, 0].tolist()
        for i in rank[b].argsort()[: int(num[b])].tolist():
            score = (1 + dependence.sum(-1)) * (-2 * dependence[:, known].sum(-1)).exp()
            left = [j for j in range(7) if j not in known]
            assert float(score[i]) == pytest.approx(float(score[left].max()), abs=1e-12)
            known.append(i)


def test_profile():
    """Averaged over offsets, entries depend on |i - j| alone and keep their mean."""
    matrix = torch.rand(5, 5, generator=seeded()).double()
    profile = averaged_over_offsets(matrix)
    for k in range(5):
        entries = torch.cat([matrix.diagonal(k), matrix.diagonal(-k)] if k else [matrix.diagonal()])
        close(profile.diagonal(k), entries.mean().expand(5 - k))
        close(profile.diagonal(-k), entries.mean().expand(5 - k))


def test_measured_is_kept(tmp_path):
    """What is saved comes back, and its checksum tells it from others."""
    order = Measured([[0.0, 0.1], [0.3, 0.0]])
    order.save(tmp_path / "order.json")
    back = Measured.load(tmp_path / "order.json")
    assert describe(back) == describe(order)
    close(back.distances(2), order.distances(2), atol=0.0)
    assert describe(order) != describe(Measured([[0.0, 0.1], [0.2, 0.0]]))
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold the keys 'dependence'"):
        Measured.load(tmp_path / "other.json")


# Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: EntropyBound(-0.1), "`bound` must be >= 0 and finite, got -0.1"),
        (lambda: EntropyBound(math.nan), "`bound` must be >= 0 and finite, got nan"),
        (lambda: Priced(range(4), BELOW, BELOW, -1.0), "`price` must be >= 0 and finite, got -1.0"),
        (lambda: Priced(range(1, 5), BELOW, BELOW, 1.0), "`masks` must increase from 0"),
        (lambda: Priced([0, 1], [[0.0]], [[0.0]], 1.0), "`excess` must be finite, of the shape"),
        (lambda: Threshold(0.0), r"`probability` must lie in \(0, 1\], got 0.0"),
        (lambda: Threshold(1.1), r"`probability` must lie in \(0, 1\], got 1.1"),
        (lambda: Temper(0.0), "`temperature` must be positive and finite, got 0.0; .* `top_k=1`"),
        (lambda: Temper(math.inf), "`temperature` must be positive and finite, got inf"),
        (lambda: Temper(top_p=0.0), r"`top_p` must lie in \(0, 1\], got 0.0"),
        (lambda: Temper(top_k=0), "`top_k` must be at least 1, got 0"),
        (lambda: Reveal(near_certain=-1.0), "`near_certain` must be >= 0 and finite, got -1.0"),
        (lambda: Spaced(jitter=1.1), r"`jitter` must lie in \[0, 1\], got 1.1"),
        (lambda: Spaced(jitter=-0.1), r"`jitter` must lie in \[0, 1\], got -0.1"),
        (lambda: Spaced((0, 3)), "`shape` must be at least 1, got 0"),
        (lambda: LeftToRight(0), "`block_length` must be at least 1, got 0"),
        (lambda: Measured(torch.zeros(2, 3).double()), r"square matrix, .* got the shape \(2, 3\)"),
        (lambda: Measured([[0.0, -1.0], [0.0, 0.0]]), "`dependence` must be finite and >= 0"),
        (lambda: Measured([[0.0, math.nan], [0.0, 0.0]]), "`dependence` must be finite and >= 0"),
    ],
)
def test_bad_arguments(make, message):
    """Numbers out of range are refused with the rule and the remedy."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("order", "message"),
    [
        (Spaced((2, 2)), r"`shape` must multiply to the length of the sequences, 3, got \(2, 2\)"),
        (Measured([[0.0, 1.0], [1.0, 0.0]]), "measured on sequences of the length 3, got 2"),
    ],
)
def test_another_length(order, message):
    """An order for sequences of another length is refused."""
    with pytest.raises(ValueError, match=message):
        Reveal(order)(EXACT, torch.full((2, 3), 3), [1.0, 0.0])


@each_order
def test_orders_need_a_mask(order):
    """An order is of no use for a kernel without mask, in samples and likelihoods."""
    process = ForwardProcess(Uniform(3), LogLinear())
    denoiser = ExactDenoiser(process, JOINT)
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        Reveal(order)(denoiser, ALL, [1.0, 0.0])
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        sampler_nats(denoiser, Reveal(order), ALL, [1.0, 0.0])
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        order.rank(denoiser(ALL, at(0.5, 27)), torch.full((27,), 3))


def test_measuring_needs_a_mask():
    """Dependence is measured with masks."""
    denoiser = ExactDenoiser(ForwardProcess(Uniform(3), LogLinear()), JOINT)
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        measure_dependence(denoiser, ALL, 1)


def test_no_likelihood_of_several_stages():
    """A step of several calls has no likelihood in closed form."""
    with pytest.raises(ValueError, match="one network call per step, got `ThetaTrapezoidal`"):
        sampler_nats(EXACT, ThetaTrapezoidal(), ALL, [1.0, 0.5, 0.0])


def test_more_steps_than_tokens():
    """More steps than the longest sequence has tokens are refused, before any call."""
    with pytest.raises(ValueError, match="got 4 steps for 3 tokens"):
        Reveal(Spaced(jitter=0.0))(EXACT, torch.full((2, 3), 3), [1.0, 0.7, 0.5, 0.2, 0.0])


def test_descriptions_tell_samplers_apart():
    """What a schedule says that it belongs to holds order, rule and draw; others are refused."""
    samplers = [
        *(Reveal(order) for order in ORDERS),
        Reveal(Spaced((2, 3))),
        Reveal(Spaced((3, 2))),
        Reveal(Spaced((3, 2), jitter=0.1)),
        Reveal(Spaced(jitter=0.0), near_certain=0.1),
        Reveal(Spaced(jitter=0.0), stop=EntropyBound(0.1)),
        Reveal(Spaced(jitter=0.0), stop=Threshold(0.1)),
        Reveal(Spaced(jitter=0.0), temper=Temper(0.9)),
        KGillespie(),
    ]
    said = [Setting.of(PROCESS, sampler) for sampler in samplers]
    for one, other in combinations(said, 2):
        with pytest.raises(ValueError, match="`sampler` must be the one that"):
            one.check({"sampler": other.sampler}, "it was made for", "make another")
    assert describe(copy.deepcopy(samplers[-2])) == describe(samplers[-2])
    assert repr(Random()) == "Random()"
