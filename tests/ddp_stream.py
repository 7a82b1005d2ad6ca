"""Train two processes on a stream, stop and resume, and write which batches each of them saw."""

import json
import sys
from functools import partial
from pathlib import Path

# ddm before lightning: see ddm/_torchvision.py.
# isort: off
from ddm.backbones import MLP
from ddm.datamodules import CharacterVocabulary, Shards, TextStream
from ddm.files import write_json
from ddm.kernels import Absorbing
from ddm.module import DiscreteDiffusion

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
# isort: on

LENGTH = 8


class Seen(Callback):
    """Keeps the text of every batch."""

    def __init__(self) -> None:
        self.texts = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.texts.append(trainer.datamodule.decode(batch["tokens"]))


def train(folder: Path, steps: int, *, devices: int = 2, batch_size: int = 2) -> list[list[str]]:
    """Train from the last checkpoint of a folder on, and return the texts of every batch."""
    torch.manual_seed(0)
    data = TextStream(
        partial(Shards, str(folder.parent / "shards")),
        CharacterVocabulary,
        length=LENGTH,
        batch_size=batch_size,
        num_held_out=2,
        buffer=4,
    )
    seen, last = Seen(), folder / "last.ckpt"
    trainer = Trainer(
        max_steps=steps,
        accelerator="cpu",
        devices=devices,
        strategy="ddp" if devices > 1 else "auto",
        callbacks=[seen, ModelCheckpoint(folder, every_n_train_steps=1, save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    network = partial(MLP, length=LENGTH, dim=8, depth=1)
    model = DiscreteDiffusion(
        Absorbing(data.vocab_size), network, length=LENGTH, optimizer=torch.optim.Adam
    )
    trainer.fit(model, data, ckpt_path=last if last.exists() else None, weights_only=True)
    return seen.texts


def main(folder: Path) -> None:
    """Train without a stop and with one, and on a stream that is too short for a process."""
    found = {
        "straight": train(folder / "a", 6),
        "stopped": train(folder / "b", 2),
        "resumed": train(folder / "b", 6),
    }
    try:
        train(folder / "c", 2, batch_size=60)
    except Exception as error:
        found["error"] = f"{type(error).__name__}: {error}"
    write_json(folder / f"run{torch.distributed.get_rank()}.json", found)


def write_shards(folder: Path) -> None:
    """Write shards of documents of eight letters, each of them once; the last shard is short."""
    folder.mkdir(parents=True)
    for shard, num in enumerate((50, 50, 50, 1)):
        lines = [json.dumps({"text": f"{shard}:{line:05d}."}) for line in range(num)]
        (folder / f"{shard}.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
