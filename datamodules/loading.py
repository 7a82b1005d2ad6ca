"""Batches of training sequences that go on where a checkpoint was written."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """The order of an epoch, which begins at `first` once and at 0 from then on."""

    first = 0

    def set_epoch(self, epoch: int) -> None:
        """Take the order of that epoch, a new one from its beginning."""
        if epoch != self.epoch:
            self.first = 0
        super().set_epoch(epoch)

    def __iter__(self) -> Iterator[int]:
        first, self.first = self.first, 0
        return islice(super().__iter__(), first, None)


class TrainingLoader(DataLoader[dict[str, Tensor]]):
    """Loads batches in the order of an `EpochSampler`, and knows how many it has given.

    Lightning keeps what `state_dict` returns in its checkpoints, and gives it back before the first
    batch of a resumed run.
    """

    sampler: EpochSampler
    _given = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:  # type: ignore[override]
        # All of this runs when the first batch is asked for. The processes that load batches ask
        # for the order at once, and Lightning makes the iterator before it sets the epoch.
        self._given = self.sampler.first
        for batch in super().__iter__():
            self._given += len(batch["tokens"])
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Return the place in the epoch."""
        return {"epoch": self.sampler.epoch, "sequences": self._given}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on at that place, if it is in this epoch: the last one may have been cut short."""
        if state_dict["epoch"] == self.sampler.epoch:
            self.sampler.first = self._given = state_dict["sequences"]
