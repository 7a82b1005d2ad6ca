"""What samplers, losses and schedule optimizers call."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.denoisers.prediction import Prediction
from ddm.functional import require_instance, times_like
from ddm.process import ForwardProcess


class Denoiser(nn.Module, ABC):
    """What samplers, losses and schedule optimizers call: `denoiser(x_t, t) -> Prediction`.

    Args:
        process: The forward process that the denoiser undoes.
    """

    time_free: bool = False
    """Whether the raw output does not depend on t, so that unchanged rows can be reused."""
    min_time: float = 0.0
    """The smallest time above 0 that the model knows; sampling schedules have none below it."""
    calls_per_prediction: int = 1
    """Network calls that a prediction costs."""

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        require_instance(ForwardProcess, process=process)
        self.process = process

    def __call__(self, x_t: Tensor, t: float | Tensor, free: Tensor | None = None) -> Any:  # noqa: ANN401
        """Predict x_0; t is one time, or one for each sequence."""
        return super().__call__(x_t, times_like(t, x_t), free)

    @abstractmethod
    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> Prediction:
        """Predict x_0.

        Args:
            x_t: Noised tokens where it is free, given ones (clean) elsewhere.
            t: Times, float64.
            free: Positions that are generated; the others are given: a prompt at any place, or
                padding. None if all are free.
        """

    def fits(
        self, x_0: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None = None
    ) -> Bool[Tensor, "B L"]:
        """Return where data tokens stand that the model may draw, or that may be given."""
        return self.process.kernel.is_data(x_0)

    def check_data(
        self,
        x_0: Int[Tensor, "B L"],
        free: Bool[Tensor, "B L"] | None = None,
        name: str = "x_0",
    ) -> None:
        """Refuse data that are not those of the model.

        Raises:
            TypeError: They are no integers.
            ValueError: They do not have the shape (B, L), or there are others than the tokens of
                the data.
        """
        self.process.kernel.check_tokens(x_0, name)

    def start(self) -> Denoiser:
        """Return the denoiser of one run of a sampler: itself, unless calls of a run share state.

        A network that reads its own last answer, or encodes a prompt once, keeps them there.
        """
        return self

    def rows(self, index: Int[Tensor, " n"]) -> Denoiser:
        """Return the denoiser of some rows of a batch: itself, unless it keeps something a row."""
        return self


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Keep a module in evaluation mode, without dropout; then all its parts are as they were."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def checked_call(
    denoiser: Denoiser,
    x_t: Int[Tensor, "B L"],
    t: float | Tensor,
    free: Bool[Tensor, "B L"] | None = None,
) -> Prediction:
    """Make one network call and refuse NaN and +inf.

    Raises:
        ValueError: There are such outputs.
    """
    prediction: Prediction = denoiser(x_t, times_like(t, x_t), free)
    check_output(prediction)
    return prediction


def check_output(prediction: Prediction) -> None:
    """Refuse NaN and +inf.

    Raises:
        ValueError: There are such outputs.
    """
    wrong = prediction.num_invalid()
    if wrong:
        raise ValueError(
            f"the network must return finite outputs, got {wrong} NaN or infinite values of "
            f"{prediction.output.numel()} at t = {float(prediction.t.mean()):.4g}; lower the "
            "learning rate or check the weights."
        )
