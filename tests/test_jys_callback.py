"""The schedule callback: it changes the schedules and nothing else."""

import math
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from ddm.backbones import MLP, Transformer
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.datamodules import CountDown
from ddm.datamodules.countdown import countdown_chain
from ddm.denoisers import MarkovChainDenoiser, MeanDenoiser
from ddm.functional import stratified_times
from ddm.kernels import Uniform
from ddm.losses import NELBO
from ddm.module import DiscreteDiffusion
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.schedules import (
    JumpYourSteps,
    OptimalSteps,
    Optimised,
    SamplingSchedule,
    ScheduleOptimizer,
)
from ddm.schedules.optimizer import schedules_beside

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
    """An optimiser that remembers what it was called with."""

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
        torch.rand(3)  # a careless optimiser or network may draw from the global state
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
    """The optimiser sees the EMA weights, in eval mode and without gradients."""
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
        (2, {"val_check_interval": 2}, [6, 14]),  # at the first validation of the epoch
    ],
)
def test_epochs_without_or_with_many_validations(tmp_path, every, settings, steps):
    """There is one update in every n-th epoch, wherever validations are."""
    callback = JYSScheduleCallback((2,), optimizer=Spy(), num_samples=16, every_n_epochs=every)
    loaders = (data(), data(16)) if settings else (data(),)
    trainer(tmp_path, callback, epochs=4, **settings).fit(module(), *loaders)
    assert [h["step"] for h in callback.history] == steps


def test_no_memory_is_no_end(tmp_path):
    """Where the device fails, training goes on with the old schedules."""

    class Fails(Spy):
        def __call__(self, *args, **kwargs):
            raise torch.OutOfMemoryError("no memory left")

    callback = JYSScheduleCallback((2,), optimizer=Fails(), num_samples=16)
    with pytest.warns(UserWarning, match="not updated at step 4.*no memory left"):
        trainer(tmp_path, callback, epochs=1).fit(module(), data())
    assert callback.schedule(2) == SamplingSchedule.uniform(2)


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


def test_gradient_accumulation_updates_once_per_step(tmp_path):
    """Micro batches of one optimiser step do not repeat an update, and step 0 has none."""
    callback = JYSScheduleCallback((2,), optimizer=Spy(), num_samples=16, every_n_steps=1)
    trainer(tmp_path, callback, accumulate_grad_batches=2, epochs=1).fit(module(), data())
    assert [h["step"] for h in callback.history] == [1, 2]


def test_module_samples_with_the_schedules(tmp_path):
    """The module's schedule is the callback's; other N come from the table."""
    callback = JYSScheduleCallback((3,), optimizer=OptimalSteps(**SMALL), num_samples=16)
    model = module()
    trainer(tmp_path, callback, epochs=1).fit(model, data(), data(16))
    assert model.schedule(3) == callback.optimised.schedules[3]
    assert model.schedule(5) == callback.optimised.table.schedule(5)
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
        num_samples=256,
        denoiser=lambda module: oracle,
    )
    run = trainer(tmp_path, callback, SampleLogger(2, [3]), epochs=1)
    values = CountDown(V, L, num_samples=256, num_val=16, batch_size=64)
    run.fit(module(), values)
    assert callback.schedule(3).source == "optimal"
    logged = {k for k in run.callback_metrics if k.startswith("samples/countdown_error")}
    assert logged == {"samples/countdown_error_3", "samples/countdown_error_3_uniform"}


def test_jump_your_steps_as_optimizer(tmp_path):
    """Any optimiser will do; one without a table is judged by a table all the same."""
    callback = JYSScheduleCallback((4,), optimizer=JumpYourSteps(), num_samples=16, every_n_steps=4)
    trainer(tmp_path, callback, epochs=1).fit(module(), data())
    assert set(callback.history[-1]["costs"]) == {"uniform", "cosine", "new"}
    assert callback.schedule(4).num_steps == 4


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
    assert second.history[:1] == first.history
    assert [h["step"] for h in second.history] == [4, 8]
    assert set(second.history[1]["costs"]) == {"uniform", "cosine", "previous", "new"}


def test_files_beside_checkpoints(tmp_path):
    """Beside every checkpoint lies a JSON file with schedules and table."""
    callback = JYSScheduleCallback((2,), optimizer=OptimalSteps(**SMALL), num_samples=16)
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, save_last=True)
    trainer(tmp_path, callback, saver, enable_checkpointing=True).fit(module(), data(), data(16))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == 3
    for path in checkpoints:
        found = Optimised.load(schedules_beside(path))
        assert found.schedule(2).num_steps == 2
        assert found.schedule(7).num_steps == 7
    last = Optimised.load(schedules_beside(tmp_path / "last.ckpt"))
    assert last.schedules == callback.optimised.schedules


def test_unwritable_directory_is_a_warning(tmp_path, monkeypatch):
    """Training does not die of a file that cannot be written."""

    def refuse(self, path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Optimised, "save", refuse)
    callback = JYSScheduleCallback((2,), optimizer=OptimalSteps(**SMALL), num_samples=16)
    run = trainer(tmp_path, callback, ModelCheckpoint(tmp_path), enable_checkpointing=True)
    with pytest.warns(UserWarning, match="cannot be written, training goes on"):
        run.fit(module(), data(), data(16))
    assert run.global_step == 8


def test_nan_keeps_the_old_schedule(tmp_path):
    """A network that returns NaN costs an update, not the run; time and count are named."""
    callback = JYSScheduleCallback((2,), optimizer=OptimalSteps(**SMALL), num_samples=16)
    model = module()
    trainer(tmp_path, callback, epochs=1).fit(model, data(), data(16))
    before = callback.schedule(2)
    with torch.no_grad():
        next(model.denoiser.backbone.parameters()).fill_(math.nan)
    again = trainer(tmp_path, callback, epochs=1)
    with pytest.warns(UserWarning, match=r"old ones stay: .*NaN or infinite values .* at t = "):
        again.fit(model, data(), data(16))
    assert callback.schedule(2) == before


def test_smoothing_mixes_times(tmp_path):
    """With smoothing a the new candidate is a times the old plus 1 - a times the found schedule."""

    class Fixed(ScheduleOptimizer):
        schedules = iter([(1.0, 0.8, 0.0), (1.0, 0.4, 0.0)])

        def __call__(self, denoiser, sampler, x_0, num_steps, **settings):
            table = OptimalSteps(**SMALL).table(denoiser, sampler, x_0, **settings)
            return Optimised({2: SamplingSchedule(next(self.schedules))}, 0, table)

    callback = JYSScheduleCallback((2,), optimizer=Fixed(), num_samples=16, smoothing=0.25)
    seen = []
    choose = "ddm.callbacks.jys_schedule.choose"
    with pytest.MonkeyPatch.context() as patch:

        def newest(table, new, previous):
            from ddm.schedules import Decision

            seen.append(new.times[1])
            return Decision("new", new, {"new": 1.0}, 0.0, 0.0, 0.5)

        patch.setattr(choose, newest)
        trainer(tmp_path, callback).fit(module(), data(), data(16))
    assert seen == pytest.approx([0.8, 0.25 * 0.8 + 0.75 * 0.4])


def test_tensorboard_views(tmp_path):
    """Evolution, cost curve, density, gains, costs and decisions arrive in TensorBoard."""
    callback = JYSScheduleCallback((2, 4), optimizer=OptimalSteps(**SMALL), num_samples=16)
    logger = TensorBoardLogger(tmp_path)
    trainer(tmp_path, callback, logger=logger).fit(module(), data(), data(16))
    events = EventAccumulator(logger.log_dir).Reload()
    images, scalars = set(events.Tags()["images"]), set(events.Tags()["scalars"])
    assert images >= {
        "schedule/evolution/2_steps",
        "schedule/evolution/4_steps",
        "schedule/cost",
        "schedule/density",
    }
    for n in (2, 4):
        names = ("predicted_gain", "kept", "cost_uniform", "cost_cosine", "cost_new")
        assert scalars >= {f"schedule/{name}/{n}_steps" for name in names}
    assert scalars >= {"schedule/seconds", "schedule/network_calls"}
    calls = [e.value for e in events.Scalars("schedule/network_calls")]
    assert calls == [SMALL["num_times"] + SMALL["pilot_times"]] * 2
    settings = Path(logger.log_dir, "hparams.yaml").read_text()
    assert "OptimalSteps(gamma=0.5, num_times=6, pilot_times=4)" in settings


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
        ({"num_steps": ()}, "`num_steps` must be at least 1"),
        ({"num_steps": (4, 0)}, "`num_steps` must be at least 1, got 0"),
        ({"num_samples": 5}, "`num_samples` must be at least 8, got 5"),
        ({"every_n_steps": 0}, "`every_n_steps` must be at least 1, got 0"),
        ({"smoothing": 1.0}, r"`smoothing` must be in \[0, 1\), got 1.0"),
        ({"every_n_steps": 1, "every_n_epochs": 1}, "must not both be given"),
    ],
)
def test_bad_arguments(arguments, message):
    """Bad arguments are refused at construction."""
    with pytest.raises(ValueError, match=message):
        JYSScheduleCallback(**arguments)


def test_bad_batches_are_refused(tmp_path):
    """Batches whose tokens are no integers of shape (B, L) are refused by name."""
    callback = JYSScheduleCallback((2,), tokens=lambda batch: batch["tokens"].float())
    with pytest.raises(TypeError, match=r"`tokens` must be integers, got torch\.float32"):
        trainer(tmp_path, callback, epochs=1).fit(module(), data())


def test_ranks_agree(tmp_path):
    """Two processes measure their own shards and hold the same schedules and table."""
    import subprocess
    import sys

    script = Path(__file__).with_name("ddp_schedule.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [Optimised.load(tmp_path / f"rank{r}.json") for r in range(2)]
    assert found[0].schedules == found[1].schedules
    for name in ("excess", "standard_error", "retention"):
        assert (getattr(found[0].table, name) == getattr(found[1].table, name)).all()
    assert found[0].table.num_samples + found[0].table.num_held_out == 32
