"""The Lightning module: wiring and logging, no mathematics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LinearLR, LRScheduler, SequentialLR

from ddm.backbones.base import require_at_least
from ddm.denoisers import Denoiser, MeanDenoiser, ScoreDenoiser, given_prompt
from ddm.functional import stratified_times
from ddm.kernels import Kernel
from ddm.losses import NELBO, Loss, ScoreEntropy
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Sampler, Samples
from ddm.schedules import SamplingSchedule
from ddm.schedules.setting import Setting

Batch = dict[str, Tensor]
T = TypeVar("T")

# First words of the seeds, so that no two stages share a stream of random numbers.
TRAINING, EVALUATION, PREDICTION = range(3)


class DiscreteDiffusion(LightningModule):
    """Discrete diffusion model: kernel, noise, network, loss and sampler, wired for Lightning.

    Batches are `{"tokens": (B, L)}`, int64 in 0..V-1. Where they also hold `"prompt_mask"` (B, L),
    the model is conditional: the tokens that it marks are given. In training and validation they
    stay clean while the others are noised, and losses and bounds are those of the others, per free
    token; the same positions have to be marked in all sequences (`PromptedDenoiser` says why).
    `trainer.predict` draws one sample per sequence of its batches and keeps the marked tokens.

    The noise of a training batch depends on the seed, the epoch and the index of the batch alone,
    so a run that is resumed from the end of an epoch continues exactly as if it had not stopped
    (dropout excepted, which draws from the global state; in the middle of an epoch, the loader
    starts anew with other batches). Validation repeats its noise in every epoch, so that epochs are
    comparable.

    Args:
        kernel: Where tokens jump.
        backbone: Makes the network from the number K of states; for instance a class of
            `ddm.backbones`, or a function that compiles what such a class makes
            (`network.compile()` keeps the names of the weights).
        length: Number L of tokens per sequence.
        optimizer: Makes the optimiser from the parameters.
        noise: How fast tokens jump; `LogLinear` by default.
        denoiser: Makes the denoiser from the network and the process.
        loss: What training minimises.
        sampler: How samples are drawn.
        lr_scheduler: Makes the schedule of the learning rate from the optimiser and the number of
            optimiser steps after the warm-up, for instance `CosineAnnealingLR` or `PolynomialLR`;
            constant by default.
        warmup_steps: Number of first optimiser steps in which the learning rate grows linearly.
        num_steps: Number of sampling steps of `trainer.predict`.

    Attributes:
        schedule_source: Makes the sampling schedule of any number of steps; uniform schedules at
            first. A callback may put better schedules here. It is a plain attribute and never
            part of the state: weight averaging would average the times.

    Raises:
        ValueError: A number is out of its domain.
    """

    def __init__(
        self,
        kernel: Kernel,
        backbone: Callable[[int], nn.Module],
        *,
        length: int,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        noise: NoiseSchedule | None = None,
        denoiser: Callable[[nn.Module, ForwardProcess], Denoiser] = MeanDenoiser,
        # Stateless, so they can be shared; as instances they appear in the configs that are saved.
        loss: Loss = NELBO(),  # noqa: B008
        sampler: Sampler = Analytic(),  # noqa: B008
        lr_scheduler: Callable[[Optimizer, int], LRScheduler] | None = None,
        warmup_steps: int = 0,
        num_steps: int = 64,
    ) -> None:
        super().__init__()
        require_at_least(1, length=length, num_steps=num_steps)
        require_at_least(0, warmup_steps=warmup_steps)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        # Under LightningCLI they are class paths, from which a checkpoint is rebuilt. Objects are
        # left out: not all of them can be pickled, and none is loaded without trust in the file.
        plain = (type(None), bool, int, float, str, list, dict)
        objects = [name for name, value in self.hparams.items() if not isinstance(value, plain)]
        self.save_hyperparameters(ignore=objects, logger=False)
        process = ForwardProcess(kernel, LogLinear() if noise is None else noise)
        self.denoiser = denoiser(backbone(kernel.num_states), process)
        self.loss = loss
        # Ratios of a network need not belong to a posterior: their bound is the score entropy.
        self.bound: Loss = ScoreEntropy() if isinstance(self.denoiser, ScoreDenoiser) else NELBO()
        self.sampler = sampler
        self.length = length
        self.num_steps = num_steps
        self.make_optimizer = _Shared(optimizer)
        self.make_lr_scheduler = None if lr_scheduler is None else _Shared(lr_scheduler)
        self.warmup_steps = warmup_steps
        self.schedule_source: Callable[[int], SamplingSchedule] = SamplingSchedule.uniform
        self._seed = 0

    @property
    def process(self) -> ForwardProcess:
        """The forward process."""
        return self.denoiser.process

    def schedule(self, num_steps: int) -> SamplingSchedule:
        """Return the sampling schedule with that many steps from `schedule_source`."""
        return self.schedule_source(num_steps)

    def sample(
        self,
        num_samples: int,
        schedule: SamplingSchedule | Sequence[float],
        *,
        prompt: Int[Tensor, "B L"] | None = None,
        prompt_mask: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        on_state: Callable[[Tensor, Tensor], object] | None = None,
    ) -> Samples:
        """Draw samples, all in one batch, for instance with `module.schedule(32)`.

        Args:
            num_samples: Number B of samples.
            schedule: A schedule, or its times.
            prompt: Tokens to keep, (B, L); read where `prompt_mask` is true.
            prompt_mask: Positions that are clamped to the prompt.
            generator: Source of all draws, on the device of the module.
            progress: Show a bar.
            on_state: Called with every state x_t and its times t; see `Sampler`.

        Raises:
            ValueError: Number, times or prompt do not fit, before any network call.
        """
        require_at_least(1, num_samples=num_samples)
        times = schedule.times if isinstance(schedule, SamplingSchedule) else schedule
        shape = (num_samples, self.length)
        x = self.process.kernel.sample_prior(shape, generator, self.device)
        training = self.training
        self.eval()
        try:
            return self.sampler(
                self.denoiser,
                x,
                times,
                prompt=prompt,
                prompt_mask=prompt_mask,
                generator=generator,
                progress=progress,
                on_state=on_state,
            )
        finally:
            self.train(training)

    def setup(self, stage: str) -> None:
        """Take the seed of the run, which `seed_everything` has set.

        Raises:
            ValueError: The device has no float64, in which probabilities meet draws.
        """
        if self.trainer.strategy.root_device.type == "mps":
            raise ValueError(
                "`accelerator` must have float64, got 'mps'; pass `--trainer.accelerator cpu`."
            )
        self._seed = torch.initial_seed()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss in nats per free token."""
        denoiser, x_0 = self._data(batch, batch_idx)
        generator = self._generator(TRAINING, self._seed, self.current_epoch, batch_idx)
        t = stratified_times(len(x_0), generator, x_0.device)
        nats = self.loss(denoiser, x_0, t, generator).mean() / x_0.shape[1]
        self.log("train/loss", nats.detach() / math.log(2), prog_bar=True)
        return nats

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Stop a run whose weights have become NaN; looks whenever losses are logged."""
        every = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        due = (batch_idx + 1) % every == 0
        if due and isinstance(outputs, dict) and bool(torch.isnan(outputs["loss"])):
            raise ValueError(
                f"`loss` must be a number, got NaN at step {self.trainer.global_step}; lower the "
                "learning rate, set `gradient_clip_val`, or go back to float32 from the last "
                "checkpoint."
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the bound in bits per token."""
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the bound in bits per token."""
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> Int[Tensor, "B L"]:
        """Draw one sample per sequence, around the marked tokens if there is a `prompt_mask`."""
        tokens, mask = batch["tokens"], batch.get("prompt_mask")
        return self.sample(
            len(tokens),
            self.schedule(self.num_steps),
            prompt=None if mask is None else tokens,
            prompt_mask=mask,
            generator=self._generator(PREDICTION, self._seed, batch_idx),
        ).tokens

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser and, if asked for, warm-up and decay of its learning rate."""
        optimizer = self.make_optimizer(self.parameters())
        schedulers: list[LRScheduler] = []
        if self.warmup_steps > 0:
            first = 1 / (self.warmup_steps + 1)
            schedulers.append(LinearLR(optimizer, first, total_iters=self.warmup_steps))
        if self.make_lr_scheduler is not None:
            num_steps = self.trainer.estimated_stepping_batches
            if num_steps == math.inf:
                raise ValueError(
                    "`lr_scheduler` needs a finite number of optimiser steps, got infinitely many; "
                    "set the trainer's `max_steps` or `max_epochs`."
                )
            # A run that ends within the warm-up never gets to the decay.
            decay_steps = max(1, int(num_steps) - self.warmup_steps)
            schedulers.append(self.make_lr_scheduler(optimizer, decay_steps))
        if not schedulers:
            return optimizer
        scheduler = schedulers[0]
        if len(schedulers) == 2:
            scheduler = SequentialLR(optimizer, schedulers, [self.warmup_steps])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def on_fit_end(self) -> None:
        """Refuse to pass over an empty data set in silence, as the trainer does."""
        if self.trainer.num_training_batches == 0 and self.trainer.limit_train_batches != 0:
            raise ValueError(
                "`train_dataloader` must give at least one batch, got none; the data set is empty "
                "or smaller than one batch: give more data or lower the batch size."
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Record the process, which no weight shows."""
        setting = Setting.of(self.process, self.sampler)
        checkpoint["forward_process"] = {"kernel": setting.kernel, "noise": setting.noise}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained for another process.

        Raises:
            ValueError: Kernel or noise differ.
        """
        Setting.of(self.process, self.sampler).check(
            checkpoint.get("forward_process", {}),
            "the checkpoint was trained with",
            "configure that one, or train anew",
        )

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        denoiser, x_0 = self._data(batch, batch_idx)
        generator = self._generator(EVALUATION, batch_idx)
        t = stratified_times(len(x_0), generator, x_0.device)
        bits = self.bound(denoiser, x_0, t, generator).mean() / (x_0.shape[1] * math.log(2))
        name = f"{stage}/bits_per_token"
        self.log(name, bits, prog_bar=True, sync_dist=True, batch_size=len(x_0))

    def _data(self, batch: Batch, batch_idx: int) -> tuple[Denoiser, Int[Tensor, "B F"]]:
        """Return the denoiser given the prompt, if there is one, and the free tokens.

        The tokens of an epoch's first batch are checked. On accelerators that costs a wait, and so
        does the prompt of any batch.
        """
        x_0 = batch["tokens"]
        if batch_idx == 0:
            check_tokens(x_0, self.process.kernel.vocab_size, self.length)
        return given_prompt(self.denoiser, x_0, batch.get("prompt_mask"))

    def _generator(self, *seed: int) -> torch.Generator:
        """Return a generator that depends on the given numbers and the rank."""
        # The CPU generator reads 32 bits of its seed; `SeedSequence` mixes all words into them.
        (state,) = np.random.SeedSequence([self.global_rank, *seed]).generate_state(1)
        return torch.Generator(self.device).manual_seed(int(state))


class _Shared(Generic[T]):
    """A function that copies of a module share.

    `EMAWeightAveraging` copies the module deeply. The functions that LightningCLI makes hold the
    whole command line: the copy would take trainer and data along, and fail on process groups.
    """

    def __init__(self, make: Callable[..., T]) -> None:
        self.make = make

    def __call__(self, *args: object) -> T:
        return self.make(*args)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Shared[T]:
        return self


def check_tokens(x_0: Tensor, vocab_size: int, length: int) -> None:
    """Refuse a batch of data that the model is not made for.

    Raises:
        ValueError: Length, type or range of the tokens do not fit.
    """
    if x_0.ndim != 2 or x_0.shape[1] != length:
        raise ValueError(
            f"`tokens` must have shape (B, {length}), got {tuple(x_0.shape)}; set the model's "
            "`length` to that of the data (scripts/train.py links them)."
        )
    if x_0.dtype != torch.int64:
        raise ValueError(f"`tokens` must be int64, got {x_0.dtype}; convert them with `.long()`.")
    low, high = int(x_0.min()), int(x_0.max())
    if low < 0 or high >= vocab_size:
        raise ValueError(
            f"`tokens` must lie in 0..{vocab_size - 1}, the kernel's vocabulary, got values from "
            f"{low} to {high}; set the kernel's `vocab_size` to that of the data "
            "(scripts/train.py links them), or mend the encoding."
        )
