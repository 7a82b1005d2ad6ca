"""Networks of SEDD."""

from __future__ import annotations

from torch import nn

from ddm.adapters.mdlm import num_logits
from ddm.adapters.told_sigma import ToldSigma
from ddm.denoisers import LogRatio, NoiseLevel
from ddm.kernels import Absorbing, Kernel
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class SEDD(ToldSigma):
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

    @property
    def num_predicted(self) -> int:
        """One log ratio for every state."""
        return self.process.kernel.num_states

    @property
    def output_sizes(self) -> set[int]:
        """One log ratio for every state."""
        return {self.process.kernel.num_states}
