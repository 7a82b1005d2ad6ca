"""Laws of the networks: shapes, float32, what the output depends on, and where it starts."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import logistic
from torch import Tensor, nn

from ddm.backbones import (
    MLP,
    Backbone,
    CategoricalHead,
    DiT,
    Head,
    LogisticHead,
    Transformer,
    UNet,
)
from ddm.backbones.base import sinusoidal
from ddm.backbones.transformer import _NeighborEmbedding, rotary_angles, rotate
from ddm.backbones.unet import state_features

K = 5


def transformer(**kwargs: Any) -> Backbone:
    """Small transformer; takes any length, here used with 16 tokens."""
    return Transformer(K, dim=16, depth=2, num_heads=2, **kwargs)


def reaching_transformer(**kwargs: Any) -> Backbone:
    """The same transformer, whose embedding sees two neighbors on each side."""
    return transformer(reach=2, **kwargs)


def dit(**kwargs: Any) -> Backbone:
    """The transformer of others."""
    return DiT(K, dim=16, depth=2, num_heads=2, condition_dim=12, **kwargs)


def unet(**kwargs: Any) -> Backbone:
    """Small U-Net for gray images of 4 x 4 pixels, with attention at the finer level too."""
    return UNet(
        K,
        shape=(1, 4, 4),
        channels=8,
        multipliers=(1, 2),
        num_blocks=1,
        attention_resolutions=(4,),
        **kwargs,
    )


def logistic_unet(**kwargs: Any) -> Backbone:
    """The same U-Net with the truncated logistic law."""
    return unet(head=LogisticHead(), **kwargs)


def mlp(**kwargs: Any) -> Backbone:
    """Small MLP for 16 tokens."""
    return MLP(K, length=16, dim=16, depth=2, **kwargs)


BACKBONES = [transformer, reaching_transformer, dit, unet, logistic_unet, mlp]
L = 16

backbones = pytest.mark.parametrize("make", BACKBONES)


@pytest.fixture(autouse=True)
def seed() -> None:
    """Fix the initial weights; no law below depends on the seed."""
    torch.manual_seed(0)


def perturb(module: nn.Module, scale: float = 0.1) -> nn.Module:
    """Move all parameters off their start, where zeros hide most of the network."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


def tokens(batch: int = 3, length: int = L, num_states: int = K) -> Tensor:
    """Tokens (batch, length) in which every state occurs."""
    return (torch.arange(batch * length) * 7 % num_states).view(batch, length)


def times(*values: float) -> Tensor:
    """Times as the samplers give them, float64."""
    return torch.tensor(values, dtype=torch.float64)


@backbones
@pytest.mark.parametrize("time_conditioning", [True, False])
def test_logits_have_one_float32_entry_per_state(
    make: Callable[..., Backbone], time_conditioning: bool
) -> None:
    """(B, L) tokens and float64 times give finite (B, L, K) float32 logits."""
    backbone = perturb(make(time_conditioning=time_conditioning))
    logits = backbone(tokens(), times(0.1, 0.5, 1.0))
    assert logits.shape == (3, L, K)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()
    assert backbone.num_states == K


@backbones
def test_logits_are_float32_under_autocast(make: Callable[..., Backbone]) -> None:
    """Mixed precision changes the logits by rounding only, and never their type."""
    backbone = perturb(make()).eval()
    exact = backbone(tokens(), times(0.1, 0.5, 1.0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = backbone(tokens(), times(0.1, 0.5, 1.0))
    assert logits.dtype == torch.float32
    assert not torch.equal(logits, exact), "autocast had no effect: nothing was tested"
    # bfloat16 has 8 significant bits; a few layers lose a few of them.
    torch.testing.assert_close(logits, exact, atol=0.1, rtol=0.1)


@backbones
def test_weights_may_be_bfloat16(make: Callable[..., Backbone]) -> None:
    """Lightning's `bf16-true` casts the module itself; the logits stay float32."""
    logits = perturb(make()).to(torch.bfloat16)(tokens(), times(0.1, 0.5, 1.0))
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


@pytest.mark.parametrize("make", [transformer, unet, mlp])
def test_first_prediction_is_exactly_uniform(make: Callable[..., Backbone]) -> None:
    """A zero output layer makes all states equally likely before training."""
    assert (make()(tokens(), times(0.1, 0.5, 1.0)) == 0).all()


def test_first_prediction_of_the_logistic_head_is_nearly_uniform() -> None:
    """The initial scale is so wide that no level is 2 % more or less likely than another."""
    probabilities = logistic_unet()(tokens(), times(0.1, 0.5, 1.0)).exp()
    torch.testing.assert_close(probabilities * K, torch.ones_like(probabilities), atol=0.02, rtol=0)


@backbones
def test_output_depends_on_t_if_conditioned(make: Callable[..., Backbone]) -> None:
    """Two times less than 1 apart give different logits, each sequence by its own time."""
    backbone = perturb(make()).eval()
    assert not backbone.time_free
    early, late, both = (
        backbone(tokens(2), t) for t in (times(0.2, 0.2), times(0.7, 0.7), times(0.2, 0.7))
    )
    assert (early - late).abs().max() > 1e-3
    torch.testing.assert_close(both[0], early[0])
    torch.testing.assert_close(both[1], late[1])


@backbones
def test_output_does_not_depend_on_t_if_time_free(make: Callable[..., Backbone]) -> None:
    """Without time conditioning t is not read, and costs no parameter."""
    backbone = perturb(make(time_conditioning=False)).eval()
    assert backbone.time_free
    early, late = backbone(tokens(2), times(0.2, 0.2)), backbone(tokens(2), times(0.7, math.nan))
    assert torch.equal(early, late)
    assert not [name for name, _ in backbone.named_parameters() if "time" in name]
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count < sum(parameter.numel() for parameter in make().parameters())


@backbones
@pytest.mark.parametrize("time_conditioning", [True, False])
def test_gradient_reaches_every_parameter(
    make: Callable[..., Backbone], time_conditioning: bool
) -> None:
    """Off the zero start no parameter is idle, nor any row of one (a state, a channel, a gate)."""
    backbone = perturb(make(time_conditioning=time_conditioning))
    # In five sequences every state occurs at every position.
    logits = backbone(tokens(5), times(0.1, 0.3, 0.5, 0.7, 1.0))
    (logits * torch.randn_like(logits)).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert (parameter.grad.view(len(parameter), -1).abs().amax(dim=1) > 1e-9).all(), name


@backbones
def test_every_position_sees_every_token(make: Callable[..., Backbone]) -> None:
    """Bidirectional: changing the first or the last token changes all logits."""
    backbone = perturb(make()).eval()
    t, x_t = times(0.5), tokens(1)
    reference = backbone(x_t, t)
    for position in (0, L - 1):
        changed = x_t.clone()
        changed[0, position] = (changed[0, position] + 2) % K
        difference = (backbone(changed, t) - reference).abs().amax(dim=-1)
        assert (difference > 1e-5).all(), position


@backbones
def test_sequences_of_a_batch_do_not_interact(make: Callable[..., Backbone]) -> None:
    """A sequence alone and in a batch gets the same logits."""
    backbone = perturb(make()).eval()
    t = times(0.1, 0.5, 1.0)
    alone = torch.cat([backbone(tokens()[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(backbone(tokens(), t), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [transformer, unet])
def test_dropout_acts_in_training_only(make: Callable[..., Backbone]) -> None:
    """Two calls differ in training and agree in evaluation."""
    backbone = perturb(make(dropout=0.5))
    t = times(0.1, 0.5, 1.0)
    assert not torch.equal(backbone(tokens(), t), backbone(tokens(), t))
    backbone.eval()
    assert torch.equal(backbone(tokens(), t), backbone(tokens(), t))


# Time


def test_sinusoidal_features_are_float32_and_tell_close_times_apart() -> None:
    """Times 1e-4 apart differ by far more than float32 rounding; the closed form holds."""
    t = times(0.5, 0.5001)
    features = sinusoidal(t, 8)
    assert features.dtype == torch.float32
    assert (features[0] - features[1]).abs().max() > 0.01
    angles = 1000 * t[:, None] * 10_000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.cat([angles.cos(), angles.sin()], dim=-1)
    # Angles reach 500, where float32 numbers are 3e-5 apart.
    torch.testing.assert_close(features.double(), expected, atol=2e-4, rtol=0)


# Transformer


def test_rotary_scores_depend_on_the_difference_of_positions_only() -> None:
    """<rotate(q, i), rotate(k, j)> is invariant to a joint shift of i and j, and not to others."""
    q, k = torch.randn(2, 6, 8), torch.randn(2, 6, 8)

    def scores(shift_q: int, shift_k: int) -> Tensor:
        positions = torch.arange(6)
        turned_q = rotate(q, rotary_angles(positions + shift_q, 8))
        turned_k = rotate(k, rotary_angles(positions + shift_k, 8))
        return turned_q @ turned_k.mT

    torch.testing.assert_close(scores(0, 0), scores(13, 13), atol=1e-4, rtol=1e-4)
    assert (scores(0, 0) - scores(0, 1)).abs().max() > 0.1


def test_rotary_is_a_rotation() -> None:
    """Position 0 is left alone; norms are kept; planes turn by p * 10000^(-2 i / D)."""
    x = torch.randn(2, 6, 8)
    angles = rotary_angles(torch.arange(6), 8)
    turned = rotate(x, angles)
    torch.testing.assert_close(turned[:, 0], x[:, 0])
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    plane = torch.complex(x[..., :4], x[..., 4:])
    expected = plane * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], dim=-1))
    torch.testing.assert_close(angles[3], 3 * torch.tensor([1.0, 0.1, 0.01, 0.001]))


def test_transformer_knows_the_order_of_the_tokens() -> None:
    """Swapping two tokens changes the logits of a third: positions are seen, not just a set."""
    backbone = perturb(transformer()).eval()
    x_t, t = torch.tensor([[0, 1, 2, 3, 4]]), times(0.5)
    difference = backbone(x_t, t)[:, 0] - backbone(x_t[:, [0, 2, 1, 3, 4]], t)[:, 0]
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("length", [1, 7, 40])
def test_transformer_takes_any_length(length: int) -> None:
    """One network serves all lengths."""
    assert transformer()(tokens(2, length), times(0.2, 0.7)).shape == (2, length, K)


# U-Net


@pytest.mark.parametrize("head", [CategoricalHead(), LogisticHead()])
@pytest.mark.parametrize(
    ("shape", "multipliers"),
    [
        ((1, 8, 8), (1, 2)),
        ((1, 28, 28), (1, 2, 2, 2)),
        ((3, 32, 32), (1, 2)),
        ((2, 7, 10), (1, 1, 1)),
        ((1, 3, 1), (1,)),
    ],
)
def test_unet_takes_images_of_any_size(
    head: Head, shape: tuple[int, int, int], multipliers: tuple[int, ...]
) -> None:
    """Even, odd and oblong images, gray and colored, with either head."""
    backbone = UNet(17, shape=shape, channels=4, multipliers=multipliers, num_blocks=1, head=head)
    logits = perturb(backbone)(tokens(2, math.prod(shape), 17), times(0.2, 0.7))
    assert logits.shape == (2, math.prod(shape), 17)
    assert logits.isfinite().all()


def test_unet_tokens_are_channel_major() -> None:
    """Output (color c, state k) of the last convolution lands on the tokens of color c."""
    backbone = UNet(K, shape=(3, 4, 2), channels=8, multipliers=(1,), num_blocks=1)
    bias = torch.randn(3, K)
    with torch.no_grad():
        list(backbone.out.parameters())[-1].copy_(bias.flatten())
    logits = backbone(tokens(2, 24), times(0.2, 0.7))
    expected = bias[:, None, None].expand(3, 4, 2, K).reshape(24, K)
    torch.testing.assert_close(logits, expected.expand(2, 24, K))


def test_unet_pixels_influence_their_neighborhood_most() -> None:
    """In an oblong color image, input and output pixels are laid out alike: no transposition."""
    colors, height, width = 2, 6, 10
    backbone = UNet(K, shape=(colors, height, width), channels=16, multipliers=(1,), num_blocks=1)
    perturb(backbone).eval()
    x_t, t = torch.zeros(1, colors * height * width, dtype=torch.int64), times(0.5)
    for y, x in [(0, 9), (5, 1), (3, 4)]:
        changed = x_t.clone()
        changed[0, width * y + x] = 3
        difference = (backbone(changed, t) - backbone(x_t, t)).abs().sum(dim=-1)
        influence = difference.view(colors, height, width).sum(dim=0)
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        near = ((rows - y).abs() <= 1) & ((columns - x).abs() <= 1)
        assert influence[near].mean() > 1.2 * influence[~near].mean(), (y, x)


def test_unet_keeps_the_head_it_is_given() -> None:
    """The head decides how many outputs a pixel needs: K logits, or a mean and a scale."""
    categorical, logistic_law = (list(make().parameters())[-1] for make in (unet, logistic_unet))
    assert categorical.shape == (K,)
    assert logistic_law.shape == (2,)


@pytest.mark.parametrize("num_states", [2, 3, 17, 257])
def test_initial_state_features_keep_order_and_set_the_last_state_apart(num_states: int) -> None:
    """First feature decreases along the levels; no two states share a row; the last has a flag."""
    features = state_features(num_states, 8)
    assert features.shape == (num_states, 8)
    assert (features[:, 0].diff() < 0).all()
    distances = torch.cdist(features, features) + 10 * torch.eye(num_states)
    assert distances.min() > 1e-4
    assert distances[-1].min() >= 1


# Logistic head


@pytest.mark.parametrize("num_states", [2, 5, 256])
def test_logistic_head_equals_differences_of_the_logistic_cdf(num_states: int) -> None:
    """Bin probabilities are cdf differences over those of the whole range, and sum to 1."""
    head = LogisticHead()
    x_t = tokens(2, 8, num_states)
    outputs = torch.randn(2, 8, 2) * torch.tensor([0.5, 1.0]) - torch.tensor([0.0, 2.0])
    log_p = head(outputs, x_t, num_states).double().numpy()

    level = (2 * x_t.double() + 1) / num_states - 1
    floor = math.log(0.1 / num_states)
    log_scale = floor + np.logaddexp(0, outputs[..., 1].double().numpy() + 2 - floor)
    law = logistic(
        loc=(level + outputs[..., 0]).numpy()[..., None], scale=np.exp(log_scale)[..., None]
    )
    cdf = law.cdf(np.linspace(-1, 1, num_states + 1))
    expected = np.diff(cdf) / (cdf[..., -1:] - cdf[..., :1])
    np.testing.assert_allclose(np.exp(log_p).sum(-1), 1, atol=1e-5)
    # float32 against float64; tails far below 1e-6 are compared in absolute terms.
    np.testing.assert_allclose(np.exp(log_p), expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("log_scale", [-100.0, 0.0, 20.0])
def test_logistic_head_stays_finite_at_extremes(shift: float, log_scale: float) -> None:
    """Means far out of range and vanishing scales give finite values and gradients, sum 1."""
    outputs = torch.tensor([[[shift, log_scale]]], requires_grad=True)
    log_p = LogisticHead()(outputs, torch.tensor([[3]]), 256)
    torch.testing.assert_close(log_p.exp().sum(), torch.tensor(1.0), atol=1e-4, rtol=0)
    log_p.sum().backward()
    assert log_p.isfinite().all()
    assert outputs.grad is not None
    assert outputs.grad.isfinite().all()


def test_logistic_head_computes_in_float32() -> None:
    """Outputs in half precision are rounded once, when they are made, and never again."""
    outputs = torch.randn(2, 8, 2).to(torch.bfloat16)
    head, x_t = LogisticHead(), tokens(2, 8, 256)
    assert torch.equal(head(outputs, x_t, 256), head(outputs.float(), x_t, 256))


def test_logistic_head_can_be_certain_of_a_level() -> None:
    """The smallest scale leaves less than 1e-3 to all other levels."""
    log_p = LogisticHead()(torch.tensor([[[0.0, -100.0]]]), torch.tensor([[40]]), 256)
    assert log_p[0, 0, 40].exp() > 0.999


def test_logistic_head_without_its_mask_is_a_logistic_head() -> None:
    """On V + 1 states, restricted to the first V: the truncated logistic law on V equal bins."""
    num_states, vocab_size = 9, 8
    log_p = LogisticHead()(torch.tensor([[[-0.3, -3.0]]]), torch.tensor([[8]]), num_states)
    restricted = log_p[0, 0, :vocab_size].log_softmax(dim=-1).double()
    scale = math.exp(math.log(0.1 / 9) + np.logaddexp(0, -1.0 - math.log(0.1 / 9)))
    law = logistic(loc=(2 * 8 + 1) / 9 - 1 - 0.3, scale=scale)
    cdf = law.cdf(np.linspace(-1, 1 - 2 / 9, vocab_size + 1))
    np.testing.assert_allclose(
        restricted.exp().numpy(), np.diff(cdf) / (cdf[-1] - cdf[0]), rtol=1e-4
    )


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Transformer(1), "`num_states` must be at least 2, got 1"),
        (lambda: Transformer(K, depth=0), "`depth` must be at least 1, got 0"),
        (lambda: Transformer(K, dim=30, num_heads=4), "multiple of `num_heads`, got 30 and 4"),
        (lambda: Transformer(K, dim=12, num_heads=4), "must be even, .* 12 / 4 = 3; .* dim=16"),
        (lambda: Transformer(K, reach=-1), "`reach` must be at least 0, got -1"),
        (lambda: Transformer(K, dropout=1.0), r"`dropout` must be in \[0, 1\), got 1.0"),
        (lambda: MLP(K, length=0), "`length` must be at least 1, got 0"),
        (lambda: UNet(K, shape=(1, 0, 8)), r"`shape` must be positive integers, got \(1, 0, 8\)"),
        (lambda: UNet(K, shape=(1, 8, 8), multipliers=()), "`multipliers` must be positive"),
        (lambda: UNet(K, shape=(1, 3, 3), multipliers=(1, 1, 1, 1)), "at most 3 entries"),
        (lambda: UNet(K, shape=(1, 8, 8), channels=30), "multiple of 4, .* got 30; .*=32"),
        (
            lambda: UNet(K, shape=(1, 8, 8), attention_resolutions=(5,)),
            r"got 5; .* heights \[8, 4, 2\]",
        ),
    ],
)
def test_wrong_arguments_are_named(make: Callable[[], Backbone], message: str) -> None:
    """Errors give the argument, the rule and the value."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("num_heads", [1, 3, 4])
def test_suggested_dim_is_accepted(num_heads: int) -> None:
    """The remedy of an error about `dim` works."""
    with pytest.raises(ValueError, match=r"dim=\d+") as error:
        Transformer(K, dim=2 * num_heads + 1 if num_heads > 1 else 3, num_heads=num_heads)
    Transformer(K, dim=int(str(error.value).split("dim=")[-1][:-1]), num_heads=num_heads)


@pytest.mark.parametrize("make", [unet, mlp])
def test_wrong_length_is_an_error(make: Callable[..., Backbone]) -> None:
    """Networks of fixed length say what they expect."""
    with pytest.raises(ValueError, match=f"`x_t` must have {L} tokens per sequence, got 15"):
        make()(tokens(2, L - 1), times(0.2, 0.7))


@backbones
def test_one_time_per_sequence_is_required(make: Callable[..., Backbone]) -> None:
    """One time for two sequences is refused; shape checks, if switched on, raise a TypeError."""
    with pytest.raises((ValueError, TypeError)):
        make()(tokens(2), times(0.2))


def test_neighbor_embedding_is_a_convolution() -> None:
    """It is the convolution of the one-hot tokens, with one vector for what is past the ends."""
    embedding = _NeighborEmbedding(K, dim=6, reach=2)
    x, beyond = tokens(), embedding.tables.weight[0]
    kernel = embedding.tables.weight[1:].view(5, K, 6).permute(2, 1, 0)
    expected = nn.functional.conv1d(nn.functional.one_hot(x, K).float().mT, kernel, padding=2).mT
    past = torch.tensor([2, 1, *[0] * (L - 4), 1, 2])[:, None]
    torch.testing.assert_close(embedding(x), expected + past * beyond)
