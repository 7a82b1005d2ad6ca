"""The noun `Sampler`: a rule for one step, and the sampling loop, written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from ddm.denoisers import Denoiser, Prediction, chunks
from ddm.functional import categorical, check_times
from ddm.samplers.cache import CallCounter

CHUNK = 2**22
"""Probabilities held at once while drawing, 32 MiB in float64: bounds the memory of large V."""


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
    """A rule that carries x_t to x_s; factorised over positions given what the network said.

    A subclass states `law`, the exact law that one stage of a step draws from, so that tests can
    compose it into exact transition matrices. The step to s = 0 always draws from the
    posterior of x_0, in the same network call: no sampler leaves noise behind or needs an
    uncounted call to clean up.
    """

    order: float = 1
    """Order of convergence of the law of the samples in the largest step."""

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

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw from the law of the next stage, piece by piece, in float64."""
        drawn, first = torch.empty_like(predictions[-1].x_t), 0
        for piece in chunks(predictions, CHUNK):
            last = first + piece[-1].x_t.shape[1]
            # Into one tensor: small ones that are kept until the end would lie in the way of the
            # next piece's large ones, and the heap would grow by the size of the logits.
            drawn[:, first:last] = categorical(self.law([p.double() for p in piece], s), generator)
            first = last
        return drawn

    def step(
        self,
        denoiser: Denoiser,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
        *,
        keep: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Carry x_t to x_s, but for the positions to keep; costs one network call per stage."""
        predictions: list[Prediction] = []
        x, now = x_t, t
        for landing in self.stages(t, s):
            predictions.append(denoiser(x, now))
            y, now = self.draw(predictions, landing, generator), landing
            x = y if keep is None else torch.where(keep, x_t, y)
        return x

    def grid(
        self,
        denoiser: Denoiser,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "M B"]:
        """Return the times that every sequence visits; `free` marks positions not clamped."""
        return times[:, None].expand(-1, free.shape[0])

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return the network calls of `num_steps` steps on sequences of that many free tokens."""
        return num_steps

    @torch.no_grad()
    def __call__(
        self,
        denoiser: Denoiser,
        x: Int[Tensor, "B L"],
        times: Float[Tensor, " T"] | Sequence[float],
        *,
        prompt: Int[Tensor, "B L"] | None = None,
        prompt_mask: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        on_state: Callable[[Tensor, Tensor], object] | None = None,
    ) -> Samples:
        """Carry x from noise to data along `times`: the sampling loop.

        Args:
            denoiser: The model.
            x: Tokens drawn from the prior, (B, L), for instance by `kernel.sample_prior`.
            times: Strictly decreasing from 1 to 0, N + 1 of them for N steps, for instance
                `SamplingSchedule.times`.
            prompt: Tokens to keep, (B, L); read where `prompt_mask` is true.
            prompt_mask: Positions that are clamped to the prompt and never change.
            generator: Source of all draws, on the device of x.
            progress: Show a bar.
            on_state: Called with every state x_t, (B, L), and its times t, (B,), the first and the
                last included, for instance `Trajectory.record`.

        Returns:
            The samples and what they cost.

        Raises:
            ValueError: Times, prompt or kernel do not fit, before any network call.
        """
        times = check_times(times).to(x.device)
        kernel = denoiser.process.kernel
        clamp = _check_prompt(prompt, prompt_mask, x, kernel.vocab_size)
        x = x if prompt is None else torch.where(clamp, prompt, x)
        keep = None if prompt is None else clamp
        grid = self.grid(denoiser, times, ~clamp, generator)
        counter = CallCounter(denoiser)
        steps = tqdm(pairwise(grid), total=len(grid) - 1, desc="sampling", disable=not progress)
        if on_state is not None:
            on_state(x, grid[0])
        for t, s in steps:
            x = self.step(counter, x, t, s, generator, keep=keep)
            if on_state is not None:
                on_state(x, s)
        return Samples(x, counter.num_calls, counter.num_rows)


def _check_prompt(
    prompt: Tensor | None, prompt_mask: Tensor | None, x: Tensor, vocab_size: int
) -> Tensor:
    """Return the positions to clamp."""
    if (prompt is None) != (prompt_mask is None):
        raise ValueError(
            "`prompt` and `prompt_mask` must be given together; the mask marks the positions of "
            "the prompt that are kept."
        )
    if prompt is None or prompt_mask is None:
        return torch.zeros_like(x, dtype=torch.bool)
    for name, tensor in (("prompt", prompt), ("prompt_mask", prompt_mask)):
        if tensor.shape != x.shape:
            raise ValueError(
                f"`{name}` must have the shape {tuple(x.shape)} of the samples, got "
                f"{tuple(tensor.shape)}; pad it to the full length and mark what counts in "
                "`prompt_mask`, or cut it."
            )
    kept = prompt[prompt_mask.bool()]
    if kept.numel() and not (0 <= int(kept.min()) and int(kept.max()) < vocab_size):
        raise ValueError(
            f"`prompt` must hold data tokens in 0..{vocab_size - 1}, got values from "
            f"{int(kept.min())} to {int(kept.max())}; encode it with the model's vocabulary."
        )
    return prompt_mask.bool()
