"""The base class of orders: which masked tokens are revealed first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import describe
from ddm.kernels import Kernel


class RevealOrder(ABC):
    """A rule that ranks the masked positions, given what the network said.

    An order sees which positions are masked, the tokens that are not, and the prediction; never a
    value that is about to be drawn. With one token per call the samples then have the law of an
    exact denoiser, whatever the order: each token is drawn from its law given all that the choice
    of its position was based on. With several per call, what is lost is the total correlation of
    the positions chosen together, given the tokens that are there.
    """

    @property
    def random(self) -> bool:
        """Whether chance decides, so that a likelihood by teacher forcing is a bound."""
        return False

    @property
    def fixed(self) -> bool:
        """Whether the masked positions alone decide, choosing one after the other.

        The k-th token revealed then has the same place however many are revealed per call, and what
        a step costs depends on where it begins and ends alone.
        """
        return False

    @abstractmethod
    def rank(
        self,
        prediction: Prediction,
        num: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return the place of every position in the order: 0 first, those not masked at the end.

        Args:
            prediction: What the network said; costs no further call.
            num: How many positions will be taken, (B,): an order that chooses one after the other
                need not look further.
            generator: Source of randomness, on the device of the tokens.
        """

    def shaped(self, shape: Sequence[int]) -> RevealOrder:
        """Return the order for data whose axes have these sizes; itself if it has its own, or none.

        Args:
            shape: Sizes of the axes that are flattened into a sequence; none for one axis.
        """
        return self

    def __repr__(self) -> str:
        """Show the class and its arguments."""
        return describe(self)


def mask_of(kernel: Kernel) -> int:
    """Return the mask state.

    Raises:
        ValueError: The kernel has none, or not only jumps to it.
    """
    if not kernel.absorbing or kernel.mask is None:
        raise ValueError(
            f"`kernel` must be absorbing for a sampler that reveals masked tokens, got "
            f"`{type(kernel).__name__}`; use `Analytic`."
        )
    return kernel.mask


def masked_in(prediction: Prediction) -> Bool[Tensor, "B L"]:
    """Return where a prediction's tokens are masked and free; masks of later blocks wait."""
    masked = prediction.x_t == mask_of(prediction.process.kernel)
    return masked if prediction.free is None else masked & prediction.free


def ranked(score: Float[Tensor, "B L"], masked: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Return the places of the masked positions by increasing score, all others behind them.

    Equal scores are ranked from left to right.
    """
    order = score.masked_fill(~masked, torch.inf).argsort(dim=-1, stable=True)
    place = torch.arange(score.shape[-1], device=score.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, place)
