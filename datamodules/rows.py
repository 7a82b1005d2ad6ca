"""Sequences that are made when they are asked for."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Integer
from torch import Tensor


class Rows(ABC):
    """Sequences that are made when they are asked for, and indexed as a tensor (N, L) is.

    What is larger than the memory stands in the place of a tensor so; a subclass writes `row`.

    Args:
        num: The number N of sequences.
        length: The number L of tokens of each.
    """

    def __init__(self, num: int, length: int) -> None:
        self.shape = torch.Size([num, length])

    @abstractmethod
    def row(self, number: int) -> Integer[Tensor, " L"]:
        """Make the sequence with a number in 0..N-1."""

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: int | slice | Tensor) -> Integer[Tensor, "... L"]:
        """Make the sequences with these numbers, (L,) or (n, L)."""
        every = range(len(self))
        if isinstance(index, int):
            return self.row(every[index])
        numbers = every[index] if isinstance(index, slice) else map(every.__getitem__, index)
        rows = [self.row(number) for number in numbers]
        return torch.stack(rows) if rows else torch.empty(0, self.shape[1], dtype=torch.uint8)

    def split(self, size: int) -> Iterator[Integer[Tensor, "n L"]]:
        """Make all sequences, n at a time."""
        return (self[first : first + size] for first in range(0, len(self), size))
