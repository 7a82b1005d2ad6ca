"""Draw samples from a checkpoint: `python scripts/sample.py CHECKPOINT --num-steps 32`.

Writes `samples.txt`, `samples.npz` (tokens and times) and `samples.png` (a picture of the tokens).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ddm.callbacks import token_figure
from ddm.callbacks.jys_schedule import schedules_beside
from ddm.checkpoint import load_data, load_model
from ddm.module import DiscreteDiffusion
from ddm.schedules import Optimised, SamplingSchedule
from ddm.schedules.schedule import read_json

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


def encode_prompt(
    text: str, module: DiscreteDiffusion, data: LightningDataModule | None
) -> tuple[Tensor, Tensor]:
    """Return the prompt as the first tokens of a sequence (1, L), and the mask that marks them.

    Raises:
        ValueError: The text is empty, too long, or not in the vocabulary.
    """
    encode = getattr(data, "encode", None)
    if encode is not None:
        tokens = encode(text)
    else:
        try:
            tokens = torch.tensor([int(word) for word in text.split()])
        except ValueError:
            raise ValueError(
                f"`prompt` must be token numbers separated by spaces, got {text!r}: the data "
                "module does not encode text."
            ) from None
    if not 0 < len(tokens) <= module.length:
        raise ValueError(
            f"`prompt` must have 1 to {module.length} tokens, got {len(tokens)}; shorten it."
        )
    vocab_size = module.process.kernel.vocab_size
    if int(tokens.min()) < 0 or int(tokens.max()) >= vocab_size:
        raise ValueError(f"`prompt` must hold tokens in 0..{vocab_size - 1}, got {text!r}.")
    prompt = torch.zeros(1, module.length, dtype=torch.long)
    prompt[0, : len(tokens)] = tokens
    return prompt, torch.arange(module.length)[None] < len(tokens)


def decode(tokens: Tensor, data: LightningDataModule | None) -> list[str]:
    """Return every sequence as text, or as numbers without a data module that decodes."""
    as_text = getattr(data, "decode", None)
    if as_text is not None:
        return as_text(tokens)
    return [" ".join(map(str, row)) for row in tokens.tolist()]


def write(
    out: Path, tokens: Tensor, texts: list[str], schedule: SamplingSchedule, vocab_size: int
) -> list[Path]:
    """Write the samples as text, numbers and picture; return the paths."""
    paths = [out / f"samples.{suffix}" for suffix in ("txt", "npz", "png")]
    rule = "\n" + 72 * "-" + "\n" if any("\n" in text for text in texts) else "\n"
    paths[0].write_text(rule.join(texts) + "\n")
    np.savez_compressed(paths[1], tokens=tokens.numpy(), times=np.array(schedule.times))
    token_figure(tokens[:64], vocab_size).savefig(paths[2], dpi=150)
    return paths


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
    add("--prompt", help="text that every sample starts with; token numbers if data have no text")
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
        for name in ("num_samples", "batch_size"):
            if getattr(options, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(options, name)}.")
        schedule = load_schedule(options.checkpoint, options.num_steps, options.schedule)
        module, data = load_model(options.checkpoint), load_data(options.checkpoint)
        prompt = encode_prompt(options.prompt, module, data) if options.prompt else None
        options.out.mkdir(parents=True, exist_ok=True)
        module = module.to(device)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))

    generator = torch.Generator(device).manual_seed(options.seed)
    batches, num_calls, begin = [], 0, time.monotonic()
    for first in range(0, options.num_samples, options.batch_size):
        num = min(options.batch_size, options.num_samples - first)
        samples = module.sample(
            num,
            schedule,
            prompt=None if prompt is None else prompt[0].expand(num, -1).to(device),
            prompt_mask=None if prompt is None else prompt[1].expand(num, -1).to(device),
            generator=generator,
            progress=True,
        )
        batches.append(samples.tokens.cpu())
        num_calls += samples.num_calls
    seconds, tokens = time.monotonic() - begin, torch.cat(batches)
    texts = decode(tokens, data)
    vocab_size = module.process.kernel.vocab_size
    paths = write(options.out, tokens, texts, schedule, vocab_size)
    print(texts[0])
    print(
        f"{len(tokens)} samples, {schedule.num_steps} steps ({schedule.source} schedule), "
        f"{num_calls} network calls for {len(batches)} batch(es), {seconds:.1f} s"
    )
    print("written:", *paths)
    return paths


if __name__ == "__main__":
    main()
