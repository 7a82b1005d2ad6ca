"""The last words of a training run: what was found, where it is, and what to do next."""

from __future__ import annotations

import shlex
from pathlib import Path

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from ddm.schedules import Optimized, SamplingSchedule
from ddm.schedules.optimizer import schedules_beside
from ddm.trust import class_paths

ENOUGH = 128
"""Sequences from which more of them no longer make schedules much better."""


def closing_lines(trainer: Trainer) -> list[str]:
    """Return a table of the schedules, the paths of what was written, and the next command."""
    checkpoint = last_checkpoint(trainer)
    if checkpoint is None:
        return ["no checkpoint was written"]
    lines, beside = [""], schedules_beside(checkpoint)
    name, steps = shlex.quote(str(checkpoint)) + _trust(trainer), 32
    if beside.is_file():
        found = Optimized.load(beside)
        lines += cost_lines(found)
        steps = min(found.schedules, default=steps)
        lines += [f"schedules    {beside}"]
        lines += better_lines(found, name)
    lines += [f"checkpoint   {checkpoint}"]
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            lines += [f"TensorBoard  tensorboard --logdir {shlex.quote(logger.log_dir)}"]
        elif logger.log_dir is not None:
            lines += [f"log          {logger.log_dir}"]
    return [*lines, f"next         ddm sample {name} --num-steps {steps}"]


def _trust(trainer: Trainer) -> str:
    """Return the options that let commands read a checkpoint with classes of other packages."""
    parts = (trainer.lightning_module, trainer.datamodule)  # type: ignore[attr-defined]
    settings = [dict(getattr(part, "hparams", {})) for part in parts]
    packages = {str(path).partition(".")[0] for path in class_paths(settings)}
    return "".join(f" --trust {p}" for p in sorted(packages - {"ddm", "lightning", "torch"}))


def better_lines(found: Optimized, name: str) -> list[str]:
    """Return how to find better schedules, where training has left them few sequences."""
    table = found.table
    num = ENOUGH if table is None else table.num_samples + table.num_held_out
    if num >= ENOUGH:
        return []
    steps = " ".join(str(n) for n in sorted(found.schedules))
    command = f"ddm optimize {name} --num-steps {steps}"
    return [f"better ones  {command}   # from 512 sequences, not {num}"]


def last_checkpoint(trainer: Trainer) -> Path | None:
    """Return the last checkpoint of a run, else its best one, if there is any."""
    callback = trainer.checkpoint_callback
    if isinstance(callback, ModelCheckpoint):
        for name in (callback.last_model_path, callback.best_model_path):
            if name and Path(name).is_file():
                return Path(name)
    return None


def cost_lines(found: Optimized) -> list[str]:
    """Return a table of what the schedules cost, and of the gain that held-out sequences prove."""
    if found.table is None:
        return []
    lines = [
        "excess cost in weighted nats per sequence, and the gain on sequences not searched with",
        f"{'N':>5s} {'uniform':>10s} {'kept':>10s}   gain",
    ]
    for n, schedule in sorted(found.schedules.items()):
        uniform, kept = (
            found.table.evaluate(times)
            for times in (SamplingSchedule.uniform(n).times, schedule.times)
        )
        gain, error = (schedule.info.get(name, 0.0) for name in ("gain", "gain_error"))
        proven = f"{gain:.1%} +- {error:.1%}" if gain else "none"
        lines.append(f"{n:5d} {uniform:10.4g} {kept:10.4g}   {proven}")
    return lines
