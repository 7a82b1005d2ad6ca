"""Weight averaging that has not begun: until then there is no average, only the first weights."""

from __future__ import annotations

from itertools import chain

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging


def averages(trainer: Trainer, *, begun: bool) -> list[WeightAveraging]:
    """Return the callbacks that average weights, those that have begun to or those that have not.

    One that begins late (`EMAWeightAveraging(update_starting_at_step=...)`) holds a copy of the
    weights that training began with, and swaps it in all the same.
    """
    found = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging):
            average = callback._average_model
            if average is not None and (int(average.n_averaged) > 0) is begun:
                found.append(callback)
    return found


def catch_up(trainer: Trainer, module: LightningModule) -> None:
    """Let averages that have not begun hold the weights of now, so that swapping changes nothing.

    An average that begins copies the weights it is given, so its later values do not depend on
    this.
    """
    for callback in averages(trainer, begun=False):
        average = callback._average_model
        assert average is not None
        own = chain(module.parameters(), module.buffers())
        kept = chain(average.module.parameters(), average.module.buffers())
        for theirs, mine in zip(kept, own, strict=True):
            theirs.data.copy_(mine.data)
