"""The Lightning module: wiring and logging, no mathematics."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Bool, Int
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities.types import STEP_OUTPUT, OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ddm.averaging import catch_up
from ddm.batch import free_of, tokens_of, without_rests
from ddm.denoisers import Denoiser, MeanDenoiser, ScoreDenoiser
from ddm.functional import require_at_least, require_instance, seeded, stratified_times
from ddm.held_out import HeldOutBits
from ddm.kernels import Kernel
from ddm.learning_rate import LearningRate, follow, plan_of
from ddm.losses import NELBO, Loss, ScoreEntropy
from ddm.noise import LogLinear, NoiseSchedule
from ddm.orders.order import mask_of
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Sampler, Samples
from ddm.samplers.reveal_sampler import RevealSampler
from ddm.schedule import SamplingSchedule, Schedule
from ddm.schedules.setting import Setting, sampler_of
from ddm.sharding import whole_weights

Batch = Any  # see `tokens_of` and `free_of`

TRAINING, PREDICTION = 0, 2
"""First words of the seeds, so that no two stages share a stream of random numbers; 1 and 3 are
those of validation and test (`ddm.held_out`)."""


class DiscreteDiffusion(LightningModule):
    """Discrete diffusion model: kernel, noise, network, loss and sampler, wired for Lightning.

    Batches are tokens (B, L) of any integer type, alone or as the entry `"tokens"` or
    `"input_ids"`. Where they also hold `"free"` (B, L), the model is conditional: the tokens that
    are not free are given, in every row others. They stay clean while the free ones are noised,
    and losses and bounds are those of the free ones, per free token. Padding (`"attention_mask"`)
    is never free. `trainer.predict` draws one sample per sequence of its batches around the given
    tokens.

    The noise of a training batch depends on the seed, the epoch and the index of the batch alone,
    so a run that is resumed continues exactly as if it had not stopped: from the end of an epoch
    with any loader, inside of one with those of `ddm.datamodules` (dropout excepted, which draws
    from the global state). Validation and test draw the noise of a sequence from its
    number in the data alone: epochs are comparable, and neither the batch size nor the seed of the
    run matters. They log bits per token and the standard error, and beside the network's bound what
    sequences cost the sampler with its schedule at few calls (`sampler_bits_per_token`).

    The learning rate is a function of settings, step and length of the run: one that is resumed
    with other settings, or for longer, follows those. An average of weights that has not begun
    (`EMAWeightAveraging(update_starting_at_step=...)`) is the weights themselves.

    Args:
        kernel: Where tokens jump.
        backbone: Makes the network from the number K of states; for instance a class of
            `ddm.backbones`, or a function that compiles what such a class makes
            (`network.compile()` keeps the names of the weights).
        length: Number L of tokens per sequence.
        optimizer: Makes the optimizer from the parameters.
        noise: How fast tokens jump; `LogLinear` by default.
        denoiser: Makes the denoiser from the network and the process.
        loss: What training minimizes.
        sampler: How samples are drawn.
        lr_scheduler: Makes the schedule of the learning rate from the optimizer and the number of
            optimizer steps after the warm-up, for instance `CosineAnnealingLR` or `PolynomialLR`;
            constant by default.
        warmup_steps: Number of first optimizer steps in which the learning rate grows linearly.
        num_steps: Number of sampling steps of `trainer.predict`.
        num_draws: Draws of the noise for every sequence of validation and test.
        num_calls: Calls N of the sampler whose likelihood validation and test measure, along
            `schedule(N)`, on their first 64 sequences (`sampler_nats`); 0 leaves it out, as do
            samplers that make more calls than steps.
        shape: Sizes of the axes that are flattened into a sequence, for orders that space tokens
            out (`Spaced`); by default there is one axis.

    Attributes:
        schedule_source: Makes the sampling schedule of any number of steps; uniform schedules at
            first. A callback may put better schedules here. It is a plain attribute and never
            part of the state: weight averaging would average the times.

    Raises:
        ValueError: A number is out of its domain.

    Example:
        >>> import torch
        >>> from ddm import Absorbing
        >>> from ddm.backbones import MLP
        >>> from ddm.module import DiscreteDiffusion
        >>> model = DiscreteDiffusion(
        ...     Absorbing(4), lambda k: MLP(k, length=6), length=6, optimizer=torch.optim.Adam
        ... )
        >>> samples = model.sample(2, 4)  # before any training, in 4 uniform steps
        >>> samples.tokens.shape, samples.num_calls <= 4  # none once no mask is left
        (torch.Size([2, 6]), True)
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
        num_draws: int = 1,
        num_calls: int = 8,
        shape: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        require_at_least(1, length=length, num_steps=num_steps, num_draws=num_draws)
        require_instance(Kernel, kernel=kernel)
        require_instance(NoiseSchedule | None, noise=noise)
        require_instance(Loss, loss=loss)
        require_instance(Sampler, sampler=sampler)
        if isinstance(sampler, RevealSampler):
            mask_of(kernel)  # or no sample is drawn
        require_at_least(0, warmup_steps=warmup_steps, num_calls=num_calls)
        if shape and math.prod(shape) != length:
            raise ValueError(
                f"`shape` must multiply to `length`, {length}, got {shape}; leave it out for one "
                "axis."
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Attribute .* is an instance of `nn.Module`")
            self.save_hyperparameters(logger=False)
        # Under LightningCLI they are class paths, from which a checkpoint is rebuilt. Objects are
        # left out: not all of them can be pickled, and none is loaded without trust in the file.
        plain = (type(None), bool, int, float, str, list, tuple, dict)
        objects = [name for name, value in self.hparams.items() if not isinstance(value, plain)]
        self.save_hyperparameters(ignore=objects, logger=False)
        process = ForwardProcess(kernel, LogLinear() if noise is None else noise)
        self.denoiser = denoiser(backbone(kernel.num_states), process)
        self.loss = loss
        # Ratios of a network need not belong to a posterior: their bound is the score entropy.
        self.bound: Loss = ScoreEntropy() if isinstance(self.denoiser, ScoreDenoiser) else NELBO()
        self.sampler = sampler.shaped(shape)
        self.length = length
        self.shape = shape
        self.num_steps = num_steps
        self.num_draws = num_draws
        self.num_calls = num_calls
        self._learning_rate = LearningRate(optimizer, lr_scheduler, warmup_steps)
        self.schedule_source: Callable[[int], SamplingSchedule] = SamplingSchedule.uniform
        self._seed, self._world_size = 0, 1
        self._begin_to_count()
        self._looked = 0
        self._plan: dict[str, Any] | None = None
        self._restored: dict[str, Any] | None = None

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
        schedule: Schedule | int,
        *,
        tokens: Int[Tensor, "B L"] | None = None,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        on_state: Callable[[Tensor, Tensor], object] | None = None,
    ) -> Samples:
        """Draw samples, all in one batch, for instance with `module.schedule(32)`.

        A schedule that names an order (`OptimalOrders`) is followed in that order. Where the
        weights are spread over processes (FSDP2), all of them have to draw.

        Args:
            num_samples: Number B of samples.
            schedule: A schedule, its times, or a number of steps for `schedule(num_steps)`.
            tokens: Given tokens, (B, L); read where `free` is false.
            free: Positions that are generated; all by default.
            generator: Source of all draws, on the device of the module.
            progress: Show a bar.
            on_state: Called with every state x_t and its times t; see `Sampler`.

        Raises:
            ValueError: Number, times or tokens do not fit, before any network call.
        """
        require_at_least(1, num_samples=num_samples)
        if (tokens is None) != (free is None) or (
            tokens is not None and len(tokens) != num_samples
        ):
            raise ValueError(
                "`tokens` and `free` must be given together, a row for each of the "
                f"{num_samples} samples, got {'neither' if tokens is None else len(tokens)}; "
                "`free` says where tokens are generated."
            )
        if isinstance(schedule, int):
            schedule = self.schedule(schedule)
        if tokens is None:
            tokens = torch.zeros(num_samples, self.length, dtype=torch.long, device=self.device)
        x = self.process.sample_prior(tokens, free, generator)
        with whole_weights(self):
            return sampler_of(schedule, self.sampler)(
                self.denoiser,
                x,
                schedule,
                free=free,
                generator=generator,
                progress=progress,
                on_state=on_state,
            )

    def setup(self, stage: str) -> None:
        """Take the seed of the run, which `seed_everything` has set.

        Raises:
            ValueError: The device has no float64, in which probabilities meet draws.
        """
        if self.trainer.strategy.root_device.type == "mps":
            raise ValueError(
                "`accelerator` must have float64, got 'mps'; pass `--trainer.accelerator cpu`."
            )
        self._seed, self._world_size = torch.initial_seed(), self.trainer.world_size

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss in nats per free token."""
        x_0, free = self._data(batch, batch_idx)
        generator = self._generator(TRAINING, self._seed, self.current_epoch, batch_idx)
        t = stratified_times(len(x_0), generator, x_0.device)
        nats = self.loss(self.denoiser, x_0, t, generator, free=free).sum() / _count(x_0, free)
        self.log("train/loss", nats.detach() / math.log(2), prog_bar=True)
        return nats

    def on_train_start(self) -> None:
        """Follow the settings of now where those of the checkpoint were others."""
        self._looked = self.trainer.global_step
        restored, self._restored = self._restored, None
        if restored is None or self._plan is None or not self._looked:
            return  # begun anew, perhaps with the weights of a checkpoint
        # Asked for the number of steps, Lightning makes the loader before it knows the place in the
        # epoch, and forgets that.
        loader: Any = self.trainer.train_dataloader
        if len(restored["loaders"]) == 1 and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(restored["loaders"][0])
        if restored["learning_rate"] != self._plan:
            follow(self._plan, self.trainer)

    def on_train_batch_end(self, outputs: STEP_OUTPUT, batch: Batch, batch_idx: int) -> None:
        """Stop a run whose weights have become NaN; looks when losses are logged and epochs end."""
        every = self.trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        step, looked = self.trainer.global_step, self._looked
        self._looked = step
        due = step // every > looked // every or self.trainer.is_last_batch
        if due and isinstance(outputs, dict) and bool(torch.isnan(outputs["loss"])):
            self._refuse_nan("loss")

    def on_train_epoch_end(self) -> None:
        """Keep an average that has not begun up to date, before training ends with it."""
        catch_up(self.trainer, self)

    def on_validation_start(self) -> None:
        """Keep an average that has not begun up to date, before it is swapped in."""
        catch_up(self.trainer, self)
        self._begin_to_count()

    def on_test_start(self) -> None:
        """Begin to count."""
        self._begin_to_count()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the bound, and the first sequences under the sampler."""
        with whole_weights(self):  # samplers call the network as often as their tokens need it
            self._held_out.update(*self._data(batch, batch_idx))

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Measure the bound, and the first sequences under the sampler."""
        self.validation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        """Log the bound and the sampler's cost in bits per token, and their standard errors."""
        bits = self._log_bits("val")
        if math.isnan(bits) and self.trainer.state.fn == "fit":
            self._refuse_nan("val/bits_per_token")

    def on_test_epoch_end(self) -> None:
        """Log the bound and the sampler's cost in bits per token, and their standard errors."""
        self._log_bits("test")

    def predict_step(self, batch: Batch, batch_idx: int) -> Int[Tensor, "B L"]:
        """Draw one sample per sequence, around the given tokens if there are any."""
        tokens, free = self._data(batch, batch_idx)
        return self.sample(
            len(tokens),
            self.num_steps,
            tokens=None if free is None else tokens,
            free=free,
            generator=self._generator(PREDICTION, self._seed, batch_idx),
        ).tokens

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and, if asked for, warm-up and decay of its learning rate."""
        optimizer, scheduler = self._learning_rate.make(self.parameters(), self.trainer)
        self._plan = plan_of(optimizer, scheduler)
        if scheduler is None:
            return optimizer
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
        """Record process and learning rate, which no weight shows.

        Raises:
            ValueError: The weights are NaN or infinite; so a checkpoint that is written before the
                next look at the loss does not replace a good one.
        """
        if not all(bool(p.isfinite().all()) for p in self.parameters()):
            self._refuse_nan("weights")
        catch_up(self.trainer, self)  # the averages that have just been put into the checkpoint
        setting = Setting.of(self.process, self.sampler)
        checkpoint["forward_process"] = {"kernel": setting.kernel, "noise": setting.noise}
        if self._plan is not None:
            checkpoint["learning_rate"] = self._plan

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
        loop = checkpoint.get("loops", {}).get("fit_loop", {}).get("state_dict", {})
        self._restored = {
            "learning_rate": checkpoint.get("learning_rate"),
            "loaders": loop.get("combined_loader", []),
        }

    def load_state_dict(self, *args: Any, **settings: Any) -> Any:  # noqa: ANN401
        """Load weights, as any module does.

        Raises:
            ValueError: They are those of another network.
        """
        try:
            return super().load_state_dict(*args, **settings)
        except RuntimeError as error:
            _, *lines = str(error).splitlines()
            raise ValueError(
                f"`backbone` must be the network that the weights belong to, but {len(lines)} "
                f"things differ ({' '.join(lines)[:200].strip()}); use the configuration that it "
                "was trained with."
            ) from error

    def _refuse_nan(self, name: str) -> None:
        raise ValueError(
            f"`{name}` must be finite, got NaN or inf at step {self.trainer.global_step}; lower "
            "the learning rate, set `gradient_clip_val`, or go back to float32 from the last "
            "checkpoint."
        )

    def _begin_to_count(self) -> None:
        self._held_out = HeldOutBits(
            denoiser=self.denoiser,
            bound=self.bound,
            sampler=self.sampler,
            schedule=self.schedule,
            length=self.length,
            num_draws=self.num_draws,
            num_calls=self.num_calls,
            rank=self.global_rank,
            world_size=self._world_size,
        )

    def _log_bits(self, stage: str) -> float:
        values = self._held_out.compute()
        for name, value in values.items():  # which are those of all processes already
            self.log(f"{stage}/{name}", value, prog_bar=name == "bits_per_token")
        return values["bits_per_token"]

    def _data(
        self, batch: Batch, batch_idx: int
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"] | None]:
        """Return the tokens of a batch, and which of them are free.

        The tokens of an epoch's first batch are checked. On accelerators that costs a wait.
        """
        pad = getattr(self.denoiser, "pad", None)
        x_0, free = tokens_of(batch), free_of(batch)
        x_0 = without_rests(x_0, batch, self.process.kernel, pad)
        if batch_idx == 0:
            if free is None and x_0.shape[1] != self.length:
                raise ValueError(
                    f"`tokens` must have shape (B, {self.length}), got {tuple(x_0.shape)}; set the "
                    "model's `length` to that of the data (scripts/train.py links them)."
                )
            self.process.kernel.check_tokens(x_0)
        return x_0, free

    def _generator(self, stage: int, *seed: int) -> torch.Generator:
        """Return a generator that depends on the stage, the rank and the given numbers."""
        return seeded(self.device, stage, self.global_rank, *seed)


def _count(x_0: Tensor, free: Tensor | None) -> int | Tensor:
    """Return the number of free tokens of a batch."""
    return x_0.numel() if free is None else free.sum().clamp(min=1)
