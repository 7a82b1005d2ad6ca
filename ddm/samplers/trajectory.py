"""The states that samples pass on their way from noise to data."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.functional import require_at_least


class Trajectory:
    """The states x_t of the first few samples; pass `record` to a sampler as `on_state`.

    Args:
        num_samples: The number of samples M that are followed.

    Example:
        >>> import torch
        >>> from ddm.samplers import Trajectory
        >>> trajectory = Trajectory(1)  # pass `trajectory.record` to a sampler as `on_state`
        >>> for t in (1.0, 0.0):
        ...     trajectory.record(torch.zeros(2, 3).long(), torch.full((2,), t))
        >>> times, states = trajectory.thin()
        >>> states.shape
        torch.Size([2, 1, 3])
    """

    def __init__(self, num_samples: int) -> None:
        require_at_least(0, num_samples=num_samples)
        self.num_samples = num_samples
        self._times: list[Tensor] = []
        self._states: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._states)

    def record(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> None:
        """Keep the next state, x_t at the times t, of the first samples."""
        # Copied: a view would keep the whole batch. On its device: the loop need not wait.
        self._times.append(t[: self.num_samples].clone())
        self._states.append(x_t[: self.num_samples].clone())

    def thin(self, num_states: int = 9) -> tuple[Float[Tensor, "T M"], Int[Tensor, "T M L"]]:
        """Return times and tokens of first, last and evenly spread states, on the CPU.

        Raises:
            ValueError: Nothing has been recorded.
        """
        last = len(self._states) - 1
        if last < 0:
            raise ValueError("`record` must be called before, by a sampler; got no state.")
        index = torch.linspace(0, last, min(num_states, last + 1)).round().long().tolist()
        times, states = ([kept[i] for i in index] for kept in (self._times, self._states))
        return torch.stack(times).cpu(), torch.stack(states).cpu()
