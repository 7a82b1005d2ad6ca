"""The base class of losses: what training minimizes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ddm.denoisers import Denoiser, Prediction, chunks
from ddm.functional import describe, times_like
from ddm.kernels.sparse import at_once


class Loss(ABC):
    """A loss in nats per sequence; with t uniform on (0, 1], its mean over t is the objective."""

    @abstractmethod
    def per_token(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the loss of one prediction, nats per position; costs no network call."""

    def value(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
        """Return the loss of one prediction, nats per sequence: the sum over free positions.

        Where the network has left the head to the prediction, logits exist piece by piece only:
        the backward pass computes them anew.
        """
        if prediction.head is None:
            return prediction.sum_free(self.per_token(prediction, x_0))
        nats = [
            piece.sum_free(checkpoint(self._anew, piece, x_0[:, part], use_reentrant=False))
            for part, (piece,) in chunks([prediction], at_once(x_0.device))
        ]
        return torch.stack(nats).sum(0)

    def _anew(self, prediction: Prediction, x_0: Tensor) -> Tensor:
        """Return the loss of one prediction, whose output is not kept."""
        return self.per_token(replace(prediction), x_0)

    def __call__(
        self,
        denoiser: Denoiser,
        x_0: Int[Tensor, "B L"],
        t: Float[Tensor, " B"] | float,
        generator: torch.Generator | None = None,
        *,
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Float[Tensor, " B"]:
        """Noise x_0 to the times t and return the loss; costs one network call.

        Args:
            denoiser: The model.
            x_0: Data tokens in 0..V-1.
            t: Times in (0, 1], float64, for instance from `stratified_times`, or one for all.
            generator: Source of the noise.
            free: Positions that are noised and count, (B, L); the others are given. None for all.

        Raises:
            ValueError: A time is not in (0, 1].
        """
        t = times_like(t, x_0)
        # On accelerators a look costs a wait in every step of training.
        if t.device.type == "cpu" and not bool(((t > 0) & (t <= 1)).all()):
            raise ValueError(
                f"`t` must lie in (0, 1], got values from {float(t.min()):.4g} to "
                f"{float(t.max()):.4g}; at t = 0 there is nothing to predict."
            )
        x_t = denoiser.process.sample(x_0, t, generator, free=free)
        return self.value(denoiser(x_t, t, free), x_0)

    def __repr__(self) -> str:
        """Show the class and its arguments."""
        return describe(self)
