"""What a batch of any trainer says: its tokens, and which of them are generated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.kernels import Kernel

REMEDY = (
    "let the loader say so, or the callback, "
    "`JYSScheduleCallback(tokens=lambda batch: batch[1])` for instance"
)


def tokens_of(batch: Any) -> Int[Tensor, "B L"]:  # noqa: ANN401
    """Return the tokens of a batch as int64.

    They are the batch itself, its entry "tokens" or "input_ids", or the first of several parts.

    Raises:
        TypeError: There are none, or they are no integers.
        ValueError: They do not have the shape (B, L).
    """
    tokens = batch
    if isinstance(batch, Mapping):
        tokens = batch.get("tokens", batch.get("input_ids"))
    elif isinstance(batch, (list, tuple)) and batch:
        tokens = batch[0]
    if not isinstance(tokens, Tensor):
        keys = f"the keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else repr(batch)
        raise TypeError(
            'a batch must be a tensor of tokens, begin with one, or hold it as "tokens" or '
            f'"input_ids", got {type(batch).__name__} with {keys[:200]}; {REMEDY}.'
        )
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise TypeError(f"`tokens` must be integers, got {tokens.dtype}; {REMEDY}.")
    if tokens.ndim != 2:
        raise ValueError(
            f"`tokens` must have the shape (B, L), got {tuple(tokens.shape)}; {REMEDY}."
        )
    return tokens.long()


def free_of(
    batch: Any,  # noqa: ANN401
    tokens: Int[Tensor, "B L"] | None = None,
) -> Bool[Tensor, "B L"] | None:
    """Return the positions of a batch that are generated, None if all are.

    The entry "free" says so; padding, where the entry "attention_mask" is 0, is never generated.

    Args:
        batch: The batch.
        tokens: Its tokens; by default `tokens_of(batch)`.

    Raises:
        ValueError: A mask does not have the shape of the tokens.
    """
    if not isinstance(batch, Mapping):
        return None
    masks = [batch[key].bool() for key in ("free", "attention_mask") if key in batch]
    if not masks:
        return None
    shape, free = (tokens_of(batch) if tokens is None else tokens).shape, masks[0]
    for mask in masks:
        if mask.shape[-1:] != shape[-1:]:
            raise ValueError(
                f'"free" and "attention_mask" of a batch must have the shape {tuple(shape)} of its '
                f"tokens, got {tuple(mask.shape)}; mend what collates it."
            )
        free = free & mask
    return free.expand(shape)


def without_rests(
    tokens: Int[Tensor, "B L"],
    batch: Any,  # noqa: ANN401
    kernel: Kernel,
    pad: int | None = None,
) -> Int[Tensor, "B L"]:
    """Return tokens of the data where the entry "attention_mask" of their batch is 0, too.

    Padding is never read as text, and collators leave the mask or -100 there.

    Args:
        tokens: Tokens, as they were found in the batch.
        batch: The batch.
        kernel: Says what tokens of the data are.
        pad: What takes the place of others; by default the first token that is not the mask.
    """
    if not isinstance(batch, Mapping) or "attention_mask" not in batch:
        return tokens
    rests = ~batch["attention_mask"].bool() & ~kernel.is_data(tokens)
    return tokens.masked_fill(rests, int(kernel.mask == 0) if pad is None else pad)
