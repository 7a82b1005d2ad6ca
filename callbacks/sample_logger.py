"""Samples during training: their metrics, and what people look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from ddm.datamodules import SequenceDataModule
from ddm.functional import require_at_least
from ddm.module import DiscreteDiffusion
from ddm.pictures import token_figure, trajectory_figure
from ddm.samplers import Trajectory
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
        every_n_epochs: Draw in the validation of every n-th epoch, and in `trainer.validate`.
        num_shown: Number of samples that are shown.
        num_trajectories: Number of samples whose way from noise to data is shown.
        seed: Seed of the noise.
    """

    def __init__(
        self,
        num_samples: int = 64,
        num_steps: Sequence[int] = (8, 32),
        *,
        every_n_epochs: int = 1,
        num_shown: int = 16,
        num_trajectories: int = 4,
        seed: int = 0,
    ) -> None:
        require_at_least(1, num_samples=num_samples, every_n_epochs=every_n_epochs)
        require_at_least(0, num_shown=num_shown, num_trajectories=num_trajectories, seed=seed)
        for n in num_steps:
            require_at_least(1, num_steps=n)
        self.num_samples = num_samples
        self.num_steps = tuple(num_steps)
        self.every_n_epochs = every_n_epochs
        self.num_shown = num_shown
        self.num_trajectories = num_trajectories
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
        alone = trainer.state.fn != "fit"  # `trainer.validate` is asked for once
        due = alone or (trainer.current_epoch + 1) % self.every_n_epochs == 0
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
        # Neighboring ranks must not share their first numbers: the stream of rank r is far away.
        generator = torch.Generator(module.device).manual_seed(
            self.seed + 1_000_003 * trainer.global_rank
        )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SequenceDataModule):
            data = None
        tokens = free = reference = None
        if data is not None:
            held_out = data.val_tokens
            rows = (torch.arange(share) + share * trainer.global_rank) % len(held_out)
            reference = held_out[rows].long().to(module.device)
            if data.free is not None:
                tokens, free = reference, data.free.to(module.device).expand(share, -1)
        trajectory = Trajectory(self.num_trajectories)
        tokens = module.sample(
            share,
            schedule,
            tokens=tokens,
            free=free,
            generator=generator,
            on_state=trajectory.record,
        ).tokens
        if data is not None and reference is not None:
            for key, value in data.measure(tokens, reference).items():
                # The values are those of all processes already.
                module.log(f"samples/{key}_{name}", value.float(), batch_size=1)
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                if isinstance(logger, TensorBoardLogger):
                    shown = tokens[: self.num_shown].cpu()
                    _show(logger.experiment, name, module, data, shown, trajectory)


def _show(
    writer: SummaryWriter,
    name: str,
    module: DiscreteDiffusion,
    data: SequenceDataModule | None,
    samples: Tensor,
    trajectory: Trajectory,
) -> None:
    title, step = f"samples/{name}_steps", module.global_step
    times, states = trajectory.thin()
    vocab_size = module.process.kernel.vocab_size
    if len(samples) and data is not None:
        data.log_samples(writer, title, samples, step)
    elif len(samples):
        writer.add_figure(title, token_figure(samples, vocab_size), step)
    title += "/trajectory"
    if trajectory.num_samples and data is not None:
        writer.add_figure(title, data.trajectory_figure(times, states), step)
        if text := data.trajectory_text(times, states):
            # Indented by four: markdown shows it as it is.
            writer.add_text(title, "\n".join(f"    {line}" for line in text.splitlines()), step)
    elif trajectory.num_samples:
        writer.add_figure(title, trajectory_figure(times, states, vocab_size), step)
