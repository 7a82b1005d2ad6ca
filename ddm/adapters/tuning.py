"""Which weights of a network that somebody else trained are changed by further training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import nn

from ddm.functional import require_at_least


class Tuning(ABC):
    """Base class: prepares a network for training, in place."""

    @abstractmethod
    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the same network, of whose weights some are trained."""


@dataclass(frozen=True)
class Full(Tuning):
    """All weights are trained."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network."""
        return network.requires_grad_(True)


@dataclass(frozen=True)
class Frozen(Tuning):
    """No weight is trained: what is put around the network learns to use it."""

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network, without gradients."""
        return network.requires_grad_(False)


@dataclass(frozen=True)
class LoRA(Tuning):
    """Low-rank updates of all linear layers are trained, through the package peft.

    `W + alpha / rank B A`, with A of Gaussian numbers and B of zeros at first, so that training
    begins with the network as it is. The layer that writes the logits is left alone.

    References:
        LoRA: low-rank adaptation of large language models (Hu et al., 2021),
        https://arxiv.org/abs/2106.09685.

    Args:
        rank: Rank of the updates, at least 1.
        alpha: Their scale.

    Raises:
        ValueError: The rank is less than 1; or, when it is called, peft is missing.
    """

    rank: int = 16
    alpha: float = 32.0

    def __post_init__(self) -> None:
        """Check the rank."""
        require_at_least(1, rank=self.rank)

    def __call__(self, network: nn.Module) -> nn.Module:
        """Return the network, whose linear layers have updates that are trained."""
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ValueError(
                "`LoRA` needs the package peft, which is not installed; run `pip install "
                "'discrete-diffusion[lora]'` (`pip install -e '.[lora]'` in a checkout)."
            ) from error
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            target_modules="all-linear",
            init_lora_weights="gaussian",
        )
        inject_adapter_in_model(config, network)
        return network
