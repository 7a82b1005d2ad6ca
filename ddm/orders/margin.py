"""The order by margin."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from ddm.orders.confidence import ScoreOrder


class Margin(ScoreOrder):
    """The positions whose two most likely tokens differ most in probability come first.

    References:
        Train for the worst, plan for the best: understanding token ordering in masked diffusions
        (Kim et al., 2025), https://arxiv.org/abs/2502.06768, section 4.

    Example:
        >>> from ddm.orders import Margin
        >>> from ddm.samplers import Reveal
        >>> sampler = Reveal(Margin())  # then as any other sampler
    """

    def score(self, p: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
        """Return minus the difference of the two largest probabilities."""
        first, second = p.topk(2, dim=-1).values.unbind(-1)
        return second - first
