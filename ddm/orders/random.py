"""The random order."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.orders.order import RevealOrder, masked_in, ranked


class Random(RevealOrder):
    """All masked positions are equally likely to be next, as in the masking process itself.

    Example:
        >>> from ddm.orders import Random
        >>> from ddm.samplers import Reveal
        >>> sampler = Reveal(Random())  # then as any other sampler
    """

    @property
    def random(self) -> bool:
        """Yes."""
        return True

    def rank(
        self,
        prediction: Prediction,
        num: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return random places."""
        masked = masked_in(prediction)
        u = torch.rand(masked.shape, generator=generator, dtype=torch.float64, device=masked.device)
        return ranked(u, masked)
