"""Train two processes with the schedule callback and write what each of them holds.

In the first updates something goes wrong in one process alone.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

# ddm before lightning: see ddm/_torchvision.py.
# isort: off
from ddm.backbones import MLP
from ddm.callbacks import JYSScheduleCallback
from ddm.files import write_json
from ddm.kernels import Gaussian
from ddm.module import DiscreteDiffusion
from ddm.schedules import OptimalSteps

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, IterableDataset
# isort: on


def make_model() -> DiscreteDiffusion:
    """Return a model of sequences that count up."""
    return DiscreteDiffusion(
        Gaussian(4),  # errors are weighted by what all shards say of them, not a rank's own
        partial(MLP, length=8, dim=16, depth=1),
        length=8,
        optimizer=torch.optim.Adam,
    )


def count_up(num: int) -> list[dict[str, torch.Tensor]]:
    """Return that many of the sequences."""
    generator = torch.Generator().manual_seed(0)
    tokens = (torch.randint(4, (num, 1), generator=generator) + torch.arange(8)) % 4
    return [{"tokens": row} for row in tokens]


class Uneven(IterableDataset):
    """Batches of which the first one is too small in the second process."""

    def __iter__(self):
        rows = torch.stack([row["tokens"] for row in count_up(16)])
        rank = torch.distributed.get_rank()
        yield rows[: 6 if rank else 8]
        for _ in range(3):
            yield rows


class Troubled(OptimalSteps):
    """Fails in the second process: at first by itself, then inside of the network."""

    def __call__(self, denoiser, *args, **settings):
        self.num_calls = getattr(self, "num_calls", 0) + 1
        if torch.distributed.get_rank() == 0 or self.num_calls > 2:
            return super().__call__(denoiser, *args, **settings)
        if self.num_calls == 1:
            raise ValueError("one process is in trouble")

        def fail(*_):
            raise KeyError("a network is in trouble")

        hook = denoiser.backbone.register_forward_pre_hook(fail)
        try:
            return super().__call__(denoiser, *args, **settings)
        finally:
            hook.remove()


def main(folder: Path) -> None:
    """Train, and write."""
    torch.manual_seed(0)
    model = make_model()
    callback = JYSScheduleCallback(
        (2, 4), optimizer=Troubled(num_times=6, pilot_times=4), num_samples=32, every_n_steps=1
    )
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaders = DataLoader(Uneven(), batch_size=None), DataLoader(count_up(20), batch_size=4)
        trainer.fit(model, *loaders)
    rank = trainer.global_rank
    callback.optimized.save(folder / f"rank{rank}.json")
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    words = [str(w.message) for w in caught if "not updated" in str(w.message)]
    steps = [entry["step"] for entry in callback.history]
    write_json(folder / f"run{rank}.json", {"steps": steps, "warnings": words, "metrics": metrics})
    if rank == 0:
        torch.save(model.state_dict(), folder / "weights.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
