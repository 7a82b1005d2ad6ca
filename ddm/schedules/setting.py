"""What a table, a schedule or a checkpoint was made for; it is of no use for anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ddm.functional import describe
from ddm.orders import order_of
from ddm.process import ForwardProcess
from ddm.samplers import Reveal, Sampler
from ddm.schedule import SamplingSchedule, Schedule


@dataclass(frozen=True)
class Setting:
    """A process and a sampler, in words that can be kept in files.

    Attributes:
        kernel: Kernel with its parameters.
        noise: Noise schedule with its parameters.
        sampler: Sampler with its parameters.
    """

    kernel: str
    noise: str
    sampler: str

    @classmethod
    def of(cls, process: ForwardProcess, sampler: Sampler) -> Setting:
        """Describe a process and a sampler."""
        return cls(describe(process.kernel), describe(process.noise), describe(sampler))

    def check(self, found: Mapping[str, Any], purpose: str, remedy: str) -> None:
        """Refuse what was made for another setting.

        Args:
            found: What is known of that setting, by name; what is not known is not compared.
            purpose: What it was made for, in the words of the message.
            remedy: What to do, in the words of the message.

        Raises:
            ValueError: They differ.
        """
        for name, here in asdict(self).items():
            if found.get(name, here) != here:
                raise ValueError(
                    f"`{name}` must be the one that {purpose}, {found[name]}, got {here}; {remedy}."
                )


def check_made_for(schedule: SamplingSchedule, process: ForwardProcess, sampler: Sampler) -> None:
    """Refuse a schedule that was found for another kernel, noise or sampler; not all say for which.

    Raises:
        ValueError: They differ, or the order that it names cannot be made.
    """
    here = Setting.of(process, sampler_of(schedule, sampler))
    here.check(schedule.info, "the schedule was found for", "optimize it again")


def sampler_of(schedule: Schedule, sampler: Sampler) -> Sampler:
    """Return the sampler that a schedule is for: in the order that it names, if it names one.

    Args:
        schedule: A schedule, of `OptimalOrders` for instance, or times.
        sampler: The sampler of the model, which is returned for all other schedules; what it does
            beside ordering is kept, if it is a `Reveal`.

    Raises:
        ValueError: The order cannot be made.
    """
    named = schedule.info.get("order") if isinstance(schedule, SamplingSchedule) else None
    if named is None:
        return sampler
    return (sampler if isinstance(sampler, Reveal) else Reveal()).ordered(order_of(named))
