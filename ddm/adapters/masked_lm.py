"""Masked language models: BERT and its relatives."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import Adapter, TokenIds, logits_of
from ddm.kernels import Absorbing
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class MaskedLM(Adapter):
    """A masked language model: BERT, Roberta, ModernBERT, ESM, any `AutoModelForMaskedLM`.

    Called with `(input_ids=..., attention_mask=...)` and nothing of the time; the logits of a
    position are the posterior of its token. Special tokens are given where they stand and never
    drawn. ESM scales its input by the fraction of tokens that are not masked: give it at least the
    tokens at both ends.

    Args:
        model: The network.
        tokenizer: Its tokenizer, or `TokenIds`.
        noise: Noise schedule; the times of schedules refer to it. By default `LogLinear()`, with
            which t is the fraction of masks.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Any,  # noqa: ANN401 (any tokenizer, see `TokenIds.of`)
        *,
        noise: NoiseSchedule | None = None,
    ) -> None:
        ids = TokenIds.of(model, tokenizer)
        process = ForwardProcess(
            Absorbing(ids.vocab_size, mask=ids.required_mask()), noise or LogLinear()
        )
        super().__init__(model, process, pad=ids.pad, banned=self.banned_of(ids))

    def banned_of(self, ids: TokenIds) -> tuple[int, ...]:
        """Return the ids that are never drawn: all special ones."""
        return ids.never_drawn()

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network with the tokens, and with what of them exists."""
        return logits_of(self.backbone(input_ids=x_t, **self.attention(x_t, free)))
