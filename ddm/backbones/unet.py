"""Convolutional network for images of discrete pixels."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.backbones.base import Backbone, TimeEmbedding, require_dropout
from ddm.backbones.heads import CategoricalHead, Head
from ddm.functional import require_at_least

# Features of a token at the input of the first convolution.
TOKEN_DIM = 8


def state_features(num_states: int, dim: int) -> Float[Tensor, "K E"]:
    r"""Initial embedding of the states: order for pixel levels, a flag for the last state.

    The network is not told which kernel made the noise, so that one start must fit them all.
    Cosines :math:`\cos(\pi k j / (K - 1))`, k = 1, 2, .., give similar levels j similar features
    (the first one is a pixel value in [-1, 1], up to a monotone map), as uniform and Gaussian
    kernels want. If the last state is a mask, its place after the brightest level means nothing:
    the flag tells them apart from the first update on. If it is a level like others, the flag does
    no harm. All features are trained, so that states without any order can leave this start behind.

    Args:
        num_states: Number K of states, at least 2.
        dim: Number E of features, at least 2.

    Returns:
        Features in [-1, 1], shape (K, E), float32.
    """
    levels = torch.arange(num_states) / (num_states - 1)
    cosines = torch.cos(math.pi * levels[:, None] * torch.arange(1, dim))
    flag = (torch.arange(num_states) == num_states - 1).to(cosines.dtype)
    return torch.cat([cosines, flag[:, None]], dim=-1)


def _norm(channels: int) -> nn.GroupNorm:
    # At least four channels per group: a group of one value, on a 1 x 1 map, would be set to zero.
    return nn.GroupNorm(math.gcd(channels // 4, 32), channels)


def _zero_conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.zeros_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class _Attention(nn.Module):
    """Self-attention between all pixels, with one head, added to its input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1, bias=False)
        self.out = _zero_conv(channels, channels, 1)

    def forward(self, h: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        batch, channels, height, width = h.shape
        qkv = self.qkv(self.norm(h)).view(batch, 3, channels, height * width)
        q, k, v = qkv.transpose(-1, -2).unbind(dim=1)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2)
        return (h + self.out(attended.reshape(h.shape))) * math.sqrt(0.5)


class _Block(nn.Module):
    """Two convolutions, with the embedding of t added between them; then attention, if asked."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        condition_dim: int | None,
        attention: bool,
        dropout: float,
    ) -> None:
        super().__init__()
        self.first = nn.Sequential(
            _norm(in_channels), nn.SiLU(), nn.Conv2d(in_channels, out_channels, 3, padding=1)
        )
        self.time = None if condition_dim is None else nn.Linear(condition_dim, out_channels)
        self.second = nn.Sequential(
            _norm(out_channels),
            nn.SiLU(),
            nn.Dropout(dropout),
            _zero_conv(out_channels, out_channels, 3),
        )
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1)
        self.attention = _Attention(out_channels) if attention else nn.Identity()

    def forward(
        self, h: Float[Tensor, "B C H W"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B C_out H W"]:
        inner = self.first(h)
        if self.time is not None and condition is not None:
            inner = inner + self.time(condition)[:, :, None, None]
        return self.attention((self.skip(h) + self.second(inner)) * math.sqrt(0.5))


class _Middle(nn.Module):
    """Two blocks at the smallest resolution, with attention between them."""

    def __init__(self, channels: int, make_block: Callable[..., _Block]) -> None:
        super().__init__()
        self.first = make_block(channels, channels, attention=True)
        self.second = make_block(channels, channels, attention=False)

    def forward(
        self, h: Float[Tensor, "B C H W"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B C H W"]:
        return self.second(self.first(h, condition), condition)


class _Level(nn.Module):
    """Blocks before and after an inner network; the latter also see what the former put out."""

    def __init__(
        self,
        inner: nn.Module,
        *,
        in_channels: int,
        channels: int,
        inner_channels: int,
        num_blocks: int,
        make_block: Callable[..., _Block],
    ) -> None:
        super().__init__()
        self.inner = inner
        widths = [in_channels] + num_blocks * [channels]
        self.before = nn.ModuleList(make_block(width, channels) for width in widths[:-1])
        # The last block before is the first one after; the input of the level comes last.
        skips = widths[::-1]
        inputs = [inner_channels] + num_blocks * [channels]
        self.after = nn.ModuleList(
            make_block(width + skip, channels) for width, skip in zip(inputs, skips, strict=True)
        )

    def forward(
        self, h: Float[Tensor, "B C H W"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B C_out H W"]:
        skips = [h]
        for block in self.before:
            h = block(h, condition)
            skips.append(h)
        h = self.inner(h, condition)
        for block in self.after:
            h = block(torch.cat([h, skips.pop()], dim=1), condition)
        return h


class _Halved(nn.Module):
    """A network at half the resolution, rounded up, of the one around it."""

    def __init__(self, inner: nn.Module, *, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1)
        self.inner = inner
        self.up = nn.Conv2d(out_channels, out_channels, 3, padding=1)

    def forward(
        self, h: Float[Tensor, "B C H W"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B C_out H W"]:
        size = h.shape[-2:]
        h = self.inner(self.down(h), condition)
        # To the size it came from, not to twice its own: the two differ for odd sizes.
        return self.up(F.interpolate(h, size=size, mode="nearest"))


def _make_body(
    widths: list[int],
    *,
    attentions: list[bool],
    num_blocks: int,
    make_block: Callable[..., _Block],
) -> nn.Module:
    """All levels, nested; `widths` has the features of the input, then of every level."""
    # From the smallest resolution outwards: every level wraps the levels below it.
    body: nn.Module = _Middle(widths[-1], make_block)
    inner_channels = widths[-1]
    for level in reversed(range(len(attentions))):
        in_channels, channels = widths[level : level + 2]
        body = _Level(
            body,
            in_channels=in_channels,
            channels=channels,
            inner_channels=inner_channels,
            num_blocks=num_blocks,
            make_block=partial(make_block, attention=attentions[level]),
        )
        if level > 0:
            body = _Halved(body, in_channels=in_channels, out_channels=channels)
        inner_channels = channels
    return body


def _require_channels(channels: int) -> None:
    if channels % 4:
        raise ValueError(
            f"`channels` must be a multiple of 4, for group normalization, got {channels}; "
            f"take e.g. channels={4 * (channels // 4 + 1)}."
        )


def _require_levels(attention_resolutions: Sequence[int], heights: list[int]) -> None:
    for resolution in attention_resolutions:
        if resolution not in heights:
            raise ValueError(
                f"`attention_resolutions` must be heights of levels, got {resolution}; the levels "
                f"of this network have heights {heights}."
            )


def _level_heights(shape: tuple[int, int, int], multipliers: Sequence[int]) -> list[int]:
    """Height of every level, finest first; raises if the images are too small for all levels."""
    if len(shape) != 3:
        raise ValueError(
            f"`shape` must be (channels, height, width), got {shape}; gray images have 1 channel."
        )
    _require_positive("shape", shape)
    _require_positive("multipliers", multipliers)
    num_levels = len(multipliers)
    _, height, width = shape
    heights = [height]
    for _ in range(num_levels - 1):
        if min(height, width) < 2:
            raise ValueError(
                f"`multipliers` must have at most {len(heights)} entries for images of shape "
                f"{shape}, whose sides halve from level to level, got {num_levels}; drop some."
            )
        height, width = (height + 1) // 2, (width + 1) // 2
        heights.append(height)
    return heights


def _require_positive(name: str, values: Sequence[int]) -> None:
    if len(values) == 0 or min(values) < 1:
        raise ValueError(
            f"`{name}` must be positive integers, got {tuple(values)}; replace what is less than 1."
        )


class UNet(Backbone):
    r"""U-Net of residual blocks for images, whose tokens are pixels in the order (C, H, W).

    Each level halves the sides of the one before it, rounded up, and the way back restores them:
    any size will do, e.g. 28 -> 14 -> 7 -> 4. Every block adds the embedding of t to its features.
    Self-attention acts at the chosen resolutions and always at the smallest. The residual branches
    and the output layer start at zero.

    References:
        | Score-Based Generative Modeling through SDEs (Song et al., 2021), appendix H.2 (DDPM++)
        | https://arxiv.org/abs/2011.13456

    Args:
        num_states: Number K of states of the chain, at least 2, the mask included.
        shape: Channels, height and width of the images; L is their product.
        channels: Number of features at the full resolution, a multiple of 4.
        multipliers: Number of features of each level, in units of `channels`, finest level first.
        num_blocks: Number of residual blocks per level on the way down, at least 1.
        attention_resolutions: Heights of the levels at which every block is followed by
            self-attention.
        head: Law of a token; `CategoricalHead` if None, `LogisticHead` suits ordinal pixels.
        time_conditioning: Whether the output depends on t; if not, no parameter is spent on it.
        dropout: Fraction of the features of each block that is dropped in training, in [0, 1).

    Raises:
        ValueError: If an argument is outside of its domain.
    """

    def __init__(
        self,
        num_states: int,
        *,
        shape: tuple[int, int, int],
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        num_blocks: int = 2,
        attention_resolutions: Sequence[int] = (),
        head: Head | None = None,
        time_conditioning: bool = True,
        dropout: float = 0.0,
    ) -> None:
        require_at_least(1, channels=channels, num_blocks=num_blocks)
        require_dropout(dropout)
        _require_channels(channels)
        heights = _level_heights(shape, multipliers)
        _require_levels(attention_resolutions, heights)
        condition_dim = 4 * channels if time_conditioning else None
        super().__init__(
            num_states,
            length=math.prod(shape),
            time_embedding=None if condition_dim is None else TimeEmbedding(condition_dim),
        )
        self.shape = shape
        self.head = CategoricalHead() if head is None else head
        self.embedding = nn.Embedding(num_states, TOKEN_DIM)
        with torch.no_grad():
            self.embedding.weight.copy_(state_features(num_states, TOKEN_DIM))
        self.stem = nn.Conv2d(shape[0] * TOKEN_DIM, channels, 3, padding=1)
        widths = [channels * multiplier for multiplier in multipliers]
        self.body = _make_body(
            [channels, *widths],
            attentions=[height in attention_resolutions for height in heights],
            num_blocks=num_blocks,
            make_block=partial(_Block, condition_dim=condition_dim, dropout=dropout),
        )
        num_outputs = shape[0] * self.head.num_outputs(num_states)
        self.out = nn.Sequential(_norm(widths[0]), nn.SiLU(), _zero_conv(widths[0], num_outputs, 3))

    def logits(
        self, x_t: Int[Tensor, "B L"], condition: Float[Tensor, "B D"] | None
    ) -> Float[Tensor, "B L K"]:
        """Logits for tokens `x_t` (B, L), given the embedding of t (B, D) or None if time-free."""
        colors, height, width = self.shape
        h = self.embedding(x_t).view(-1, colors, height * width, TOKEN_DIM)
        h = self.stem(h.transpose(-1, -2).reshape(-1, colors * TOKEN_DIM, height, width))
        h = self.out(self.body(h, condition))
        # Channels of h are (color, output), the tokens of the head (color, height, width).
        outputs = h.reshape(len(x_t), colors, -1, height * width).transpose(-1, -2)
        return self.head(outputs.flatten(1, 2), x_t, self.num_states)
