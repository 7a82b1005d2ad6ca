"""What the calls of one run of a sampler share."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass
class Memory:
    """What the calls of one run share.

    Attributes:
        cache: Keys and values of the columns before the first free one.
        width: The number of these columns.
        logits: The logits of the call before, of the other columns.
        whole: The memory of the whole batch, if these are some of its rows, and which.
    """

    cache: Any = None
    width: int = 0
    logits: Tensor | None = None
    whole: tuple[Memory, Tensor] | None = None

    def rows(self, index: Int[Tensor, " n"]) -> Memory:
        """Return the memory of some rows; what they learn comes back."""
        cache = copy.deepcopy(self.cache)
        if cache is not None:
            cache.batch_select_indices(index)
        logits = None if self.logits is None else self.logits[index]
        return Memory(cache, self.width, logits, (self, index))

    def remember(self, logits: Float[Tensor, "B C V"]) -> None:
        """Keep the logits for the next call."""
        self.logits = logits
        if self.whole is not None:
            memory, index = self.whole
            if memory.logits is not None:
                memory.logits = memory.logits.index_copy(0, index, logits)


def prompt_width(free: Bool[Tensor, "B L"] | None) -> int:
    """Return the number of columns before the first free one of any row."""
    if free is None:
        return 0
    anywhere = free.any(0)
    return int(anywhere.long().argmax()) if bool(anywhere.any()) else free.shape[1]
