"""The base class of samplers: a rule for one step, and the sampling loop, written once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int, Integer
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction, chunks, evaluating
from ddm.functional import categorical, describe, one_hot, require_instance
from ddm.kernels.sparse import at_once
from ddm.process import ForwardProcess, keep_given
from ddm.progress import progress_bar
from ddm.samplers.cache import CallCounter
from ddm.schedule import Schedule, times_of


@dataclass(frozen=True)
class Step:
    """One step of every sequence of a batch.

    Attributes:
        t: Times to start from, (B,).
        s: Times to land at, (B,), s < t.
        num: Numbers of tokens to reveal, (B,), for samplers that reveal a number of tokens; None
            where chance decides.
    """

    t: Float[Tensor, " B"]
    s: Float[Tensor, " B"]
    num: Int[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Samples:
    """What a sampler returns.

    Attributes:
        tokens: The samples, (B, L), in 0..V-1.
        num_calls: Network calls made, every one of them counted.
        num_rows: Sequences evaluated in all calls together: at most B num_calls, fewer where
            unchanged rows were reused.
    """

    tokens: Int[Tensor, "B L"]
    num_calls: int
    num_rows: int


class Sampler(ABC):
    """A rule that carries x_t to x_s; factorized over positions given what the network said.

    A subclass states `law`, the exact law that one stage of a step draws from, so that tests can
    compose it into exact transition matrices. The step to s = 0 always draws from the
    posterior of x_0, in the same network call: no sampler leaves noise behind or needs an
    uncounted call to clean up.
    """

    order: float = 1
    """Order of convergence of the law of the samples in the largest step."""
    like_analytic: bool = True
    """Whether schedules that are good for analytic steps are good for these, too."""

    @abstractmethod
    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the law of the next stage, given the predictions of all stages of this step.

        Args:
            predictions: What the network said at this step, oldest first; the last one is at the
                state to move from.
            s: Time at which the stage lands, (B,).
        """

    def stages(self, t: Float[Tensor, " B"], s: Float[Tensor, " B"]) -> list[Float[Tensor, " B"]]:
        """Return the times at which the stages of the step t -> s land, the last one being s."""
        return [s]

    @property
    def single_stage(self) -> bool:
        """Whether a step is one draw from one law, whose likelihood is in closed form."""
        t = torch.ones(1, dtype=torch.float64)
        return len(self.stages(t, t / 2)) == 1

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw from the law of the next stage, piece by piece, in float64."""
        drawn = torch.empty_like(predictions[-1].x_t)
        for part, piece in chunks(predictions, at_once(drawn.device)):
            # Into one tensor: small ones that are kept until the end would lie in the way of the
            # next piece's large ones, and the heap would grow by the size of the logits.
            drawn[:, part] = categorical(self.law([p.double() for p in piece], s), generator)
        return drawn

    def step(
        self,
        denoiser: Denoiser,
        x_t: Int[Tensor, "B L"],
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Carry x_t down a step, but for the given positions; one network call per stage."""
        predictions: list[Prediction] = []
        x, now = x_t, step.t
        for landing in self.stages(step.t, step.s):
            predictions.append(denoiser(x, now, free))
            if landing is not step.s:
                _ = predictions[-1].output  # later stages read it again
            x = keep_given(self.draw(predictions, landing, generator), x_t, free)
            now = landing
        return x

    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return the steps that every sequence makes.

        Args:
            process: The forward process of the denoiser.
            times: The schedule, decreasing from 1 to 0.
            free: Positions that are generated.
            generator: Source of randomness, for samplers that draw their steps.
        """
        return [Step(t, s) for t, s in pairwise(times[:, None].expand(-1, len(free)))]

    def landing(
        self,
        process: ForwardProcess,
        x: Int[Tensor, "B L"],
        step: Step,
        free: Bool[Tensor, "B L"],
    ) -> Float[Tensor, " B"]:
        """Return the times that the states x after a step belong to: those that it lands at."""
        return step.s

    def teach(
        self,
        denoiser: Denoiser,
        x_t: Int[Tensor, "B L"],
        x_0: Int[Tensor, "B L"],
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> tuple[Int[Tensor, "B L"], Float[Tensor, " B"]]:
        r"""Carry x_t down a step on the way to x_0, and return what that costs the sampler.

        With Q the law of the step, the cost is `KL( q(x_s | x_t, x_0) || Q(x_s | x_t) )`, summed
        over the free positions, and x_s is drawn from `q(x_s | x_t, x_0)`. One network call.

        Returns:
            The tokens x_s, and nats per sequence, float64.

        Raises:
            ValueError: A step has several stages, whose joint law is not that of a product.
        """
        if not self.single_stage:
            raise ValueError(
                f"`sampler` must make one network call per step, got `{type(self).__name__}`: no "
                "likelihood of its steps is in closed form; use `Analytic`."
            )
        x, nats = torch.empty_like(x_t), step.t.new_zeros(x_t.shape)
        for part, (p,) in chunks([denoiser(x_t, step.t, free)], at_once(x_t.device) // 4):
            known = one_hot(x_0[:, part], p.process.kernel.vocab_size, step.t.dtype).log()
            q = p.process.bridge(known, p.x_t, p.t, step.s)
            law = self.law([p.double()], step.s)
            # A token that q may reach and the law may not has an infinite cost.
            nats[:, part] = (torch.xlogy(q, q) - torch.xlogy(q, law)).sum(-1)
            x[:, part] = categorical(q, generator)
        x = keep_given(x, x_t, free)
        return x, (nats if free is None else nats.where(free, 0.0)).sum(-1)

    def most_steps(self, length: int) -> float:
        """Return the largest number of steps on sequences of that many free tokens."""
        return math.inf

    def shaped(self, shape: Sequence[int]) -> Sampler:
        """Return the sampler for data whose axes have these sizes; most need no geometry."""
        return self

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return the network calls of `num_steps` steps on sequences of that many free tokens."""
        return num_steps

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x: Integer[Tensor, "B L"],
        schedule: Schedule,
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        on_state: Callable[[Tensor, Tensor], object] | None = None,
    ) -> Samples:
        """Carry x from noise to data along a schedule: the sampling loop.

        Args:
            denoiser: The model.
            x: Noise where it is free, given tokens elsewhere, (B, L), for instance from
                `process.sample_prior(tokens, free)`.
            schedule: A schedule, or its decreasing times from 1 to 0: N + 1 of them for N steps.
            free: Positions that are generated, (B, L), different in every row; the others are given
                (a prompt at any place, padding) and never change. None if all are free.
            generator: Source of all draws, on the device of x.
            progress: Show a bar.
            on_state: Called with every state x_t, (B, L), and its times t, (B,), the first and the
                last included, for instance `Trajectory.record`.

        Returns:
            The samples and what they cost.

        Raises:
            TypeError: Tokens are no integers, or the mask is not boolean.
            ValueError: Schedule, tokens, mask or kernel do not fit, before any network call.
        """
        require_instance(Denoiser, remedy="wrap the network: `MeanDenoiser`", denoiser=denoiser)
        require_instance(Tensor, remedy="start from `process.sample_prior((B, L))`", x=x)
        check_free(free, x, denoiser.process)
        x = x.long()
        revealed = denoiser.process.kernel.is_revealed(x)
        if bool((revealed if free is None else revealed & free).any()):
            raise ValueError(
                "`x` must hold masks where it is free, got other tokens there, which would stay as "
                "they are; start from `process.sample_prior(x, free)`."
            )
        return self.run(
            denoiser,
            x,
            schedule,
            free=free,
            generator=generator,
            progress=progress,
            on_state=on_state,
        )

    def run(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "B L"],
        schedule: Schedule,
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        on_state: Callable[[Tensor, Tensor], object] | None = None,
    ) -> Samples:
        """Do what a call does, for tokens that are known to fit: what is not free may be masked."""
        times, process = times_of(schedule).to(x.device), denoiser.process
        everywhere = torch.ones_like(x, dtype=torch.bool) if free is None else free
        steps = self.steps(process, times, everywhere, generator)
        counter = CallCounter(denoiser.start())
        now = times[:1].expand(len(x))
        if on_state is not None:
            on_state(x, now)
        with evaluating(denoiser):
            for step in progress_bar(steps, desc="sampling", disable=not progress):
                if not now.any():  # all sequences are done, sooner than the schedule
                    break
                x = self.step(counter, x, step, generator, free=free)
                now = self.landing(process, x, step, everywhere)
                if on_state is not None:
                    on_state(x, now)
        return Samples(x, counter.num_calls, counter.num_rows)

    def __repr__(self) -> str:
        """Show the class and its arguments."""
        return describe(self)


def check_some_free(free: Tensor | None, x: Tensor, process: ForwardProcess) -> None:
    """Refuse what `check_free` refuses, and a mask that leaves nothing to generate.

    Raises:
        ValueError: No position is free.
    """
    check_free(free, x, process)
    if free is not None and not bool(free.any()):
        raise ValueError(
            "`free` must leave something to generate, got a mask that is false everywhere; it is "
            "true where tokens are generated."
        )


def check_free(free: Tensor | None, x: Tensor, process: ForwardProcess) -> None:
    """Refuse tokens to start from, and a mask of free positions, that do not fit.

    Raises:
        TypeError: Tokens are no integers, or the mask is not boolean.
        ValueError: Shapes differ, states are out of range, or a given token is none of the data.
    """
    process.kernel.check_tokens(x, "x", noised=True)
    if free is None:
        return
    if free.dtype != torch.bool:
        raise TypeError(
            f"`free` must be boolean, true where tokens are generated, got {free.dtype}; convert "
            "it with `.bool()`."
        )
    if free.shape != x.shape:
        raise ValueError(
            f"`free` must have the shape {tuple(x.shape)} of the tokens, got {tuple(free.shape)}; "
            "use `free.expand_as(x)` for the same positions in all rows."
        )
    process.kernel.check_tokens(x[~free][None], "x, where it is given,")
