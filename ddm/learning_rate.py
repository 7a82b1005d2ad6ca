"""The learning rate as a function of the step, so that a resumed run follows its own settings."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


def plan_of(optimizer: Optimizer, scheduler: LRScheduler | None) -> dict[str, Any]:
    """Return the settings of a new optimizer and its schedule: equal plans go the same way."""
    groups = [{k: v for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    state = None if scheduler is None else scheduler.state_dict()
    return {"groups": deepcopy(groups), "scheduler": deepcopy(state)}


def follow(
    plan: dict[str, Any], optimizer: Optimizer, scheduler: LRScheduler | None, num_steps: int
) -> None:
    """Put settings and learning rate to where the plan is after a number of steps.

    The moments of the optimizer stay.
    """
    for group, settings in zip(optimizer.param_groups, plan["groups"], strict=False):
        group.update(deepcopy(settings))
    if scheduler is None:
        return
    scheduler.load_state_dict(deepcopy(plan["scheduler"]))
    with warnings.catch_warnings():
        # The steps of the optimizer were made before the run was resumed.
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for _ in range(num_steps):
            scheduler.step()
