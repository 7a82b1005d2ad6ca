"""The learning rate as a function of the step, so that a resumed run follows its own settings."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, ReduceLROnPlateau, SequentialLR


class LearningRate:
    """Makes an optimizer, and warm-up and decay of its learning rate.

    Copies of a module share it. `EMAWeightAveraging` copies the module deeply, and functions that
    LightningCLI makes hold the whole command line: a copy would take trainer and data along, and
    fail on process groups.

    Args:
        optimizer: Makes the optimizer from the parameters.
        lr_scheduler: Makes the schedule from the optimizer and the number of optimizer steps after
            the warm-up; constant for None.
        warmup_steps: Number of first optimizer steps in which the rate grows linearly.
    """

    def __init__(
        self,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None,
        warmup_steps: int,
    ) -> None:
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.warmup_steps = warmup_steps

    def __deepcopy__(self, memo: dict[int, Any]) -> LearningRate:
        return self

    def make(
        self, parameters: Iterable[nn.Parameter], trainer: Trainer
    ) -> tuple[Optimizer, LRScheduler | None]:
        """Return a new optimizer and the schedule of its rate, stepped after every update.

        Raises:
            ValueError: The schedule needs the length of a run that has none.
        """
        optimizer = self.optimizer(parameters)
        schedulers: list[LRScheduler] = []
        if self.warmup_steps > 0:
            first = 1 / (self.warmup_steps + 1)
            schedulers.append(LinearLR(optimizer, first, total_iters=self.warmup_steps))
        if self.lr_scheduler is not None:
            num_steps = trainer.estimated_stepping_batches
            if num_steps == math.inf:
                raise ValueError(
                    "`lr_scheduler` needs a finite number of optimizer steps, got infinitely many; "
                    "set the trainer's `max_steps` or `max_epochs`."
                )
            # A run that ends within the warm-up never gets to the decay.
            decay_steps = max(1, int(num_steps) - self.warmup_steps)
            schedulers.append(self.lr_scheduler(optimizer, decay_steps))
        if len(schedulers) == 2:
            return optimizer, SequentialLR(optimizer, schedulers, [self.warmup_steps])
        return optimizer, next(iter(schedulers), None)


def plan_of(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """Return the settings of a new optimizer and its schedule: equal plans go the same way."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    state = None if scheduler is None else scheduler.state_dict()
    return {"groups": deepcopy(groups), "scheduler": deepcopy(state)}


def follow(plan: dict[str, Any], trainer: Trainer) -> None:
    """Put settings and learning rate of a resumed run to where the plan is at its step, and say so.

    The moments of the optimizer stay.
    """
    (optimizer,) = trainer.optimizers
    for group, settings in zip(optimizer.param_groups, plan["groups"], strict=False):
        group.update(deepcopy(settings))
    for config in trainer.lr_scheduler_configs:
        scheduler = config.scheduler
        assert not isinstance(scheduler, ReduceLROnPlateau)  # needs a metric in every step
        scheduler.load_state_dict(deepcopy(plan["scheduler"]))
        with warnings.catch_warnings():
            # The steps of the optimizer were made before the run was resumed.
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
            for _ in range(trainer.global_step):
                scheduler.step()
    rank_zero_info(
        "The settings or the length of the run differ from those of the checkpoint; its learning "
        f"rate goes on at {optimizer.param_groups[0]['lr']:.4g}."
    )
