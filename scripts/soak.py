"""Train, kill, resume, fill the disk and evaluate at random: `python scripts/soak.py MINUTES`.

Until the time is over, a tiny training is killed at random moments, or its files may not grow
beyond a random size, as on a full disk, and is resumed: weights and schedules have to be those of
an undisturbed run. Then two evaluations write to one folder, and no cell of either may be lost.
Prints what it did and what broke; the status is 1 if something did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import runpy
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.context import ForkProcess
from pathlib import Path

import ddm.commands.evaluate
import ddm.commands.train  # noqa: F401 (imported once, for all processes)
from ddm.files import read_json

import torch

SCRIPTS = Path(__file__).resolve().parent
TRAINING = """fit --data=CountDown --data.vocab_size=8 --data.length=8 --data.num_samples=256
--data.num_val=16 --data.batch_size=16 --model.kernel=Absorbing
--model.backbone=ddm.backbones.Transformer --model.backbone.dim=8 --model.backbone.depth=1
--model.backbone.num_heads=2 --model.optimizer=AdamW --model.lr_scheduler=CosineAnnealingLR
--model.warmup_steps=4 --trainer.max_epochs=4 --trainer.accelerator=cpu --trainer.logger=false
--trainer.enable_progress_bar=false --checkpoint.dirpath=kept --checkpoint.every_n_train_steps=2
--checkpoint.monitor=null --checkpoint.enable_version_counter=false
--schedule=JYSScheduleCallback --schedule.num_steps=[2,4] --schedule.num_samples=8
--schedule.every_n_steps=8 --schedule.optimizer=OptimalSteps --schedule.optimizer.num_times=8
--schedule.optimizer.pilot_times=4"""


def run(folder: Path, script: str, arguments: Sequence[str], most: int | None) -> None:
    """Run a script in a folder, in this process; no file may grow beyond `most` bytes."""
    os.chdir(folder)
    log = os.open(f"{script}.log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if most is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.argv = [script, *arguments]
    runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")


def start(folder: Path, script: str, *arguments: str, most: int | None = None) -> ForkProcess:
    """Start a script in a copy of this process, which has the imports."""
    folder.mkdir(exist_ok=True)
    process = multiprocessing.get_context("fork").Process(
        target=run, args=(folder, script, arguments, most)
    )
    process.start()
    return process


def train(folder: Path, most: int | None = None) -> ForkProcess:
    """Start or resume the training in a folder."""
    last = folder / "kept/last.ckpt"
    resume = [f"--ckpt_path={last}"] if last.exists() else []
    return start(folder, "train", *TRAINING.split(), *resume, most=most)


def status(process: ForkProcess) -> int | None:
    """Wait for a process and return how it ended."""
    process.join()
    return process.exitcode


def disturb(
    calm: Path, folder: Path, kind: signal.Signals, draw: random.Random, usual: float
) -> tuple[str, list[str]]:
    """Train in a folder until a full disk (SIGXFSZ) or a signal stops it.

    Returns:
        How that went, and what was wrong with it: how the run may end, if not well.
    """
    if kind is signal.SIGXFSZ:
        size = draw.randrange((calm / "kept/last.ckpt").stat().st_size)
        said, legal, ended = f"files of at most {size} bytes", [2], status(train(folder, size))
    else:
        training, after = train(folder), draw.uniform(0.2, 1.0) * usual
        training.join(after)
        if training.is_alive() and training.pid is not None:
            os.kill(training.pid, kind)
        # Before the trainer listens to signals, and once it does.
        said, legal = f"{kind.name} after {after:.1f} s", [-kind, 128 + kind]
        ended = status(training)
    said += f", status {ended}"
    return said, [] if ended in (0, *legal) else [f"{said} instead of {legal}"]


def same(one: object, two: object) -> bool:
    """Compare what checkpoints hold; how long something took plays no part."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        keys = (one.keys() | two.keys()) - {"seconds"}
        return all(key in one and key in two and same(one[key], two[key]) for key in keys)
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def compare(calm: Path, folder: Path) -> list[str]:
    """Finish the training of a folder and return in what it differs from the undisturbed one."""
    if status(train(folder)) != 0:
        return ["the training cannot be resumed"]
    contents = []
    for path in (calm / "kept/last.ckpt", folder / "kept/last.ckpt"):
        found = torch.load(path, weights_only=True)
        (found["schedules"],) = (v for k, v in found["callbacks"].items() if "JYSSchedule" in k)
        found["schedules beside"] = read_json(path.with_suffix(".schedules.json"))
        contents.append(found)
    names = ("global_step", "state_dict", "optimizer_states", "schedules", "schedules beside")
    return [f"{name} differ" for name in names if not same(*(found[name] for found in contents))]


def evaluate_twice(folder: Path, checkpoint: Path) -> list[str]:
    """Let two evaluations with different cells write to one folder; return what went wrong."""
    shared = [str(checkpoint), f"--out={folder}", "--num-samples=4", "--seeds=2", "--schedules"]
    parts = (("uniform", "1", "2", "3"), ("cosine", "2", "3", "4"))
    runs = [
        start(folder, "evaluate", *shared, name, "--num-steps", *numbers)
        for name, *numbers in parts
    ]
    if any([status(process) for process in runs]):
        return ["an evaluation failed"]
    cells = read_json(folder / "evaluation.json")["cells"]
    wanted = [f"{name}/{n}" for name, *numbers in parts for n in numbers]
    return [f"cells of {key} are lost" for key in wanted if len(cells.get(key, {})) < 2]


def main(minutes: float, seed: int) -> list[str]:
    """Make rounds until the time is over, at least one; return what broke."""
    draw, end, number = random.Random(seed), time.monotonic() + 60 * minutes, 0
    kinds = (signal.SIGXFSZ, signal.SIGKILL, signal.SIGTERM)
    with tempfile.TemporaryDirectory() as name:
        calm, begin = Path(name) / "calm", time.monotonic()
        broken = [] if status(train(calm)) == 0 else ["the undisturbed training failed"]
        usual = time.monotonic() - begin
        while not broken and (number == 0 or time.monotonic() < end):
            folder, done = Path(name) / f"round_{number}", []
            # Each kind comes first in every third round, a full disk in the first one.
            for kind in (kinds[number % 3], *draw.choices(kinds, k=draw.randrange(3))):
                said, wrong = disturb(calm, folder, kind, draw, usual)
                done.append(said)
                broken += wrong
            broken += compare(calm, folder) + evaluate_twice(folder, calm / "kept/last.ckpt")
            number += 1
            print(f"round {number}:", *done, *(broken or ["equal"]), sep="\n  ", flush=True)
        if broken:
            print(*(log.read_text()[-3000:] for log in Path(name).glob("*/*.log")), sep="\n")
    print(f"{number} rounds, {len(broken)} broken", *broken, sep="\n")
    return broken


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("minutes", type=float, help="0 for a single round")
    parser.add_argument("--seed", type=int, default=0, help="of the disturbances")
    options = parser.parse_args()
    torch.set_num_threads(1)  # processes are copied, threads are not
    sys.exit(1 if main(options.minutes, options.seed) else 0)
