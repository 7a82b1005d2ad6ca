"""Networks that map noised tokens and their time to logits over the states.

A backbone knows nothing of kernels, noise or losses: it is called as `backbone(x_t, t)` with tokens
(B, L) and times (B,), and returns float32 logits (B, L, K). Any module with that call and the
attribute `time_free` will do; the ones of this package derive from `Backbone`.
"""

from ddm.backbones.base import Backbone
from ddm.backbones.dit import DiT
from ddm.backbones.heads import CategoricalHead, Head, LogisticHead
from ddm.backbones.mlp import MLP
from ddm.backbones.transformer import Transformer
from ddm.backbones.unet import UNet

__all__ = [
    "MLP",
    "Backbone",
    "CategoricalHead",
    "DiT",
    "Head",
    "LogisticHead",
    "Transformer",
    "UNet",
]
