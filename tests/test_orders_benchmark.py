"""The benchmark of orders: its exact parts against closed forms, and that it runs."""

import math

import calls_by_need
import canon
import orders
import partitions
import pytest
import rules
import torch
import trained_orders
from canon import DELAY, Canon

from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import ExactDenoiser
from ddm.files import read_json
from ddm.kernels import Absorbing
from ddm.likelihood import sampler_nats
from ddm.noise import LogLinear
from ddm.orders import Spaced
from ddm.process import ForwardProcess
from ddm.samplers import Reveal
from ddm.schedule import SamplingSchedule
from ddm.schedules import OptimalCounts
from exact import random_joint, seeded, sequences


def test_costs_of_partitions():
    """The cost along an order is the terminal KL of its sampler, by enumeration."""
    joint = random_joint(2, 4, coupling=2.0)
    found = partitions.Partitions(joint)
    order = found.order(Spaced(jitter=0.0))
    denoiser = ExactDenoiser(ForwardProcess(Absorbing(2), LogLinear()), joint)
    entropy = float(torch.special.entr(joint).sum())
    costs = []
    for first in (1, 2, 3):
        times = denoiser.process.time_at_mask_ratio(
            torch.tensor([1.0, 1 - first / 4, 0.0], dtype=torch.float64)
            * denoiser.process.mask_ratio(torch.ones((), dtype=torch.float64))
        )
        times[0], times[-1] = 1.0, 0.0
        nats = sampler_nats(denoiser, Reveal(Spaced(jitter=0.0)), sequences(2, 4), times)
        costs.append(float((joint.flatten() * nats).sum()) - entropy)
    assert found.along(order, 2) == pytest.approx(min(costs), abs=1e-12)
    assert found.best(2) <= found.along(order, 2) + 1e-12
    assert found.best(2) <= found.at_random(2)
    assert found.best(4) == pytest.approx(0, abs=1e-12)


def test_best_partition_of_pairs():
    """Two pairs of equal bits: one of each pair first costs nothing, all at once two bits."""
    joint = torch.zeros(2, 2, 2, 2).double()
    for a in range(2):
        for b in range(2):
            joint[a, a, b, b] = 0.25
    found = partitions.Partitions(joint)
    assert found.best(1) == pytest.approx(2 * math.log(2))
    assert found.best(2) == pytest.approx(0, abs=1e-12)
    # Of the six sets of two, four have one of each pair.
    assert found.at_random(2) == pytest.approx(math.log(2) * 2 / 6 * 2)
    assert found.information()[0].tolist() == pytest.approx([0, math.log(2), 0, 0])


def test_canon():
    """The posteriors of the canon are exact: one token per call has the enumerated law."""
    initial, transition = torch.tensor([0.3, 0.7]), torch.tensor([[0.9, 0.1], [0.4, 0.6]])
    denoiser = Canon(ForwardProcess(Absorbing(2), LogLinear()), initial, transition)
    x = sequences(2, 6)
    leader, follower = x[:, ::2], x[:, 1::2].roll(-DELAY, 1)
    p = denoiser.initial[leader[:, 0]] * denoiser.copy[leader, follower].prod(1)
    p = p * denoiser.transition[leader[:, :-1], leader[:, 1:]].prod(1)
    nats = sampler_nats(denoiser, Reveal(), x, SamplingSchedule.uniform(6), generator=seeded())
    torch.testing.assert_close(nats, -p.log(), atol=1e-6, rtol=0)  # the laws are float32
    drawn = denoiser.draw(4000, 3, seeded())
    shares = (drawn * torch.tensor([32, 16, 8, 4, 2, 1])).sum(1).bincount(minlength=64) / 4000
    assert float((shares - p).abs().max()) < 6 * (0.25 / 4000) ** 0.5  # 1e-9 for each of 64


def test_rank_by_draws_changes_the_law():
    """One token per call in the order of what was drawn is not the law of an exact denoiser.

    Of two independent tokens, one of them skewed, the likely values come too often.
    """
    law = torch.tensor([0.8, 0.2], dtype=torch.float64)
    joint = law[:, None] * torch.full((2,), 0.5, dtype=torch.float64)
    denoiser = ExactDenoiser(ForwardProcess(Absorbing(2), LogLinear()), joint)
    x = torch.full((4000, 2), 2)
    drawn = rules.Drawn()(denoiser, x, [1.0, 0.5, 0.0], generator=seeded()).tokens
    # P(0 at i) = P(kept at once) + P(dropped) * .8 = .8 + .2 * .8; 8 standard errors are .03.
    assert float((drawn[:, 0] == 0).double().mean()) == pytest.approx(0.96, abs=0.03)


def test_orders_run(benchmarks, monkeypatch):
    """A small study has all tables, and writes its figures."""
    monkeypatch.setattr(orders, "NUM_STEPS", (2, 4))
    monkeypatch.setattr(orders, "LENGTH", 12)
    monkeypatch.setattr(orders, "SIZE", (2, 16))
    monkeypatch.setattr(orders, "RESULTS", benchmarks)
    monkeypatch.setattr(rules, "TEMPERATURES", (1.0,))
    monkeypatch.setattr(
        orders, "on_both", lambda study, seed, num: {"exact chain": study(*small(seed, num))}
    )
    orders.main(["--seeds=1", "--num-data=16", "--num-samples=16"])
    found = read_json(benchmarks / "orders.json")
    assert set(found["partitions"]) == {"random", "spaced", "measured", "chosen"}
    assert set(found["exact"]) == {"nats", "broken pairs"}
    assert len(found["exact"]["nats"]) == 8 * 3
    assert found["rules"]["exact chain"]["EB: entropy, bound .1"]["calls"][0] <= 12
    assert (benchmarks / "orders_frontier.png").exists()


def test_small_studies_run(benchmarks, monkeypatch):
    """The canon and the rules by need, in the smallest size that they have."""
    monkeypatch.setattr(canon, "NUM_STEPS", (2,))
    monkeypatch.setattr(canon, "LENGTH", 4)
    canon.main(["--seeds=1", "--num-data=8"])
    found = read_json(benchmarks / "canon.json")["nats"]
    assert found["one per call"]["8"][0] < found["random"]["2"][0]
    monkeypatch.setattr(calls_by_need, "NUM_CALLS", (3,))
    monkeypatch.setattr(calls_by_need, "BOUNDS", (4.0,))
    monkeypatch.setattr(orders, "LENGTH", 8)
    calls_by_need.main(["--seeds=1", "--num-data=8", "--where", "exact chain"])
    found = read_json(benchmarks / "calls_by_need.json")["rules"]["exact chain"]
    assert 1 <= found["random, priced, for 3 calls"]["calls"][0] <= 8


def test_trained_orders_run(benchmarks, monkeypatch):
    """Differences of a model's orders are paired to random order with optimal counts."""
    monkeypatch.setattr(trained_orders, "NUM_STEPS", (2, 8))
    monkeypatch.setattr(trained_orders, "OptimalCounts", lambda **_: OptimalCounts(num_times=8))
    sizes = ["--num-search=4", "--num-judge=1", "--seeds=1"]
    trained_orders.main(["--models", "digits_absorbing", "--orders", "random", "chosen", *sizes])
    found = read_json(benchmarks / "trained_orders.json")["models"]["digits_absorbing"]
    assert found["nats"]["random, optimal"]["8"][1:] == [0, 0]
    assert found["nats"]["chosen, optimal"]["8"][2] >= 0
    assert found["one per call"] < found["nats"]["random, optimal"]["2"][0]


def small(seed, num):
    """Return what `on_both` hands to a study, of twelve tokens."""
    law = countdown_chain(orders.VOCAB_SIZE, orders.SMOOTHING)
    denoiser, _ = orders.exact_chain()
    return denoiser, sample_chain(*law, 16, 12, seeded(seed)), num, seed
