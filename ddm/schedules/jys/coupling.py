"""How the state at a split point is drawn along with the state at the left end of the step."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import categorical, one_hot
from ddm.kernels.sparse import CHUNK
from ddm.samplers import Sampler


class Coupling(ABC):
    """The law of x_m given x_t, for a time m < t; costs no network call."""

    def __repr__(self) -> str:
        """Show the class."""
        return f"{type(self).__name__}()"

    @abstractmethod
    def draw(
        self,
        prediction: Prediction,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        m: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_m.

        Args:
            prediction: The network's answer at (x_t, t).
            sampler: The sampler that will be run.
            x_0: The data tokens that x_t was noised from.
            m: The time to land at, or one per sequence (B,).
            generator: Source of the draws.
        """


class DataCoupling(Coupling):
    r"""Draw x_m on the forward path x_0 -> x_m -> x_t that ended in x_t.

    `q(x_m | x_0, x_t) = A_m[x_0, x_m] B[x_m, x_t] / A_t[x_0, x_t]`: together with x_t this has
    the joint law of a path drawn by `ForwardProcess.sample_path`, but x_t can stay the same while
    m moves, and with it the network's answer there.
    """

    def draw(
        self,
        prediction: Prediction,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        m: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_m from the bridge between x_0 and x_t."""
        process, t = prediction.process, one_time(prediction.t)
        v = process.kernel.vocab_size
        width = max(1, CHUNK // (v * len(x_0)))
        pieces = []
        for x, target in zip(prediction.x_t.split(width, 1), x_0.split(width, 1), strict=True):
            law = process.bridge(one_hot(target, v, torch.float64).log(), x, t, m)
            pieces.append(categorical(law, generator))
        return torch.cat(pieces, 1)


class PathCoupling(Coupling):
    """Draw x_m as the sampler will: by the first stage of a step from x_t to m."""

    def draw(
        self,
        prediction: Prediction,
        sampler: Sampler,
        x_0: Int[Tensor, "B L"],
        m: Float[Tensor, "..."],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw x_m from the sampler's law."""
        return sampler.draw([prediction], m.expand(len(x_0)), generator)


def one_time(t: Float[Tensor, " B"]) -> Float[Tensor, "..."]:
    """Return the times as a scalar if all are the same: one transition matrix instead of B."""
    return t[0] if bool((t == t[0]).all()) else t
