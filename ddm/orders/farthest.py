"""What orders by distance share: the farthest point first."""

from __future__ import annotations

from abc import abstractmethod
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_instance
from ddm.orders.order import RevealOrder, masked_in, ranked

BLOCK = 16
"""Revealed positions whose distances are looked at together."""


class Farthest(RevealOrder):
    """The position farthest from all that is revealed, given, or chosen before comes first.

    A greedy choice: the positions of one call are far from each other, too, and the next call goes
    on where it stopped. Equal distances are taken from left to right. With `jitter` J every choice
    sees the distances times numbers that are uniform on [1 - J, 1]: regular patterns of masks are
    rare in training, and networks predict less well from them.

    Args:
        jitter: J in [0, 1]; without any, the masked positions alone decide.
    """

    def __init__(self, jitter: float) -> None:
        require_instance(Real, remedy="0 leaves out chance", jitter=jitter)
        if not 0 <= jitter <= 1:
            raise ValueError(f"`jitter` must lie in [0, 1], got {jitter}; 0 leaves out chance.")
        self.jitter = jitter

    @property
    def random(self) -> bool:
        """Whether there is jitter."""
        return self.jitter > 0

    @property
    def fixed(self) -> bool:
        """Whether there is no jitter."""
        return self.jitter == 0

    @abstractmethod
    def distances(self, length: int) -> Float[Tensor, "L L"]:
        """Return the distances between positions, symmetric, zero on the diagonal.

        Raises:
            ValueError: The order is for sequences of another length.
        """

    def nearer(
        self, far: Float[Tensor, "B L"], distance: Float[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return how far positions are once one more is revealed, at these distances."""
        return torch.minimum(far, distance)

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
        most = int(num.clamp(max=masked.shape[1]).max()) if len(num) else 0
        if self.fixed and bool((masked == masked[:1]).all()):  # all sequences have the same order
            return self._rank(distance, masked[:1], most, None).expand_as(masked)
        return self._rank(distance, masked, most, generator)

    def _rank(
        self,
        distance: Float[Tensor, "L L"],
        masked: Bool[Tensor, "B L"],
        num: int,
        generator: torch.Generator | None,
    ) -> Int[Tensor, "B L"]:
        length = masked.shape[1]
        far = self.from_revealed(distance, masked).masked_fill(~masked, -1.0)
        rows = torch.arange(len(masked), device=masked.device)
        place = torch.full_like(far, torch.inf)
        for k in range(num):
            chosen = self._jittered(far, generator).argmax(-1)
            place[rows, chosen] = k - length
            far = self.nearer(far, distance[chosen])
            far[rows, chosen] = -1.0  # behind all masked positions, among the revealed
        # Chosen ones have -length..-1, and the others, in the order of the next choice, more.
        rest = far.amax() - self._jittered(far, generator)
        return ranked(torch.where(place < 0, place, rest), masked)

    def _jittered(self, far: Tensor, generator: torch.Generator | None) -> Tensor:
        if self.fixed:
            return far
        u = torch.rand(far.shape, generator=generator, dtype=far.dtype, device=far.device)
        return torch.where(far > 0, far * (1 - self.jitter * u), far)

    def from_revealed(
        self, distance: Float[Tensor, "L L"], masked: Bool[Tensor, "B L"]
    ) -> Float[Tensor, "B L"]:
        """Return how far masked positions are from all that is revealed."""
        far = self.start(distance).expand(masked.shape)
        for first in range(0, masked.shape[1], BLOCK):
            part = slice(first, first + BLOCK)
            near = distance[:, part] + torch.where(masked[:, None, part], torch.inf, 0.0)
            far = torch.minimum(far, near.amin(-1))
        return far
