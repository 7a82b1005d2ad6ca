"""Does loading keep up? Data time over step time in every CPU configuration, and 10,000 MIDI files.

Two questions: how long the trainer waits for its batches, relative to the steps that it makes of
them, in every configuration for CPUs (its music comes from scripts/prepare_data.py, Fashion-MNIST
from Debian, with a batch and a network that are cut to the CPU); how long 10,000 MIDI files take to
be tokenised, and then the first batch from the cache, in seconds of the clock and of the CPU, which
differ on a busy machine. Writes docs/results/data_loading.json.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ddm.datamodules import Midi, tokens_to_midi

import torch
from _report import ROOT, save
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "scripts"))

from train import main as train

CONFIGS: dict[str, Sequence[str]] = {
    "countdown": (),
    "countdown_gaussian": (),
    "countdown_uniform": (),
    "pydoc": (),
    "digits": (),
    "folk": (),
    "bach": (),
    "fashion_mnist": (
        "--data.batch_size=32",
        "--model.backbone.channels=16",
        "--trainer.precision=32",
        "--trainer.accelerator=cpu",
    ),
}
SHORT = (
    "--trainer.limit_val_batches=0",
    "--trainer.num_sanity_val_steps=0",
    "--trainer.profiler=simple",
    "--trainer.logger=false",
    "--trainer.callbacks=[]",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
)


def data_share(config: str, arguments: Sequence[str], steps: int) -> dict[str, float]:
    """Return the time that training waits for a batch, relative to the step that it makes of it.

    Both are means over the steps after the first one, which warms up.
    """
    path = ROOT / "configs" / f"{config}.yaml"
    limit = f"--trainer.max_steps={steps + 1}"
    with tempfile.TemporaryDirectory() as folder:  # for the configuration that a run leaves
        place = f"--trainer.default_root_dir={folder}"
        run = train(["fit", f"--config={path}", *SHORT, place, limit, *arguments])
    durations: dict[str, list[float]] = run.trainer.profiler.recorded_durations
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


def timed(function: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of the clock and of the CPU, child processes included."""

    def cpu() -> float:
        usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        return sum(usage.ru_utime + usage.ru_stime for usage in usages)

    begin, used = time.perf_counter(), cpu()
    function()
    return {"wall_seconds": time.perf_counter() - begin, "cpu_seconds": cpu() - used}


def midi_files(num: int) -> dict[str, Any]:
    """Time the first reading of a folder of MIDI files, and the first batch from its cache."""

    def first_batch() -> object:
        return next(iter(Midi(str(folder)).train_dataloader()))

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_melodies(folder, num)
        tokenised = timed(first_batch)
        cached = [timed(first_batch) for _ in range(3)]
    return {
        "files": num,
        "tokenised": tokenised,
        "first batch from the cache": min(cached, key=lambda times: times["wall_seconds"]),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--steps", type=int, default=10, help="training steps per configuration")
    parser.add_argument("--files", type=int, default=2_000, help="number of MIDI files")
    options = parser.parse_args()
    results: dict[str, Any] = {}
    for config, arguments in CONFIGS.items():
        try:
            results[config] = data_share(config, arguments, options.steps)
        except ValueError as error:  # its data are not at hand
            print(f"{config} is left out: {error}")
            continue
        print(config, results[config])
    music = midi_files(options.files)
    print(music)
    save("data_loading", {"data_time_over_step_time": results, "midi": music}, seed=0)


if __name__ == "__main__":
    main()
