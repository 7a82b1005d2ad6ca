"""What generation keeps: prompts from the command line, or from the data."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor

from ddm.datamodules import SequenceDataModule
from ddm.module import DiscreteDiffusion


def encode(text: str, module: DiscreteDiffusion, data: LightningDataModule | None) -> Tensor:
    """Return the tokens of a prompt, with shape (L,).

    Raises:
        ValueError: The text is not in the vocabulary.
    """
    encode_text = getattr(data, "encode", None)
    if encode_text is not None:
        tokens = encode_text(text)
    else:
        try:
            tokens = torch.tensor([int(word) for word in text.split()], dtype=torch.long)
        except ValueError:
            raise ValueError(
                f"`prompt` must be token numbers separated by spaces, got {text!r}: the data "
                "module does not encode text."
            ) from None
    vocab_size = module.process.kernel.vocab_size
    if ((tokens < 0) | (tokens >= vocab_size)).any():
        raise ValueError(f"`prompt` must hold tokens in 0..{vocab_size - 1}, got {text!r}.")
    return tokens


def encode_prompt(
    start: str, end: str, module: DiscreteDiffusion, data: LightningDataModule | None
) -> tuple[Tensor, Tensor]:
    """Return the first and last tokens of a sequence (1, L), and which others are free.

    The two texts are encoded by themselves, so what lies between has no part in their tokens.

    Raises:
        ValueError: The texts are empty, too long together, or not in the vocabulary, or the first
            is shorter than the prompts of training.
    """
    first, last = (encode(text, module, data) for text in (start, end))
    length, given = module.length, len(first) + len(last)
    # The network of a conditional model has never seen these positions noised.
    least = getattr(data, "prompt_length", 0)
    if len(first) < least or not 0 < given <= length:
        raise ValueError(
            f"`prompt` must have {max(1, least)} to {length} tokens, got {given}; cut it, or make "
            "its beginning as long as the prompts of training."
        )
    between = torch.zeros(length - given, dtype=torch.long)
    position = torch.arange(length)
    free = (position >= len(first)) & (position < length - len(last))
    return torch.cat([first, between, last])[None], free[None]


def prompts(
    around: tuple[str, str] | None,
    num_samples: int,
    module: DiscreteDiffusion,
    data: LightningDataModule | None,
) -> tuple[Tensor, Tensor] | None:
    """Return the given tokens (M, L) and which others are free, if there are given ones.

    Samples stand between the two texts of `around`; where it is not given, they continue held-out
    sequences if the data ask for that.
    """
    if around is not None:
        tokens, free = encode_prompt(*around, module, data)
        return tokens.expand(num_samples, -1), free.expand(num_samples, -1)
    if isinstance(data, SequenceDataModule) and data.free is not None:
        held_out = data.test_tokens
        rows = torch.arange(num_samples) % len(held_out)
        return held_out[rows].long(), data.free.expand(held_out.shape)[rows]
    return None
