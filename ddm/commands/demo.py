"""Train CountDown, then compare sampling schedules; `ddm demo --help` says more."""

from __future__ import annotations

import time

from ddm.commands import evaluate, optimize, parsers, sample, train
from ddm.commands.closing import last_checkpoint
from ddm.commands.door import command
from ddm.commands.options import make_folder
from ddm.evaluation import Cells
from ddm.schedules.optimizer import schedules_beside

NUM_STEPS = ["--num-steps", "4", "8", "16"]


@command
def main(args: list[str]) -> Cells:
    """Run the tour; further arguments go to `ddm train fit`."""
    options, further = parsers.demo().parse_known_args(args)
    begin = time.monotonic()
    place = f"--trainer.logger.init_args.save_dir={make_folder(options.out)}"
    trainer = train.main(["fit", "--config=countdown", place, *further]).trainer
    checkpoint = last_checkpoint(trainer)
    if checkpoint is None:
        raise ValueError(
            "`checkpoint` must be written, or there is nothing to compare; leave out the argument "
            "that switches it off."
        )
    trained = time.monotonic()
    folder = checkpoint.parents[1]
    # Updates make 2 % of the calls of training, which is little for a training of a minute.
    optimize.main([str(checkpoint), "--num-steps", "4", "8", "16", "32", "--num-samples=256"])
    paths = sample.main([str(checkpoint), "--num-steps=32", f"--out={folder / 'samples'}"])
    num_samples = f"--num-samples={options.num_samples}"
    further = ["--num-sequences=128", "--seeds=1", f"--out={folder / 'evaluation'}"]
    cells = evaluate.main([str(checkpoint), *NUM_STEPS, num_samples, *further])
    print(f"\ntrained in {trained - begin:.0f} s, all in {time.monotonic() - begin:.0f} s")
    print(f"checkpoint   {checkpoint}")
    print(f"schedules    {schedules_beside(checkpoint)}")
    print(f"samples      {paths[0].parent}")
    print(f"plots        {folder / 'evaluation'}/*.png")
    print(f"TensorBoard  tensorboard --logdir {options.out}")
    return cells
