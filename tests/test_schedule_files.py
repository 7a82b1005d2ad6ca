"""Schedules travel inside of checkpoints and beside them, never with other weights."""

import shutil

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ddm.callbacks import JYSScheduleCallback
from ddm.schedules import OptimalSteps, Optimized, SamplingSchedule
from ddm.schedules.beside import save_beside, schedules_of
from ddm.schedules.optimizer import schedules_beside
from test_jys_callback import SMALL, data, module, trainer

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")


def callback(**arguments):
    """Return a callback that is quick."""
    return JYSScheduleCallback(
        (2,), optimizer=OptimalSteps(**SMALL), num_samples=16, every_n_epochs=1, **arguments
    )


def test_files_beside_checkpoints(tmp_path):
    """Beside every checkpoint lies a JSON file with schedules and table."""
    ours = callback()
    saver = ModelCheckpoint(tmp_path, save_top_k=-1, save_last=True)
    trainer(tmp_path, ours, saver, enable_checkpointing=True).fit(module(), data(), data(16))
    checkpoints = sorted(tmp_path.glob("*.ckpt"))
    assert len(checkpoints) == 3
    for path in checkpoints:
        found = Optimized.load(schedules_beside(path))
        assert found.schedule(2).num_steps == 2
        assert found.schedule(7).num_steps == 7
        assert schedules_of(path).schedules == found.schedules
        schedules_beside(path).unlink()
        assert schedules_of(path).schedules == found.schedules
    last = schedules_of(tmp_path / "last.ckpt")
    assert last.schedules == ours.optimized.schedules


def test_files_go_with_their_checkpoints(tmp_path):
    """There are as many JSON files as checkpoints, however many checkpoints were deleted."""
    saver = ModelCheckpoint(tmp_path, monitor="val/bits_per_token", save_last=True)
    run = trainer(tmp_path, callback(), saver, epochs=4, enable_checkpointing=True)
    run.fit(module(), data(), data(16))
    beside = {schedules_beside(path) for path in tmp_path.glob("*.ckpt")}
    assert len(beside) == 2
    assert set(tmp_path.glob("*.json")) == beside


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint at step 4 with schedules, saved by hand, without a JSON file."""
    folder = tmp_path_factory.mktemp("run")
    run = trainer(folder, callback(), epochs=1)
    run.fit(module(), data())
    run.save_checkpoint(folder / "by hand.ckpt")
    return folder / "by hand.ckpt"


def test_copied_checkpoints_keep_their_schedules(checkpoint, tmp_path):
    """A checkpoint that is saved by hand, copied or renamed alone has its schedules inside."""
    inside = torch.load(checkpoint, weights_only=True)["callbacks"].values()
    (expected,) = (Optimized.from_dict(s["optimized"]) for s in inside if "optimized" in s)
    moved = tmp_path / "moved.ckpt"
    shutil.copy(checkpoint, moved)
    for path in (checkpoint, moved):
        assert schedules_of(path).schedules == expected.schedules
        assert schedules_of(path).schedule(7).num_steps == 7


def test_the_key_of_older_checkpoints_is_read(checkpoint, tmp_path):
    """Version 0.1 spelled the key of the schedules in another way."""
    content = torch.load(checkpoint, weights_only=True)
    (state,) = (s for s in content["callbacks"].values() if "optimized" in s)
    state["optimised"] = state.pop("optimized")
    torch.save(content, tmp_path / "older.ckpt")
    assert schedules_of(tmp_path / "older.ckpt").schedules == schedules_of(checkpoint).schedules


def test_schedules_of_what_has_none(checkpoint, tmp_path):
    """A checkpoint without callbacks has no schedules; a text is named as what it is."""
    content = torch.load(checkpoint, weights_only=True)
    bare = tmp_path / "bare.ckpt"
    for callbacks in (None, {}, {"Other": None}):
        torch.save(content | {"callbacks": callbacks}, bare)
        assert schedules_of(bare) is None
    for text in ("", "a text\n" * 99, "\x80\x02"):
        bare.write_text(text)
        with pytest.raises(
            ValueError, match=r"`checkpoint` must be written by Lightning, but .*bare"
        ):
            schedules_of(bare)
    torch.save(content | {"callbacks": [1]}, bare)
    with pytest.raises(ValueError, match=r"`checkpoint` must be written by Lightning, but .*bare"):
        schedules_of(bare)


def test_schedules_of_other_weights_are_not_used(checkpoint, tmp_path):
    """What lies beside counts if its step is that of the checkpoint; without a stamp, if need be.

    So a run that is killed between the two files leaves no older schedules beside newer weights.
    """
    path = tmp_path / "a.ckpt"
    shutil.copy(checkpoint, path)
    inside = schedules_of(path).schedules
    other = Optimized({2: SamplingSchedule((1.0, 0.9, 0.0))})
    save_beside(other, path, 4)
    assert schedules_of(path).schedules == other.schedules
    save_beside(other, path, 3)
    with pytest.warns(UserWarning, match="written at step 3 and the checkpoint at step 4: those"):
        assert schedules_of(path).schedules == inside
    other.save(schedules_beside(path))
    assert schedules_of(path).schedules == inside
    content = torch.load(path, weights_only=True)
    torch.save(content | {"callbacks": {}}, path)
    assert schedules_of(path).schedules == other.schedules
    save_beside(other, path, 3)
    with pytest.warns(UserWarning, match="checkpoint at step 4: uniform steps"):
        assert schedules_of(path) is None
    schedules_beside(path).unlink()
    assert schedules_of(path) is None
    for missing in (tmp_path / "b.ckpt", tmp_path):
        with pytest.raises(ValueError, match="`checkpoint` must be written by Lightning"):
            schedules_of(missing)


def test_interrupted_runs_write_the_last_file(tmp_path):
    """An interrupt after a checkpoint does not leave it without its schedules."""

    class Stop(JYSScheduleCallback):
        def on_train_epoch_start(self, trainer, pl_module):
            if trainer.current_epoch == 1:
                raise ValueError("stop")

    ours = Stop((2,), optimizer=OptimalSteps(**SMALL), num_samples=16, every_n_epochs=1)
    run = trainer(tmp_path, ours, ModelCheckpoint(tmp_path), enable_checkpointing=True)
    with pytest.raises(ValueError, match="stop"):
        run.fit(module(), data())
    (path,) = tmp_path.glob("*.ckpt")
    assert Optimized.load(schedules_beside(path)).schedules == ours.optimized.schedules


def test_unwritable_directory_is_a_warning(tmp_path, monkeypatch):
    """Training does not die of a file that cannot be written."""

    def refuse(path, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ddm.schedules.beside.write_json", refuse)
    run = trainer(tmp_path, callback(), ModelCheckpoint(tmp_path), enable_checkpointing=True)
    with pytest.warns(UserWarning, match="cannot be written, training goes on"):
        run.fit(module(), data(), data(16))
    assert run.global_step == 8
