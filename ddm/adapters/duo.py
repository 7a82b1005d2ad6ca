"""Networks of uniform diffusion: DUO and UDLM."""

from __future__ import annotations

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.adapters.adapter import Adapter, logits_of
from ddm.adapters.mdlm import num_logits
from ddm.denoisers import NoiseLevel
from ddm.kernels import Uniform
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class DUO(Adapter):
    """A network of DUO or UDLM: the uniform kernel, called with `(input_ids, sigma)`.

    It is told the noise level, `sigma = -log alpha`, and its logits are leave-one-out posteriors:
    Bayes adds what the token itself says.

    References:
        The diffusion duality (Sahoo et al., 2025), https://arxiv.org/abs/2506.10892;
        Simple guidance mechanisms for discrete diffusion models (Schiff et al., 2024),
        https://arxiv.org/abs/2412.10193.

    Args:
        model: The network.
        noise: Noise schedule, by default `LogLinear()`.
        vocab_size: Number of logits, by default that of `model.config`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        noise: NoiseSchedule | None = None,
        vocab_size: int | None = None,
    ) -> None:
        process = ForwardProcess(Uniform(num_logits(model, vocab_size)), noise or LogLinear())
        super().__init__(model, process, time=NoiseLevel())

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network with the tokens and with sigma."""
        return logits_of(self.backbone(x_t, *self.time_input(t)))
