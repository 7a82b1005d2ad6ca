"""What orders by distance share: the farthest point first."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.orders.order import RevealOrder, masked_in, ranked

BLOCK = 16
"""Revealed positions whose distances are looked at together."""


class Farthest(RevealOrder):
    """The position farthest from all that is revealed, given, or chosen before comes first.

    A greedy choice: the positions of one call are far from each other, too. Equal distances are
    taken from left to right, so the masked positions alone decide.
    """

    @property
    def fixed(self) -> bool:
        """Yes: a greedy choice goes on where it stopped."""
        return True

    @abstractmethod
    def distances(self, length: int) -> Float[Tensor, "L L"]:
        """Return the distances between positions, symmetric, zero on the diagonal.

        Raises:
            ValueError: The order is for sequences of another length.
        """

    def start(self, distance: Float[Tensor, "L L"]) -> Float[Tensor, " L"]:
        """Return how far positions count from what is revealed while nothing is.

        By default the most central position is the first.
        """
        return 2 * distance.max() - distance.amax(-1)

    def rank(
        self,
        prediction: Prediction,
        num: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return the places, the first `num` of them chosen one after the other."""
        masked = masked_in(prediction)
        distance = self.distances(masked.shape[1]).to(masked.device)
        if bool((masked == masked[:1]).all()):  # all sequences have the same order
            most = int(num.max()) if len(num) else 0
            return self._rank(distance, masked[:1], most).expand_as(masked)
        return self._rank(distance, masked, int(num.max()))

    def _rank(self, distance: Tensor, masked: Tensor, num: int) -> Int[Tensor, "B L"]:
        length = masked.shape[1]
        far = self._from_revealed(distance, masked)
        rows = torch.arange(len(masked), device=masked.device)
        place = torch.full_like(far, torch.inf)
        for k in range(min(num, length)):
            chosen = far.argmax(-1)
            place[rows, chosen] = k - length
            far = torch.minimum(far, distance[chosen])
            far[rows, chosen] = -1.0  # behind all masked positions, among the revealed
        # Chosen ones have -length..-1, and the others, in the order of the next choice, more.
        rest = far.amax() - far
        return ranked(torch.where(place < 0, place, rest), masked)

    def _from_revealed(
        self, distance: Float[Tensor, "L L"], masked: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return the distance to the nearest revealed position, -1 there itself."""
        far = self.start(distance).expand(masked.shape)
        for first in range(0, masked.shape[1], BLOCK):
            part = slice(first, first + BLOCK)
            near = distance[:, part] + torch.where(masked[:, None, part], torch.inf, 0.0)
            far = torch.minimum(far, near.amin(-1))
        return far.masked_fill(~masked, -1.0)
