"""How many tokens a call reveals where the prediction decides, sequence by sequence."""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Real

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import describe, require_instance
from ddm.orders.confidence import Confidence
from ddm.orders.entropy import Entropy


class StoppingRule(ABC):
    """A rule that says how many tokens of an order are revealed, given what the network said."""

    @abstractmethod
    def count(
        self, prediction: Prediction, rank: Int[Tensor, "B L"], num: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        """Return how many positions are revealed; the sampler reveals at least one.

        Args:
            prediction: What the network said.
            rank: The places of the positions in the order.
            num: The numbers of masked positions, which are the first ones, (B,).
        """

    def __repr__(self) -> str:
        """Show the class and its arguments."""
        return describe(self)


class EntropyBound(StoppingRule):
    r"""Reveal while the entropies, without the largest, sum to at most a bound.

    That sum bounds the total correlation of the tokens revealed together, which is what drawing
    them independently loses.

    References:
        Accelerated sampling from masked diffusion models via entropy bounded unmasking (Ben-Hamu
        et al., 2025), https://arxiv.org/abs/2505.24857, equation 9.

    Args:
        bound: Nats per call, >= 0; with 0 all that is certain goes with one token more.

    Example:
        >>> from ddm.orders import Entropy
        >>> from ddm.samplers import EntropyBound, Reveal
        >>> sampler = Reveal(Entropy(), stop=EntropyBound(0.1))
    """

    def __init__(self, bound: float = 0.1) -> None:
        require_instance(Real, remedy="0.1 is a careful choice", bound=bound)
        if not 0 <= bound < float("inf"):
            raise ValueError(
                f"`bound` must be >= 0 and finite, got {bound}; 0.1 nats is a careful choice."
            )
        self.bound = bound

    def count(
        self, prediction: Prediction, rank: Int[Tensor, "B L"], num: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        """Return the length of the longest beginning of the order within the bound."""
        spent = spent_in_order(Entropy().scores(prediction), rank)
        within = (spent <= self.bound).long().cumprod(-1).sum(-1)
        return within.minimum(num)


class Threshold(StoppingRule):
    """Reveal while the most likely tokens have at least a given probability.

    With the order `Confidence` these are all positions above the threshold.

    References:
        Fast-dLLM: training-free acceleration of diffusion LLM by enabling KV cache and parallel
        decoding (Wu et al., 2025), https://arxiv.org/abs/2505.22618, section 3.3.

    Args:
        probability: The least probability, in (0, 1].

    Example:
        >>> from ddm.orders import Confidence
        >>> from ddm.samplers import Reveal, Threshold
        >>> sampler = Reveal(Confidence(), stop=Threshold(0.9))
    """

    def __init__(self, probability: float = 0.9) -> None:
        require_instance(Real, remedy="0.9 is usual", probability=probability)
        if not 0 < probability <= 1:
            raise ValueError(
                f"`probability` must lie in (0, 1], got {probability}; 0.9 is the published choice."
            )
        self.probability = probability

    def count(
        self, prediction: Prediction, rank: Int[Tensor, "B L"], num: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        """Return the length of the longest beginning of the order above the threshold."""
        largest = in_order(-Confidence().scores(prediction), rank)
        return (largest >= self.probability).long().cumprod(-1).sum(-1).minimum(num)


def in_order(value: Float[Tensor, "B L"], rank: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Return the values of positions by their place in the order."""
    return torch.empty_like(value).scatter_(-1, rank, value)


def spent_in_order(entropy: Float[Tensor, "B L"], rank: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    """Return the sums of the first 1, 2, 3 ... entropies of an order, each without its largest.

    That is a bound on the total correlation of the tokens.
    """
    first = in_order(entropy, rank)
    return first.cumsum(-1) - first.cummax(-1).values
