"""Which exponent of the weights suits trained networks? CountDown, uniform and Gaussian kernel.

Trains the two shipped configurations (or takes the checkpoints of an earlier run), finds the
optimal schedules for several exponents gamma from the same sequences, and measures the samples.
Prints a table and writes docs/results/trained_gamma.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule
from ddm.schedules import OptimalSteps, SamplingSchedule

import numpy as np
import torch
from _report import ROOT, save
from tqdm import tqdm

sys.path.insert(0, str(ROOT / "scripts"))
from evaluate import measure
from train import main as train

KERNELS = ("uniform", "gaussian")
NUM_STEPS = (2, 4, 8, 16)


def checkpoint_of(kernel: str) -> Path:
    """Return the checkpoint of the shipped configuration, trained now if there is none."""
    folder = ROOT / "runs" / "benchmarks" / kernel
    found = sorted(folder.rglob("last.ckpt"))
    if found:
        return found[-1]
    config = ROOT / "configs" / f"countdown_{kernel}.yaml"
    run = train(["fit", f"--config={config}", f"--trainer.logger.init_args.save_dir={folder}"])
    return Path(run.trainer.checkpoint_callback.last_model_path)


def errors_of(kernel: str, gammas: list[float], seeds: int, num_samples: int) -> dict[str, object]:
    """Return the error rates by schedule, number of steps and seed."""
    checkpoint = checkpoint_of(kernel)
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, SequenceDataModule)
    x_0 = data.train_tokens[:512].long()
    errors: dict[str, dict[int, list[float]]] = {}
    for seed in range(seeds):
        schedules = {"uniform": SamplingSchedule.uniform}
        for gamma in gammas:
            generator = torch.Generator().manual_seed(seed)
            optimizer = OptimalSteps(gamma)
            table = optimizer.table(module.denoiser, module.sampler, x_0, generator=generator)
            schedules[f"gamma {gamma:g}"] = table.schedule
        for name, schedule in tqdm(schedules.items(), desc=f"{kernel}, seed {seed}"):
            for n in NUM_STEPS:
                values = measure(module, data, schedule(n), num_samples, seed, 256)
                cells = errors.setdefault(name, {}).setdefault(n, [])
                cells.append(values["countdown_error"])
    print(f"\n{kernel}: share of pairs that break the rule, mean +- s.e. over {seeds} seeds")
    for name, row in errors.items():
        means = (f"{np.mean(v):.4f} +- {np.std(v, ddof=1) / seeds**0.5:.4f}" for v in row.values())
        print(f"{name:12s}", *means, sep="  ")
    return {"num_steps": NUM_STEPS, "errors": errors}


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--gammas", type=float, nargs="+", default=[0, 0.5, 0.75, 1, 2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--num-samples", type=int, default=512, help="samples per cell and seed")
    options = parser.parse_args()
    settings = (options.gammas, options.seeds, options.num_samples)
    results = {kernel: errors_of(kernel, *settings) for kernel in KERNELS}
    save("trained_gamma", {"num_samples": options.num_samples, "results": results}, options.seeds)


if __name__ == "__main__":
    main()
