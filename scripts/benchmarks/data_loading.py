"""Does loading keep up? Data time over step time of the CPU configurations, MIDI files, text.

How long the trainer waits for its batches, relative to the steps that it makes of them (the music
comes from scripts/prepare_data.py); and how long many MIDI files and 50 MB of text take until the
first batch, without a cache and with it, in seconds of the clock and of the CPU, which differ on a
busy machine. Prints a table and writes docs/results/data_loading.json.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from ddm.commands.train import main as train
from ddm.datamodules import BPE, Midi, SequenceDataModule, Text, tokens_to_midi

import numpy as np
import torch
from _report import ROOT, finish, parse
from tqdm import tqdm

CONFIGS = ("countdown", "pydoc", "digits", "folk")
SHORT = (
    "--ema=null --checkpoint=null --schedule=null --samples=null --trainer.logger=false "
    "--trainer.limit_val_batches=0 --trainer.num_sanity_val_steps=0 --trainer.profiler=simple "
    "--trainer.enable_checkpointing=false --trainer.enable_progress_bar=false "
    "--trainer.enable_model_summary=false"
)
Source = Callable[[str], SequenceDataModule]
SOURCES: dict[str, Source] = {
    "MIDI": Midi,
    "characters": partial(Text, length=256),
    "BPE, 4,096": partial(Text, vocabulary=partial(BPE, vocab_size=4096), length=256),
}
"""The data in a folder."""


def data_share(config: str, steps: int) -> dict[str, float]:
    """Return the time that training waits for a batch, relative to the step that it makes of it.

    Both are means over the steps after the first one, which warms up.
    """
    short = f"--trainer.max_steps={steps + 1} {SHORT}".split()
    with tempfile.TemporaryDirectory() as folder:  # for the configuration that a run leaves
        place = f"--trainer.default_root_dir={folder}"
        run = train(["fit", f"--config={ROOT / 'configs' / config}.yaml", *short, place])
    durations: dict[str, list[float]] = run.trainer.profiler.recorded_durations  # type: ignore[attr-defined]
    waits = durations["[_TrainingEpochLoop].train_dataloader_next"][1 : steps + 1]
    batches = durations["run_training_batch"][1:]
    wait, step = sum(waits) / len(waits), sum(batches) / len(batches)
    return {"data_ms": 1e3 * wait, "step_ms": 1e3 * step, "share": wait / step}


def write_melodies(folder: Path, num: int) -> None:
    """Write random melodies of 1,024 sixteenths, some 230 notes each, a file per melody."""
    generator = torch.Generator().manual_seed(0)
    for index in tqdm(range(num), desc="writing MIDI", leave=False):
        pitches = 60 + torch.randint(-4, 5, (512,), generator=generator).cumsum(0) % 24
        lasting = torch.randint(1, 9, (512,), generator=generator)
        tokens = pitches.repeat_interleave(lasting)[:1024]
        tokens_to_midi(tokens).write(str(folder / f"{index:05d}.mid"))


def write_text(folder: Path, megabytes: int) -> None:
    """Write files of some 0.1 MB, random words by Zipf's law."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("etaoinshrdlu"), rng.integers(1, 10))) for _ in range(20_000)]
    law = 1 / np.arange(1, len(words) + 1)
    for i in range(10 * megabytes):
        text = " ".join(rng.choice(words, 17_000, p=law / law.sum()))
        (folder / f"{i:04d}.txt").write_text(text, encoding="utf-8")


def first_batch(source: Source, folder: str) -> dict[str, float]:
    """Return the seconds of the clock and of the CPU, child processes included."""

    def cpu() -> float:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    begin, used = time.perf_counter(), cpu()
    next(iter(source(folder).train_dataloader()))
    return {"wall_seconds": time.perf_counter() - begin, "cpu_seconds": cpu() - used}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and report."""
    options = parse(
        __doc__,
        args,
        configs=(list(CONFIGS), "names in configs/"),
        steps=(10, "training steps per configuration"),
        files=(2_000, "number of MIDI files"),
        megabytes=(50, "size of the text"),
    )
    shares, batches = {}, {}
    with tempfile.TemporaryDirectory() as music, tempfile.TemporaryDirectory() as text:
        write_melodies(Path(music), options.files)
        write_text(Path(text), options.megabytes)
        for (name, source), state in product(SOURCES.items(), ("no cache", "cache")):
            batches[f"{name}, {state}"] = first_batch(source, music if name == "MIDI" else text)
    for config in options.configs:
        shares[config] = data_share(config, options.steps)
    for name, row in (batches | shares).items():
        print(f"{name:24s}", *(f"{key} {value:.4g}" for key, value in row.items()), sep="  ")
    content = {"settings": vars(options), "data_over_step": shares, "first_batch": batches}
    finish("data_loading", content, seed=0)


if __name__ == "__main__":
    main()
