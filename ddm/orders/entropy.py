"""The order by entropy."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.orders.confidence import ScoreOrder


class Entropy(ScoreOrder):
    """The positions whose predicted distribution has the least entropy come first.

    References:
        Dream 7B: diffusion large language models (Ye et al., 2025),
        https://arxiv.org/abs/2508.15487.

    Example:
        >>> from ddm.orders import Entropy
        >>> from ddm.samplers import Reveal
        >>> sampler = Reveal(Entropy())  # then as any other sampler
    """

    def score(self, p: Float[Tensor, "n V"]) -> Float[Tensor, " n"]:
        """Return the entropies in nats."""
        return torch.special.entr(p).sum(-1)
