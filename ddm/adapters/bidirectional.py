"""A causal language model that sees all tokens."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Bidirectional(nn.Module):
    """A causal language model of transformers, with full attention.

    The network is given its attention mask of all pairs of tokens, which takes the place of the
    causal one; padding is seen by nobody and shifts no position.

    Args:
        model: The network, for instance an `AutoModelForCausalLM`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.config = getattr(model, "config", None)
        self.train(model.training)

    def forward(
        self,
        input_ids: Int[Tensor, "B L"] | None = None,
        attention_mask: Int[Tensor, "B L"] | None = None,
        inputs_embeds: Float[Tensor, "B L D"] | None = None,
    ) -> Any:  # noqa: ANN401 (whatever the network returns)
        """Call the network.

        Args:
            input_ids: Tokens.
            attention_mask: 1 for tokens and 0 for padding; by default all are tokens.
            inputs_embeds: Vectors in the place of tokens.
        """
        inputs = input_ids if inputs_embeds is None else inputs_embeds[..., 0]
        exists = attention_mask
        if exists is None:
            assert inputs is not None, "tokens or vectors"
            exists = torch.ones_like(inputs, dtype=torch.long)
        batch, length = exists.shape
        return self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=exists.bool()[:, None, None].expand(batch, 1, length, length),
            position_ids=(exists.cumsum(-1) - 1).clamp(min=0),
        )
