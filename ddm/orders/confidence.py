"""The order by confidence, and what orders by the network's certainty share."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.orders.order import RevealOrder, masked_in, ranked


class ScoreOrder(RevealOrder):
    """An order by a number that the prediction of one token alone gives, the least first.

    Nothing of the draw, a temperature for instance, enters it.
    """

    @abstractmethod
    def score(self, p: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
        """Return the numbers of n predicted distributions."""

    def rank(
        self,
        prediction: Prediction,
        num: Int[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Return the places by increasing score."""
        return ranked(self.scores(prediction), masked_in(prediction))

    def scores(self, prediction: Prediction) -> Float[Tensor, "B L"]:
        """Return the scores of the masked positions, float64; 0 elsewhere."""
        masked = masked_in(prediction)
        found = masked.new_zeros(masked.shape, dtype=torch.float64)
        for rows, columns, piece in prediction.tokens(*masked.nonzero(as_tuple=True)):
            found[rows, columns] = self.score(piece.double().leave_one_out().squeeze(1))
        return found


class Confidence(ScoreOrder):
    """The positions whose most likely token is most likely come first.

    The surest positions are the neighbors of revealed tokens and of each other, which depend on
    each other most: drawn at temperature 1 with several tokens per call, samples are worse than in
    random order.

    References:
        MaskGIT: masked generative image transformer (Chang et al., 2022),
        https://arxiv.org/abs/2202.04200, section 3.2, where the rank is that of the drawn token,
        which changes the law of the samples even with one token per call.

    Example:
        >>> from ddm.orders import Confidence
        >>> from ddm.samplers import Reveal
        >>> sampler = Reveal(Confidence())  # then as any other sampler
    """

    def score(self, p: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
        """Return minus the largest probability."""
        return -p.amax(-1)
