"""The schedule callback: it changes the schedules and nothing else."""

import math
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.data import DataLoader

from ddm.backbones import MLP, Transformer
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.callbacks.budget import Budget
from ddm.callbacks.cost_picture import plot_update_costs
from ddm.callbacks.history import UpdateHistory
from ddm.callbacks.overview import binned_density, plot_overview
from ddm.callbacks.schedule_log import SECTION
from ddm.datamodules import CountDown
from ddm.datamodules.countdown import countdown_chain
from ddm.denoisers import MarkovChainDenoiser, MeanDenoiser
from ddm.files import read_json
from ddm.functional import stratified_times
from ddm.kernels import Uniform
from ddm.losses import NELBO
from ddm.module import DiscreteDiffusion
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.schedules import (
    BySamples,
    CostTable,
    JumpYourSteps,
    OptimalSteps,
    Optimized,
    SamplingSchedule,
    ScheduleOptimizer,
)
from ddp_schedule import count_up, make_model

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")

V, L = 4, 8
SMALL = {"num_times": 6, "pilot_times": 4}


def data(num: int = 64) -> DataLoader:
    """Return batches of 16 sequences that count up from a random token."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randint(V, (num, 1), generator=generator)
    tokens = (start + torch.arange(L)) % V
    rows = [{"tokens": row} for row in tokens]
    return DataLoader(rows, batch_size=16)


def module(dropout: float = 0.1) -> DiscreteDiffusion:
    """Return a small model with dropout, which reads the global random state."""
    torch.manual_seed(0)
    return DiscreteDiffusion(
        Uniform(V),
        partial(Transformer, dim=16, depth=1, num_heads=2, dropout=dropout),
        length=L,
        optimizer=partial(torch.optim.Adam, lr=1e-2),
    )


def trainer(tmp_path: Path, *callbacks: Callback, epochs: int = 2, **kwargs: object) -> Trainer:
    """Return a quiet trainer."""
    settings = {"logger": False, "enable_checkpointing": False} | kwargs
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=list(callbacks),
        default_root_dir=tmp_path,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )


class Spy(ScheduleOptimizer):
    """An optimizer that remembers what it was called with."""

    def __init__(self):
        self.seen = []

    def __call__(
        self,
        denoiser,
        sampler,
        x_0,
        num_steps,
        *,
        free=None,
        generator=None,
        progress=False,
    ):
        self.free = free
        weights = torch.cat([p.flatten().clone() for p in denoiser.parameters()])
        self.seen.append((weights, denoiser.training, len(x_0), torch.is_grad_enabled()))
        torch.rand(3)  # a careless optimizer or network may draw from the global state
        settings = {"free": free, "generator": generator}
        return OptimalSteps(**SMALL)(denoiser, sampler, x_0, num_steps, **settings)


@pytest.mark.parametrize("every", [{"every_n_steps": 3}, {"every_n_epochs": 1}])
@pytest.mark.parametrize("ema", [False, True])
def test_training_is_not_disturbed(tmp_path, every, ema):
    """A run with the callback and a run without it train bit-identical weights."""
    runs = []
    for callbacks in ([], [JYSScheduleCallback((2,), optimizer=Spy(), num_samples=16, **every)]):
        if ema:
            callbacks = [EMAWeightAveraging(decay=0.9), *callbacks]
        model = module()
        torch.manual_seed(1)
        trainer(tmp_path, *callbacks).fit(model, data(), data(16))
        runs.append(model.state_dict())
        assert callbacks[-1:] == [] or ema or callbacks[-1].history
    for name, value in runs[0].items():
        assert torch.equal(value, runs[1][name]), name


def test_averaged_weights_are_measured(tmp_path):
    """The optimizer sees the EMA weights, in eval mode and without gradients."""
    spy, ema = Spy(), EMAWeightAveraging(decay=0.5)
    callback = JYSScheduleCallback((2,), optimizer=spy, every_n_steps=4, num_samples=16)
    model = module()
    trainer(tmp_path, ema, callback, epochs=1).fit(model, data())
    (weights, training, num_rows, grad) = spy.seen[-1]
    # on_train_end has copied the average of the last step into the model.
    assert torch.equal(weights, torch.cat([p.flatten() for p in model.denoiser.parameters()]))
    assert (training, num_rows, grad) == (False, 16, False)
    assert model.training


@pytest.mark.parametrize(
    ("every", "steps"),
    [({"every_n_steps": 3}, [3, 6]), ({"every_n_epochs": 1}, [4, 8]), ({"every_n_epochs": 2}, [8])],
)
def test_period(tmp_path, every, steps):
    """Updates come after exactly the steps or epochs asked for; 4 batches are an epoch here."""
    callback = JYSScheduleCallback((2, 3), optimizer=Spy(), num_samples=16, **every)
    trainer(tmp_path, callback).fit(module(), data(), data(16))
    assert [h["step"] for h in callback.history[::2]] == steps
    assert [h["num_steps"] for h in callback.history] == [2, 3] * len(steps)


@pytest.mark.parametrize(
    ("every", "settings", "steps"),
    [
        (1, {}, [4, 8, 12, 16]),  # no validation at all
        (3, {"check_val_every_n_epoch": 2}, [12]),
        (2, {"val_check_interval": 2}, [8, 16]),  # before the last validation of the epoch
    ],
)
def test_epochs_without_or_with_many_validations(tmp_path, every, settings, steps):
    """There is one update in every n-th epoch, wherever validations are."""
    callback = JYSScheduleCallback((2,), optimizer=Spy(), num_samples=16, every_n_epochs=every)
    loaders = (data(), data(16)) if settings else (data(),)
    trainer(tmp_path, callback, epochs=4, **settings).fit(module(), *loaders)
    assert [h["step"] for h in callback.history] == steps


@pytest.mark.parametrize("optimizer", [Spy(), JumpYourSteps(num_probes=2)])
def test_schedules_around_a_prompt(tmp_path, monkeypatch, optimizer):
    """Given tokens of training batches are handed on, with a table or without."""
    seen = []
    table = OptimalSteps.table

    def spied(*args, free=None, **settings):
        seen.append(free)
        return table(*args, free=free, **settings)

    monkeypatch.setattr(OptimalSteps, "table", spied)
    mask = torch.arange(L) >= 3
    rows = [row | {"free": mask} for row in data().dataset]
    callback = JYSScheduleCallback((2,), optimizer=optimizer, every_n_steps=4, num_samples=16)
    trainer(tmp_path, callback, epochs=1).fit(module(), DataLoader(rows, batch_size=16))
    assert len(callback.history) == len(seen) == 1
    assert torch.equal(seen[0], mask.expand(16, -1))


def test_budget():
    """Updates make at most their share of the calls of training, but measure 16 at least.

    A sequence of training counts three calls: 1,000 of them allow 60 of 2 %, 20 of 3 calls.
    """
    budget = Budget(0.02, 64, 100)
    assert budget.num_sequences == 16
    budget.spend(16, 3)
    budget.train(1000)
    assert budget.num_sequences == 16  # 12 calls are left
    budget.train(1000)
    assert budget.num_sequences == (120 - 48) // 3
    again = Budget(0.02, 64, 100)
    again.load_state_dict(budget.state_dict())
    budget.spend(24, 3)
    assert (budget.num_sequences, again.num_sequences) == (16, 24)
    again.train(10**6)
    assert again.num_sequences == 64
    assert Budget(0.02, 8, 3).num_sequences == 8


def test_updates_keep_within_their_share(tmp_path):
    """Every update measures what is left of the calls: 10 per sequence against 192 in 4 steps."""
    spy = Spy()
    callback = JYSScheduleCallback(
        (2,), optimizer=spy, every_n_steps=4, num_samples=64, max_share=1.0
    )
    # The price of `OptimalSteps` until that of the spy is known, 10.
    trainer(tmp_path, callback, epochs=2).fit(module(), data(128))
    sizes = [16]
    for _ in range(3):
        allowed = 3 * 64 * (len(sizes) + 1)
        sizes.append(min(max(16, (allowed - 10 * sum(sizes)) // 10), 64))
    assert [num for _, _, num, _ in spy.seen] == sizes


def test_free_positions_of_other_batches(tmp_path):
    """Without a mask all are free; `free=` finds it in batches of another make."""
    mask = torch.arange(L) >= 2
    for settings, expected in (({}, None), ({"free": lambda _: mask.expand(16, -1)}, 16 * (L - 2))):
        spy = Spy()
        callback = JYSScheduleCallback(
            (2,), optimizer=spy, every_n_steps=4, num_samples=16, **settings
        )
        trainer(tmp_path, callback, epochs=1).fit(module(), data())
        assert (None if spy.free is None else int(spy.free.sum())) == expected


@pytest.mark.parametrize(
    ("total", "steps"),
    [
        (1536, [96, 192, 384, 768, 1536]),
        (1000, [63, 125, 250, 500, 1000]),
        (3, [1, 2, 3]),
        (math.inf, [64, 128, 256, 512, 1024, 2048]),
    ],
)
def test_updates_at_every_doubling(total, steps):
    """By default there are five updates in a run of known length, the last one at its end."""
    callback = JYSScheduleCallback()

    class Run(Trainer):
        estimated_stepping_batches = total
        global_step = 0

    run, updates = Run.__new__(Run), []
    for run.global_step in range(1, 2049 if total == math.inf else total + 1):
        if callback.should_update(run, run.global_step - 1):
            updates.append(run.global_step)
    assert updates == steps


def test_another_policy(tmp_path):
    """When to update is one method, which is asked once after every optimizer step."""
    asked = []

    class Mine(JYSScheduleCallback):
        def should_update(self, trainer, previous_step):
            asked.append((previous_step, trainer.global_step))
            return trainer.global_step == 3

    callback = Mine((2,), optimizer=Spy(), num_samples=16)
    trainer(tmp_path, callback, epochs=2, accumulate_grad_batches=2).fit(module(), data())
    assert asked == [(0, 1), (1, 2), (2, 3), (3, 4)]
    assert [h["step"] for h in callback.history] == [3]


def test_gradient_accumulation_updates_once_per_step(tmp_path):
    """Micro batches of one optimizer step do not repeat an update, and step 0 has none."""
    callback = JYSScheduleCallback((2,), optimizer=Spy(), num_samples=16, every_n_steps=1)
    trainer(tmp_path, callback, accumulate_grad_batches=2, epochs=1).fit(module(), data())
    assert [h["step"] for h in callback.history] == [1, 2]


def test_module_samples_with_the_schedules(tmp_path):
    """The module's schedule is the callback's; other N come from the table."""
    callback = JYSScheduleCallback(
        (3,), optimizer=OptimalSteps(**SMALL), num_samples=16, every_n_epochs=1
    )
    model = module()
    trainer(tmp_path, callback, epochs=1).fit(model, data(), data(16))
    assert model.schedule(3) == callback.optimized.schedules[3]
    assert model.schedule(5) == callback.optimized.table.schedule(5)
    assert JYSScheduleCallback((3,)).schedule(3) == SamplingSchedule.uniform(3)


def test_uniform_is_logged_beside(tmp_path):
    """Validation logs the metrics of the current schedules and those of uniform ones.

    The schedule is found for the exact denoiser of the data: a network that has seen 4 batches
    knows nothing of dependence, and uniform times are right to win with it.
    """
    process = ForwardProcess(Uniform(V), LogLinear())
    oracle = MarkovChainDenoiser(process, *countdown_chain(V))
    callback = JYSScheduleCallback(
        (3,),
        optimizer=OptimalSteps(num_times=16, pilot_times=8),
        num_samples=512,
        max_share=10.0,
        every_n_epochs=1,
        denoiser=lambda module: oracle,
    )
    run = trainer(tmp_path, callback, SampleLogger(2, [3]), epochs=1)
    values = CountDown(V, L, num_samples=512, num_val=16, batch_size=64)
    run.fit(module(), values)
    assert callback.schedule(3).source == "optimal"
    logged = {k for k in run.callback_metrics if k.startswith("samples/countdown_error")}
    assert logged == {"samples/countdown_error_3", "samples/countdown_error_3_uniform"}


def test_jump_your_steps_as_optimizer(tmp_path):
    """Any optimizer will do; one without a table is judged by a table all the same."""
    callback = JYSScheduleCallback((4,), optimizer=JumpYourSteps(), num_samples=16, every_n_steps=4)
    trainer(tmp_path, callback, epochs=1).fit(module(), data())
    assert set(callback.history[-1]["costs"]) == {"uniform", "cosine", "new"}
    assert callback.schedule(4).num_steps == 4


def test_judge(tmp_path):
    """It has the batch size of the optimizer, or is the one that is given."""
    assert JYSScheduleCallback(optimizer=JumpYourSteps(batch_size=4)).judge.batch_size == 4
    judge = OptimalSteps(2.0, **SMALL)
    callback = JYSScheduleCallback(
        (2,), optimizer=JumpYourSteps(num_probes=2), judge=judge, num_samples=16, every_n_epochs=1
    )
    trainer(tmp_path, callback, epochs=1).fit(module(), data())
    assert callback.optimized.table.gamma == 2.0


def test_density_of_uniform_steps():
    """A constant density is 1 in every bin, whatever the grid."""
    times = np.linspace(0, 1, 8) ** 2
    assert binned_density(np.full(7, 3.0), times) == pytest.approx([1.0] * 32, abs=1e-4)
    assert binned_density(np.zeros(7), times) == [1.0] * 32


def test_every_update_says_what_it_does(tmp_path, caplog):
    """There is a line before and one after, and the time it took includes drawing."""
    clock = [0.0]

    def draw(*_):
        clock[0] += 5

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ddm.callbacks.report.time", SimpleNamespace(monotonic=lambda: clock[0]))
        patch.setattr("ddm.callbacks.report.log_pictures", draw)
        callback = JYSScheduleCallback(
            (2,), optimizer=OptimalSteps(**SMALL), num_samples=16, every_n_epochs=1
        )
        with caplog.at_level("INFO"):
            trainer(tmp_path, callback, epochs=1).fit(module(), data())
    said = [record.getMessage() for record in caplog.records]
    winner = callback.history[0]["winner"]
    (first,) = (k for k, text in enumerate(said) if "Step 4: optimizing the schedules" in text)
    assert "Step 4: 5.0 s, kept per number of steps" in said[first + 1]
    assert f"2: {winner} (" in said[first + 1]
    assert any("Optimizing schedules took 5.0 s, 100.0% of training" in text for text in said)
    assert callback.history[0]["seconds"] == 5.0


def test_state_survives_resume(tmp_path):
    """Schedules, table and history come back from a checkpoint, and training goes on with them."""

    def callback():
        return JYSScheduleCallback((2,), optimizer=OptimalSteps(**SMALL), num_samples=16)

    first = callback()
    run = trainer(tmp_path, first, epochs=1)
    run.fit(module(), data(), data(16))
    run.save_checkpoint(tmp_path / "a.ckpt")
    second = callback()
    trainer(tmp_path, second, epochs=2).fit(
        module(), data(), data(16), ckpt_path=tmp_path / "a.ckpt"
    )
    assert second.history[:-1] == first.history
    assert [h["step"] for h in second.history] == [1, 2, 4, 8]
    assert second.state_dict()["budget"] == {"trained": 8 * 16, "spent": 4 * 160, "price": 10}
    assert set(second.history[-1]["costs"]) == {"uniform", "cosine", "previous", "new"}


def test_smoothing_mixes_times(tmp_path):
    """With smoothing a the new candidate is a times the old plus 1 - a times the found schedule."""

    class Fixed(ScheduleOptimizer):
        schedules = iter([(1.0, 0.8, 0.0), (1.0, 0.4, 0.0)])

        def __call__(self, denoiser, sampler, x_0, num_steps, **settings):
            table = OptimalSteps(**SMALL).table(denoiser, sampler, x_0, **settings)
            return Optimized({2: SamplingSchedule(next(self.schedules))}, 0, table)

    callback = JYSScheduleCallback(
        (2,), optimizer=Fixed(), num_samples=16, smoothing=0.25, every_n_epochs=1
    )
    seen = []
    choose = "ddm.callbacks.update.choose"
    with pytest.MonkeyPatch.context() as patch:

        def newest(table, new, previous, evidence):
            from ddm.schedules import Decision

            seen.append(new.times[1])
            return Decision("new", new, {"new": 1.0}, 0.0, 0.0, 0.5)

        patch.setattr(choose, newest)
        trainer(tmp_path, callback).fit(module(), data(), data(16))
    assert seen == pytest.approx([0.8, 0.25 * 0.8 + 0.75 * 0.4])


def test_tensorboard_views(tmp_path):
    """One overview, the costs, gains and time in few tags, and the decisions in words.

    Their section stands before that of the samples.
    """
    callback = JYSScheduleCallback(
        (2, 4), optimizer=OptimalSteps(**SMALL), num_samples=16, every_n_epochs=1
    )
    logger = TensorBoardLogger(tmp_path)
    trainer(tmp_path, callback, logger=logger).fit(module(), data(), data(16))
    events = EventAccumulator(logger.log_dir).Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {f"{SECTION}/overview", f"{SECTION}/cost"}
    names = ("gain_2", "gain_4", "seconds", "share_of_training_time")
    ours = {tag for tag in tags["scalars"] if tag.startswith(SECTION)}
    assert ours == {f"{SECTION}/{name}" for name in names}
    assert SECTION < "samples"
    layout, tag = sorted(tags["tensors"])
    assert layout == "custom_scalars__config__"
    words = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    assert f"| {callback.history[-1]['num_steps']} | {callback.history[-1]['winner']} |" in words
    calls = [entry["num_calls"] for entry in callback.history[::2]]
    assert calls == [SMALL["num_times"] + SMALL["pilot_times"]] * 2
    settings = Path(logger.log_dir, "hparams.yaml").read_text()
    assert "OptimalSteps(gamma=0.5, num_times=6, pilot_times=4)" in settings
    assert "learning_rate: 0.01" in settings
    assert "kernel: Uniform" in settings


def test_hyperparameters_are_shown_with_metrics(tmp_path):
    """TensorBoard lists settings beside the names of metrics, and no metric has a made-up value."""
    callback = JYSScheduleCallback((2,), optimizer=OptimalSteps(**SMALL), num_samples=16)
    logger = TensorBoardLogger(tmp_path)
    run = trainer(tmp_path, callback, SampleLogger(2, [3]), epochs=1, logger=logger)
    data = CountDown(V, L, num_samples=64, num_val=16, batch_size=16)
    run.fit(module(), datamodule=data)
    events = EventAccumulator(logger.log_dir).Reload()
    metadata = events.SummaryMetadata("_hparams_/experiment")
    content = HParamsPluginData.FromString(metadata.plugin_data.content).experiment
    metrics = {info.name.tag for info in content.metric_infos}
    assert {"val/bits_per_token", "samples/countdown_error_3", f"{SECTION}/gain_2"} <= metrics
    assert {"kernel", "noise", "network", "learning_rate"} <= {h.name for h in content.hparam_infos}
    scalars = events.Tags()["scalars"]
    assert "hp_metric" not in scalars
    assert len(events.Scalars("val/bits_per_token")) == 1


def test_other_loggers(tmp_path):
    """A logger with `log_image`, such as that of W&B, gets the same pictures and numbers.

    One that has a folder and shows nothing, such as that for CSV, gets them as files.
    """
    shown, numbers = [], []

    class Foreign(CSVLogger):
        def log_image(self, key, images, step):
            shown.append((key, images[0].size, step))

        def log_metrics(self, metrics, step):
            numbers.extend(metrics)

    callback = JYSScheduleCallback(
        (2,), optimizer=OptimalSteps(**SMALL), num_samples=16, every_n_epochs=1
    )
    run = trainer(tmp_path, callback, epochs=1, logger=[Foreign(tmp_path), CSVLogger(tmp_path)])
    run.fit(module(), data())
    sizes = {"overview": (600, 468), "cost": (600, 660)}
    assert shown == [(f"{SECTION}/{name}", size, 4) for name, size in sizes.items()]
    folder = Path(run.loggers[1].log_dir, SECTION)
    assert {path.name for path in folder.iterdir()} == {"overview.png", "cost.png", "decisions.md"}
    assert f"{SECTION}/gain_2" in numbers


def test_exponent_by_samples(tmp_path):
    """The exponent that samples choose is in the state, in words and a curve of its own."""
    select = BySamples(num_samples=8)
    callback = JYSScheduleCallback(
        (2, 4), optimizer=OptimalSteps(**SMALL, select=select), num_samples=16, every_n_epochs=1
    )
    logger = TensorBoardLogger(tmp_path)
    trainer(tmp_path, callback, logger=logger).fit(module(), data())
    evidence = callback.optimized.evidence
    assert evidence.winner in (f"gamma {callback.optimized.table.gamma:g}", "uniform")
    near = min("uniform", evidence.winner, key=evidence.distances.get)
    kept = "uniform" if near == "uniform" else "new"
    assert {row["winner"] for row in callback.updates[-1]["schedules"]} == {kept}
    again = JYSScheduleCallback((2, 4))
    again.load_state_dict(callback.state_dict())
    assert again.optimized.evidence == evidence
    events = EventAccumulator(logger.log_dir).Reload()
    assert events.Scalars(f"{SECTION}/gamma")[-1].value == callback.optimized.table.gamma
    tag = sorted(events.Tags()["tensors"])[1]
    words = events.Tensors(tag)[-1].tensor_proto.string_val[0].decode()
    assert f"Chosen by samples: {evidence}." in words


def test_overview():
    """Every number of steps gets a panel, up to six, with one update or many, with any winner."""
    names = ("uniform", "cosine", "new", "previous")
    updates = [
        {
            "step": 2**k,
            "density": [1.0] * 32,
            "schedules": [
                {
                    "num_steps": n,
                    "times": list(SamplingSchedule.cosine(n).times),
                    "winner": names[(k + n) % 4],
                    "gain": 0.1 * (n % 2),
                }
                for n in range(1, 10)
            ],
        }
        for k in range(5)
    ]
    for some in (updates, updates[:1]):
        axes = plot_overview(some).axes
        assert len(axes) == 6
        assert [a.get_title(loc="left").split()[0] for a in axes] == ["1", "3", "4", "6", "7", "9"]
    one = [update | {"schedules": update["schedules"][:1]} for update in updates]
    assert len(plot_overview(one).axes) == 1
    three = [update | {"schedules": update["schedules"][:3]} for update in updates]
    axes = plot_overview(three).axes  # the second one stands above a gap
    labeled = [a.xaxis.get_tick_params()["labelbottom"] for a in axes]
    assert labeled == [False, True, True]


def test_overview_of_many_steps():
    """Of 100 steps as many lines are drawn as can be told apart, and the panel says how many."""
    times = list(SamplingSchedule.uniform(100).times)
    row = {"num_steps": 100, "times": times, "winner": "new", "gain": 1.05}
    update = {"step": 1, "density": [1.0] * 32, "schedules": [row]}
    (axes,) = plot_overview([update]).axes
    drawn = [line.get_ydata()[0] for line in axes.lines]
    assert drawn == pytest.approx([1 - k / 100 for k in range(4, 100, 4)])
    assert [text.get_text() for text in axes.texts] == ["1 of 4 steps"]
    assert axes.get_title(loc="left") == "100 steps: 100% less cost"  # and no more


def test_picture_of_costs():
    """What costs next to nothing by chance presses no other cost together, and has no label."""
    updates = [
        {
            "step": step,
            "schedules": [
                {"num_steps": n, "winner": "new", "costs": {"uniform": 9.0, "new": cost}}
                for n, cost in ((4, 8.0), (8, 1e-6), (16, -1.0))
            ],
        }
        for step in (1, 2)
    ]
    table = create_autospec(CostTable, instance=True)
    table.cost.return_value = 1e-9
    above, below = plot_update_costs(updates, table).axes
    for axes in (above, below):
        low, high = axes.get_ylim()
        assert low == pytest.approx(0.009)
        assert high > 9
    assert [text.get_text() for text in below.texts] == ["4 steps"]


def test_history_is_bounded():
    """Of 10,000 updates few are held and drawn: the first, the last, and some between."""
    history, shown = UpdateHistory(), 0
    for step in range(1, 10_001):
        history.add({"step": step})
        shown += history.worth_showing
    steps = [update["step"] for update in history.updates]
    assert len(steps) <= 64
    assert (steps[0], steps[-1]) == (1, 10_000)
    assert steps == sorted(steps)
    assert shown <= 8 + 4 * 11


class SomebodyElses(LightningModule):
    """A module that knows nothing of this project but its own network."""

    def __init__(self):
        super().__init__()
        self.network = MLP(V, length=L, dim=16, depth=1)

    def training_step(self, batch, batch_idx):
        process = ForwardProcess(Uniform(V), LogLinear())
        t = stratified_times(len(batch["tokens"]))
        return NELBO()(MeanDenoiser(self.network, process), batch["tokens"], t).mean()

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters())


def test_in_somebody_elses_trainer(tmp_path):
    """With a function that makes the denoiser it works around any module; without, it says so."""
    process = ForwardProcess(Uniform(V), LogLinear())
    callback = JYSScheduleCallback(
        (2, 5),
        denoiser=lambda m: MeanDenoiser(m.network, process),
        optimizer=OptimalSteps(**SMALL),
        every_n_steps=4,
        num_samples=16,
    )
    trainer(tmp_path, callback, epochs=1).fit(SomebodyElses(), data())
    assert callback.schedule(5).num_steps == 5
    with pytest.raises(ValueError, match=r"`denoiser` must say .* out of `SomebodyElses`"):
        trainer(tmp_path, JYSScheduleCallback((2,))).fit(SomebodyElses(), data())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": ()}, "`num_steps` must hold at least one"),
        ({"num_steps": (4, 0)}, "`num_steps` must be at least 1, got 0"),
        ({"num_samples": 5}, "`num_samples` must be at least 8, got 5"),
        ({"every_n_steps": 0}, "`every_n_steps` must be at least 1, got 0"),
        ({"max_share": 0.0}, "`max_share` must be positive, got 0.0"),
        ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\), got 1.0"),
        ({"every_n_steps": 1, "every_n_epochs": 1}, "must not both be given"),
    ],
)
def test_bad_arguments(arguments, message):
    """Bad arguments are refused at construction."""
    with pytest.raises(ValueError, match=message):
        JYSScheduleCallback(**arguments)


def test_ranks_agree(tmp_path):
    """Two processes measure their own shards and hold the same schedules and table.

    Before, an update fails that one process cannot begin, one that raises an error in one process,
    and one whose network does: none hangs, and none is made by a part of the processes. The bound
    is that of one process, whatever the batches.
    """
    script = Path(__file__).with_name("ddp_schedule.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [Optimized.load(tmp_path / f"rank{r}.json") for r in range(2)]
    assert found[0].schedules == found[1].schedules
    for name in ("excess", "standard_error", "retention"):
        assert (getattr(found[0].table, name) == getattr(found[1].table, name)).all()
    assert found[0].table.num_samples + found[0].table.num_held_out == 16
    runs = [read_json(tmp_path / f"run{r}.json") for r in range(2)]
    assert [run["steps"] for run in runs] == [[4, 4]] * 2
    told = ("training has seen 6", "process 1: ValueError: one process", "process 1: KeyError")
    assert len(runs[0]["warnings"]) == 3
    for step, (words, text) in enumerate(zip(told, runs[0]["warnings"], strict=True), 1):
        assert f"not updated at step {step}" in text
        assert words in text
    model = make_model()
    model.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    (alone,) = trainer(tmp_path).validate(model, DataLoader(count_up(20), batch_size=3))
    for name in ("val/bits_per_token", "val/bits_per_token_error"):
        assert runs[0]["metrics"][name] == pytest.approx(alone[name], rel=1e-5)
