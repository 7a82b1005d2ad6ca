"""What a run does with its checkpoints where it goes on with another one, or is stopped early."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from ddm.commands.closing import last_checkpoint

STOPPED = 128 + signal.SIGTERM
"""The status of a run that SIGTERM has stopped, 143, as shells report it."""


class GoingOn(Callback):
    """Let a resumed run replace its own last checkpoint, and one that is stopped say so.

    Lightning writes `last-v1.ckpt` beside a `last.ckpt` that it takes for another run's, as it does
    where a run is resumed with other settings of `ModelCheckpoint`; the next command would then
    find the old weights. And a run that SIGTERM stops ends with status 0 there, as if it were
    finished. It stops between two batches, so that what was being written is whole.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count no versions of checkpoints in the folder that the run goes on in."""
        if trainer.ckpt_path is None:
            return
        here = Path(trainer.ckpt_path).resolve().parent
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and Path(callback.dirpath or "") == here:
                callback._enable_version_counter = False

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Give a stopped run its status, and say how to go on."""
        if not isinstance(exception, SIGTERMException):
            return
        exception.code = STOPPED
        if trainer.is_global_zero:
            last = last_checkpoint(trainer)
            remedy = (
                "no checkpoint was written" if last is None else f"go on with --ckpt_path={last}"
            )
            print(f"stopped by SIGTERM at step {trainer.global_step}; {remedy}", file=sys.stderr)
