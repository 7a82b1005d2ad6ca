"""Networks of SEDD."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import Adapter, logits_of
from ddm.adapters.mdlm import num_logits
from ddm.denoisers import LogRatio, NoiseLevel, Prediction
from ddm.kernels import Absorbing, Kernel
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class SEDD(Adapter):
    """A network of SEDD: called with `(x_t, sigma)`, it returns finished log ratios.

    They are `log p_t(x_t with v) / p_t(x_t)`, with the size of the ratios, which
    `ddm.denoisers.ScoreDenoiser` would add, already in them, and one entry for every state.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834.

    Args:
        model: The network.
        kernel: Its kernel; by default `Absorbing`, the mask being the last of the states.
        noise: Noise schedule, by default `LogLinear()`.
        num_states: Number of outputs per position, by default `model.config.vocab_size`.
    """

    prediction = LogRatio

    def __init__(
        self,
        model: nn.Module,
        *,
        kernel: Kernel | None = None,
        noise: NoiseSchedule | None = None,
        num_states: int | None = None,
    ) -> None:
        if kernel is None:
            kernel = Absorbing(num_logits(model, num_states) - 1)
        super().__init__(model, ForwardProcess(kernel, noise or LogLinear()), time=NoiseLevel())

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network with the tokens and with sigma."""
        return logits_of(self.backbone(x_t, *self.time_input(t)))

    def predict(
        self,
        output: Float[Tensor, "B L K"],
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None,
    ) -> Prediction:
        """Return what an output says, of all states."""
        return LogRatio(self.process, output, x_t, t, free)

    @property
    def output_sizes(self) -> set[int]:
        """One log ratio for every state."""
        return {self.process.kernel.num_states}
