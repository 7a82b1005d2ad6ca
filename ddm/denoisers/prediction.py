"""What one network call says about x_0, in whichever form the caller needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.functional import positive_log
from ddm.process import ForwardProcess

P = TypeVar("P", bound="Prediction")


@dataclass(frozen=True)
class Prediction(ABC):
    """The result of one denoiser call; its methods are algebra and cost no network call.

    Samplers and losses ask for the form they need and never for the parametrisation of the
    network. Everything is computed when asked for, so a caller can cut a large prediction into
    pieces with `chunks` and never hold a second tensor of the size of the logits.

    Attributes:
        process: The forward process of the denoiser.
        output: Raw output of the network, (B, L, V) or (B, L, K).
        x_t: The tokens it was called with, (B, L).
        t: Their times, (B,), float64.
    """

    process: ForwardProcess
    output: Float[Tensor, "B L D"]
    x_t: Int[Tensor, "B L"]
    t: Float[Tensor, " B"]

    @abstractmethod
    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return log p(x_0^i | x_t), normalised."""

    def posterior(self) -> Float[Tensor, "B L V"]:
        """Return p(x_0^i | x_t)."""
        return self.log_posterior().exp()

    def log_ratio(self) -> Float[Tensor, "B L K"]:
        """Return log of the ratios p_t(x_t with v at i) / p_t(x_t) (the log concrete score).

        A ratio of 0, to a state without probability, counts as the smallest positive number.
        """
        return positive_log(self.process.ratio(self.posterior(), self.x_t, self.t))

    def reverse_rate(self) -> Float[Tensor, "B L K"]:
        """Return the rates of the reverse jumps x_t -> v, zero at v = x_t."""
        return self.process.reverse_rate(self.posterior(), self.x_t, self.t)

    def bridge(self, s: Float[Tensor, " B"]) -> Float[Tensor, "B L K"]:
        """Return the analytic law of x_s given x_t, s < t."""
        return self.process.bridge(self.posterior(), self.x_t, self.t, s)

    def num_invalid(self) -> int:
        """Count the outputs that no computation should go on with: NaN and infinite ones."""
        return int((~torch.isfinite(self.output)).sum())

    def double(self: P) -> P:
        """Return the same prediction in float64, for drawing from it."""
        return replace(self, output=self.output.to(torch.float64))

    def positions(self: P, first: int, last: int) -> P:
        """Return the prediction for the positions first..last-1 alone."""
        return replace(self, output=self.output[:, first:last], x_t=self.x_t[:, first:last])


def chunks(predictions: Sequence[P], max_elements: int) -> Iterator[list[P]]:
    """Cut predictions of the same positions into pieces of at most `max_elements` outputs each."""
    batch, length, size = predictions[0].output.shape
    width = max(1, max_elements // max(1, batch * size))
    for first in range(0, length, width):
        yield [p.positions(first, first + width) for p in predictions]


class LogPosterior(Prediction):
    """A prediction whose output is the log full posterior itself."""

    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return the output."""
        return self.output

    def num_invalid(self) -> int:
        """Count NaN and +inf; -inf is the log probability of an impossible token."""
        return int((torch.isnan(self.output) | torch.isposinf(self.output)).sum())


class LogLeaveOneOut(Prediction):
    """A prediction whose output is the unnormalised log leave-one-out posterior."""

    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return the output multiplied by the likelihood of the token itself (Bayes)."""
        return self.process.full_posterior(self.output, self.x_t, self.t)


class LogRatio(Prediction):
    """A prediction whose output is the log ratio (concrete score), (B, L, K)."""

    def log_ratio(self) -> Float[Tensor, "B L K"]:
        """Return the output, with 0 at x_t, where the ratio is 1 by definition."""
        return self.output.scatter(-1, self.x_t[..., None], 0.0)

    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return the log posterior; a probability of 0 counts as the smallest positive number."""
        return positive_log(self.posterior())

    def posterior(self) -> Float[Tensor, "B L V"]:
        """Return the posterior by inverting the ratio."""
        return self.process.posterior_of_ratio(self.log_ratio().exp(), self.x_t, self.t)

    def reverse_rate(self) -> Float[Tensor, "B L K"]:
        """Return forward rate times ratio, without a detour through the posterior."""
        return self.process.rate_of_ratio(self.log_ratio().exp(), self.x_t, self.t)
