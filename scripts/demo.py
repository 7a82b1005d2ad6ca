"""Train CountDown, then compare sampling schedules on the trained model: the tour of `make demo`.

Trains `configs/countdown.yaml` with the schedule callback, draws samples with four kinds of
schedules, prints how many adjacent pairs break the CountDown rule, and says where everything is.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from ddm.schedules.optimizer import schedules_beside

from evaluate import Cells
from evaluate import main as evaluate
from sample import main as sample
from train import main as train

ROOT = Path(__file__).resolve().parents[1]
NUM_STEPS = ["--num-steps", "4", "8", "16"]


def main(args: Sequence[str] | None = None) -> Cells:
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
    paths = sample([str(checkpoint), "--num-steps=32", f"--out={folder / 'samples'}"])
    num_samples = f"--num-samples={options.num_samples}"
    further = ["--num-sequences=128", "--seeds=1", f"--out={folder / 'evaluation'}"]
    cells = evaluate([str(checkpoint), *NUM_STEPS, num_samples, *further])
    print(f"\ntrained in {trained - begin:.0f} s, all in {time.monotonic() - begin:.0f} s")
    print(f"checkpoint   {checkpoint}")
    print(f"schedules    {schedules_beside(checkpoint)}")
    print(f"samples      {paths[0].parent}")
    print(f"plots        {folder / 'evaluation'}/*.png")
    print(f"TensorBoard  .venv/bin/tensorboard --logdir {options.out}")
    return cells


if __name__ == "__main__":
    main()
