"""The schedules that an evaluation compares: shapes, files, those of training, or found ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ddm.commands.sample import SHAPES, load_schedule
from ddm.commands.subject import check_model_of, examples
from ddm.datamodules import SequenceDataModule
from ddm.module import DiscreteDiffusion
from ddm.schedules import (
    JumpYourSteps,
    OptimalCounts,
    OptimalOrders,
    OptimalSteps,
    SamplingSchedule,
    ScheduleOptimizer,
)
from ddm.schedules.beside import schedules_of
from ddm.schedules.setting import check_made_for

Schedules = dict[int, SamplingSchedule]


def find_schedules(
    module: DiscreteDiffusion, data: SequenceDataModule, options: argparse.Namespace
) -> dict[str, Schedules]:
    """Return the schedules by name and number of steps; the network is called by those searched.

    Optimal ones are those that are kept with the checkpoint, if there are some. A method
    that cannot be used with the model is left out, with a word on the screen.
    """
    found: dict[str, Schedules] = {}
    for name in options.schedules:
        if name.endswith(".json"):
            continue
        if name in SHAPES:
            found[name] = {n: SHAPES[name](n) for n in options.num_steps}
            continue
        kept = None if name == "jys" else schedules_of_training(name, module, options)
        try:
            found[name] = kept or optimize(name, module, data, options)
        except ValueError as error:
            print(f"`{name}` is left out: {error}")
    return found


def schedules_of_files(
    module: DiscreteDiffusion, options: argparse.Namespace
) -> dict[str, Schedules]:
    """Return the schedules of files that are named, by the name of the file.

    Raises:
        ValueError: They lack a number of steps, or were found for another model or setting.
    """
    found: dict[str, Schedules] = {}
    for path in (name for name in options.schedules if name.endswith(".json")):
        own = {n: load_schedule(None, n, path) for n in options.num_steps}
        for schedule in own.values():
            check_model_of(schedule, options)
            check_made_for(schedule, module.process, module.sampler)
        if found.setdefault(Path(path).name, own) is not own:
            raise ValueError(f"`schedules` must be files of different names, got '{path}' twice.")
    return found


def schedules_of_training(
    name: str, module: DiscreteDiffusion, options: argparse.Namespace
) -> Schedules | None:
    """Return the schedules of the checkpoint, if they are there for all numbers of steps.

    Those that name an order are `order`, all others `optimal`.
    """
    kept = None if options.checkpoint is None else schedules_of(options.checkpoint)
    if kept is None:
        return None
    if kept.table is not None:
        kept.table.check(module.process, module.sampler)
    schedules = {n: kept.schedule(n) for n in options.num_steps}
    complete = {
        n: schedule
        for n, schedule in schedules.items()
        if schedule is not None and ("order" in schedule.info) == (name == "order")
    }
    for schedule in complete.values():
        check_made_for(schedule, module.process, module.sampler)
    return complete if len(complete) == len(schedules) else None


def optimize(
    name: str, module: DiscreteDiffusion, data: SequenceDataModule, options: argparse.Namespace
) -> Schedules:
    """Return the schedules that a method finds on training sequences."""
    size = options.batch_size
    x_0, free, _ = examples(module, data, options.num_sequences, size)
    optimizer: ScheduleOptimizer = OptimalSteps(batch_size=size)
    if name == "jys":
        optimizer = JumpYourSteps(batch_size=size)
    elif name == "order":
        # Half of the default grid: two orders are searched here.
        counts = OptimalCounts(num_times=32, batch_size=size)
        optimizer = OptimalOrders(counts=counts).shaped(data.shape)
    elif options.order is not None:
        optimizer = OptimalCounts(batch_size=size)
    return optimizer(
        module.denoiser,
        module.sampler,
        x_0.to(module.device),
        options.num_steps,
        free=None if free is None else free.to(module.device),
        generator=torch.Generator(module.device).manual_seed(0),
        progress=True,
    ).schedules
