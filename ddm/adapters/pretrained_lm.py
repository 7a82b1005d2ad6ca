"""A causal language model as the network of a masked diffusion model that is trained further."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.adapters.bidirectional import Bidirectional
from ddm.adapters.load import load_network, read_config
from ddm.adapters.shifted_lm import moved
from ddm.adapters.tuning import Full, Tuning


class PretrainedLM(nn.Module):
    """A causal language model of transformers, with full attention and a vector for the mask.

    As the `backbone` of `DiscreteDiffusion` it becomes a masked diffusion model by further
    training (DiffuGPT, DiffuLLaMA). It goes on writing the logits of a token at the position
    before it, as it has learned; they are moved by one, and the first position keeps its own. All
    tokens see each other from the first step on. The mask, the last of the states, begins as the
    mean of all tokens and is always trained.

    References:
        Scaling diffusion language models via adaptation from autoregressive models (Gong et al.,
        2024), https://arxiv.org/abs/2410.17891, section 3.

    Args:
        num_states: Number K of states, the mask included; the others are ids of the network.
        folder: Folder with the network, as `save_pretrained` writes it.
        tuning: Which of its weights are trained: `Full()`, `LoRA()` or `Frozen()`.

    Raises:
        ValueError: There is no such network, or it has fewer logits than there are tokens.
    """

    time_free = True

    def __init__(
        self,
        num_states: int,
        *,
        folder: str,
        tuning: Tuning = Full(),  # noqa: B008 (a value without state)
    ) -> None:
        super().__init__()
        place = Path(folder)
        model: Any = load_network(place, read_config(place), dtype=torch.float32)
        table = model.get_input_embeddings().weight
        if num_states - 1 > len(table):
            raise ValueError(
                f"`folder` must hold a network with a logit for each of the {num_states - 1} "
                f"tokens, got {len(table)} in '{folder}'; give the data the tokenizer of the "
                "network."
            )
        self.num_tokens = num_states - 1
        self.mask = nn.Parameter(table.detach().mean(0))
        self.network = Bidirectional(tuning(model).train())

    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> Float[Tensor, "B L V"]:
        """Return the logits of every token, in float32; t is not read."""
        model: Any = self.network.model
        embedding = model.get_input_embeddings()
        size = self.num_tokens
        masked = (x_t == size)[..., None]
        embedded = torch.where(masked, self.mask, embedding(x_t.clamp(max=size - 1)))
        logits = self.network(inputs_embeds=embedded).logits[..., :size]
        return moved(logits).float()
