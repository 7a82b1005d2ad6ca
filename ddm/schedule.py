"""The noun `SamplingSchedule`: when a sampler steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from jaxtyping import Float
from torch import Tensor

from ddm.files import read_json, reading, write_json
from ddm.functional import check_times, require_at_least, require_instance


def check_num_steps(num_steps: int) -> int:
    """Return `num_steps`, or say that it must be at least 1."""
    require_at_least(1, num_steps=num_steps)
    return num_steps


def step_numbers(num_steps: int | Sequence[int]) -> list[int]:
    """Return the different numbers of steps, sorted, of a list or of one number.

    Raises:
        ValueError: There is none, or one is less than 1.
    """
    numbers = [num_steps] if isinstance(num_steps, int) else list(num_steps)
    if not numbers:
        raise ValueError("`num_steps` must hold at least one number of steps, got none.")
    return sorted({check_num_steps(n) for n in numbers})


def times_of(schedule: Schedule) -> Float[Tensor, " T"]:
    """Return the N + 1 times of a schedule, float64.

    Raises:
        ValueError: They are no schedule, see `check_times`.
    """
    return check_times(schedule.times if isinstance(schedule, SamplingSchedule) else schedule)


@dataclass(frozen=True)
class SamplingSchedule:
    """N + 1 strictly decreasing times from 1 to 0, and where they came from.

    A plain value: samplers take its `times`, never its name.

    Attributes:
        times: The times, floats in float64 precision.
        source: What made them, for instance "uniform" or "optimal".
        info: Further facts that travel with the file (kernel, sampler, cost, sample count).

    Raises:
        ValueError: The times are not a schedule (see `check_times`).

    Example:
        >>> from ddm import SamplingSchedule
        >>> SamplingSchedule.uniform(4).times
        (1.0, 0.75, 0.5, 0.25, 0.0)
    """

    times: tuple[float, ...]
    source: str = "custom"
    info: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the times."""
        object.__setattr__(self, "times", tuple(check_times(self.times).tolist()))

    def __len__(self) -> int:
        """Return the number N + 1 of times."""
        return len(self.times)

    @property
    def num_steps(self) -> int:
        """The number N of steps."""
        return len(self.times) - 1

    @classmethod
    def uniform(cls, num_steps: int) -> SamplingSchedule:
        """Return equally spaced times."""
        n = check_num_steps(num_steps)
        return cls(tuple(1 - k / n for k in range(n + 1)), "uniform")

    @classmethod
    def cosine(cls, num_steps: int) -> SamplingSchedule:
        """Return `t_k = cos(pi k / (2 N))`: short steps near the noise.

        References:
            MaskGIT: masked generative image transformer (Chang et al., 2022),
            https://arxiv.org/abs/2202.04200, section 3.3.
        """
        n = check_num_steps(num_steps)
        times = [math.cos(math.pi / 2 * k / n) for k in range(n)]
        return cls((*times, 0.0), "cosine")

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically.

        The times are in (0, 1] and decrease, 1 is noise; drop the final 0 for a list of the N times
        at which the network is called. For loops that count tokens, and for flow_matching, see
        `ddm.adapters.counts_per_step` and `flow_matching_grid`.
        """
        write_json(path, {"times": self.times, "source": self.source, "info": self.info})

    @classmethod
    def load(cls, path: str | Path) -> SamplingSchedule:
        """Read a file written by `save`.

        Raises:
            ValueError: The file is not a schedule.
        """
        return cls.from_dict(read_json(path), str(path))

    @classmethod
    def from_dict(cls, content: Any, path: str = "content") -> SamplingSchedule:  # noqa: ANN401
        """Build a schedule from the content of its JSON file.

        Args:
            content: At least the times.
            path: What the message of an error calls it.

        Raises:
            ValueError: There are no times in it, or an entry is of another kind.
        """
        with reading(path, "a schedule", "SamplingSchedule.save"):
            facts = {"source": "custom", "info": {}, **content}
            times = facts["times"]
            require_instance(list | tuple, remedy="give N + 1 numbers", times=times)
            require_instance(str, remedy="say what made it", source=facts["source"])
            require_instance(dict, remedy="give facts by name", info=facts["info"])
            if not all(type(t) in (int, float) for t in times):
                raise ValueError(f"`times` must be numbers, got {str(times)[:80]}")
            return cls(tuple(times), facts["source"], facts["info"])


Schedule: TypeAlias = "SamplingSchedule | Float[Tensor, ' T'] | Sequence[float]"
"""What can be sampled along: a schedule, or its decreasing times."""
