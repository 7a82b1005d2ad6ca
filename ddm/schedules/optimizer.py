"""The noun `ScheduleOptimizer`: an objective times a search."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.denoisers import Denoiser
from ddm.files import read_json, reading, write_json
from ddm.functional import describe, require_at_least, require_instance
from ddm.samplers import Sampler
from ddm.samplers.sampler import check_some_free
from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.cost_table import CostTable
from ddm.schedules.optimal.evidence import Evidence


@dataclass(frozen=True)
class Optimized:
    """What an optimizer found, or what is left of it in a file.

    Attributes:
        schedules: One schedule for every number of steps asked for.
        num_calls: Network calls spent, on batches of at most the optimizer's batch size.
        table: The cost table, from optimizers that measure one: schedules for every other N.
        evidence: What samples say of the exponent of the table, where they were asked.

    Example:
        >>> from ddm import SamplingSchedule
        >>> from ddm.schedules import Optimized
        >>> Optimized({2: SamplingSchedule((1.0, 0.7, 0.0))}).schedule(2).times
        (1.0, 0.7, 0.0)
    """

    schedules: dict[int, SamplingSchedule]
    num_calls: int = 0
    table: CostTable | None = None
    evidence: Evidence | None = None

    def schedule(self, num_steps: int) -> SamplingSchedule | None:
        """Return the schedule for `num_steps`, None if neither kept nor in the table."""
        if num_steps in self.schedules:
            return self.schedules[num_steps]
        return None if self.table is None else self.table.schedule(num_steps)

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers and strings, for JSON files and checkpoints."""
        return {
            "schedules": {str(n): asdict(s) for n, s in self.schedules.items()},
            "num_calls": self.num_calls,
            "table": None if self.table is None else self.table.to_dict(),
            "evidence": None if self.evidence is None else asdict(self.evidence),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], path: str = "content") -> Optimized:
        """Rebuild what `to_dict` returned.

        Args:
            content: What `to_dict` returned.
            path: What the message of an error calls it.

        Raises:
            ValueError: Entries are missing or damaged.
        """
        schedules = {}
        with reading(path, "optimized schedules", "Optimized.save"):
            named, table, num_calls = (content[x] for x in ("schedules", "table", "num_calls"))
            require_at_least(0, num_calls=num_calls)
            require_instance(dict, remedy="name each by its number of steps", schedules=named)
            said = content.get("evidence")  # older files have none
        for name, one in named.items():
            schedule = SamplingSchedule.from_dict(one, f"{path}: schedules.{name}")
            if str(name) != str(schedule.num_steps):
                raise ValueError(
                    f"`{path}` must name schedules by numbers of steps, got '{name!s:.20}' for "
                    f"one of {schedule.num_steps}; write it with `Optimized.save`."
                )
            schedules[schedule.num_steps] = schedule
        table = None if table is None else CostTable.from_dict(table, f"{path}: table")
        evidence = None if said is None else Evidence.from_dict(said, f"{path}: evidence")
        return cls(schedules, num_calls, table, evidence)

    def save(self, path: str | Path) -> None:
        """Write a JSON file, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Optimized:
        """Read a file written by `save`.

        Raises:
            ValueError: The file is damaged or holds something else.
        """
        return cls.from_dict(read_json(path), str(path))


class ScheduleOptimizer(ABC):
    """Finds schedules for a denoiser, the sampler that will be run, and data like x_0."""

    judged: bool = False
    """Whether schedules come back that have won on held-out sequences already."""

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        num_steps: int | Sequence[int],
        *,
        free: Bool[Tensor, "B L"] | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
    ) -> Optimized:
        """Find a schedule for every number of steps.

        Args:
            denoiser: The model.
            sampler: The sampler that will be run.
            x_0: Data tokens; more sequences give better schedules.
            num_steps: The numbers of steps to find schedules for, or one.
            free: Positions that are generated, (B, L); the others are given. None if all are free.
            generator: Source of the noise, on the device of x_0.
            progress: Show a bar.

        Raises:
            TypeError: An argument has another class.
            ValueError: Data, mask or numbers do not fit, before any network call.
        """

    def check(
        self,
        denoiser: Denoiser,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None,
        numbers: Sequence[int] = (),
    ) -> None:
        """Refuse what no schedule can be found for, before any network call.

        Raises:
            TypeError: An argument has another class.
            ValueError: There is no sequence, data or mask do not fit, or the sampler cannot make as
                many steps.
        """
        require_instance(Denoiser, remedy="wrap the network: `MeanDenoiser`", denoiser=denoiser)
        require_instance(Sampler, sampler=sampler)
        require_instance(Tensor, remedy="give tokens (B, L)", x_0=x_0)
        if len(x_0) == 0:
            raise ValueError("`x_0` must hold at least one sequence, got none.")
        denoiser.check_data(x_0, free)
        check_some_free(free, x_0, denoiser.process)
        length = x_0.shape[1] if free is None else int(free.sum(-1).max())
        if max(numbers, default=0) > sampler.most_steps(length):
            raise ValueError(
                f"`num_steps` must be at most {length}, the free tokens of a sequence, for a "
                f"sampler that reveals at least one per step, got {max(numbers)}; use fewer steps."
            )

    def shaped(self, shape: Sequence[int]) -> ScheduleOptimizer:
        """Return the optimizer for data whose axes have these sizes; most need no geometry."""
        return self

    def __repr__(self) -> str:
        """Show the class and its arguments."""
        return describe(self)


def schedules_beside(checkpoint: str | Path) -> Path:
    """Return the path of the JSON file with the schedules of a checkpoint."""
    return Path(checkpoint).with_suffix(".schedules.json")
