"""The callback that keeps the sampling schedule up to date while a model trains."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from ddm.batch import free_of, tokens_of
from ddm.denoisers import Denoiser
from ddm.module import DiscreteDiffusion
from ddm.samplers import Analytic, Sampler
from ddm.schedule import step_numbers
from ddm.schedules import (
    OptimalSteps,
    Optimised,
    SamplingSchedule,
    ScheduleOptimizer,
    choose,
)
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.plots import plot_costs, plot_density, plot_evolution
from ddm.schedules.setting import describe


class JYSScheduleCallback(Callback):
    r"""Re-optimise the sampling schedule from the current weights, periodically.

    Every update measures a cost table on sequences that training has just seen, with the averaged
    weights if a `WeightAveraging` callback keeps some, and finds one schedule per number of steps.
    The previous schedule, uniform steps at first, stays unless another one of {uniform, cosine,
    new} is better on sequences that the search did not use, by more than chance (`choose`).
    Training itself is left alone: random states, train or eval mode, gradients and precision are as
    they were, so that a run with the callback trains the same weights as a run without it. Under
    DDP every rank measures its own shard and all get the same schedules. Where training batches
    have a prompt, schedules are those for generation around it.

    The schedules are in the callback's state, so that they travel with checkpoints, and in a JSON
    file `<checkpoint>.schedules.json` beside each of them, which `scripts/sample.py` reads. A
    `DiscreteDiffusion` is given `self.schedule`, so that its validation samples use the schedules.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761.

    Args:
        num_steps: Numbers of steps to keep schedules for, or one.
        optimizer: Any `ScheduleOptimizer`; `OptimalSteps()` by default. The exponent gamma of the
            contraction weights is its argument.
        every_n_epochs: Update once in every n-th epoch, before its first validation, or at its end
            if it has none; 1 if neither is given.
        every_n_steps: Update after every n-th optimiser step instead.
        num_samples: Sequences to measure on, over all ranks.
        smoothing: Share of the previous times that is kept at an update, in [0, 1).
        denoiser: How to get the denoiser out of the module; `module.denoiser` by default.
        sampler: The sampler to optimise for; by default the module's own, or `Analytic`.
        tokens: How to get x_0, (B, L), out of a training batch; by default
            `ddm.batch.tokens_of`.
        free: How to get the positions that are generated, (B, L), or None, out of a training
            batch; by default `ddm.batch.free_of`.
        seed: Seed of the measurements' noise.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(
        self,
        num_steps: int | Sequence[int] = (4, 8, 16),
        *,
        optimizer: ScheduleOptimizer | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        num_samples: int = 256,
        smoothing: float = 0.0,
        denoiser: Callable[[LightningModule], Denoiser] | None = None,
        sampler: Sampler | None = None,
        tokens: Callable[[Any], Tensor] | None = None,
        free: Callable[[Any], Tensor | None] | None = None,
        seed: int = 0,
    ) -> None:
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                "`every_n_epochs` and `every_n_steps` must not both be given, got "
                f"{every_n_epochs} and {every_n_steps}; choose one."
            )
        for name, value in (
            ("every_n_epochs", every_n_epochs),
            ("every_n_steps", every_n_steps),
            ("num_samples", num_samples - 7),
        ):
            if value is not None and value < 1:
                least = 8 if name == "num_samples" else 1
                raise ValueError(f"`{name}` must be at least {least}, got {value + least - 1}.")
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {smoothing}; 0 keeps nothing.")
        self.num_steps = tuple(step_numbers(num_steps))
        self.optimizer = optimizer or OptimalSteps()
        self.every_n_steps = every_n_steps
        self.every_n_epochs = (
            1 if every_n_steps is None and every_n_epochs is None else every_n_epochs
        )
        self.num_samples = num_samples
        self.smoothing = smoothing
        self.denoiser = denoiser or _denoiser_of
        self.sampler = sampler
        # No functions as defaults: the command line would write their names down and call those.
        self.tokens = tokens or tokens_of
        self.free = free or free_of
        self.seed = seed
        self.optimised = Optimised({})
        self.history: list[dict[str, Any]] = []
        self._recent: deque[tuple[Tensor, Tensor | None]] = deque()
        self._last_update = 0
        self._last_epoch = -1
        self._began = 0.0
        self._spent = 0.0

    @property
    def state_key(self) -> str:
        """The key of the state: several callbacks with other numbers of steps may coexist."""
        return self._generate_state_key(num_steps=self.num_steps)

    def state_dict(self) -> dict[str, Any]:
        """Return schedules, table and history as plain numbers."""
        return {"optimised": self.optimised.to_dict(), "history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimised = Optimised.from_dict(state_dict["optimised"])
        self.history = list(state_dict["history"])

    def schedule(self, num_steps: int) -> SamplingSchedule:
        """Return the current schedule for any number of steps; uniform before the first update."""
        found = self.optimised.schedule(num_steps)
        return found if found is not None else SamplingSchedule.uniform(num_steps)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Offer the schedules to the module, and log the settings."""
        if isinstance(pl_module, DiscreteDiffusion):
            pl_module.schedule_source = self.schedule
        names = ("num_steps", "every_n_epochs", "every_n_steps", "num_samples", "smoothing", "seed")
        settings = {f"schedule/{name}": str(getattr(self, name)) for name in names}
        settings["schedule/optimizer"] = describe(self.optimizer)
        for logger in trainer.loggers if stage == "fit" else ():
            logger.log_hyperparams(settings)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the module has what the callback needs, before any training."""
        self.denoiser(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed run does not repeat the update it was saved after."""
        self._last_update, self._last_epoch = trainer.global_step, -1
        self._began, self._spent = time.monotonic(), 0.0

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Remember the batch, and update if it is time."""
        rows, free = tokens_of(self.tokens(batch)), self.free(batch)
        self._recent.append((rows, free))
        while sum(len(x) for x, _ in list(self._recent)[1:]) * trainer.world_size >= (
            self.num_samples
        ):
            self._recent.popleft()
        step = trainer.global_step
        due = self.every_n_steps is not None and step % self.every_n_steps == 0
        if due and step > self._last_update:  # once per optimiser step, not per micro batch
            self._update(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update before the validation of an epoch, so that its samples use the new schedules."""
        if not trainer.sanity_checking:
            self._update_once_in_epoch(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Update now if the epoch had no validation."""
        self._update_once_in_epoch(trainer, pl_module)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Write the JSON files beside checkpoints that have been saved since."""
        self._write_beside_checkpoints(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last JSON files and say what the callback has cost."""
        self._write_beside_checkpoints(trainer)
        share = self._spent / max(time.monotonic() - self._began, 1e-9)
        rank_zero_info(f"Optimising schedules took {self._spent:.1f} s, {share:.1%} of training.")
        _log(trainer, {"schedule/share_of_training_time": share})

    def _update_once_in_epoch(self, trainer: Trainer, pl_module: LightningModule) -> None:
        epoch = trainer.current_epoch
        if self.every_n_epochs is None or not self._recent or epoch == self._last_epoch:
            return
        if (epoch + 1) % self.every_n_epochs == 0 and trainer.global_step > self._last_update:
            self._last_epoch = epoch
            self._update(trainer, pl_module)

    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Optimise, keep the best, log; training goes on with the old schedules if it fails."""
        begin, step = time.monotonic(), trainer.global_step
        x_0, free = self._latest(max(8, self.num_samples // trainer.world_size))
        if len(x_0) * trainer.world_size < 8:
            rank_zero_warn(
                f"Schedules are not optimised at step {step}: 8 sequences are needed and training "
                f"has seen {len(x_0)}."
            )
            return
        generator = torch.Generator(x_0.device)
        generator.manual_seed(self.seed + 1_000_003 * step + trainer.global_rank)
        sampler = self.sampler or getattr(pl_module, "sampler", None) or Analytic()
        try:
            with _undisturbed(trainer, pl_module):
                denoiser = self.denoiser(pl_module)
                settings: dict[str, Any] = {"free": free, "generator": generator}
                found = self.optimizer(denoiser, sampler, x_0, self.num_steps, **settings)
                if found.table is None:  # needed to judge what was found, and to draw it
                    table = OptimalSteps().table(denoiser, sampler, x_0, **settings)
                    found = Optimised(found.schedules, found.num_calls + table.num_calls, table)
        except (ValueError, RuntimeError) as error:  # such as no memory left
            rank_zero_warn(f"Schedules are not updated at step {step}, the old ones stay: {error}")
            return
        seconds = time.monotonic() - begin
        self._spent += seconds
        self._keep(found, step, seconds)
        self._last_update = step
        self._log(trainer)

    def _latest(self, num: int) -> tuple[Tensor, Tensor | None]:
        """Return the latest sequences of one length, and their free positions."""
        length = self._recent[-1][0].shape[1]
        recent = [(x, free) for x, free in self._recent if x.shape[1] == length]
        x_0 = torch.cat([x for x, _ in recent])[-num:]
        if all(free is None for _, free in recent):
            return x_0, None
        masks = [torch.ones_like(x, dtype=torch.bool) if f is None else f for x, f in recent]
        return x_0, torch.cat(masks)[-num:]

    def _keep(self, found: Optimised, step: int, seconds: float) -> None:
        assert found.table is not None
        kept: dict[int, SamplingSchedule] = {}
        for n, new in found.schedules.items():
            old = self.optimised.schedules.get(n)
            if old is not None and self.smoothing:
                mixed = (
                    self.smoothing * a + (1 - self.smoothing) * b
                    for a, b in zip(old.times, new.times, strict=True)
                )
                new = SamplingSchedule(tuple(mixed), new.source, new.info)
            decision = choose(found.table, new, old)
            kept[n] = decision.schedule
            self.history.append(
                {
                    "step": step,
                    "num_steps": n,
                    "times": list(decision.schedule.times),
                    "winner": decision.winner,
                    "costs": decision.costs,
                    "gain": decision.gain,
                    "gain_error": decision.gain_error,
                    "confidence": decision.confidence,
                    "seconds": seconds,
                    "num_calls": found.num_calls,
                }
            )
        self.optimised = Optimised(kept, found.num_calls, found.table)

    @rank_zero_only
    def _log(self, trainer: Trainer) -> None:
        latest = self.history[-len(self.num_steps) :]
        scalars = {
            "schedule/seconds": latest[0]["seconds"],
            "schedule/network_calls": latest[0]["num_calls"],
        }
        names = {"uniform": 0.0, "cosine": 1.0, "previous": 2.0, "new": 3.0}
        for entry in latest:
            n = entry["num_steps"]
            for name in ("gain", "gain_error"):
                scalars[f"schedule/predicted_{name}/{n}_steps"] = entry[name]
            scalars[f"schedule/confidence/{n}_steps"] = entry["confidence"]
            scalars[f"schedule/kept/{n}_steps"] = names[entry["winner"]]
            for name, cost in entry["costs"].items():
                scalars[f"schedule/cost_{name}/{n}_steps"] = cost
        _log(trainer, scalars)
        figures = {}
        for n in self.num_steps:
            mine = [h for h in self.history if h["num_steps"] == n]
            steps, times = [h["step"] for h in mine], [h["times"] for h in mine]
            figures[f"schedule/evolution/{n}_steps"] = plot_evolution(steps, times)
        assert self.optimised.table is not None
        figures["schedule/cost"] = plot_costs(self.optimised.table, [2, 4, 8, 16, 32, 64])
        figures["schedule/density"] = plot_density(self.optimised.table)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for name, figure in figures.items():
                    logger.experiment.add_figure(name, figure, trainer.global_step)

    @rank_zero_only
    def _write_beside_checkpoints(self, trainer: Trainer) -> None:
        if not self.optimised.schedules:
            return
        for callback in trainer.checkpoint_callbacks:
            paths = {
                getattr(callback, "best_model_path", ""),
                getattr(callback, "last_model_path", ""),
            }
            paths |= set(getattr(callback, "best_k_models", {}))
            for path in map(Path, filter(None, paths)):
                beside = schedules_beside(path)
                stale = not beside.exists() or beside.stat().st_mtime < path.stat().st_mtime
                if path.exists() and stale:
                    try:
                        self.optimised.save(beside)
                    except OSError as error:
                        rank_zero_warn(f"`{beside}` cannot be written, training goes on: {error}")


def _denoiser_of(module: LightningModule) -> Denoiser:
    found = getattr(module, "denoiser", None)
    if not isinstance(found, Denoiser):
        raise ValueError(
            f"`denoiser` must say how to get a `ddm.denoisers.Denoiser` out of "
            f"`{type(module).__name__}`, which has no attribute of that name; pass "
            "`denoiser=lambda module: MeanDenoiser(module.network, process)`."
        )
    return found


@contextmanager
def _undisturbed(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Use averaged weights in eval mode and in the trainer's precision; leave no trace."""
    modes = {m: m.training for m in module.modules()}
    averages = [c for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    precision = trainer.precision_plugin
    with isolate_rng(), torch.no_grad(), precision.val_step_context():
        module.eval()
        for callback in averages:  # swaps the weights
            callback.on_validation_epoch_start(trainer, module)
        try:
            yield
        finally:
            for callback in averages:  # swaps them back
                callback.on_validation_epoch_end(trainer, module)
            for m, training in modes.items():
                m.training = training


def _log(trainer: Trainer, scalars: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(scalars, step=trainer.global_step)
