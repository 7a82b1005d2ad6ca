"""The sequences that training has seen last."""

from __future__ import annotations

from collections import Counter, deque

import torch
from torch import Tensor
from torch.nn.functional import pad as pad_right


class RecentSequences:
    """The latest batches of tokens, just enough of them.

    Args:
        num: Number of sequences to keep at least, once there are as many.
    """

    def __init__(self, num: int) -> None:
        self.num = num
        self._batches: deque[tuple[Tensor, Tensor | None]] = deque()

    def add(self, tokens: Tensor, free: Tensor | None) -> None:
        """Remember tokens and free positions of a batch, (B, L); forget what is not needed."""
        self._batches.append((tokens, free))
        kept = sum(len(x) for x, _ in self._batches)
        while kept - len(self._batches[0][0]) >= self.num:
            kept -= len(self._batches.popleft()[0])

    def latest(self, pad: int | None = None) -> tuple[Tensor, Tensor | None]:
        """Return the latest sequences in one tensor, and their free positions.

        Where batches have different lengths, short ones are filled up with `pad`, which is never
        free; without it, those of the most frequent length are returned.
        """
        batches = list(self._batches)
        if not batches:
            return torch.empty(0, 0, dtype=torch.long), None
        rows: Counter[int] = Counter()
        for x, _ in reversed(batches):  # of equally frequent lengths, the latest
            rows[x.shape[1]] += len(x)
        if pad is None:
            length = rows.most_common(1)[0][0]
            batches = [(x, free) for x, free in batches if x.shape[1] == length]
        else:
            length = max(rows)
        missing = [length - x.shape[1] for x, _ in batches]
        tokens = [
            pad_right(x, (0, n), value=pad or 0) for (x, _), n in zip(batches, missing, strict=True)
        ]
        x_0 = torch.cat(tokens)[-self.num :]
        if not any(missing) and all(free is None for _, free in batches):
            return x_0, None
        masks = [
            pad_right(torch.ones_like(x, dtype=torch.bool) if free is None else free, (0, n))
            for (x, free), n in zip(batches, missing, strict=True)
        ]
        return x_0, torch.cat(masks)[-self.num :]
