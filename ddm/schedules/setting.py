"""What a table, a schedule or a checkpoint was made for; it is of no use for anything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ddm.functional import describe
from ddm.process import ForwardProcess
from ddm.samplers import Sampler


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
