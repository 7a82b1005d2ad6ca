"""What the updates of a run have decided."""

from __future__ import annotations

from typing import Any


class UpdateHistory:
    """A list of updates that stays short however many there are.

    Args:
        most: Number of updates to hold; beyond, every second one is left out.

    Attributes:
        updates: One dictionary for every update: step, seconds, network calls, density of times,
            and a list of what was kept for the numbers of steps.
        num_updates: Number of updates, with those left out.
    """

    def __init__(self, most: int = 64) -> None:
        self.most = most
        self.updates: list[dict[str, Any]] = []
        self.num_updates = 0

    def add(self, update: dict[str, Any]) -> None:
        """Append an update; the first and the last one always stay."""
        self.updates.append(update)
        self.num_updates += 1
        if len(self.updates) > self.most:
            self.updates = self.updates[:-1:2] + self.updates[-1:]

    @property
    def worth_showing(self) -> bool:
        """Whether to draw after this update: at first always, then four times in a doubling."""
        return self.num_updates % 2 ** max(0, self.num_updates.bit_length() - 3) == 0

    def entries(self) -> list[dict[str, Any]]:
        """Return one entry for every update and number of steps."""
        shared = ("step", "seconds", "num_calls")
        return [
            {name: update[name] for name in shared} | row
            for update in self.updates
            for row in update["schedules"]
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings."""
        return {"updates": self.updates, "num_updates": self.num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.updates = list(state_dict["updates"])
        self.num_updates = state_dict["num_updates"]
