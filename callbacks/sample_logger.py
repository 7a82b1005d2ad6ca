"""Samples during training: their metrics, and what people look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from ddm.backbones.base import require_at_least
from ddm.datamodules import SequenceDataModule
from ddm.module import DiscreteDiffusion
from ddm.pictures import token_figure
from ddm.schedules import SamplingSchedule


class SampleLogger(Callback):
    """Draw samples at validation, log their metrics and show them in TensorBoard.

    The metrics are those of the data module's `metrics()`, under the names `samples/METRIC_N` for N
    steps, so that a `ModelCheckpoint` can monitor them. Samples are drawn with the module's current
    schedules and, where these are not uniform, also with uniform ones, under
    `samples/METRIC_N_uniform`; from the averaged weights where `EMAWeightAveraging` keeps them,
    always from the same noise and without touching the global random state. Where the data module
    asks for conditional generation (`prompt_length`) they continue validation sequences. Every
    process draws its share. It costs N network calls per schedule.

    Args:
        num_samples: Number of samples per schedule, over all processes.
        num_steps: Numbers N of sampling steps.
        every_n_epochs: Draw in the validation of every n-th epoch.
        num_shown: Number of samples that are shown.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        num_samples: int = 64,
        num_steps: Sequence[int] = (8, 32),
        *,
        every_n_epochs: int = 1,
        num_shown: int = 16,
        seed: int = 0,
    ) -> None:
        require_at_least(1, num_samples=num_samples, every_n_epochs=every_n_epochs)
        require_at_least(0, num_shown=num_shown, seed=seed)
        for n in num_steps:
            require_at_least(1, num_steps=n)
        self.num_samples = num_samples
        self.num_steps = tuple(num_steps)
        self.every_n_epochs = every_n_epochs
        self.num_shown = num_shown
        self.seed = seed

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draw and log after the last batch.

        Weight averaging swaps its weights in before the first batch and out after the last, so
        here they are in place whatever the order of the callbacks.
        """
        last = dataloader_idx == 0 and batch_idx + 1 == trainer.num_val_batches[0]
        due = (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if not last or not due or trainer.sanity_checking:
            return
        if not isinstance(pl_module, DiscreteDiffusion):
            raise TypeError(
                "`SampleLogger` needs a `DiscreteDiffusion` to draw samples from, got "
                f"{type(pl_module).__name__}; remove the callback."
            )
        for n in self.num_steps:
            current, uniform = pl_module.schedule(n), SamplingSchedule.uniform(n)
            self._draw_and_log(trainer, pl_module, current, str(n))
            if current.times != uniform.times:
                self._draw_and_log(trainer, pl_module, uniform, f"{n}_uniform")

    def _draw_and_log(
        self, trainer: Trainer, module: DiscreteDiffusion, schedule: SamplingSchedule, name: str
    ) -> None:
        share = -(-self.num_samples // trainer.world_size)
        # Neighbouring ranks must not share their first numbers: the stream of rank r is far away.
        generator = torch.Generator(module.device).manual_seed(
            self.seed + 1_000_003 * trainer.global_rank
        )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SequenceDataModule):
            data = None
        prompt = mask = reference = None
        if data is not None:
            held_out = data.val_tokens
            rows = (torch.arange(share) + share * trainer.global_rank) % len(held_out)
            reference = held_out[rows].long().to(module.device)
            if data.prompt_length:
                prompt, mask = reference, data.prompt_mask.to(module.device).expand(share, -1)
        tokens = module.sample(
            share, schedule, prompt=prompt, prompt_mask=mask, generator=generator
        ).tokens
        if data is not None and reference is not None:
            for key, value in data.measure(tokens, reference).items():
                # The values are those of all processes already.
                module.log(f"samples/{key}_{name}", value.float(), batch_size=1)
        shown = tokens[: self.num_shown].cpu()
        if not trainer.is_global_zero or len(shown) == 0:
            return
        step, title = trainer.global_step, f"samples/{name}_steps"
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                if data is not None:
                    data.log_samples(logger.experiment, title, shown, step)
                else:
                    figure = token_figure(shown, module.process.kernel.vocab_size)
                    logger.experiment.add_figure(title, figure, step)
