"""Samplers that reveal a given number of masked tokens per network call."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import copy
from itertools import pairwise
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction
from ddm.functional import categorical, one_hot, require_instance
from ddm.kernels.sparse import at_once
from ddm.orders import Entropy, Random, RevealOrder
from ddm.orders.order import mask_of, masked_in, ranked
from ddm.process import ForwardProcess
from ddm.samplers.sampler import Sampler, Step
from ddm.samplers.stopping import StoppingRule, in_order
from ddm.samplers.temper import Temper


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
        posterior = p.bridge(torch.zeros_like(s))
        # Sequences without masks wait for the others at t = 0, where a ratio may be infinite.
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
        size = max(1, at_once(rows.device) // prediction.process.kernel.num_states)
        for row, column in zip(rows.split(size), columns.split(size), strict=True):
            token = prediction.at(row, column).double()
            yield row, column, self.law([token], torch.zeros_like(token.t)).squeeze(1)


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
        return _between(process, torch.minimum(one_each, num_free), num_free)

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


class KGillespie(RevealSampler):
    """Reveal k tokens per network call; the time is set from the number of masks.

    The sampling schedule says how many: at the time t the fraction of masks is that of the forward
    process, rounded to whole tokens, and at least one token is revealed per step. The network is
    called with the time that belongs to the true number of masks. `Reveal` is the same sampler
    with any order.

    References:
        Jump your steps: optimizing sampling schedule of discrete diffusion models (Park et al.,
        2025), https://arxiv.org/abs/2410.07761, section 4.3 and appendix;
        Informed correctors for discrete diffusion models (Zhao et al., 2024),
        https://arxiv.org/abs/2407.21243.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Absorbing
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import KGillespie
        >>> process = ForwardProcess(Absorbing(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = KGillespie()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return whole numbers of tokens to reveal, and the times at which they are expected.

        Raises:
            ValueError: The kernel has no mask, or there are more steps than free tokens.
        """
        return counted_steps(process, times, free)

    def most_steps(self, length: int) -> float:
        """Return one step per token."""
        return length


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
    return _between(process, process.masks_left(times, num_free), num_free)


def _between(
    process: ForwardProcess, left: Int[Tensor, "M B"], num_free: Int[Tensor, " B"]
) -> list[Step]:
    times = process.time_of_masks(left, num_free)
    pairs = zip(pairwise(times), -left.diff(dim=0), strict=True)
    return [Step(t, s, num) for (t, s), num in pairs]


class FirstHitting(RevealSampler):
    """Exact simulation of the reverse chain, one token per network call.

    The times at which tokens are revealed are drawn beforehand: order statistics of the forward
    process. The only error left is the network's. The times of the schedule play no role; every
    sequence has its own.

    References:
        Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
        categorical sampling (Zheng et al., 2025), https://arxiv.org/abs/2409.02908, section 4.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Absorbing
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import FirstHitting
        >>> process = ForwardProcess(Absorbing(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = FirstHitting()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 6)
    """

    order: float = float("inf")

    def steps(
        self,
        process: ForwardProcess,
        times: Float[Tensor, " T"],
        free: Bool[Tensor, "B L"],
        generator: torch.Generator | None = None,
    ) -> list[Step]:
        """Return steps of one token at the times at which tokens are revealed, the last at 0.

        Raises:
            ValueError: The kernel has no mask.
        """
        mask_of(process.kernel)
        u = torch.rand(free.shape, generator=generator, dtype=torch.float64, device=free.device)
        u = torch.where(free, u, 0.0).sort(-1, descending=True).values.T
        u = u[: int(free.sum(-1).max()) if len(free) else 0]
        hits = process.time_at_mask_ratio(process.mask_ratio(times[:1]) * u)
        hits = torch.cat([hits, hits.new_zeros(1, len(free))])
        one = torch.ones(len(free), dtype=torch.long, device=free.device)
        return [Step(t, s, one) for t, s in pairwise(hits)]

    def num_evals(self, num_steps: int, length: int) -> int:
        """Return one call per free token, whatever the number of steps."""
        return length
