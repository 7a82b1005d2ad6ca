"""A mean over sequences that says how sure it is."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.functional import gather_objects

GOLDEN = (math.sqrt(5) - 1) / 2


class RatioEstimate:
    """Values per token over sequences of different lengths, with the standard error of the ratio.

    The ratio of two sums does not depend on how sequences are put into batches. The error is that
    of independent sequences and times: where times are spread evenly (`spread_times`) it is an
    upper estimate.
    """

    def __init__(self) -> None:
        self.num_sequences = 0
        self._sums = [0.0] * 5

    def update(self, values: Float[Tensor, " B"], tokens: Int[Tensor, " B"]) -> None:
        """Add what sequences are worth, and their numbers of tokens."""
        x, n = values.double().cpu(), tokens.double().cpu()
        sums = torch.stack([x, n, x * x, x * n, n * n]).sum(-1).tolist()
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)]
        self.num_sequences += len(x)

    def compute(self) -> tuple[float, float]:
        """Return the ratio and its standard error, over all processes; a collective call."""
        parts = gather_objects((self._sums, self.num_sequences))
        x, n, xx, xn, nn = (sum(column) for column in zip(*(s for s, _ in parts), strict=True))
        num = sum(number for _, number in parts)
        if n == 0:
            return math.nan, math.nan
        ratio = x / n
        if num < 2 or not math.isfinite(ratio):
            return ratio, math.nan
        squares = max(xx - 2 * ratio * xn + ratio**2 * nn, 0.0)
        return ratio, math.sqrt(squares * num / (num - 1)) / n


def spread_times(index: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Return the times of an endless sequence that fills (0, 1] evenly, however far it is run."""
    return 1.0 - (0.5 + index.double() * GOLDEN) % 1.0
