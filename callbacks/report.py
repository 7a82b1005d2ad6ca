"""What a run says of the updates of its schedules: progress, numbers, pictures, time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from ddm.callbacks.door import undisturbed
from ddm.callbacks.history import UpdateHistory
from ddm.callbacks.schedule_log import log_numbers, log_pictures, open_panel, summary
from ddm.denoisers import Denoiser
from ddm.schedules import CostTable


class Report:
    """Tells the user and the loggers of a run about updates, and times them.

    Nothing that fails while it is told ends the training: it is a warning.

    Args:
        history: The updates; those that are reported are added to it.
    """

    def __init__(self, history: UpdateHistory) -> None:
        self.history = history
        self._num_shown = 0
        # Seconds of a clock: when training and the update began, and what updates took together.
        self._training = self._update = self._spent = 0.0

    def start(self) -> None:
        """Begin to measure the time of training; what a resumed run has shown is not repeated."""
        self._num_shown = self.history.num_updates
        self._training, self._spent = time.monotonic(), 0.0

    @rank_zero_only
    def open(
        self,
        trainer: Trainer,
        module: LightningModule,
        denoiser: Denoiser,
        settings: Mapping[str, Any],
        num_steps: Sequence[int],
    ) -> None:
        """Log the settings and lay out the charts, see `open_panel`."""
        try:
            with undisturbed(trainer, module):
                open_panel(trainer, module, denoiser, settings, num_steps)
        except Exception as error:
            rank_zero_warn(f"Settings cannot be logged, training goes on: {error}")

    def begin(self, step: int, num_steps: Sequence[int]) -> None:
        """Say that an update begins: it may take a while."""
        self._update = time.monotonic()
        numbers = ", ".join(map(str, num_steps))
        rank_zero_info(f"Step {step}: optimizing the schedules of {numbers} steps ...")

    def fail(self, step: int, error: Exception) -> None:
        """Say why there is no update."""
        self._spent += time.monotonic() - self._update
        rank_zero_warn(f"Schedules are not updated at step {step}, the old ones stay: {error}")

    def finish(self, trainer: Trainer, update: dict[str, Any], table: CostTable) -> None:
        """Add an update to the history and say what it decided; its seconds are filled in."""
        self.history.add(update)
        if self.history.worth_showing:
            self._show(trainer, table)
        update["seconds"] = time.monotonic() - self._update
        self._spent += update["seconds"]
        gains = {f"gain_{row['num_steps']}": row["gain"] for row in update["schedules"]}
        gamma = {"gamma": table.gamma} if "evidence" in update else {}
        self._log(trainer, gains | gamma | {"seconds": update["seconds"]} | self._share())
        rank_zero_info(f"Step {update['step']}: {update['seconds']:.1f} s, {summary(update)}")

    def end(self, trainer: Trainer, table: CostTable | None) -> None:
        """Show the last update, and say what all of them have cost."""
        begin = time.monotonic()
        if table is not None and self.history.num_updates > self._num_shown:
            self._show(trainer, table)
        self._spent += time.monotonic() - begin
        share = self._share()
        self._log(trainer, share)
        (value,) = share.values()
        rank_zero_info(f"Optimizing schedules took {self._spent:.1f} s, {value:.1%} of training.")

    def _share(self) -> dict[str, float]:
        elapsed = max(time.monotonic() - self._training, 1e-9)
        return {"share_of_training_time": self._spent / elapsed}

    @rank_zero_only
    def _show(self, trainer: Trainer, table: CostTable) -> None:
        self._num_shown = self.history.num_updates
        try:
            log_pictures(trainer, self.history.updates, table)
        except Exception as error:
            rank_zero_warn(f"Schedules cannot be drawn, training goes on: {error}")

    @rank_zero_only
    def _log(self, trainer: Trainer, numbers: Mapping[str, float]) -> None:
        try:
            log_numbers(trainer, numbers)
        except Exception as error:
            rank_zero_warn(f"Schedules cannot be logged, training goes on: {error}")
