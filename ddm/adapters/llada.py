"""Large masked diffusion language models with the conventions of LLaDA."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import TokenIds, logits_of
from ddm.adapters.bidirectional import Bidirectional
from ddm.adapters.masked_lm import MaskedLM
from ddm.adapters.memory import Memory, prompt_width
from ddm.denoisers import Denoiser
from ddm.noise import NoiseSchedule


class LLaDA(MaskedLM):
    """A masked diffusion language model: LLaDA and its relatives.

    Called as a masked language model is. It writes its own end: special tokens may be drawn, but
    for the mask, and for padding where it has an id of its own. Prompts of different lengths stand
    in any place; with padding on the left their texts begin in the same column, which blocks need.

    With `cache`, the first call of a run (of every block, in `sample_blocks`) keeps the keys and
    values of the columns before the first free one, and later calls evaluate the others alone. With
    block-causal attention, and what is given filling whole blocks, nothing else changes. With full
    attention it is an approximation: what is given no longer sees what has been generated since.

    References:
        Large language diffusion models (Nie et al., 2025), https://arxiv.org/abs/2502.09992;
        Fast-dLLM: training-free acceleration of diffusion LLM by enabling KV cache and parallel
        decoding (Wu et al., 2025), https://arxiv.org/abs/2505.22618, section 3.2 (prefix cache).

    Args:
        model: The network.
        tokenizer: Its tokenizer, or `TokenIds`; the mask may stand in `model.config.mask_token_id`.
        noise: Noise schedule, by default `LogLinear()`: t is the fraction of masks.
        cache: Keep keys and values of a prefix; the network is a `Bidirectional`.

    Raises:
        ValueError: The network has no keys and values to keep.
    """

    aligned = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,  # noqa: ANN401 (any tokenizer, see `TokenIds.of`)
        *,
        noise: NoiseSchedule | None = None,
        cache: bool = False,
    ) -> None:
        super().__init__(model, tokenizer, noise=noise)
        if cache and not isinstance(model, Bidirectional):
            raise ValueError(
                f"`cache` needs keys and values, which a `Bidirectional` network gives, got a "
                f"{type(model).__name__}; wrap it, or leave `cache` out."
            )
        self.cache = cache
        self.memory: Memory | None = None

    def banned_of(self, ids: TokenIds) -> tuple[int, ...]:
        """Return padding, unless it ends texts as well, and ids without a meaning."""
        own_pad = () if ids.pad is None or ids.pad == ids.eos else (ids.pad,)
        return (*own_pad, *ids.never_drawn(*ids.special))

    def start(self) -> Denoiser:
        """Return the denoiser of one run, which remembers what stands before the free columns."""
        return self._with(Memory()) if self.cache else self

    def rows(self, index: Int[Tensor, " n"]) -> Denoiser:
        """Return the denoiser of some rows of the batch of a run."""
        return self if self.memory is None else self._with(self.memory.rows(index))

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network, on the columns whose keys and values are not known."""
        memory = self.memory
        if memory is None or self._prefix(free) == 0:
            return super().call(x_t, t, free)
        if memory.cache is None:
            from transformers import DynamicCache

            memory.cache, memory.width = DynamicCache(), self._prefix(free)
        known = memory.cache.get_seq_length()
        exists = self.attention(x_t, free)
        logits: Tensor = logits_of(
            self.backbone(input_ids=x_t[:, known:], cache=memory.cache, **exists)
        )
        memory.cache.crop(memory.width - x_t.shape[1])  # a negative number: as many fewer
        return torch.nn.functional.pad(logits, (0, 0, known, 0))  # nobody reads the prefix's

    def token_head(self) -> nn.Module | None:
        """Return the module that makes the logits, unless those of a prefix are left out anyway."""
        return super().token_head() if self.memory is None else None

    def num_evaluated(self, x_t: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None) -> int:
        """Return the tokens that a call evaluates: those of a prefix that is known are none."""
        known = self.memory is not None and self.memory.cache is not None
        return x_t[:, self.memory.width if self.memory is not None and known else 0 :].numel()

    def _prefix(self, free: Bool[Tensor, "B L"] | None) -> int:
        """Return the columns that need no call after the first; one more is read by a shift."""
        return max(0, prompt_width(free) - self.offset)

    def _with(self, memory: Memory) -> LLaDA:
        """Return this denoiser, on the same network, with a memory of its own."""
        run = copy.copy(self)
        run.memory = memory
        return run
