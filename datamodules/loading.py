"""Batches of training sequences that go on where a checkpoint was written."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler


class EpochSampler(DistributedSampler[Any]):
    """The order of an epoch, which begins where a run was stopped, once, and at 0 else."""

    place = (0, 0)
    """Epoch and number of the sequence to go on with, whenever that epoch is set."""

    @property
    def first(self) -> int:
        """The number of the sequence that the epoch begins with."""
        epoch, sequences = self.place
        return sequences if epoch == self.epoch else 0

    def __iter__(self) -> Iterator[int]:
        first, self.place = self.first, (0, 0)
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
        """Go on at that place, if its epoch is not over: the last one may have been cut short.

        Lightning may make the loader for epoch 0 and set the epoch later, as it does where a
        learning rate asks for the number of steps.
        """
        self.sampler.place = (state_dict["epoch"], state_dict["sequences"])
        self._given = self.sampler.first
