"""The noun `Loss`: what training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, Prediction


class Loss(ABC):
    """A loss in nats per sequence; with t uniform on (0, 1], its mean over t is the objective."""

    @abstractmethod
    def value(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Return the loss of one prediction, nats per sequence; costs no network call."""

    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, " B"]:
        """Noise x_0 to the times t and return the loss; costs one network call.

        Args:
            denoiser: The model.
            x_0: Data tokens in 0..V-1.
            t: Times on (0, 1], float64, for instance from `stratified_times`.
            generator: Source of the noise.
        """
        x_t = denoiser.process.sample(x_0, t, generator)
        return self.value(denoiser(x_t, t), x_0)
