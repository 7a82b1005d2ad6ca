"""Train on a stream in copies of this process, kill them, resume, and compare what is left."""

import json
import multiprocessing
import os
import signal
import sys
from functools import partial
from pathlib import Path

# ddm before lightning: see ddm/_torchvision.py.
# isort: off
from ddm.backbones import MLP
from ddm.callbacks import JYSScheduleCallback
from ddm.datamodules import CharacterVocabulary, Shards, TextStream
from ddm.kernels import Absorbing
from ddm.module import DiscreteDiffusion
from ddm.schedules import OptimalSteps

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
# isort: on

LENGTH, STEPS = 16, 24


class Kill(Callback):
    """Kills the process at a batch, as the kernel does when memory runs out."""

    def __init__(self, batch: int | None) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        if batch_idx == self.batch:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, shards: Path, kill: int | None) -> None:
    """Train in a folder, from its last checkpoint on if there is one."""
    torch.manual_seed(0)
    data = TextStream(
        partial(Shards, str(shards)),
        CharacterVocabulary,
        length=LENGTH,
        batch_size=4,
        num_held_out=4,
        buffer=12,
        num_workers=2,
    )
    optimizer = OptimalSteps(num_times=6, pilot_times=4)
    trainer = Trainer(
        max_steps=STEPS,
        accumulate_grad_batches=2,
        accelerator="cpu",
        callbacks=[
            ModelCheckpoint(folder, every_n_train_steps=1, save_last=True),
            EMAWeightAveraging(decay=0.9),
            JYSScheduleCallback((2,), optimizer=optimizer, num_samples=8, every_n_steps=5),
            Kill(kill),
        ],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        default_root_dir=folder,
    )
    model = DiscreteDiffusion(
        Absorbing(data.vocab_size),
        partial(MLP, length=LENGTH, dim=8, depth=1),
        length=LENGTH,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
    )
    last = folder / "last.ckpt"
    trainer.fit(model, data, ckpt_path=last if last.exists() else None, weights_only=True)


def run(folder: Path, shards: Path, kill: int | None) -> None:
    """Train in a copy of this process, and see that it ends as it should."""
    folder.mkdir(exist_ok=True)
    arguments = (folder, shards, kill)
    process = multiprocessing.get_context("fork").Process(target=train, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == (0 if kill is None else -signal.SIGKILL)


def same(one: object, two: object) -> bool:
    """Compare what checkpoints hold; how long something took plays no part."""
    if isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict) and isinstance(two, dict):
        keys = (one.keys() | two.keys()) - {"seconds"}
        return all(key in one and key in two and same(one[key], two[key]) for key in keys)
    if isinstance(one, (list, tuple)) and isinstance(two, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


def main(folder: Path, kills: list[int]) -> None:
    """Train with and without kills; both must end with the same."""
    shards = folder / "shards"
    shards.mkdir()
    for shard in range(3):
        lines = [json.dumps({"text": f"{shard} {line} " * (9 + line)}) for line in range(6)]
        (shards / f"{shard}.jsonl").write_text("\n".join(lines))
    run(folder / "calm", shards, None)
    for kill in [*kills, None]:
        run(folder / "killed", shards, kill)
    found = [torch.load(folder / n / "last.ckpt", weights_only=True) for n in ("calm", "killed")]
    for content in found:
        (content["schedules"],) = (v for k, v in content["callbacks"].items() if "JYS" in k)
    for name in ("global_step", "state_dict", "optimizer_states", "schedules", "loops"):
        print(name, "equal" if same(*(content[name] for content in found)) else "different")


if __name__ == "__main__":
    torch.set_num_threads(1)  # processes are copied, threads are not
    main(Path(sys.argv[1]), [int(batch) for batch in sys.argv[2:]])
