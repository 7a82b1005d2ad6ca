"""Samples during training: their metrics, and what people look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from ddm.arrivals import token_arrivals
from ddm.callbacks.panel import as_code, show
from ddm.datamodules import SequenceDataModule
from ddm.functional import require_at_least
from ddm.module import DiscreteDiffusion
from ddm.pictures import pixels, together, token_figure, trajectory_figure
from ddm.samplers import Trajectory
from ddm.schedules import SamplingSchedule


@dataclass(frozen=True)
class _Drawn:
    """Samples of one schedule, what the data's metrics say of them, and how they came about."""

    tokens: Tensor
    num_calls: int
    values: Mapping[str, float]
    trajectory: Trajectory

    def title(self, name: str) -> str:
        """Return the name with the calls and the first metric, if there is one."""
        words = [f"{key} {value:.3g}" for key, value in [*self.values.items()][:1]]
        return ", ".join([f"{name}, {self.num_calls} network calls", *words])


class SampleLogger(Callback):
    """Draw samples at validation, log their metrics and show them to all loggers.

    The metrics are those of the data module's `metrics()`, under the names `samples/METRIC_N` for N
    steps, so that a `ModelCheckpoint` can monitor them. Samples are drawn with the module's current
    schedules and, where these are not uniform, also with uniform ones, under
    `samples/METRIC_N_uniform`; from the averaged weights where `EMAWeightAveraging` keeps them,
    always from the same noise and without touching the global random state. Both are shown side by
    side, with the first metric, under `samples/N_steps`; then the way of a few from noise to data
    (`N_steps_path`), and which step set which token (`N_steps_when`). Where the data module
    asks for conditional generation (`prompt_length`) they continue validation sequences. Every
    process draws its share. It costs N network calls per schedule.

    Args:
        num_samples: Number of samples per schedule, over all processes.
        num_steps: Numbers N of sampling steps.
        every_n_epochs: Draw in the validation of every n-th epoch, and in `trainer.validate`; in
            every validation where the trainer counts batches (`check_val_every_n_epoch=None`).
        num_shown: Number of samples that are shown.
        num_trajectories: Number of samples whose way from noise to data is shown.
        seed: Seed of the noise.

    Example:
        >>> from ddm.callbacks import SampleLogger
        >>> from lightning.pytorch import Trainer
        >>> callback = SampleLogger(num_samples=8, num_steps=(4, 16))
        >>> trainer = Trainer(callbacks=[callback], accelerator="cpu", logger=False)
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
        # A stream is one epoch, however long.
        alone = alone or trainer.check_val_every_n_epoch is None
        due = alone or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if not last or not due or trainer.sanity_checking:
            return
        if not isinstance(pl_module, DiscreteDiffusion):
            raise TypeError(
                "`SampleLogger` needs a `DiscreteDiffusion` to draw samples from, got "
                f"{type(pl_module).__name__}; remove the callback."
            )
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, SequenceDataModule):
            data = None
        for n in self.num_steps:
            uniform, current = SamplingSchedule.uniform(n), pl_module.schedule(n)
            drawn = {"uniform": self._draw(trainer, pl_module, data, uniform)}
            if current.times != uniform.times:
                drawn["optimized"] = self._draw(trainer, pl_module, data, current)
            for k, (name, samples) in enumerate(reversed(drawn.items())):
                for key, value in samples.values.items():
                    # The values are those of all processes already.
                    tag = f"samples/{key}_{n}" + (f"_{name}" if k else "")
                    pl_module.log(tag, value, batch_size=1)
            if trainer.is_global_zero and trainer.loggers:
                self._show(trainer, f"samples/{n}_steps", data, drawn, pl_module)

    def tags(self, data: object) -> dict[str, Sequence[int]]:
        """Return the metrics of the samples of a data module, with their numbers of steps."""
        names = data.metrics() if isinstance(data, SequenceDataModule) else {}
        return {name: self.num_steps for name in names}

    def _draw(
        self,
        trainer: Trainer,
        module: DiscreteDiffusion,
        data: SequenceDataModule | None,
        schedule: SamplingSchedule,
    ) -> _Drawn:
        share = -(-self.num_samples // trainer.world_size)
        # Neighboring ranks must not share their first numbers: the stream of rank r is far away.
        generator = torch.Generator(module.device).manual_seed(
            self.seed + 1_000_003 * trainer.global_rank
        )
        tokens = free = reference = None
        if data is not None:
            held_out = data.val_tokens
            rows = (torch.arange(share) + share * trainer.global_rank) % len(held_out)
            reference = held_out[rows].long().to(module.device)
            if data.free is not None:
                tokens, free = reference, data.free.to(module.device).expand(share, -1)
        trajectory = Trajectory(self.num_trajectories)
        samples = module.sample(
            share,
            schedule,
            tokens=tokens,
            free=free,
            generator=generator,
            on_state=trajectory.record,
        )
        values = {}
        if data is not None and reference is not None:
            measured = data.measure(samples.tokens, reference)
            values = {name: float(value) for name, value in measured.items()}
        return _Drawn(samples.tokens, samples.num_calls, values, trajectory)

    def _show(
        self,
        trainer: Trainer,
        tag: str,
        data: SequenceDataModule | None,
        drawn: Mapping[str, _Drawn],
        module: DiscreteDiffusion,
    ) -> None:
        """Show samples side by side, and the way of those that were drawn last."""
        loggers, step = trainer.loggers, trainer.global_step
        vocab_size = module.process.kernel.vocab_size
        shown = {one.title(name): one.tokens[: self.num_shown].cpu() for name, one in drawn.items()}
        if self.num_shown:
            draw = data.samples_figure if data else lambda x: token_figure(x, vocab_size)
            pictures = {title: draw(tokens) for title, tokens in shown.items()}
            show(loggers, tag, together(pictures), step)
            texts = {title: data.samples_text(x) for title, x in shown.items()} if data else {}
            if any(texts.values()):
                parts = [f"**{title}**\n\n{as_code(text)}" for title, text in texts.items()]
                show(loggers, tag, "\n\n".join(parts), step)
            _play(trainer, tag, data, [*shown.values()][-1])
        trajectory = [*drawn.values()][-1].trajectory
        if not self.num_trajectories:
            return
        times, states = trajectory.thin()
        _, every = trajectory.thin(len(trajectory))
        if data is None:
            path, when = trajectory_figure(times, states, vocab_size), token_arrivals(every)
        else:
            path, when = data.trajectory_figure(times, states), data.arrival_figure(every)
            if text := data.trajectory_text(times, states):
                show(loggers, f"{tag}_path", as_code(text), step)
        show(loggers, f"{tag}_path", pixels(path), step)
        show(loggers, f"{tag}_when", pixels(when), step)


def _play(trainer: Trainer, tag: str, data: SequenceDataModule | None, tokens: Tensor) -> None:
    """Let samples be heard in TensorBoard, where their data have a sound."""
    sounds, rate = data.samples_audio(tokens) if data else ([], 0)
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            for k, sound in enumerate(sounds):
                logger.experiment.add_audio(
                    f"{tag}/{k}", sound[None], trainer.global_step, sample_rate=rate
                )
