import pytest
import torch

import exact
from ddm.callbacks.recent import RecentSequences
from ddm.callbacks.update import Updater
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import ExactDenoiser, MarkovChainDenoiser
from ddm.kernels import Absorbing, Uniform
from ddm.likelihood import sampler_nats
from ddm.noise import LogLinear
from ddm.orders import (
    Confidence,
    LeftToRight,
    Measured,
    Random,
    RevealOrder,
    Spaced,
    order_of,
    settings_of,
)
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, EntropyBound, Euler, Reveal, Temper
from ddm.schedules import OptimalOrders, OptimalSteps, Optimized, SamplingSchedule, sampler_of
from ddm.schedules.setting import Setting
from exact import seeded

CHAIN = countdown_chain(6, 0.01)
PROCESS = ForwardProcess(Absorbing(6), LogLinear())
DENOISER = MarkovChainDenoiser(PROCESS, *CHAIN)
X_0 = sample_chain(*CHAIN, 96, 12, seeded())
SPACED = Spaced(jitter=0.0)


def test_the_better_pair_is_kept():
    """On a chain spaced tokens with their counts win; the held-out likelihood says by how much.

    The differences are 15 standard errors and more: false alarms are below 1e-9.
    """
    found = OptimalOrders([SPACED, Confidence()])(
        DENOISER, Analytic(), X_0, [2, 4], generator=seeded()
    )
    for n, schedule in found.schedules.items():
        assert schedule.num_steps == n
        sampler = sampler_of(schedule, Analytic())
        assert repr(sampler) == repr(Reveal(SPACED))
        costs = schedule.info["costs"]
        exact_cost = float(sampler_nats(DENOISER, sampler, X_0[-24:], schedule).mean())
        assert costs[repr(SPACED)] == pytest.approx(exact_cost, abs=1e-9)
        assert min(costs.values()) == costs[schedule.info["winner"]]
        expected = 1 - costs[repr(SPACED)] / costs["uniform"]
        assert schedule.info["gain"] == pytest.approx(expected)
        assert set(costs) == {"uniform", "Random()", repr(SPACED), "Confidence()"}


def test_random_order_stays_where_none_is_better():
    """For independent tokens all orders cost the same, and random order is kept."""
    joint = torch.full([2] * 4, 2.0**-4, dtype=torch.float64)
    denoiser = ExactDenoiser(ForwardProcess(Absorbing(2), LogLinear()), joint)
    x_0 = exact.sequences(2, 4)
    found = OptimalOrders()(denoiser, Reveal(), x_0, 2, generator=seeded())
    assert found.schedules[2].info["winner"] == "Random()"
    assert found.schedules[2].info["gain"] == 0


def test_a_file_says_the_order(tmp_path):
    """What is read again is the same order, whatever the model's own; another one is refused."""
    found = OptimalOrders([SPACED])(DENOISER, Reveal(Random()), X_0, 2, generator=seeded())
    found.save(tmp_path / "orders.json")
    schedule = Optimized.load(tmp_path / "orders.json").schedules[2]
    assert schedule == found.schedules[2]
    temper = Temper(0.9)
    sampler = sampler_of(schedule, Reveal(Confidence(), temper=temper))
    assert isinstance(sampler, Reveal)
    assert (repr(sampler.reveal_order), sampler.temper) == (repr(SPACED), temper)
    Setting.of(PROCESS, sampler_of(schedule, Euler())).check(schedule.info, "it is for", "again")
    with pytest.raises(ValueError, match="`sampler` must be the one that it is for, Reveal"):
        Setting.of(PROCESS, Reveal()).check(schedule.info, "it is for", "search again")
    other = SamplingSchedule.uniform(2)
    own = Analytic()
    assert sampler_of(other, own) is own
    assert sampler_of([1.0, 0.0], own) is own


@pytest.mark.parametrize(
    "order",
    [
        Random(),
        Spaced((2, 3), jitter=0.25),
        LeftToRight(3, LeftToRight(2, Confidence())),
        Measured(torch.rand(3, 3, generator=seeded(), dtype=torch.float64)),
    ],
    ids=lambda order: type(order).__name__,
)
def test_settings_of_orders(order):
    """Settings hold plain values and make the same order again."""
    again = order_of(settings_of(order))
    assert repr(again) == repr(order)
    assert settings_of(again) == settings_of(order)


@pytest.mark.parametrize(
    "settings",
    [
        None,
        "ddm.orders.random.Random",
        {"class_path": "os.system", "init_args": {"command": "true"}},
        {"class_path": "ddm.orders.farthest.Farthest", "init_args": {"jitter": 0.5}},
        {"class_path": "ddm.orders.random.Random", "init_args": {"shape": []}},
        {"class_path": "ddm.orders.random.Random", "init_args": 3},
        {"class_path": "ddm.orders.spaced.Spaced", "init_args": {"shape": ["a"]}},
    ],
    ids=str,
)
def test_damaged_settings(settings):
    """What is no order is refused by name, and nothing is imported."""
    with pytest.raises((ValueError, TypeError), match=r"`order` must|`shape` must"):
        order_of(settings)


def test_callback_keeps_what_was_judged():
    """An update keeps the order that won, with its facts."""
    recent = RecentSequences(96)
    recent.add(X_0, None)
    updater = Updater(OptimalOrders([SPACED]), OptimalSteps(num_times=6, pilot_times=4), [2], 0.0)
    found, rows, taken = updater(DENOISER, Analytic(), recent, 96, {}, (0,))
    assert taken == (96, found.num_calls)
    assert rows[0]["winner"] == repr(SPACED)
    assert rows[0]["gain"] > 0
    assert repr(sampler_of(found.schedules[2], Analytic())) == repr(Reveal(SPACED))
    assert found.table is not None


def test_shapes():
    """Orders without axes get those of the data, at any depth; orders that have some keep them."""

    class Own(RevealOrder):
        rank = Random.rank

    own = Own()
    assert own.shaped((2, 6)) is own
    assert OptimalOrders().shaped((2, 6)).orders[0].shape == (2, 6)
    assert Spaced((12,)).shaped((2, 6)).shape == (12,)
    assert LeftToRight(4, Spaced()).shaped((2, 6)).within.shape == (2, 6)
    assert Analytic().shaped((2, 6)).order == 1
    assert Reveal(Spaced()).shaped((2, 6)).reveal_order.shape == (2, 6)


def test_refusals():
    """A rule that needs no schedule, and a kernel without masks, have no counts to find."""
    with pytest.raises(ValueError, match="`Reveal` without a stopping rule"):
        OptimalOrders()(DENOISER, Reveal(stop=EntropyBound()), X_0, 2)
    uniform = MarkovChainDenoiser(ForwardProcess(Uniform(6), LogLinear()), *CHAIN)
    with pytest.raises(ValueError, match="`kernel` must be absorbing"):
        OptimalOrders()(uniform, Analytic(), X_0, 2)
