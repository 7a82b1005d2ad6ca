"""Train two processes with the schedule callback and write what each of them holds."""

import sys
from functools import partial
from pathlib import Path

# ddm before lightning: see ddm/_torchvision.py.
# isort: off
from ddm.backbones import MLP
from ddm.callbacks import JYSScheduleCallback
from ddm.kernels import Gaussian
from ddm.module import DiscreteDiffusion
from ddm.schedules import OptimalSteps

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader
# isort: on

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    tokens = (torch.randint(4, (64, 1)) + torch.arange(8)) % 4
    model = DiscreteDiffusion(
        Gaussian(4),  # errors are weighted by what all shards say of them, not a rank's own
        partial(MLP, length=8, dim=16, depth=1),
        length=8,
        optimizer=torch.optim.Adam,
    )
    callback = JYSScheduleCallback(
        (2, 4), optimizer=OptimalSteps(num_times=6, pilot_times=4), num_samples=32, every_n_steps=2
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
        default_root_dir=folder,
    )
    trainer.fit(model, DataLoader([{"tokens": row} for row in tokens], batch_size=16))
    callback.optimised.save(folder / f"rank{trainer.global_rank}.json")
