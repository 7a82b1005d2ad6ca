"""Do the schedules help models of full size? Needs a GPU; `make results-gpu` runs it.

Trains, side by side, CountDown at the size of Jump Your Steps with three kernels, Fashion-MNIST
with all 256 levels, and text with two kernels; then finds the optimal schedules of every model and
evaluates it like scripts/benchmarks/trained_models.py: uniform, cosine, JYS and optimal schedules
from the same initial noise, 3 seeds. Models and logs stay in runs/gpu/; an interrupted run goes on
with the command that it was at. Writes docs/results/gpu_models.{json,png}.

Further options go to all trainings: to see whether all is well, `--trainer.max_epochs=1
--trainer.limit_train_batches=20`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ddm.schedules.schedule import read_json, write_json

import torch
from _report import RESULTS, ROOT, save
from trained_models import draw, table

sys.path.insert(0, str(ROOT / "scripts"))
from evaluate import summarise

RUNS = ROOT / "runs" / "gpu"
LARGE_TEXT = (
    "--config=configs/pydoc.yaml --data.batch_size=128 --trainer.max_epochs=100 "
    "--trainer.check_val_every_n_epoch=25 --model.backbone.dim=256 --model.backbone.depth=6 "
    "--model.backbone.dropout=0.1"
)
MODELS = {
    "countdown": "--config=configs/countdown_paper.yaml",
    "countdown_uniform": "--config=configs/countdown_paper.yaml --model.kernel=Uniform",
    "countdown_gaussian": (
        "--config=configs/countdown_paper.yaml --model.kernel=Gaussian --model.noise=Geometric"
    ),
    "fashion_mnist": "--config=configs/fashion_mnist.yaml --trainer.max_epochs=10",
    "pydoc": LARGE_TEXT,
    "pydoc_uniform": (
        f"{LARGE_TEXT} --model.kernel=Uniform --model.backbone.time_conditioning=true"
    ),
}
"""How every model is trained, by a name whose first word is that of its data."""


def commands(model: str, options: argparse.Namespace, more: Sequence[str]) -> dict[str, list[str]]:
    """Return what is run for a model, one after another."""
    checkpoint = RUNS / f"{model}.ckpt"
    logger = [f"--trainer.logger.save_dir={RUNS}", f"--trainer.logger.name={model}"]
    last = RUNS / model / "version_0" / "checkpoints" / "last.ckpt"
    found = f"--num-samples={options.num_sequences}"
    samples, sequences = options.num_samples, options.num_sequences
    return {
        "train": ["train.py", "fit", *MODELS[model].split(), *logger, *more],
        "export": ["export_checkpoint.py", str(last), str(checkpoint)],
        "optimise": ["optimize_schedule.py", str(checkpoint), found],
        "evaluate": [
            "evaluate.py",
            str(checkpoint),
            f"--num-samples={samples}",
            f"--num-sequences={sequences}",
            "--batch-size=256",
        ],
    }


def run(model: str, options: argparse.Namespace, more: Sequence[str]) -> dict[str, Any]:
    """Run what has not been run yet; return seconds, the bound, and rows of the evaluation."""
    path = RUNS / f"{model}.json"
    done: dict[str, Any] = read_json(path) if path.exists() else {"seconds": {}}
    for name, arguments in commands(model, options, more).items():
        if name in done["seconds"]:
            continue
        begin = time.monotonic()
        with (RUNS / f"{model}.{name}.log").open("w") as log:
            command = [sys.executable, f"scripts/{arguments[0]}", *arguments[1:]]
            subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
        done["seconds"][name] = time.monotonic() - begin
        write_json(path, done)
    cells = json.loads((RUNS / f"{model}.evaluation" / "evaluation.json").read_text())["cells"]
    return {"options": MODELS[model], **done, **trained(model), "rows": summarise(cells)}


def trained(model: str) -> dict[str, float]:
    """Return what the checkpoint says of the training."""
    path = RUNS / model / "version_0" / "checkpoints" / "last.ckpt"
    content = torch.load(path, map_location="cpu", weights_only=True)
    saver = next(v for k, v in content["callbacks"].items() if k.startswith("ModelCheckpoint"))
    return {
        "steps": content["global_step"],
        "weights": sum(value.numel() for value in content["state_dict"].values()),
        "bits_per_token": float(saver["current_score"]),
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, default=list(MODELS), help="default: all")
    add("--num-samples", type=int, default=1024, help="samples per cell (default: 1,024)")
    add("--num-sequences", type=int, default=512, help="to find schedules with (default: 512)")
    options, more = parser.parse_known_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    print(f"logs: {RUNS}/*.log")
    with ThreadPoolExecutor(len(options.models)) as pool:
        started = {model: pool.submit(run, model, options, more) for model in options.models}
    failed = {model: job.exception() for model, job in started.items() if job.exception()}
    for model, error in failed.items():
        print(f"{model} failed: {error}")
    results = {model: job.result() for model, job in started.items() if model not in failed}
    if not results:
        raise SystemExit(1)
    for model, found in results.items():
        print(f"\n{model}:", {k: v for k, v in found.items() if k != "rows"})
        for metric in dict.fromkeys(row["metric"] for row in found["rows"]):
            print(f"\n{model}, {metric}\n\n{table(found['rows'], metric)}")
    figure = draw({model: found["rows"] for model, found in results.items()})
    figure.savefig(RESULTS / "gpu_models.png", dpi=120)
    setting = {"num_samples": options.num_samples, "num_sequences": options.num_sequences}
    save("gpu_models", {**setting, "results": results}, seed=3)
    if failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
