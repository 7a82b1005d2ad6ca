"""Networks of uniform diffusion: DUO and UDLM."""

from __future__ import annotations

from torch import nn

from ddm.adapters.mdlm import num_logits
from ddm.adapters.told_sigma import ToldSigma
from ddm.denoisers import NoiseLevel
from ddm.kernels import Uniform
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class DUO(ToldSigma):
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
