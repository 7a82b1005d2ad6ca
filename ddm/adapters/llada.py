"""Large masked diffusion language models with the conventions of LLaDA."""

from __future__ import annotations

from ddm.adapters.adapter import TokenIds
from ddm.adapters.masked_lm import MaskedLM


class LLaDA(MaskedLM):
    """A masked diffusion language model: LLaDA and its relatives.

    Called as a masked language model is. It writes its own end: special tokens may be drawn, but
    for the mask, and for padding where it has an id of its own. Prompts of different lengths stand
    in any place; with padding on the left their texts begin in the same column, which blocks need.

    References:
        Large language diffusion models (Nie et al., 2025), https://arxiv.org/abs/2502.09992.

    Args:
        model: The network.
        tokenizer: Its tokenizer, or `TokenIds`; the mask may stand in `model.config.mask_token_id`.
        noise: Noise schedule, by default `LogLinear()`: t is the fraction of masks.
    """

    aligned = True

    def banned_of(self, ids: TokenIds) -> tuple[int, ...]:
        """Return padding, unless it ends texts as well, and ids without a meaning."""
        own_pad = () if ids.pad is None or ids.pad == ids.eos else (ids.pad,)
        return (*own_pad, *ids.never_drawn(*ids.special))
