"""The callback that keeps the sampling schedule up to date while a model trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from ddm.batch import free_of, tokens_of, without_rests
from ddm.callbacks.budget import Budget
from ddm.callbacks.door import denoiser_of, probe, undisturbed
from ddm.callbacks.due import due
from ddm.callbacks.history import UpdateHistory
from ddm.callbacks.overview import binned_density
from ddm.callbacks.recent import RecentSequences
from ddm.callbacks.report import Report
from ddm.callbacks.schedule_files import ScheduleFiles
from ddm.callbacks.update import LEAST, Updater
from ddm.denoisers import Denoiser
from ddm.functional import gather_made, gather_objects, require_at_least, require_instance
from ddm.module import DiscreteDiffusion
from ddm.samplers import Analytic, Sampler
from ddm.schedule import step_numbers
from ddm.schedules import OptimalSteps, Optimized, SamplingSchedule, ScheduleOptimizer
from ddm.schedules.beside import content_of
from ddm.schedules.setting import describe
from ddm.sharding import whole_weights


class JYSScheduleCallback(Callback):
    r"""Optimize the sampling schedule for the current weights, again and again during training.

    Every update measures a cost table on sequences that training has just seen, with the averaged
    weights if a `WeightAveraging` callback has begun to keep some, and finds one schedule per
    number of steps. The schedule in use stays unless another one of
    {uniform, cosine, new} is better on sequences that the search did not use, by more than chance
    (`choose`). An old schedule loses little until the network has doubled its age: so there are
    updates after 1/16, 1/8, 1/4, 1/2 and all of the training by default; override
    `should_update` for any other policy.

    Training itself is left alone: random states, train or eval mode, gradients and precision are as
    they were, so that a run with the callback trains the same weights as a run without it. What
    does not fit is refused at the first batch; whatever fails in an update later is a warning, and
    training goes on with the old schedules. Of several processes every one measures its own
    sequences, all get the same schedules, and if one fails none updates.

    The schedules are in the callback's state, so that they travel inside of checkpoints, and in a
    JSON file `<checkpoint>.schedules.json` beside each of them; `schedules_of` reads both. A
    `DiscreteDiffusion` is given `self.schedule`, so that its validation samples use the schedules.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761.

    Args:
        num_steps: Numbers of steps to keep schedules for, or one.
        optimizer: Any `ScheduleOptimizer`; `OptimalSteps()` by default. The exponent gamma of the
            contraction weights is its argument.
        every_n_epochs: Update at the end of every n-th epoch instead, before its last validation.
        every_n_steps: Update after every n-th optimizer step instead.
        num_samples: Sequences to measure on at most, over all processes.
        max_share: Fewer sequences are measured, though 16 at least, where updates would otherwise
            make more network calls than this share of those of training so far, see `Budget`.
        smoothing: Share of the previous times that is kept at an update, in [0, 1).
        denoiser: How to get the denoiser out of the module; `module.denoiser` by default.
        sampler: The sampler to optimize for; by default the module's own, or `Analytic`.
        tokens: How to get x_0, (B, L), out of a training batch; by default
            `ddm.batch.tokens_of`.
        free: How to get the positions that are generated, (B, L), or None, out of a training
            batch; by default `ddm.batch.free_of`.
        judge: Measures the costs that decide what is kept where `optimizer` returns no table; by
            default `OptimalSteps` with the batch size of `optimizer`.
        seed: Seed of the measurements' noise.

    Attributes:
        optimized: The schedules that are kept, and the last table.

    Raises:
        ValueError: An argument is out of range.

    Example:
        >>> import torch
        >>> from ddm import Absorbing
        >>> from ddm.backbones import MLP
        >>> from ddm.callbacks import JYSScheduleCallback
        >>> from ddm.datamodules import CountDown
        >>> from ddm.module import DiscreteDiffusion
        >>> from lightning.pytorch import Trainer
        >>> model = DiscreteDiffusion(
        ...     Absorbing(4), lambda k: MLP(k, length=6), length=6, optimizer=torch.optim.Adam
        ... )
        >>> callback = JYSScheduleCallback(num_steps=(2, 4), every_n_steps=2, num_samples=16)
        >>> data = CountDown(4, 6, num_samples=64, num_val=16, batch_size=16)
        >>> quiet = dict(logger=False, enable_progress_bar=False, enable_model_summary=False)
        >>> trainer = Trainer(max_steps=4, callbacks=[callback], accelerator="cpu", **quiet)
        >>> trainer.fit(model, data)
        >>> len(callback.schedule(4).times)
        5
    """

    def __init__(
        self,
        num_steps: int | Sequence[int] = (4, 8, 16),
        *,
        optimizer: ScheduleOptimizer | None = None,
        every_n_epochs: int | None = None,
        every_n_steps: int | None = None,
        num_samples: int = 256,
        max_share: float = 0.02,
        smoothing: float = 0.0,
        denoiser: Callable[[LightningModule], Denoiser] | None = None,
        sampler: Sampler | None = None,
        tokens: Callable[[Any], Tensor] | None = None,
        free: Callable[[Any], Tensor | None] | None = None,
        judge: OptimalSteps | None = None,
        seed: int = 0,
    ) -> None:
        if every_n_epochs is not None and every_n_steps is not None:
            raise ValueError(
                "`every_n_epochs` and `every_n_steps` must not both be given, got "
                f"{every_n_epochs} and {every_n_steps}; choose one."
            )
        periods = {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps}
        require_at_least(1, **{name: n for name, n in periods.items() if n is not None})
        require_at_least(LEAST, num_samples=num_samples)
        require_at_least(0, seed=seed)
        require_instance(ScheduleOptimizer | None, optimizer=optimizer)
        require_instance(Sampler | None, sampler=sampler)
        require_instance(OptimalSteps | None, judge=judge)
        for name, given in {"denoiser": denoiser, "tokens": tokens, "free": free}.items():
            if given is not None and not callable(given):
                raise TypeError(f"`{name}` must be a function, got {given!r:.80}; see `Args`.")
        require_instance(Real, remedy="0 keeps nothing", smoothing=smoothing)
        require_instance(Real, remedy="0.02 is 2 % of training's calls", max_share=max_share)
        if not max_share > 0:
            raise ValueError(
                f"`max_share` must be positive, got {max_share}; 0.02 is 2 % of training's calls."
            )
        if not 0 <= smoothing < 1:
            raise ValueError(f"`smoothing` must be in [0, 1), got {smoothing}; 0 keeps nothing.")
        self.num_steps = tuple(step_numbers(num_steps))
        self.optimizer = optimizer or OptimalSteps()
        self.every_n_epochs = every_n_epochs
        self.every_n_steps = every_n_steps
        self.num_samples = num_samples
        self.max_share = max_share
        self.smoothing = smoothing
        self.denoiser = denoiser or denoiser_of
        self.sampler = sampler
        # No functions as defaults: the command line would write their names down and call those.
        self.tokens = tokens or tokens_of
        self.free = free
        size = getattr(self.optimizer, "batch_size", None)
        self.judge = judge or OptimalSteps(batch_size=size)
        self.seed = seed
        self.optimized = Optimized({})
        self._history = UpdateHistory()
        self._report = Report(self._history)
        self._files = ScheduleFiles()
        known = self.optimizer if isinstance(self.optimizer, OptimalSteps) else self.judge
        price = (known.num_times + known.pilot_times) * (1 if known.select is None else 2)
        self._budget = Budget(max_share, num_samples, price)
        self._recent = RecentSequences(num_samples)
        self._untried: Denoiser | None = None
        self._step = 0

    @property
    def state_key(self) -> str:
        """The key of the state: several callbacks with other numbers of steps may coexist."""
        return self._generate_state_key(num_steps=self.num_steps)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The updates, one entry for each of them and each number of steps.

        Of more than 64 updates every second one is left out.
        """
        return self._history.entries()

    @property
    def updates(self) -> list[dict[str, Any]]:
        """The updates, one dictionary for each of them; what `plot_overview` draws."""
        return self._history.updates

    def state_dict(self) -> dict[str, Any]:
        """Return schedules, table and history as plain numbers."""
        return {
            "optimized": self.optimized.to_dict(),
            "history": self._history.state_dict(),
            "budget": self._budget.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimized = Optimized.from_dict(content_of(state_dict) or {})
        self._history.load_state_dict(state_dict["history"])
        if "budget" in state_dict:  # older checkpoints have none
            self._budget.load_state_dict(state_dict["budget"])

    def schedule(self, num_steps: int) -> SamplingSchedule:
        """Return the current schedule for any number of steps; uniform before the first update."""
        found = self.optimized.schedule(num_steps)
        return found if found is not None else SamplingSchedule.uniform(num_steps)

    def should_update(self, trainer: Trainer, previous_step: int) -> bool:
        """Decide after an optimizer step whether to update; override for another policy.

        Processes have to agree without talking: the answer may depend on steps, epochs and
        settings, not on clocks or losses.

        Args:
            trainer: Its `global_step` counts the step just made.
            previous_step: The value of `global_step` when this was asked before.
        """
        return due(
            trainer,
            previous_step,
            every_n_epochs=self.every_n_epochs,
            every_n_steps=self.every_n_steps,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Offer the schedules to the module."""
        if isinstance(pl_module, DiscreteDiffusion):
            pl_module.schedule_source = self.schedule

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the module has what the callback needs, before any training."""
        denoiser = self.denoiser(pl_module)
        require_instance(
            Denoiser,
            remedy="wrap the network: `lambda module: MeanDenoiser(module.network, process)`",
            denoiser=denoiser,
        )
        self._untried = denoiser
        self._known = denoiser.process.kernel, getattr(denoiser, "pad", None)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with empty hands; a resumed run does not repeat the update it was saved after."""
        share = -(-self.num_samples // trainer.world_size)
        self._recent = RecentSequences(max(LEAST, share))
        self._step = trainer.global_step
        self._report.start()
        self._files.start(trainer)
        assert self._untried is not None
        self._report.open(trainer, pl_module, self._untried, self._settings(), self.num_steps)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Try everything on the first batch; write the files of checkpoints saved since.

        Raises:
            TypeError: The batch has no tokens, or some that are no integers.
            ValueError: Tokens, network or sampler do not fit.
        """
        self._files.refresh(trainer, self.optimized)
        denoiser, self._untried = self._untried, None
        if denoiser is None:
            return

        def check() -> None:
            tokens, free = self._read(batch)
            with undisturbed(trainer, pl_module):
                probe(denoiser, self._sampler(pl_module), tokens, free)

        gather_made(check)

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
    ) -> None:
        """Remember the batch, and update if it is time."""
        step, previous = trainer.global_step, self._step
        self._step = step
        try:
            tokens, free = self._read(batch)
            self._recent.add(tokens, free)
            self._budget.train(len(tokens) * trainer.world_size)
        except Exception as error:
            rank_zero_warn(f"Schedules do without batch {batch_idx}: {error}")
        if step > previous and self.should_update(trainer, previous):
            self._update(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the last update, and say what the callback has cost."""
        self._report.end(trainer, self.optimized.table)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the last files."""
        self._files.refresh(trainer, self.optimized)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the files of the last checkpoints before an interrupted run ends."""
        self._files.refresh(trainer, self.optimized)

    def _read(self, batch: Any) -> tuple[Tensor, Tensor | None]:  # noqa: ANN401
        """Return the tokens of a batch, and which of them are free."""
        tokens = tokens_of(self.tokens(batch))
        free = free_of(batch, tokens) if self.free is None else self.free(batch)
        return without_rests(tokens, batch, *self._known), free

    def _sampler(self, module: LightningModule) -> Sampler:
        own = getattr(module, "sampler", None)
        return self.sampler or (own if isinstance(own, Sampler) else Analytic())

    def _settings(self) -> dict[str, Any]:
        """Return what distinguishes runs, under the names that loggers show."""
        names = ["num_steps", "every_n_epochs", "every_n_steps", "num_samples", "max_share"]
        names += ["smoothing", "seed"]
        settings = {f"schedule/{name}": getattr(self, name) for name in names}
        return settings | {"schedule/optimizer": describe(self.optimizer)}

    def _update(self, trainer: Trainer, module: LightningModule) -> None:
        """Optimize, keep the best, log; training goes on with the old schedules if it fails."""
        step = trainer.global_step
        self._report.begin(step, self.num_steps)
        try:
            # Those of the first process, so that all of them hold the same.
            found, rows, (num, price) = gather_made(lambda: self._find(trainer, module))[0]
            assert found.table is not None
            density = binned_density(found.table.density, found.table.times)
            update: dict[str, Any] = {"step": step, "seconds": 0.0, "num_calls": found.num_calls}
            update |= {"density": density, "schedules": rows}
            if found.evidence is not None:
                update["evidence"] = str(found.evidence)
        except Exception as error:
            self._report.fail(step, error)
            return
        self.optimized = found
        self._budget.spend(num * trainer.world_size, price)
        self._report.finish(trainer, update, found.table)

    def _find(
        self, trainer: Trainer, module: LightningModule
    ) -> tuple[Optimized, list[dict[str, Any]], tuple[int, int]]:
        # What the first process has counted: its state is the one that a resumed run has.
        num = gather_objects(self._budget.num_sequences)[0]
        num = max(LEAST, -(-num // trainer.world_size))
        updater = Updater(self.optimizer, self.judge, self.num_steps, self.smoothing)
        seed = (self.seed, trainer.global_step, trainer.global_rank)
        # The average is swapped in first: what is gathered are the weights of then.
        with undisturbed(trainer, module), whole_weights(module):
            denoiser, sampler = self.denoiser(module), self._sampler(module)
            schedules = self.optimized.schedules
            return updater(denoiser, sampler, self._recent, num, schedules, seed)
