"""Draw samples from a model; `ddm sample --help` says more."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ddm.commands import parsers
from ddm.commands.door import command
from ddm.commands.options import make_folder
from ddm.commands.parsers import DEFAULT_STEPS
from ddm.commands.prompt_data import Prompts
from ddm.commands.prompts import prompts
from ddm.commands.subject import check_model_of, check_steps, load
from ddm.datamodules import SequenceDataModule
from ddm.datamodules.sequences import save_as_text
from ddm.files import read_json, replacing
from ddm.module import DiscreteDiffusion
from ddm.pictures import save_figure, token_figure, trajectory_figure
from ddm.samplers import Trajectory
from ddm.schedules import Optimized, SamplingSchedule
from ddm.schedules.beside import schedules_of
from ddm.schedules.setting import check_made_for

DEFAULT_SAMPLES = 16
SHAPES = {"uniform": SamplingSchedule.uniform, "cosine": SamplingSchedule.cosine}


def load_schedule(
    checkpoint: str | Path | None, num_steps: int | None = None, choice: str | None = None
) -> SamplingSchedule:
    """Return the sampling schedule that was asked for.

    Args:
        checkpoint: The checkpoint; training leaves optimized schedules inside of it, and beside it
            in `<name>.schedules.json`. None for a model of others.
        num_steps: Number of steps; by default that of the file, or 32.
        choice: 'uniform', 'cosine', or a JSON file with one schedule or with optimized ones. By
            default that of the checkpoint, see `schedules_of`, if there is one, else uniform.

    Raises:
        ValueError: The file is missing, damaged, or has no schedule with that many steps.
    """
    steps = DEFAULT_STEPS if num_steps is None else num_steps
    if choice in SHAPES:
        return SHAPES[choice](steps)
    if choice is None:
        own = None if checkpoint is None else schedules_of(checkpoint)
        kept = None if own is None else own.schedule(steps)
        return SamplingSchedule.uniform(steps) if kept is None else kept
    path = Path(choice)
    if not path.is_file():
        raise ValueError(
            f"`schedule` must be 'uniform', 'cosine' or an existing file, got '{choice}'."
        )
    if "times" in read_json(path):
        found: SamplingSchedule | None = SamplingSchedule.load(path)
    else:
        found = Optimized.load(path).schedule(steps)
    if found is None or num_steps not in (None, found.num_steps):
        raise ValueError(
            f"`num_steps` must be one that '{path}' has a schedule for, got {num_steps}; leave it "
            "out, or optimize a schedule with that many steps."
        )
    return found


def draw(
    module: DiscreteDiffusion,
    schedule: SamplingSchedule,
    given: tuple[Tensor, Tensor] | None,
    trajectory: Trajectory,
    options: argparse.Namespace,
) -> tuple[Tensor, int]:
    """Return samples (M, L) on the CPU, and how many network calls they took."""
    device = module.device
    generator = torch.Generator(device).manual_seed(options.seed)
    batches, num_calls = [], 0
    for first in range(0, options.num_samples, options.batch_size):
        num = min(options.batch_size, options.num_samples - first)
        rows = slice(first, first + num)
        samples = module.sample(
            num,
            schedule,
            tokens=None if given is None else given[0][rows].to(device),
            free=None if given is None else given[1][rows].to(device),
            generator=generator,
            progress=True,
            on_state=None if first else trajectory.record,
        )
        batches.append(samples.tokens.cpu())
        num_calls += samples.num_calls
    return torch.cat(batches), num_calls


def write(
    out: Path,
    tokens: Tensor,
    schedule: SamplingSchedule,
    data: LightningDataModule | None,
    vocab_size: int,
) -> list[Path]:
    """Write the samples for people and, as numbers, for programs; return the paths."""
    if isinstance(data, SequenceDataModule):
        paths = data.save_samples(tokens, out)
    else:
        numbers = [" ".join(map(str, row)) for row in tokens.tolist()]
        paths = save_as_text(numbers, token_figure(tokens[:64], vocab_size), out)
    numbers_path = out / "samples.npz"
    with replacing(numbers_path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, tokens=tokens.numpy(), times=np.array(schedule.times))
    return [*paths, numbers_path]


def write_trajectory(
    out: Path, trajectory: Trajectory, data: LightningDataModule | None, vocab_size: int
) -> list[Path]:
    """Write `trajectory.png` and, where the data are text, `trajectory.txt`; return the paths."""
    times, states = trajectory.thin()
    picture, text = out / "trajectory.png", out / "trajectory.txt"
    if not isinstance(data, SequenceDataModule):
        return [save_figure(trajectory_figure(times, states, vocab_size), picture)]
    save_figure(data.trajectory_figure(times, states), picture)
    lines = data.trajectory_text(times, states)
    if not lines:
        return [picture]
    with replacing(text) as unfinished:
        unfinished.write_text(lines + "\n", encoding="utf-8")
    return [picture, text]


@command
def main(args: list[str]) -> list[Path]:
    """Run the command line; return the paths of what it wrote."""
    options = parsers.sample().parse_args(args)
    # All that can be wrong, before the first network call.
    trajectory = Trajectory(options.trajectories)
    schedule = load_schedule(options.checkpoint, options.num_steps, options.schedule)
    check_model_of(schedule, options)
    module, data = load(options)
    check_made_for(schedule, module.process, module.sampler)
    check_steps(module, data, [schedule.num_steps])
    around = tuple(options.infill) if options.infill else None
    if options.prompt is not None:
        around = options.prompt, ""
    if options.num_samples is None:
        options.num_samples = DEFAULT_SAMPLES
        if isinstance(data, Prompts) and options.prompts is not None:
            options.num_samples = len(data.test_tokens)
    # The prompts of a model of others are its data.
    around = None if options.model is not None else around
    given = prompts(around, options.num_samples, module, data)
    out = make_folder(options.out)

    begin = time.monotonic()
    tokens, num_calls = draw(module, schedule, given, trajectory, options)
    seconds = time.monotonic() - begin
    vocab_size = module.process.kernel.vocab_size
    paths = write(out, tokens, schedule, data, vocab_size)
    if options.trajectories:
        paths += write_trajectory(out, trajectory, data, vocab_size)
    if isinstance(data, SequenceDataModule):
        print(data.decode(tokens[:1])[0])
    print(
        f"{len(tokens)} samples, {schedule.num_steps} steps ({schedule.source} schedule), "
        f"{num_calls} network calls for {-(-len(tokens) // options.batch_size)} batch(es), "
        f"{seconds:.1f} s"
    )
    print("written:", *paths)
    return paths
