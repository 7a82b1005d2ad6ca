"""Revealing tokens in an order, as many per call as a schedule says or a rule allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_instance
from ddm.orders import Entropy, Random, RevealOrder
from ddm.orders.order import mask_of, masked_in, ranked
from ddm.process import ForwardProcess
from ddm.samplers.reveal_sampler import RevealSampler, counted_steps, steps_between
from ddm.samplers.sampler import Step
from ddm.samplers.stopping import StoppingRule, in_order
from ddm.samplers.temper import Temper


class Reveal(RevealSampler):
    """Reveal tokens in an order: as many per call as the schedule says, or as a rule allows.

    With a schedule the number of calls is that of its steps; a sequence with fewer free tokens, or
    one where near-certain tokens went along, is done sooner. With a stopping rule the schedule
    plays no role: every sequence makes as many calls as it needs, and the batch as many as its
    slowest one. The network is called with the time that belongs to the true number of masks.

    An order chooses by what the network said, and temperature, top-k and top-p change the draw
    alone, so they never change which positions are revealed.

    Args:
        order: Which tokens first; random by default.
        stop: How many tokens per call, given the prediction; by default the schedule decides.
        near_certain: Tokens whose entropies sum to at most that many nats per call are
            revealed along with the others.
        temper: What is changed in the predictions before tokens are drawn; nothing by default.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Absorbing
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Reveal
        >>> from ddm.orders import Spaced
        >>> process = ForwardProcess(Absorbing(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = Reveal(Spaced())(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    def __init__(
        self,
        order: RevealOrder | None = None,
        *,
        stop: StoppingRule | None = None,
        near_certain: float = 0.0,
        temper: Temper | None = None,
    ) -> None:
        require_instance(RevealOrder | None, order=order)
        require_instance(StoppingRule | None, stop=stop)
        require_instance(Temper | None, temper=temper)
        require_instance(Real, remedy="0 leaves it out", near_certain=near_certain)
        if not 0 <= near_certain < float("inf"):
            raise ValueError(
                f"`near_certain` must be >= 0 and finite, got {near_certain}; it is the sum of "
                "entropies, in nats per call."
            )
        self.reveal_order = order or Random()
        self.stop = stop
        self.near_certain = near_certain
        self.temper = temper

    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return the steps, with the numbers of tokens that the schedule reveals.

        With a stopping rule they are as many as the slowest sequence might need.

        Raises:
            ValueError: The kernel has no mask, or there are more steps than free tokens.
        """
        if self.stop is None:
            return counted_steps(process, times, free)
        mask_of(process.kernel)
        num_free = free.sum(-1)
        most = int(num_free.max()) if len(free) else 0
        one_each = torch.arange(most, -1, -1, device=free.device)[:, None]
        return steps_between(process, torch.minimum(one_each, num_free), num_free)

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the marginal distribution of every token if it is revealed."""
        law = super().law(predictions, s)
        return law if self.temper is None else self.temper(law)

    def choose(
        self, prediction: Prediction, step: Step, generator: torch.Generator | None = None
    ) -> Bool[Tensor, "B L"]:
        """Return which masked positions are revealed: the first of the order, and near-certain."""
        assert step.num is not None
        masked = masked_in(prediction)
        left = masked.sum(-1)
        num = step.num if self.stop is None else left
        rank = self.reveal_order.rank(prediction, num, generator)
        if self.stop is not None:
            num = self.stop.count(prediction, rank, left).clamp(min=1)
        chosen = rank < num[:, None]
        if self.near_certain > 0:
            entropy = Entropy().scores(prediction)
            place = ranked(entropy, masked)
            certain = in_order(entropy, place).cumsum(-1) <= self.near_certain
            chosen |= certain.gather(-1, place)
        return chosen & masked

    def time(
        self,
        process: ForwardProcess,
        x_t: Int[Tensor, "B L"],
        step: Step,
        free: Bool[Tensor, "B L"] | None,
    ) -> Float[Tensor, " B"]:
        """Return the times that belong to the numbers of masks."""
        everywhere = torch.ones_like(x_t, dtype=torch.bool) if free is None else free
        return self.landing(process, x_t, step, everywhere)

    def landing(
        self,
        process: ForwardProcess,
        x: Int[Tensor, "B L"],
        step: Step,
        free: Bool[Tensor, "B L"],
    ) -> Float[Tensor, " B"]:
        """Return the times that belong to the numbers of masks."""
        left = ((x == mask_of(process.kernel)) & free).sum(-1)  # masks of later blocks wait
        return process.time_of_masks(left, free.sum(-1))

    def most_steps(self, length: int) -> float:
        """Return one step per token; with a stopping rule the schedule plays no role."""
        return length if self.stop is None else math.inf

    def ordered(self, order: RevealOrder) -> Reveal:
        """Return the same sampler in another order."""
        other = copy(self)
        other.reveal_order = order
        return other

    def shaped(self, shape: Sequence[int]) -> Reveal:
        """Return the sampler in the order on these axes."""
        return self.ordered(self.reveal_order.shaped(shape))

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return the network calls; with a stopping rule, the most that there can be."""
        return num_steps if self.stop is None else length
