"""When schedules are due for an update."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

FIRST = 16
"""The first update is due after this fraction of training, the next ones after each doubling."""


def due(
    trainer: Trainer,
    previous_step: int,
    *,
    every_n_epochs: int | None = None,
    every_n_steps: int | None = None,
) -> bool:
    """Return whether an update is due after an optimizer step.

    With neither period they are due after 1/16, 1/8, 1/4, 1/2 and all of the training.

    Args:
        trainer: Its `global_step` counts the step just made.
        previous_step: The value of `global_step` when this was asked before.
        every_n_epochs: At the end of every n-th epoch, before its last validation.
        every_n_steps: After every n-th optimizer step; it comes first.
    """
    step = trainer.global_step
    if every_n_steps is not None:
        return step // every_n_steps > previous_step // every_n_steps
    if every_n_epochs is not None:
        ended = trainer.is_last_batch or step == trainer.max_steps
        return ended and (trainer.current_epoch + 1) % every_n_epochs == 0
    total = _total_steps(trainer)
    before, now = ((FIRST * n // total).bit_length() for n in (previous_step, step))
    return before < now


def _total_steps(trainer: Trainer) -> int:
    """Return the number of optimizer steps of the whole run, or 1,024 if it is not known."""
    try:
        total = trainer.estimated_stepping_batches
    except MisconfigurationException:  # gradient accumulation that changes on the way
        return 1024
    return 1024 if math.isinf(total) else max(1, int(total))
