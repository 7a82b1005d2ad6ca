"""How many sequences the updates of a training run may measure."""

from __future__ import annotations

FEWEST = 16
"""Sequences that are measured whatever they cost: fewer tell nothing."""
PER_TRAINED = 3
"""Network calls that a sequence costs in training: forward, and backward for two."""


class Budget:
    """A share of the network calls of training, counted for single sequences and not timed.

    So the same run has the same schedules on every machine.

    Args:
        max_share: Largest share of the calls of training that updates may make.
        most: Largest number of sequences.
        price: Network calls for every sequence of an update; updates correct it.
    """

    def __init__(self, max_share: float, most: int, price: int) -> None:
        self.max_share = max_share
        self.most = most
        self._price = price
        self._trained = self._spent = 0

    @property
    def num_sequences(self) -> int:
        """Sequences that the next update may measure, over all processes."""
        left = self.max_share * PER_TRAINED * self._trained - self._spent
        return min(max(FEWEST, int(left) // self._price), self.most)

    def train(self, num_sequences: int) -> None:
        """Count sequences of training."""
        self._trained += num_sequences

    def spend(self, num_sequences: int, price: int) -> None:
        """Count an update that has made `price` calls for every sequence."""
        self._spent += num_sequences * price
        self._price = price

    def state_dict(self) -> dict[str, int]:
        """Return what has been counted."""
        return {"trained": self._trained, "spent": self._spent, "price": self._price}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Restore what `state_dict` returned."""
        self._trained, self._spent, self._price = (
            state[name] for name in ("trained", "spent", "price")
        )
