"""The order that spaces tokens out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import require_at_least
from ddm.orders.farthest import Farthest


class Spaced(Farthest):
    """The position farthest from all that is revealed or given, in the geometry of the data.

    Tokens that are far apart, with revealed ones in between, depend on each other least, so many
    can be drawn at once.

    Args:
        shape: Sizes of the axes whose positions are the tokens, in the order in which they are
            flattened: (L,) for text, (C, H, W) for images, (voices, time) or (time, voices) for
            music. By default one axis of any length.
    """

    def __init__(self, shape: Sequence[int] = ()) -> None:
        for size in shape:
            require_at_least(1, shape=size)
        self.shape = tuple(shape)

    def distances(self, length: int) -> Float[Tensor, "L L"]:
        """Return the Euclidean distances on the grid."""
        shape = self.shape or (length,)
        if math.prod(shape) != length:
            raise ValueError(
                f"`shape` must multiply to the length of the sequences, {length}, got {shape}; "
                "name the axes that are flattened into a sequence."
            )
        axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in shape), indexing="ij")
        place = torch.stack([axis.flatten() for axis in axes], -1)
        return torch.cdist(place, place, compute_mode="donot_use_mm_for_euclid_dist")
