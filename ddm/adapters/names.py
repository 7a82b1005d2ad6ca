"""The names of weights in the diffusion transformers of MDLM, DUO, UDLM and SEDD, and in ours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ddm.backbones.base import TimeEmbedding, sinusoidal

WHOLE = {
    "embedding.weight": "vocab_embed.embedding",
    "time_embedding.first.weight": "sigma_map.mlp.0.weight",
    "time_embedding.first.bias": "sigma_map.mlp.0.bias",
    "time_embedding.second.weight": "sigma_map.mlp.2.weight",
    "time_embedding.second.bias": "sigma_map.mlp.2.bias",
    "out.weight": "output_layer.linear.weight",
    "out.bias": "output_layer.linear.bias",
}
"""Our names of weights, and theirs."""
BLOCK = {
    "qkv.weight": "attn_qkv.weight",
    "attention_out.weight": "attn_out.weight",
    "network.0.weight": "mlp.0.weight",
    "network.0.bias": "mlp.0.bias",
    "network.2.weight": "mlp.2.weight",
    "network.2.bias": "mlp.2.bias",
}
"""The same of every block."""
UNREAD = "rotary_emb.inv_freq"
"""The frequencies of the rotary positions, which are constants."""


def shapes_of(sizes: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return their names of all weights, and the shapes."""
    width, told = sizes["dim"], sizes["condition_dim"]
    states, features = sizes["num_states"], TimeEmbedding.num_features
    shapes: dict[str, tuple[int, ...]] = {
        "vocab_embed.embedding": (states, width),
        "sigma_map.mlp.0.weight": (told, features),
        "sigma_map.mlp.0.bias": (told,),
        "sigma_map.mlp.2.weight": (told, told),
        "sigma_map.mlp.2.bias": (told,),
        "output_layer.norm_final.weight": (width,),
        "output_layer.linear.weight": (states, width),
        "output_layer.linear.bias": (states,),
        "output_layer.adaLN_modulation.weight": (2 * width, told),
        "output_layer.adaLN_modulation.bias": (2 * width,),
    }
    for i in range(sizes["depth"]):
        shapes |= {
            f"blocks.{i}.norm1.weight": (width,),
            f"blocks.{i}.norm2.weight": (width,),
            f"blocks.{i}.attn_qkv.weight": (3 * width, width),
            f"blocks.{i}.attn_out.weight": (width, width),
            f"blocks.{i}.mlp.0.weight": (4 * width, width),
            f"blocks.{i}.mlp.0.bias": (4 * width,),
            f"blocks.{i}.mlp.2.weight": (width, 4 * width),
            f"blocks.{i}.mlp.2.bias": (width,),
            f"blocks.{i}.adaLN_modulation.weight": (6 * width, told),
            f"blocks.{i}.adaLN_modulation.bias": (6 * width,),
        }
    return shapes


def check_names(theirs: Mapping[str, Tensor], sizes: Mapping[str, int], folder: Path) -> None:
    """Refuse weights that are not those of the table.

    Raises:
        ValueError: Some are missing, unknown or of another shape.
    """
    shapes = shapes_of(sizes)
    for names, what in (
        (shapes.keys() - theirs.keys(), "are missing"),
        (theirs.keys() - shapes.keys() - {UNREAD}, "are unknown"),
        (
            {k for k, w in theirs.items() if k in shapes and tuple(w.shape) != shapes[k]},
            "have shapes that `config.json` does not allow",
        ),
    ):
        if names:
            some = ", ".join(f"{k} {shapes.get(k, '')}".strip() for k in sorted(names)[:4])
            raise ValueError(
                f"`source` must hold the weights of its layout, got '{folder}', of whose names "
                f"{len(names)} {what}: {some}; take the whole and right file."
            )


def our_weights(theirs: Mapping[str, Tensor], depth: int, *, timed: bool) -> dict[str, Tensor]:
    """Return the weights by our names.

    Their norms have a factor w for every feature, `w norm(h) (1 + a) + b`. It becomes a part of the
    modulation, whose scale is then `w (1 + a) - 1`. Without time conditioning sigma is 0, and the
    modulation a constant.
    """
    told = None if timed else _embedding_of_zero(theirs)
    ours = {name: theirs[k] for name, k in WHOLE.items() if timed or "time" not in name}
    ours |= _modulation(theirs, "output_layer.", ["norm_final"], "", told)
    for i in range(depth):
        block = f"blocks.{i}."
        ours |= {block + name: theirs[block + k] for name, k in BLOCK.items()}
        ours |= _modulation(theirs, block, ["norm1", "norm2"], block, told)
        width = len(theirs[block + "attn_out.weight"])
        ours[block + "attention_out.bias"] = torch.zeros(width)
    return ours


def _embedding_of_zero(theirs: Mapping[str, Tensor]) -> Tensor:
    told = sinusoidal(torch.zeros(1), TimeEmbedding.num_features)
    for i in (0, 2):
        weight, bias = (theirs[f"sigma_map.mlp.{i}.{name}"].float() for name in ("weight", "bias"))
        told = F.silu(F.linear(told, weight, bias))
    return told[0]


def _modulation(
    theirs: Mapping[str, Tensor], place: str, norms: list[str], ours: str, told: Tensor | None
) -> dict[str, Tensor]:
    weight = theirs[place + "adaLN_modulation.weight"].float()
    bias = theirs[place + "adaLN_modulation.bias"].float()
    bias = bias.clone() if told is None else bias + weight @ told
    weight = weight.clone()
    width = len(theirs[place + norms[0] + ".weight"])
    for i, norm in enumerate(norms):
        factor = theirs[f"{place}{norm}.weight"].float()
        scale = slice((3 * i + 1) * width, (3 * i + 2) * width)  # shift, scale, gate, and again
        weight[scale] *= factor[:, None]
        bias[scale] = factor * (1 + bias[scale]) - 1
    folded = {f"{ours}modulation.bias": bias}
    return folded if told is not None else {**folded, f"{ours}modulation.linear.weight": weight}
