"""The trigram model of a text."""

import torch
from jaxtyping import Int
from torch import Tensor

from ddm.functional import require_at_least


def trigram_sample(
    tokens: Int[Tensor, " T"],
    num: int,
    length: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "num length"]:
    """Draw sequences from the trigram model of a text, a baseline that knows no words.

    Each token is the successor of a uniformly drawn occurrence of the last two tokens. The text is
    taken as a circle, so every pair of tokens has a successor, and every trigram of a sample
    has exactly the law of the trigrams of the text. No smoothing: all trigrams are real.

    Args:
        tokens: The text, with shape (T,), for instance `data.train_stream.long()`.
        num: The number of sequences.
        length: The number of tokens of a sequence.
        generator: The source of randomness; the global one by default.

    Returns:
        Tokens of type int64, with shape (num, length).

    Raises:
        ValueError: If the text is shorter than a trigram, or `num` or `length` is not positive.
    """
    require_at_least(1, num=num, length=length)
    if tokens.numel() < 3:
        raise ValueError(
            f"`tokens` must hold at least one trigram, got {tokens.numel()} token(s); "
            "pass a longer text."
        )
    base = int(tokens.max()) + 1
    pairs, order = (tokens * base + tokens.roll(-1)).sort()
    successors = tokens.roll(-2)[order]  # those of one pair stand together
    start = torch.randint(tokens.numel(), (num,), generator=generator)
    sample = [tokens[start], tokens.roll(-1)[start]]
    while len(sample) < length:
        pair = sample[-2] * base + sample[-1]
        first = torch.searchsorted(pairs, pair)
        count = torch.searchsorted(pairs, pair, right=True) - first
        # In float64 u * count stays below count for every u < 1.
        u = torch.rand(num, dtype=torch.float64, generator=generator)
        sample.append(successors[first + (u * count).long()])
    return torch.stack(sample[:length], dim=1)
