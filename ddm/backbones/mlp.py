"""Fully connected network for short sequences."""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.backbones.base import Backbone, TimeEmbedding
from ddm.functional import require_at_least


class _Block(nn.Module):
    """Two layers, with the embedding of t added between them, added to their input."""

    def __init__(self, dim: int, *, conditional: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.first = nn.Linear(dim, dim)
        self.time = nn.Linear(dim, dim, bias=False) if conditional else None
        self.activation = nn.SiLU()
        self.second = nn.Linear(dim, dim)

    def forward(
        self, h: Float[Tensor, "B dim"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B dim"]:
        inner = self.first(self.norm(h))
        if self.time is not None and condition is not None:
            inner = inner + self.time(condition)
        return h + self.second(self.activation(inner))


class MLP(Backbone):
    """Residual multilayer perceptron for toy sequences of fixed length.

    Every position sees every other with weights of its own: good for short sequences whose law is
    known by enumeration. One call costs O(dim (L K + dim depth)) operations per sequence.

    Args:
        num_states: Number K of states of the chain, at least 2, the mask included.
        length: Number L of tokens per sequence, at least 1.
        dim: Number of features of the hidden layers, at least 1.
        depth: Number of residual blocks of two layers, at least 1.
        time_conditioning: Whether the output depends on t; if not, no parameter is spent on it.

    Raises:
        ValueError: If an argument is outside of its domain.
    """

    offsets: Tensor

    def __init__(
        self,
        num_states: int,
        *,
        length: int,
        dim: int = 256,
        depth: int = 3,
        time_conditioning: bool = True,
    ) -> None:
        require_at_least(1, length=length, dim=dim, depth=depth)
        super().__init__(
            num_states,
            length=length,
            time_embedding=TimeEmbedding(dim) if time_conditioning else None,
        )
        # One row per (position, state): their sum is a linear layer on one-hot tokens.
        self.embedding = nn.Embedding(length * num_states, dim)
        nn.init.normal_(self.embedding.weight, std=1 / math.sqrt(length))
        self.register_buffer("offsets", num_states * torch.arange(length), persistent=False)
        self.blocks = nn.ModuleList(
            _Block(dim, conditional=time_conditioning) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, length * num_states)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def logits(
        self, x_t: Int[Tensor, "B L"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B L K"]:
        """Logits for tokens `x_t` (B, L), given the embedding of t (B, D) or None if time-free."""
        h = self.embedding(x_t + self.offsets).sum(dim=1)
        for block in self.blocks:
            h = block(h, condition)
        return self.out(self.norm(h)).view(*x_t.shape, self.num_states)
