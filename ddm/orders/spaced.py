"""The order that spaces tokens out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import require_at_least, require_instance
from ddm.orders.farthest import Farthest


class Spaced(Farthest):
    """The position farthest from all that is revealed or given, in the geometry of the data.

    Tokens that are far apart, with revealed ones in between, depend on each other least, so many
    can be drawn at once.

    Args:
        shape: Sizes of the axes whose positions are the tokens, in the order in which they are
            flattened: (L,) for text, (C, H, W) for images, (voices, time) or (time, voices) for
            music. By default the model's data tell (`shaped`), else it is one axis of any length.
        jitter: How much chance there is, see `Farthest`; networks need some, exact denoisers none.

    Example:
        >>> from ddm.orders import Spaced
        >>> from ddm.samplers import Reveal
        >>> sampler = Reveal(Spaced((3, 8, 8)))  # then as any other sampler
    """

    def __init__(self, shape: Sequence[int] = (), *, jitter: float = 0.5) -> None:
        super().__init__(jitter)
        require_instance(Sequence, remedy="write (L,) or (C, H, W), or leave it out", shape=shape)
        for size in shape:
            require_at_least(1, shape=size)
        self.shape = tuple(shape)

    def shaped(self, shape: Sequence[int]) -> Spaced:
        """Return the order on these axes, unless it has axes already."""
        return self if self.shape else Spaced(shape, jitter=self.jitter)

    def distances(self, length: int) -> Float[Tensor, "L L"]:
        """Return the Euclidean distances on the grid."""
        shape = self.shape or (length,)
        if math.prod(shape) != length:
            raise ValueError(
                f"`shape` must multiply to the length of the sequences, {length}, got {shape}; "
                "name the axes that are flattened into a sequence."
            )
        axes = self._axes(length)
        place = torch.stack([axis.flatten() for axis in axes], -1)
        return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")

    def start(self, distance: Float[Tensor, "L L"]) -> Float[Tensor, " L"]:
        """Return twice the distance to the edge, which has neighbors on one side alone.

        Short axes, such as channels or voices, have no edges: those below half of the longest one.
        """
        shape = self.shape or (len(distance),)
        far = distance.new_full((len(distance),), torch.inf)
        for size, axis in zip(shape, self._axes(len(distance)), strict=True):
            if 2 * size >= max(shape):
                edge = 2 * torch.minimum(axis + 1, size - axis).flatten()
                far = torch.minimum(far, edge.to(far))
        return far

    def _axes(self, length: int) -> tuple[Tensor, ...]:
        shape = self.shape or (length,)
        axes = (torch.arange(n, dtype=torch.float64) for n in shape)
        return torch.meshgrid(*axes, indexing="ij")
