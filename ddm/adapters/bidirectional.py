"""A causal language model that sees all tokens, or all of its block and those before."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.functional import require_at_least


class Bidirectional(nn.Module):
    """A causal language model of transformers, with full or block-causal attention.

    The network is given its attention mask of all pairs of tokens, which takes the place of the
    causal one; padding is seen by nobody and shifts no position.

    References:
        LLaDA2.0: scaling up diffusion language models to 100B (2025), on block-causal attention.

    Args:
        model: The network, for instance an `AutoModelForCausalLM`.
        block_length: Columns per block: a token then sees its own block and those before. By
            default all tokens see each other.
    """

    def __init__(self, model: nn.Module, *, block_length: int | None = None) -> None:
        super().__init__()
        if block_length is not None:
            require_at_least(1, block_length=block_length)
        self.model = model
        self.block_length = block_length
        self.config = getattr(model, "config", None)
        # Older networks call it by another name.
        named = "cache" in inspect.signature(model.forward).parameters
        self.cache_name = "cache" if named else "past_key_values"
        self.train(model.training)

    def forward(
        self,
        input_ids: Int[Tensor, "B Q"] | None = None,
        attention_mask: Int[Tensor, "B L"] | None = None,
        inputs_embeds: Float[Tensor, "B Q D"] | None = None,
        cache: Any = None,  # noqa: ANN401 (a cache of transformers)
    ) -> Any:  # noqa: ANN401 (whatever the network returns)
        """Call the network.

        Args:
            input_ids: Tokens; with keys and values of first columns, those of the others.
            attention_mask: 1 for tokens and 0 for padding, of all columns; by default all are
                tokens.
            inputs_embeds: Vectors in the place of tokens.
            cache: Keys and values of first columns; those of the others are added.
        """
        given = input_ids if inputs_embeds is None else inputs_embeds
        assert given is not None, "tokens or vectors"
        known = 0 if cache is None else cache.get_seq_length()
        batch, last = len(given), known + given.shape[1]
        exists = attention_mask
        if exists is None:
            exists = torch.ones(batch, last, dtype=torch.long, device=given.device)
        sees = exists.bool()[:, None, None].expand(batch, 1, last - known, last)
        if self.block_length is not None:
            block = torch.arange(last, device=exists.device) // self.block_length
            sees = sees & (block <= block[known:, None])
        settings = {} if cache is None else {self.cache_name: cache, "use_cache": True}
        return self.model(
            input_ids=input_ids,
            inputs_embeds=inputs_embeds,
            attention_mask=sees,
            position_ids=(exists.cumsum(-1) - 1).clamp(min=0)[:, known:],
            **settings,
        )

    def get_output_embeddings(self) -> nn.Module | None:
        """Return the module that makes the logits, if the network says which it is."""
        found: nn.Module | None = getattr(self.model, "get_output_embeddings", lambda: None)()
        return found
