"""Weights of MDLM, DUO, UDLM and SEDD in our own network, by tables of their names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import Adapter
from ddm.adapters.duo import DUO
from ddm.adapters.mdlm import MDLM
from ddm.adapters.names import check_names, our_weights
from ddm.adapters.sedd import SEDD
from ddm.backbones import DiT
from ddm.functional import log1mexp
from ddm.kernels import Absorbing, Kernel, Uniform
from ddm.noise import Geometric, LogLinear, NoiseSchedule


@dataclass(frozen=True)
class Layout:
    """Where the checkpoints of a family keep their sizes and weights, and what they mean.

    Attributes:
        sizes: For each argument of `DiT`, and the longest sequence, the key in `config.json`.
        wrap: Makes the adapter from the network, the configuration and the id of the mask.
        prefix: What the names of all weights begin with.
        timed: Whether networks read sigma where the configuration does not say.
    """

    sizes: Mapping[str, str]
    wrap: Callable[[DiT, Mapping[str, Any], int | None], Adapter]
    prefix: str = "backbone."
    timed: bool = True


class Ratios(nn.Module):
    """A network of SEDD whose outputs become log ratios: 0 for the token itself.

    Args:
        network: The network.
        scaled: Whether the size of the ratios of a masked token, `1 / ((exp(sigma) - 1) V)`, is
            added; so it is for the absorbing kernel (`scale_by_sigma`).
    """

    time_dtype = torch.float32

    def __init__(self, network: nn.Module, *, scaled: bool) -> None:
        super().__init__()
        self.network = network
        self.scaled = scaled

    def forward(self, x: Int[Tensor, "B L"], sigma: Float[Tensor, " B"]) -> Float[Tensor, "B L K"]:
        """Make one network call."""
        output = self.network(x, sigma)
        if self.scaled:
            size = sigma + log1mexp(sigma) + math.log(output.shape[-1] - 1)
            output = output - size[:, None, None]
        return output.scatter(-1, x[..., None], 0.0)


def _mdlm(network: DiT, config: Mapping[str, Any], mask: int | None) -> Adapter:
    return MDLM(network, mask=mask, vocab_size=network.num_states)


def _duo(network: DiT, config: Mapping[str, Any], mask: int | None) -> Adapter:
    return DUO(network, vocab_size=network.num_states)


def _sedd(network: DiT, config: Mapping[str, Any], mask: int | None) -> Adapter:
    noise: NoiseSchedule = LogLinear()
    if _one_of(config, "noise.type", "loglinear", "geometric") == "geometric":
        noise = Geometric(config["noise.sigma_min"], config["noise.sigma_max"])
    kernel: Kernel = Uniform(network.num_states)
    if config["graph.type"] == "absorb":
        kernel = Absorbing(network.num_states - 1)
    ratios = Ratios(network, scaled=bool(config.get("model.scale_by_sigma")))
    return SEDD(ratios, kernel=kernel, noise=noise)


def _one_of(config: Mapping[str, Any], key: str, *values: str) -> str:
    if (value := config.get(key)) not in values:
        raise ValueError(f"`config.json` must have a `{key}` of {values}, got {value!r}.")
    return str(value)


SIZES = {
    "dim": "hidden_dim",
    "depth": "n_blocks",
    "num_heads": "n_heads",
    "condition_dim": "cond_dim",
    "length": "model_length",
    "num_states": "vocab_size",
}
LAYOUTS = {
    "mdlm": Layout(SIZES, _mdlm, timed=False),
    "udlm": Layout(SIZES, _duo),
    "duo": Layout(SIZES, _duo),
    "sedd": Layout(
        {
            "dim": "model.hidden_size",
            "depth": "model.n_blocks",
            "num_heads": "model.n_heads",
            "condition_dim": "model.cond_dim",
            "length": "model.length",
            "num_states": "tokens",
        },
        _sedd,
        prefix="",
    ),
}
"""By `model_type`; the configuration of SEDD has none, but a `graph`."""


def layout_of(config: Mapping[str, Any]) -> Layout | None:
    """Return the layout that a configuration belongs to, if there is one of ours."""
    kind = "sedd" if "graph" in config else str(config.get("model_type", "")).lower()
    return LAYOUTS.get(kind)


def load_layout(
    folder: Path,
    config: Mapping[str, Any],
    layout: Layout,
    *,
    mask: int | None = None,
    dtype: torch.dtype | None = None,
) -> Adapter:
    """Return the model of a folder, on our own network.

    Args:
        folder: The folder, with safetensors.
        config: Its configuration.
        layout: Its layout.
        mask: Id of the mask of MDLM, by default the last one.
        dtype: Type of the weights; by default as they are stored.

    Raises:
        ValueError: The configuration lacks a size or asks for what `DiT` is not, or weights are
            missing, unknown or of a wrong shape.
    """
    settings = _flat(config)
    sizes = {ours: _size(settings, key) for ours, key in layout.sizes.items()}
    length = sizes.pop("length")
    if settings.get("causal") or settings.get("cfg"):
        raise ValueError(
            "`source` must hold a diffusion model without classes, got `causal` "
            f"{settings.get('causal')} and `cfg` {settings.get('cfg')} in '{folder}'; load its own "
            "network and wrap that."
        )
    if "graph" in config and _one_of(settings, "graph.type", "absorb", "uniform") == "absorb":
        sizes["num_states"] += 1
    timed = bool(settings.get("time_conditioning", layout.timed))
    with torch.device("meta"):  # no weights are drawn that are thrown away
        network = DiT(**sizes, time_conditioning=timed)
    theirs = _read(folder, layout.prefix)
    check_names(theirs, sizes, folder)
    weights = our_weights(theirs, sizes["depth"], timed=timed)
    stored = theirs["vocab_embed.embedding"].dtype if dtype is None else dtype
    network.load_state_dict({k: w.to(stored) for k, w in weights.items()}, assign=True)
    denoiser = layout.wrap(network, settings, mask)
    denoiser.max_length = length
    return denoiser


def _flat(config: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return nested entries under keys with dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = isinstance(value, Mapping)
        flat |= _flat(value, f"{before}{key}.") if nested else {before + key: value}
    return flat


def _size(settings: Mapping[str, Any], key: str) -> int:
    size = settings.get(key)
    if not isinstance(size, int) or isinstance(size, bool):
        raise ValueError(f"`config.json` must have a whole number `{key}`, got {size!r}.")
    return size


def _read(folder: Path, prefix: str) -> dict[str, Tensor]:
    """Return all weights of a folder, by their names without the prefix."""
    try:
        from safetensors.torch import load_file
    except ImportError as error:
        raise ValueError(
            "`source` needs the package safetensors; run `pip install "
            "'discrete-diffusion[transformers]'`."
        ) from error
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"`source` must hold `*.safetensors`, got none in '{folder}'; pickled weights are code "
            "and are not read: save them with `safetensors.torch.save_file`."
        )
    weights: dict[str, Tensor] = {}
    try:
        for file in files:
            weights |= load_file(file)
    except Exception as error:  # whatever safetensors raises on damaged files
        raise ValueError(f"`source` holds damaged weights, '{file}' ({error}).") from error
    return {name.removeprefix(prefix): w for name, w in weights.items()}
