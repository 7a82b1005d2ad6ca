"""Samplers that reveal masked tokens by number rather than by chance."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.functional import categorical, one_hot
from ddm.orders import Random
from ddm.orders.order import mask_of, masked_in
from ddm.process import ForwardProcess
from ddm.samplers.sampler import Sampler, Step


class RevealSampler(Sampler):
    """A sampler of the absorbing kernel that reveals tokens by number rather than by chance.

    By default the masked positions that are revealed are uniformly random: all have the same
    reverse rate, so this is how the chain itself chooses. The step is not factorized over
    positions.
    """

    @abstractmethod
    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return the steps, with the numbers of tokens that they reveal."""

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the marginal distribution of every token: the posterior of x_0, if revealed.

        Positions are not independent: `step` reveals a fixed number of them.
        """
        p = predictions[-1]
        posterior = p.process.kernel.on_states(p.leave_one_out())
        masked = masked_in(p)[..., None]
        return posterior.where(masked, one_hot(p.x_t, posterior.shape[-1], posterior.dtype))

    def choose(
        self, prediction: Prediction, step: Step, generator: torch.Generator | None = None
    ) -> Bool[Tensor, "B L"]:
        """Return which masked positions are revealed, given what the network said."""
        assert step.num is not None
        rank = Random().rank(prediction, step.num, generator)
        return masked_in(prediction) & (rank < step.num[:, None])

    def step(
        self,
        denoiser: Denoiser,
        x_t: Int[Tensor, "B L"],
        step: Step,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Int[Tensor, "B L"]:
        """Reveal the positions that are chosen; their tokens alone are drawn."""
        prediction = denoiser(x_t, self.time(denoiser.process, x_t, step, free), free)
        rows, columns = self.choose(prediction, step, generator).nonzero(as_tuple=True)
        x = x_t.clone()
        for row, column, law in self._laws(prediction, rows, columns):
            x[row, column] = categorical(law, generator)
        return x

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
        """Reveal the tokens of x_0 at the positions that are chosen; return their -log p."""
        prediction = denoiser(x_t, self.time(denoiser.process, x_t, step, free), free)
        chosen = self.choose(prediction, step, generator)
        nats = self.nats(prediction, x_0, chosen).sum(-1)
        return torch.where(chosen, x_0, x_t), nats

    def nats(
        self, prediction: Prediction, x_0: Int[Tensor, "B L"], where: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return -log of the probability that masked tokens are drawn as x_0, at some positions.

        Float64, zero at all other positions.
        """
        rows, columns = where.nonzero(as_tuple=True)
        nats = torch.zeros(x_0.shape, dtype=torch.float64, device=x_0.device)
        for row, column, law in self._laws(prediction, rows, columns):
            p = law.gather(-1, x_0[row, column, None]).squeeze(-1)
            nats[row, column] = -p.log()
        return nats

    def time(
        self,
        process: ForwardProcess,
        x_t: Int[Tensor, "B L"],
        step: Step,
        free: Bool[Tensor, "B L"] | None,
    ) -> Float[Tensor, " B"]:
        """Return the times that the network is told."""
        return step.t

    def _laws(
        self, prediction: Prediction, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield single tokens, piece by piece, and what they are drawn from, float64."""
        for row, column, piece in prediction.tokens(rows, columns):
            yield row, column, self.law([piece.double()], torch.zeros_like(piece.t)).squeeze(1)


def counted_steps(
    process: ForwardProcess, times: Float[Tensor, " T"], free: Bool[Tensor, "B L"]
) -> list[Step]:
    """Return steps of whole numbers of tokens along a schedule.

    Raises:
        ValueError: The kernel has no mask, or there are more steps than free tokens.
    """
    mask_of(process.kernel)
    num_free = free.sum(-1)
    steps, most = len(times) - 1, int(num_free.max()) if len(free) else 0
    if most == 0:
        return []
    if steps > most:
        raise ValueError(
            f"`times` must have at most one step per token to reveal, got {steps} steps for "
            f"{most} tokens; use fewer steps."
        )
    return steps_between(process, process.masks_left(times, num_free), num_free)


def steps_between(
    process: ForwardProcess, left: Int[Tensor, "M B"], num_free: Int[Tensor, " B"]
) -> list[Step]:
    """Return steps between numbers of masks that are left, at the times that belong to them."""
    times = process.time_of_masks(left, num_free)
    pairs = zip(pairwise(times), -left.diff(dim=0), strict=True)
    return [Step(t, s, num) for (t, s), num in pairs]
