"""Draw samples from a checkpoint: `python scripts/sample.py CHECKPOINT --num-steps 32`.

Writes what the data module makes of samples (text, images, MIDI), and `samples.npz` with tokens and
times; with `--trajectories M` also how the first M samples came out of the noise. Where the data
ask for conditional generation, samples continue test sequences; `--prompt` and `--infill` say what
to continue, or what to stand between, instead.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule
from ddm.datamodules.sequences import save_as_text
from ddm.files import read_json
from ddm.module import DiscreteDiffusion
from ddm.pictures import trajectory_figure
from ddm.samplers import Trajectory
from ddm.schedules import Optimised, SamplingSchedule
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.setting import Setting

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

SHAPES = {"uniform": SamplingSchedule.uniform, "cosine": SamplingSchedule.cosine}
DEFAULT_STEPS = 32


def load_schedule(
    checkpoint: str | Path, num_steps: int | None = None, choice: str | None = None
) -> SamplingSchedule:
    """Return the sampling schedule that was asked for.

    Args:
        checkpoint: The checkpoint; training may have left optimised schedules beside it, in
            `<name>.schedules.json`.
        num_steps: Number of steps; by default that of the file, or 32.
        choice: 'uniform', 'cosine', or a JSON file with one schedule or with optimised ones. By
            default the optimised one beside the checkpoint, if there is one, else uniform.

    Raises:
        ValueError: The file is missing, damaged, or has no schedule with that many steps.
    """
    steps = DEFAULT_STEPS if num_steps is None else num_steps
    if choice in SHAPES:
        return SHAPES[choice](steps)
    path = schedules_beside(checkpoint) if choice is None else Path(choice)
    if not path.is_file():
        if choice is None:
            return SamplingSchedule.uniform(steps)
        raise ValueError(
            f"`schedule` must be 'uniform', 'cosine' or an existing file, got '{choice}'."
        )
    if "times" in read_json(path):
        found: SamplingSchedule | None = SamplingSchedule.load(path)
    else:
        found = Optimised.load(path).schedule(steps)
    if found is None and choice is None:
        return SamplingSchedule.uniform(steps)
    if found is None or num_steps not in (None, found.num_steps):
        raise ValueError(
            f"`num_steps` must be one that '{path}' has a schedule for, got {num_steps}; leave it "
            "out, or optimise a schedule with that many steps."
        )
    return found


def encode(text: str, module: DiscreteDiffusion, data: LightningDataModule | None) -> Tensor:
    """Return the tokens of a prompt, with shape (L,).

    Raises:
        ValueError: The text is not in the vocabulary.
    """
    encode_text = getattr(data, "encode", None)
    if encode_text is not None:
        tokens = encode_text(text)
    else:
        try:
            tokens = torch.tensor([int(word) for word in text.split()], dtype=torch.long)
        except ValueError:
            raise ValueError(
                f"`prompt` must be token numbers separated by spaces, got {text!r}: the data "
                "module does not encode text."
            ) from None
    vocab_size = module.process.kernel.vocab_size
    if ((tokens < 0) | (tokens >= vocab_size)).any():
        raise ValueError(f"`prompt` must hold tokens in 0..{vocab_size - 1}, got {text!r}.")
    return tokens


def encode_prompt(
    start: str, end: str, module: DiscreteDiffusion, data: LightningDataModule | None
) -> tuple[Tensor, Tensor]:
    """Return the first and last tokens of a sequence (1, L), and which others are free.

    The two texts are encoded by themselves, so what lies between has no part in their tokens.

    Raises:
        ValueError: The texts are empty, too long together, or not in the vocabulary, or the first
            is shorter than the prompts of training.
    """
    first, last = (encode(text, module, data) for text in (start, end))
    length, given = module.length, len(first) + len(last)
    # The network of a conditional model has never seen these positions noised.
    least = getattr(data, "prompt_length", 0)
    if len(first) < least or not 0 < given <= length:
        raise ValueError(
            f"`prompt` must have {max(1, least)} to {length} tokens, got {given}; cut it, or make "
            "its beginning as long as the prompts of training."
        )
    between = torch.zeros(length - given, dtype=torch.long)
    position = torch.arange(length)
    free = (position >= len(first)) & (position < length - len(last))
    return torch.cat([first, between, last])[None], free[None]


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
        paths = save_as_text(numbers, tokens, vocab_size, out)
    numbers_path = out / "samples.npz"
    np.savez_compressed(numbers_path, tokens=tokens.numpy(), times=np.array(schedule.times))
    return [*paths, numbers_path]


def write_trajectory(
    out: Path, trajectory: Trajectory, data: LightningDataModule | None, vocab_size: int
) -> list[Path]:
    """Write `trajectory.png` and, where the data are text, `trajectory.txt`; return the paths."""
    times, states = trajectory.thin()
    picture, text = out / "trajectory.png", out / "trajectory.txt"
    if not isinstance(data, SequenceDataModule):
        trajectory_figure(times, states, vocab_size).savefig(picture, dpi=150)
        return [picture]
    data.trajectory_figure(times, states).savefig(picture, dpi=150)
    lines = data.trajectory_text(times, states)
    if not lines:
        return [picture]
    text.write_text(lines + "\n", encoding="utf-8")
    return [picture, text]


def prompts(
    around: tuple[str, str] | None,
    num_samples: int,
    module: DiscreteDiffusion,
    data: LightningDataModule | None,
) -> tuple[Tensor, Tensor] | None:
    """Return the given tokens (M, L) and which others are free, if there are given ones.

    Samples stand between the two texts of `around`; where it is not given, they continue held-out
    sequences if the data ask for that.
    """
    if around is not None:
        tokens, free = encode_prompt(*around, module, data)
        return tokens.expand(num_samples, -1), free.expand(num_samples, -1)
    if isinstance(data, SequenceDataModule) and data.free is not None:
        held_out = data.test_tokens
        rows = torch.arange(num_samples) % len(held_out)
        return held_out[rows].long(), data.free.expand(num_samples, -1)
    return None


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", help="checkpoint written by scripts/train.py")
    add("--num-steps", type=int, help=f"sampling steps (default: {DEFAULT_STEPS})")
    add("--num-samples", type=int, default=16, help="number of samples (default: 16)")
    add(
        "--schedule",
        help="'uniform', 'cosine' or a JSON file (default: the optimised schedule beside the "
        "checkpoint if there is one, else uniform)",
    )
    given = parser.add_mutually_exclusive_group().add_argument
    given("--prompt", help="text that every sample starts with; token numbers if data have no text")
    given(
        "--infill",
        nargs=2,
        metavar=("START", "END"),
        help="texts that every sample starts and ends with; the model's length decides how many "
        "tokens are generated between them",
    )
    add(
        "--trajectories",
        type=int,
        default=0,
        help="samples of the first batch whose way from noise to data is drawn (default: 0)",
    )
    add("--out", type=Path, default=Path("samples"), help="folder to write to (default: samples)")
    add("--seed", type=int, default=0, help="seed of the samples (default: 0)")
    add("--batch-size", type=int, default=64, help="samples drawn at once (default: 64)")
    add("--device", help="default: cuda if there is one, else cpu")
    return parser


def main(args: Sequence[str] | None = None) -> list[Path]:
    """Run the command line; return the paths of what it wrote."""
    parser = make_parser()
    options = parser.parse_args(args)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:  # all that can be wrong, before the first network call
        for name, least in (("num_samples", 1), ("batch_size", 1), ("trajectories", 0)):
            value = getattr(options, name)
            if value < least:
                raise ValueError(f"`{name}` must be at least {least}, got {value}.")
        trajectory = Trajectory(options.trajectories)
        schedule = load_schedule(options.checkpoint, options.num_steps, options.schedule)
        module, data = load_model(options.checkpoint), load_data(options.checkpoint)
        setting = Setting.of(module.process, module.sampler)
        setting.check(schedule.info, "the schedule was found for", "optimise it again")
        around = options.infill or ((options.prompt, "") if options.prompt else None)
        given = prompts(around, options.num_samples, module, data)
        options.out.mkdir(parents=True, exist_ok=True)
        module = module.to(device)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))

    generator = torch.Generator(device).manual_seed(options.seed)
    batches, num_calls, begin = [], 0, time.monotonic()
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
    seconds, tokens = time.monotonic() - begin, torch.cat(batches)
    vocab_size = module.process.kernel.vocab_size
    paths = write(options.out, tokens, schedule, data, vocab_size)
    if options.trajectories:
        paths += write_trajectory(options.out, trajectory, data, vocab_size)
    if isinstance(data, SequenceDataModule):
        print(data.decode(tokens[:1])[0])
    print(
        f"{len(tokens)} samples, {schedule.num_steps} steps ({schedule.source} schedule), "
        f"{num_calls} network calls for {len(batches)} batch(es), {seconds:.1f} s"
    )
    print("written:", *paths)
    return paths


if __name__ == "__main__":
    main()
