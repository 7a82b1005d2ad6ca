"""Train two processes with sharded weights and write what each of them holds.

In the first update something goes wrong inside of the network, in one process alone. Then samples
are drawn, and runs are stopped and resumed, from sharded checkpoints and with an average.
"""

import sys
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path

# ddm before lightning: see ddm/_torchvision.py.
# isort: off
from ddm.backbones import Transformer
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.files import write_json
from ddm.kernels import Absorbing
from ddm.module import DiscreteDiffusion
from ddm.schedules import OptimalSteps
from ddm.sharding import ShardedEMA, shard

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader
# isort: on

from ddp_schedule import count_up

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}


class Sharded(DiscreteDiffusion):
    """The model of the documentation, whose weights are spread over all processes."""

    def configure_model(self) -> None:
        shard(self)


class Troubled(OptimalSteps):
    """Fails in the second process inside of the network, at the first update."""

    def __call__(self, denoiser, *args, **settings):
        self.num_calls = getattr(self, "num_calls", 0) + 1
        if torch.distributed.get_rank() == 0 or self.num_calls > 1:
            return super().__call__(denoiser, *args, **settings)

        def fail(*_):
            raise KeyError("a network is in trouble")

        hook = denoiser.backbone.blocks[0].register_forward_pre_hook(fail)
        try:
            return super().__call__(denoiser, *args, **settings)
        finally:
            hook.remove()


def make_model(kind=DiscreteDiffusion) -> DiscreteDiffusion:
    """Return a model of sequences that count up."""
    torch.manual_seed(0)
    network = partial(Transformer, dim=16, depth=2, num_heads=2)
    return kind(Absorbing(4), network, length=8, optimizer=partial(torch.optim.AdamW, lr=1e-2))


def make_trainer(folder: Path, **settings) -> Trainer:
    """Return a trainer of four steps."""
    optimizer = Troubled(num_times=6, pilot_times=4)
    return Trainer(
        max_epochs=1,
        default_root_dir=folder,
        callbacks=[
            JYSScheduleCallback(
                (2, 4), optimizer=optimizer, num_samples=32, every_n_steps=2, max_share=1000.0
            ),
            ModelCheckpoint(folder, save_last=True, every_n_train_steps=2),
            SampleLogger(num_samples=6, num_steps=(3,)),
        ],
        **QUIET,
        **settings,
    )


class ByHand(Callback):
    """Keeps the weights after the last step, whole, and their running average."""

    average = None

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.now = whole(module)
        before = self.now if self.average is None else self.average
        self.average = torch.lerp(before, self.now, 0.2)


def whole(module: DiscreteDiffusion) -> torch.Tensor:
    """Return all weights; a collective call."""
    return torch.cat([p.detach().full_tensor().flatten() for p in module.parameters()])


def weights_after(
    folder: Path, *num_epochs: int, callbacks: Sequence[Callback] = (), sharded: bool = True
) -> torch.Tensor:
    """Train for some epochs, resumed after each number of them, and return the weights."""
    for number, epochs in enumerate(num_epochs):
        module = make_model(Sharded)
        strategy = ModelParallelStrategy(
            data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=sharded
        )
        trainer = Trainer(
            max_epochs=epochs,
            devices=2,
            strategy=strategy,
            callbacks=[*callbacks, ModelCheckpoint(folder, save_last=True)],
            **QUIET,
        )
        last = folder / "last.ckpt" if number else None
        loaders = (DataLoader(count_up(32), batch_size=8) for _ in range(2))
        trainer.fit(module, *loaders, ckpt_path=last, weights_only=True)
    return whole(module)


def main(folder: Path) -> None:
    """Train, and write."""
    module = make_model(Sharded)
    strategy = ModelParallelStrategy(
        data_parallel_size=2, tensor_parallel_size=1, save_distributed_checkpoint=False
    )
    trainer = make_trainer(folder, devices=2, strategy=strategy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, *(DataLoader(count_up(num), batch_size=8) for num in (64, 16)))
    values = {name: float(value) for name, value in trainer.callback_metrics.items()}
    drawn = trainer.predict(module, DataLoader(count_up(12), batch_size=1))
    callback = trainer.callbacks[0]
    words = [str(w.message) for w in caught if "not updated" in str(w.message)]
    steps = [entry["step"] for entry in callback.history]
    local = sum(p.to_local().numel() for p in module.parameters())
    total = sum(p.numel() for p in module.parameters())
    found = {"steps": steps, "warnings": words, "share": local / total}
    found["bits"] = values["val/bits_per_token"]
    found["drawn"] = [len(tokens) for tokens in drawn]
    found["highest"] = int(torch.cat(drawn).max())
    straight, resumed = weights_after(folder / "a", 2), weights_after(folder / "b", 1, 2)
    found["resumed"] = torch.equal(straight, resumed)
    hand, average = ByHand(), ShardedEMA(decay=0.8, use_buffers=False)
    settings = {"callbacks": [hand, average], "sharded": False}
    averaged = weights_after(folder / "average", 1, 2, **settings)
    found["with_average"] = torch.equal(straight, hand.now)
    found["error"] = float((averaged - hand.average).abs().max())
    rank = trainer.global_rank
    write_json(folder / f"run{rank}.json", found)
    callback.optimized.save(folder / f"rank{rank}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
