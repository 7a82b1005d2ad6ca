"""What the loggers of a run show: pictures and texts, settings, and how charts are laid out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import UInt8
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from numpy import ndarray
from PIL import Image

from ddm.denoisers import Denoiser
from ddm.files import replacing

MASK_SIGN = "\u2591"
"""Stands for U+FFFD, which looks like an error."""


@rank_zero_only
def show(
    loggers: Iterable[Logger], tag: str, content: UInt8[ndarray, "h w 3"] | str, step: int
) -> None:
    """Give a picture, or a text in Markdown, to all loggers.

    TensorBoard and those with `log_image` and `log_text` (W&B) show it; others that have a folder,
    such as the one for CSV, get a file `<tag>.png` or `<tag>.md` with the latest.
    """
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            if isinstance(content, str):
                logger.experiment.add_text(tag, content, step)
            else:
                logger.experiment.add_image(tag, content, step, dataformats="HWC")
        elif hasattr(logger, "log_image"):
            if not isinstance(content, str):
                logger.log_image(tag, [Image.fromarray(content)], step=step)
            elif hasattr(logger, "log_text"):
                logger.log_text(tag, columns=["text"], data=[[content]], step=step)
        elif logger.log_dir is not None:
            _write(Path(logger.log_dir) / tag, content)


def _write(path: Path, content: UInt8[ndarray, "h w 3"] | str) -> None:
    if isinstance(content, str):
        with replacing(path.with_name(f"{path.name}.md")) as unfinished:
            unfinished.write_text(content + "\n", encoding="utf-8")
    else:
        with replacing(path.with_name(f"{path.name}.png")) as unfinished:
            Image.fromarray(content).save(unfinished, format="png")


def as_code(text: str) -> str:
    """Return lines that Markdown shows as they are, with a sign for masks."""
    lines = text.replace("\ufffd", MASK_SIGN).splitlines()
    return "\n".join(f"    {line}" for line in lines)


def settings_of(trainer: Trainer, module: LightningModule, denoiser: Denoiser) -> dict[str, Any]:
    """Return what distinguishes runs: data, kernel, noise, network and learning rate."""
    (group, *_) = trainer.optimizers[0].param_groups
    data = trainer.datamodule  # type: ignore[attr-defined]
    network = getattr(denoiser, "backbone", denoiser)
    return {
        "data": type(data).__name__ if data is not None else "loader",
        "kernel": type(denoiser.process.kernel).__name__,
        "noise": type(denoiser.process.noise).__name__,
        "network": type(network).__name__,
        "parameters": sum(p.numel() for p in module.parameters() if p.requires_grad),
        "optimizer": type(trainer.optimizers[0]).__name__,
        "learning_rate": group.get("initial_lr", group["lr"]),
    }


@rank_zero_only
def log_settings(trainer: Trainer, settings: Mapping[str, Any], metrics: Sequence[str]) -> None:
    """Log the hyperparameters of a run.

    Args:
        trainer: Its loggers get them.
        settings: Their values.
        metrics: Names of the numbers that TensorBoard shows beside them, with their last value.
    """
    plain = {k: v if isinstance(v, (bool, int, float)) else str(v) for k, v in settings.items()}
    for logger in trainer.loggers:
        if not isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(plain)
            continue
        from torch.utils.tensorboard.summary import hparams  # TensorBoard is there

        # The logger's own method would begin the curve of every metric with a made-up value.
        logger.hparams.update(plain)
        Path(logger.log_dir, logger.NAME_HPARAMS_FILE).unlink(missing_ok=True)  # empty by now
        logger.save()
        for summary in hparams(plain, dict.fromkeys(metrics, 0.0)):
            logger.experiment.file_writer.add_summary(summary)


@rank_zero_only
def lay_out(
    trainer: Trainer, num_steps: Sequence[int], samples: Mapping[str, Sequence[int]]
) -> None:
    """Put curves that belong together into one chart of TensorBoard's custom scalars.

    Args:
        trainer: Its loggers are asked.
        num_steps: Numbers of steps with schedules.
        samples: Numbers of steps by metric of the samples.
    """
    gains = [f"optimized_schedule/gain_{n}" for n in num_steps]
    quality = {
        f"{metric}, {n} steps": [
            "Multiline",
            [f"samples/{metric}_{n}", f"samples/{metric}_{n}_uniform"],
        ]
        for metric, numbers in samples.items()
        for n in numbers
    }
    layout = {
        "optimized schedules": {"gain over uniform steps": ["Multiline", gains]},
        "samples, optimized and uniform": quality,
        "training": {
            "loss and bound, bits per token": ["Multiline", ["train/loss", "val/bits_per_token"]]
        },
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_custom_scalars({k: v for k, v in layout.items() if v})
