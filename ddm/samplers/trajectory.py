"""The states that samples pass on their way from noise to data."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Trajectory:
    """The states x_t of the first few samples; pass `record` to a sampler as `on_state`.

    Args:
        num_samples: The number of samples M that are followed.
    """

    def __init__(self, num_samples: int) -> None:
        if num_samples < 0:
            raise ValueError(f"`num_samples` must be at least 0, got {num_samples}; raise it.")
        self.num_samples = num_samples
        self._times: list[Tensor] = []
        self._states: list[Tensor] = []

    def record(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> None:
        """Keep the next state, x_t at the times t, of the first samples, on the CPU."""
        # Copied: a view would keep the whole batch of every state.
        self._times.append(t[: self.num_samples].to("cpu", copy=True))
        self._states.append(x_t[: self.num_samples].to("cpu", copy=True))

    def thin(self, num_states: int = 9) -> tuple[Float[Tensor, "T M"], Int[Tensor, "T M L"]]:
        """Return times and tokens of the first, the last and evenly spread states between them.

        Raises:
            ValueError: Nothing has been recorded.
        """
        last = len(self._states) - 1
        if last < 0:
            raise ValueError("`record` must be called before, by a sampler; got no state.")
        index = torch.linspace(0, last, min(num_states, last + 1)).round().long()
        return torch.stack(self._times)[index], torch.stack(self._states)[index]
