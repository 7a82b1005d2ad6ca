"""The order from left to right, block after block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_at_least, require_instance
from ddm.orders.order import RevealOrder, masked_in, ranked


class LeftToRight(RevealOrder):
    """Blocks from left to right (semi-autoregressive), with another order inside the blocks.

    A call that reveals more tokens than a block has left goes on in the next one.

    References:
        Large language diffusion models (Nie et al., 2025), https://arxiv.org/abs/2502.09992,
        appendix B.4.

    Args:
        block_length: Positions of a block; with 1, tokens are revealed one after the other.
        within: The order inside a block; from left to right by default.

    Example:
        >>> from ddm.orders import LeftToRight
        >>> from ddm.samplers import Reveal
        >>> sampler = Reveal(LeftToRight())  # then as any other sampler
    """

    def __init__(self, block_length: int = 1, within: RevealOrder | None = None) -> None:
        require_at_least(1, block_length=block_length)
        require_instance(RevealOrder | None, within=within)
        self.block_length = block_length
        self.within = within

    @property
    def random(self) -> bool:
        """Whether chance decides inside the blocks."""
        return self.within is not None and self.within.random

    @property
    def fixed(self) -> bool:
        """Whether tokens are revealed from left to right inside the blocks, too."""
        return self.within is None

    def shaped(self, shape: Sequence[int]) -> LeftToRight:
        """Return the order whose order inside the blocks is on these axes."""
        return LeftToRight(self.block_length, self.within and self.within.shaped(shape))

    def rank(
        self,
        prediction: Prediction,
        num: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return the places by block first, by the order inside blocks second."""
        masked = masked_in(prediction)
        length = masked.shape[1]
        position = torch.arange(length, device=masked.device)
        inside = position.expand(masked.shape)
        if self.within is not None:
            inside = self.within.rank(prediction, masked.sum(-1), generator)
        block = position // self.block_length
        return ranked((block * length + inside).double(), masked)
