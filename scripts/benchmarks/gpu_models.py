"""Do the schedules help models of full size? Needs a GPU; `make results-gpu` runs it.

Trains, side by side, CountDown at the size of Jump Your Steps (V = 32, L = 256) with three kernels;
then finds the optimal schedules of every model and evaluates it like
scripts/benchmarks/trained_models.py: uniform, cosine, JYS and optimal schedules from the same
initial noise, 3 seeds. Models and logs stay in runs/gpu/; an interrupted run goes on with the
command that it was at. Writes docs/results/gpu_models.{json,png}.

Further options go to all trainings: to see whether all is well, `--trainer.max_epochs=1
--trainer.limit_train_batches=20`.
"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ddm.commands import evaluate, export, optimize, train
from ddm.files import read_json, write_json

import torch
from _report import ROOT, finish
from trained_models import report, tables_of

RUNS = ROOT / "runs" / "gpu"
COUNTDOWN = (
    "--config=countdown --config=countdown_paper --data.batch_size=512 --trainer.max_epochs=8 "
    "--trainer.check_val_every_n_epoch=2 --trainer.max_time=00:00:05:00"
)
MODELS = {
    "countdown": COUNTDOWN,
    "countdown_uniform": f"{COUNTDOWN} --model.kernel=Uniform",
    "countdown_gaussian": f"{COUNTDOWN} --model.kernel=Gaussian --model.noise=Geometric",
}
"""How every model is trained, by a name whose first word is that of its data."""
Command = tuple[Callable[[Sequence[str]], Any], list[str]]


def commands(model: str, options: argparse.Namespace, more: Sequence[str]) -> dict[str, Command]:
    """Return what is run for a model, one after another."""
    checkpoint = str(RUNS / f"{model}.ckpt")
    logger = [f"--trainer.logger.save_dir={RUNS}", f"--trainer.logger.name={model}"]
    evaluation = [
        checkpoint,
        f"--num-samples={options.num_samples}",
        f"--num-sequences={options.num_sequences}",
        "--batch-size=256",
    ]
    return {
        "train": (train.main, ["fit", *MODELS[model].split(), *logger, *more]),
        "export": (export.main, [str(last_checkpoint(model)), checkpoint]),
        "optimize": (optimize.main, [checkpoint]),
        # JYS takes the longest: what an interrupted run has measured first is the rest.
        "evaluate": (evaluate.main, [*evaluation, "--schedules", "uniform", "cosine", "optimal"]),
        "evaluate JYS": (evaluate.main, evaluation),
    }


def last_checkpoint(model: str) -> Path:
    """Return the checkpoint at the end of training."""
    return RUNS / model / "version_0" / "checkpoints" / "last.ckpt"


def run(model: str, options: argparse.Namespace, more: Sequence[str]) -> None:
    """Run what has not been run yet for a model, and keep its seconds."""
    torch.set_num_threads(2)  # the models share the cores, too
    path = RUNS / f"{model}.json"
    seconds: dict[str, float] = read_json(path) if path.exists() else {}
    for name, (command, arguments) in commands(model, options, more).items():
        if name in seconds:
            continue
        if name == "train":  # what an interrupted training has left would pass for this one's
            shutil.rmtree(RUNS / model, ignore_errors=True)
        begin = time.monotonic()
        log = (RUNS / f"{model}.{name}.log").open("w", buffering=1)
        with log, redirect_stdout(log), redirect_stderr(log):
            command(arguments)
        seconds[name] = time.monotonic() - begin
        write_json(path, seconds)
        print(f"{model}: {name}, {seconds[name]:.0f} s")


def found(model: str) -> dict[str, Any]:
    """Return what the files of a model say."""
    content = torch.load(last_checkpoint(model), map_location="cpu", weights_only=True)
    saver = next(v for k, v in content["callbacks"].items() if k.startswith("ModelCheckpoint"))
    cells = read_json(RUNS / f"{model}.evaluation" / "evaluation.json")["cells"]
    return {
        "options": MODELS[model],
        "seconds": read_json(RUNS / f"{model}.json"),
        "steps": content["global_step"],
        "bits_per_token": float(saver["current_score"]),
        "tables": tables_of(cells),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    add("--num-samples", type=int, default=512, help="samples per cell (default: 512)")
    add("--num-sequences", type=int, default=48, help="for the search of JYS (default: 48)")
    options, more = parser.parse_known_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    print(f"logs: {RUNS}/*.log")
    # Children take over what is imported; nothing has touched the GPU so far.
    context = get_context("fork")
    jobs = [context.Process(target=run, args=(model, options, more)) for model in options.models]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    failed = [model for model, job in zip(options.models, jobs, strict=True) if job.exitcode]
    if failed:
        raise SystemExit(f"failed: {failed}, see {RUNS}/*.log")
    results = {model: found(model) for model in options.models}
    for model, content in results.items():
        print(f"\n{model}:", {key: value for key, value in content.items() if key != "tables"})
    figure = report({model: content["tables"] for model, content in results.items()})
    setting = {"num_samples": options.num_samples, "num_sequences": options.num_sequences}
    finish("gpu_models", {**setting, "results": results}, figure, seed=3)


if __name__ == "__main__":
    main()
