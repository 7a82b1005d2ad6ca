"""Train CountDown, then compare sampling schedules on the trained model: the tour of `make demo`.

Trains `configs/countdown.yaml` with the schedule callback, draws samples with four kinds of
schedules, prints how often they break the CountDown rule, and says where everything is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ddm.callbacks.jys_schedule import schedules_beside
from ddm.checkpoint import load_model
from ddm.metrics import CountDownError
from ddm.schedules import JumpYourSteps, Optimised, SamplingSchedule
from ddm.schedules.plots import plot_schedules

import torch
from matplotlib.figure import Figure
from optimize_schedule import training_tokens
from sample import main as sample
from train import main as train

ROOT = Path(__file__).resolve().parents[1]


def compare(
    checkpoint: Path, num_steps: Sequence[int], num_samples: int, folder: Path
) -> dict[str, dict[int, float]]:
    """Return the share of adjacent pairs that break the rule, by schedule and number of steps."""
    module = load_model(checkpoint).eval()
    x_0 = training_tokens(checkpoint, 128)
    generator = torch.Generator().manual_seed(0)
    jys = JumpYourSteps()(
        module.denoiser, module.sampler, x_0, num_steps, generator=generator, progress=True
    )
    optimised = Optimised.load(schedules_beside(checkpoint))
    makers = {
        "uniform": SamplingSchedule.uniform,
        "cosine": SamplingSchedule.cosine,
        "JYS": jys.schedules.__getitem__,
        "optimal": optimised.schedules.__getitem__,
    }
    errors: dict[str, dict[int, float]] = {name: {} for name in makers}
    for n in num_steps:
        schedules = {name: make(n) for name, make in makers.items()}
        for name, schedule in schedules.items():
            generator.manual_seed(1)  # the same noise for all schedules
            metric = CountDownError(module.process.kernel.vocab_size)
            for _ in range(num_samples // 64):
                metric.update(module.sample(64, schedule, generator=generator).tokens)
            errors[name][n] = float(metric.compute())
        plot_schedules(schedules).savefig(folder / f"schedules_{n}_steps.png", dpi=120)
    return errors


def draw(errors: dict[str, dict[int, float]]) -> Figure:
    """Draw the errors against the number of network calls."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for name, row in errors.items():
        axes.loglog(list(row), list(row.values()), ".-", label=name)
    axes.set_xticks(list(row), labels=[str(n) for n in row])
    axes.minorticks_off()
    axes.set(xlabel="network calls", ylabel="share of pairs that break the rule")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> dict[str, dict[int, float]]:
    """Run the tour; further arguments go to `scripts/train.py fit`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-samples", type=int, default=256, help="samples per schedule")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "demo")
    options, further = parser.parse_known_args(args)
    begin = time.monotonic()
    config = ROOT / "configs" / "countdown.yaml"
    name = f"--trainer.logger.init_args.save_dir={options.out}"
    trainer = train(["fit", f"--config={config}", name, *further]).trainer
    checkpoint = Path(trainer.checkpoint_callback.last_model_path)
    trained = time.monotonic()
    folder = checkpoint.parents[1]
    errors = compare(checkpoint, (4, 8, 16), options.num_samples, folder)
    draw(errors).savefig(folder / "errors.png", dpi=120)
    paths = sample([str(checkpoint), "--num-steps=32", f"--out={folder / 'samples'}"])
    print(f"\nshare of adjacent pairs that break the rule ({options.num_samples} samples)")
    print(f"{'N':>4s}", *(f"{name:>9s}" for name in errors))
    for n in (4, 8, 16):
        print(f"{n:4d}", *(f"{row[n]:9.4f}" for row in errors.values()))
    print(f"\ntrained in {trained - begin:.0f} s, all in {time.monotonic() - begin:.0f} s")
    print(f"checkpoint   {checkpoint}")
    print(f"schedules    {schedules_beside(checkpoint)}")
    print(f"samples      {paths[0].parent}")
    print(f"plots        {folder}/*.png")
    print(f"TensorBoard  .venv/bin/tensorboard --logdir {options.out}")
    return errors


if __name__ == "__main__":
    main()
