"""Diffusion language models made from causal ones, whose logits stand one position to the left."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import Adapter
from ddm.adapters.llada import LLaDA


class ShiftedLM(LLaDA):
    """A masked diffusion language model that began as a causal one: Dream, DiffuLLaMA, DiffuGPT.

    The network writes the logits of a token at the position before it, as a causal model does; they
    are moved by one, and the first position, which has none before it, keeps its own. Where the
    network says which module makes the logits (`get_output_embeddings`), that module's input is
    moved, which is smaller. A causal network of transformers sees all tokens inside
    `Bidirectional`.

    References:
        Dream 7B: diffusion large language models (Ye et al., 2025),
        https://arxiv.org/abs/2508.15487;
        Scaling diffusion language models via adaptation from autoregressive models (Gong et al.,
        2024), https://arxiv.org/abs/2410.17891, section 3.

    Args:
        model: The network.
        tokenizer: Its tokenizer, or `TokenIds`; the mask may stand in `model.config.mask_token_id`.
        noise: Noise schedule, by default `LogLinear()`: t is the fraction of masks.
    """

    offset = 1

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network and move its logits to the right by one."""
        head = Adapter.token_head(self)
        if head is None:
            return moved(super().call(x_t, t, free))

        def move(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return moved(inputs[0]), *inputs[1:]

        with head.register_forward_pre_hook(move, prepend=True):  # before anybody looks at it
            return super().call(x_t, t, free)


def moved(x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
    """Return what stands one position to the left; the first position keeps its own."""
    return torch.cat([x[:, :1], x[:, :-1]], 1)
