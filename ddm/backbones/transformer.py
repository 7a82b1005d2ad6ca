"""Bidirectional transformer for token sequences."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.backbones.base import Backbone, TimeEmbedding, require_dropout
from ddm.functional import require_at_least


def rotary_angles(
    positions: Float[Tensor, " L"] | Int[Tensor, " L"], head_dim: int
) -> Float[Tensor, "L half"]:
    r"""Angles :math:`p \, 10000^{-2 i / D}` by which position p turns the i-th plane of a head.

    References:
        | RoFormer: Enhanced Transformer with Rotary Position Embedding (Su et al., 2021), eq. 15
        | https://arxiv.org/abs/2104.09864

    Args:
        positions: Positions in the sequence, shape (L,).
        head_dim: Number D of features of a head, even.

    Returns:
        Angles in radians, shape (L, D / 2), float32.
    """
    planes = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device)
    return positions.float()[:, None] * 10_000 ** (-planes / head_dim)


def rotate(x: Float[Tensor, "*B L D"], angles: Float[Tensor, "L half"]) -> Float[Tensor, "*B L D"]:
    """Turn the planes (i, i + D / 2) of queries or keys by the angle of their position.

    The scalar product of a turned query and a turned key depends on their positions only through
    the difference of the two.

    Args:
        x: Queries or keys, shape (*, L, D), D even.
        angles: Angles in radians, shape (L, D / 2).

    Returns:
        The turned vectors, same shape and type as `x`.
    """
    cos, sin = angles.cos(), angles.sin()
    left, right = x.chunk(2, dim=-1)
    # float32 angles promote bfloat16 queries, while attention wants the type of the values.
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1).to(x.dtype)


def attention(
    q: Float[Tensor, "*B L D"], k: Float[Tensor, "*B L D"], v: Float[Tensor, "*B L D"]
) -> Float[Tensor, "*B L D"]:
    """Scaled dot-product attention in the type of `v`; on CPUs computed in float32.

    The CPU kernel of its gradient is several times slower in bfloat16.
    """
    if v.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float()).to(v.dtype)


class _Modulation(nn.Module):
    """`count` vectors of size dim: affine in the embedding of t, or learned constants without one.

    All start at zero: no shift, no scaling, closed gates.
    """

    def __init__(self, dim: int, count: int, condition_dim: int | None) -> None:
        super().__init__()
        self.count = count
        self.bias = nn.Parameter(torch.zeros(count * dim))
        self.linear = None
        if condition_dim is not None:
            self.linear = nn.Linear(condition_dim, count * dim, bias=False)
            nn.init.zeros_(self.linear.weight)

    def forward(self, condition: Float[Tensor, "B D"] | None) -> tuple[Tensor, ...]:
        vectors = self.bias[None, None]
        if self.linear is not None and condition is not None:
            vectors = vectors + self.linear(condition)[:, None]
        return vectors.chunk(self.count, dim=-1)


class _Block(nn.Module):
    """Self-attention, then a two-layer network, each modulated, gated and added to its input."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float,
        condition_dim: int | None,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.modulation = _Modulation(dim, 6, condition_dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.attention_out = nn.Linear(dim, dim)
        self.network = nn.Sequential(nn.Linear(dim, 4 * dim), activation, nn.Linear(4 * dim, dim))
        self.dropout = nn.Dropout(dropout)

    def attend(
        self, h: Float[Tensor, "B L dim"], angles: Float[Tensor, "L half"]
    ) -> Float[Tensor, "B L dim"]:
        batch, length, dim = h.shape
        qkv = self.qkv(h).view(batch, length, 3, self.num_heads, dim // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()
        h = attention(rotate(q, angles), rotate(k, angles), v)
        return self.attention_out(h.transpose(1, 2).reshape(batch, length, dim))

    def forward(
        self,
        h: Float[Tensor, "B L dim"],
        condition: Float[Tensor, "B D"] | None,
        angles: Float[Tensor, "L half"],
    ) -> Float[Tensor, "B L dim"]:
        shift_a, scale_a, gate_a, shift_n, scale_n, gate_n = self.modulation(condition)
        attended = self.attend(self.norm(h) * (1 + scale_a) + shift_a, angles)
        h = h + gate_a * self.dropout(attended)
        return h + gate_n * self.dropout(self.network(self.norm(h) * (1 + scale_n) + shift_n))


class _NeighborEmbedding(nn.Module):
    """Sum of learned vectors for the token at a position and those up to `reach` steps away.

    Every distance has a table of its own, so the sum is a linear view of the tokens around.
    """

    def __init__(self, num_states: int, dim: int, reach: int) -> None:
        super().__init__()
        self.num_states = num_states
        self.reach = reach
        # All tables in one, for a fused kernel; row 0 is whatever lies past the ends.
        rows = 1 + (2 * reach + 1) * num_states
        self.tables = nn.EmbeddingBag(rows, dim, mode="sum")

    def forward(self, x_t: Int[Tensor, "B L"]) -> Float[Tensor, "B L dim"]:
        window = 2 * self.reach + 1
        tokens = F.pad(x_t, (self.reach, self.reach), value=-1).unfold(1, window, 1)
        first = 1 + self.num_states * torch.arange(window, device=x_t.device)
        rows = torch.where(tokens < 0, 0, first + tokens)
        return self.tables(rows.flatten(0, 1)).view(*x_t.shape, -1)


class Transformer(Backbone):
    r"""Bidirectional transformer with rotary positions, for sequences of any length.

    Every block modulates its normalized input and gates its output,

    .. math:: h \gets h + g(t) \cdot f \big( (1 + a(t)) \cdot \mathrm{norm}(h) + b(t) \big) ,

    with :math:`a, b, g` affine in the embedding of t (adaLN-zero). Without time conditioning they
    are learned constants. They start at zero, so that a new block passes its input on unchanged.
    One call costs O(L dim (L + 12 dim) depth) operations per sequence.

    References:
        | Scalable Diffusion Models with Transformers (Peebles and Xie, 2023), section 3.2
        | https://arxiv.org/abs/2212.09748

    Args:
        num_states: Number K of states of the chain, at least 2, the mask included.
        dim: Number of features per token, a multiple of `2 * num_heads`.
        depth: Number of blocks, at least 1.
        num_heads: Number of attention heads, at least 1.
        time_conditioning: Whether the output depends on t; if not, no parameter is spent on it.
        dropout: Fraction of the output of each layer that is dropped in training, in [0, 1).
        reach: Number of neighbors on each side whose embeddings are added to that of a token. What
            stands next to what is then known from the first training step on, which characters
            gain much from. Each neighbor takes another K * dim parameters.
        condition_dim: Number of features of the time. It is one number: a narrow embedding is
            enough, and keeps the modulations of the blocks (6 * dim outputs each) small.

    Raises:
        ValueError: If an argument is outside of its domain.
    """

    time_scale: float = 1000.0
    """Largest frequency of the features of the time."""
    activation: Callable[[], nn.Module] = nn.GELU

    def __init__(
        self,
        num_states: int,
        *,
        dim: int = 256,
        depth: int = 4,
        num_heads: int = 4,
        time_conditioning: bool = True,
        dropout: float = 0.0,
        reach: int = 0,
        condition_dim: int = 128,
    ) -> None:
        require_at_least(1, dim=dim, depth=depth, num_heads=num_heads, condition_dim=condition_dim)
        require_at_least(0, reach=reach)
        require_dropout(dropout)
        if dim % num_heads:
            raise ValueError(
                f"`dim` must be a multiple of `num_heads`, got {dim} and {num_heads}; "
                f"take e.g. dim={2 * num_heads * (dim // (2 * num_heads) + 1)}."
            )
        if (dim // num_heads) % 2:
            raise ValueError(
                "`dim / num_heads` must be even, because rotary positions turn pairs of features, "
                f"got {dim} / {num_heads} = {dim // num_heads}; take e.g. dim={dim + num_heads}."
            )
        width = condition_dim if time_conditioning else None
        super().__init__(
            num_states,
            length=None,
            time_embedding=None if width is None else TimeEmbedding(width, self.time_scale),
        )
        self.head_dim = dim // num_heads
        self.embedding = (
            _NeighborEmbedding(num_states, dim, reach) if reach else nn.Embedding(num_states, dim)
        )
        # Small, so that the first updates of the gates already matter beside the embedding.
        for table in self.embedding.parameters():
            nn.init.normal_(table, std=0.02)
        self.blocks = nn.ModuleList(
            _Block(dim, num_heads, dropout, width, type(self).activation()) for _ in range(depth)
        )
        self.modulation = _Modulation(dim, 2, width)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.out = nn.Linear(dim, num_states)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @property
    def token_head(self) -> nn.Module:
        """The linear layer at the end, most of the work where there are many states."""
        return self.out

    def forward(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], *, with_head: bool = True
    ) -> Float[Tensor, "B L D"]:
        """Make one network call, see `Backbone`; without the head, return what that reads."""
        if with_head:
            return super().forward(x_t, t)
        return self.features(x_t, self.condition(x_t, t))

    def features(
        self, x_t: Int[Tensor, "B L"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B L dim"]:
        """Return the features of every token that the head reads."""
        positions = torch.arange(x_t.shape[1], device=x_t.device)
        angles = rotary_angles(positions, self.head_dim)
        h = self.embedding(x_t)
        for block in self.blocks:
            h = block(h, condition, angles)
        shift, scale = self.modulation(condition)
        return self.norm(h) * (1 + scale) + shift

    def logits(
        self, x_t: Int[Tensor, "B L"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B L K"]:
        """Logits for tokens `x_t` (B, L), given the embedding of t (B, D) or None if time-free."""
        return self.out(self.features(x_t, condition))
