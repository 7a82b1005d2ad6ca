"""What all backbones share: the checks at the call, the embedding of the time, float32 logits."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.functional import require_at_least


def require_dropout(dropout: float) -> None:
    """Raise a `ValueError` unless `dropout` is a probability less than 1."""
    if not 0 <= dropout < 1:
        raise ValueError(
            f"`dropout` must be in [0, 1), got {dropout}; it is the fraction of activations that "
            "are set to zero in training, 0 switches it off."
        )


def sinusoidal(
    t: Float[Tensor, " B"], num_features: int, scale: float = 1000.0
) -> Float[Tensor, "B F"]:
    r"""Cosines and sines of `scale` t at geometrically spaced frequencies, in float32.

    References:
        | Denoising Diffusion Probabilistic Models (Ho et al., 2020), appendix B
        | https://arxiv.org/abs/2006.11239

    Args:
        t: Times in [0, 1], shape (B,), or noise levels.
        num_features: Number F of features, even.
        scale: Largest frequency.

    Returns:
        Features in [-1, 1], shape (B, F), float32 whatever the type of `t`.
    """
    half = num_features // 2
    # Not a buffer: `module.to(torch.bfloat16)` would round the frequencies, and with them the time.
    frequencies = torch.exp(
        -math.log(10_000) / half * torch.arange(half, dtype=torch.float32, device=t.device)
    )
    angles = scale * t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the time, followed by a small network.

    Args:
        dim: Number D of features of the embedding, at least 1.
        scale: Largest frequency of the features: 1000 for times in [0, 1], 1 for noise levels.
    """

    num_features = 256

    def __init__(self, dim: int, scale: float = 1000.0) -> None:
        super().__init__()
        self.scale = scale
        # Every consumer is an affine map, so the last non-linearity is applied once, here.
        self.first = nn.Linear(self.num_features, dim)
        self.second = nn.Linear(dim, dim)
        self.activation = nn.SiLU()

    def forward(self, t: Float[Tensor, " B"]) -> Float[Tensor, "B D"]:
        """Embed the times `t` (B,); returns (B, D)."""
        features = sinusoidal(t, self.num_features, self.scale).to(self.first.weight.dtype)
        return self.activation(self.second(self.activation(self.first(features))))


class Backbone(nn.Module, ABC):
    """Network that maps noised tokens and their time to logits over the states.

    A new backbone writes `logits`; the checks, the embedding of the time and the cast of the result
    are done here, once. Before training the prediction should be uniform: give the output layer
    zero weights.

    Attributes:
        time_dtype: Type of the times it is called with: a network in half precision still gets
            them in float32.

    Args:
        num_states: Number K of states of the chain, at least 2.
        length: Number L of tokens per sequence, or None if any length will do.
        time_embedding: Embedding of t, or None for a network that does not see the time.

    Raises:
        ValueError: If `num_states` < 2, or `length` < 1.
    """

    time_dtype = torch.float32

    def __init__(
        self, num_states: int, *, length: int | None, time_embedding: TimeEmbedding | None
    ) -> None:
        super().__init__()
        require_at_least(2, num_states=num_states)
        if length is not None:
            require_at_least(1, length=length)
        self.num_states = num_states
        self.length = length
        self.time_embedding = time_embedding
        self.time_free = time_embedding is None

    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> Float[Tensor, "B L K"]:
        """Logits of every state at every position; this is one network call.

        Args:
            x_t: Noised tokens in {0..K-1}, shape (B, L).
            t: Times in [0, 1], shape (B,); not read if `time_free`.

        Returns:
            Unnormalized log-probabilities in nats, shape (B, L, K), float32 also under autocast.

        Raises:
            ValueError: If the shapes of `x_t` and `t` disagree, or L is not the length of the
                network.
        """
        return self.logits(x_t, self.condition(x_t, t)).float()

    def condition(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]
    ) -> Float[Tensor, "B D"] | None:
        """Check the shapes of tokens and times; return the embedding of t, None if time-free."""
        if x_t.ndim != 2 or t.shape != x_t.shape[:1]:
            raise ValueError(
                "`x_t` and `t` must have shapes (B, L) and (B,), got "
                f"{tuple(x_t.shape)} and {tuple(t.shape)}; give one time per sequence, e.g. "
                "`t.expand(len(x_t))`."
            )
        if self.length is not None and x_t.shape[1] != self.length:
            raise ValueError(
                f"`x_t` must have {self.length} tokens per sequence, got {x_t.shape[1]}; build the "
                f"{type(self).__name__} for the length of the data."
            )
        return None if self.time_embedding is None else self.time_embedding(t)

    @abstractmethod
    def logits(
        self, x_t: Int[Tensor, "B L"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B L K"]:
        """Logits for tokens `x_t` (B, L), given the embedding of t (B, D) or None if time-free."""
