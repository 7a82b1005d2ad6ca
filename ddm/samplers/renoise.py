"""The sampler that steps too far and noises back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_number
from ddm.samplers.analytic import Analytic
from ddm.samplers.sampler import Sampler


class Renoise(Sampler):
    r"""Step past s, then noise back to s: a corrector in the same network call.

    An analytic step to r < s with `sigma(r) = max(0, sigma(s) - strength (sigma(t) - sigma(s)))`,
    then the forward process from r to s. The law of x_s given x_0 stays right, and tokens that fit
    badly, because earlier calls drew them independently, are drawn anew more often. In the limit
    of short steps it is the reverse process plus `strength` times the corrector of
    `PredictorCorrector`, whose corrections cost a call each.

    It pays with kernels without a mask, from about 8 calls on. With masks it is remasking (ReMDM)
    with `sigma_t = 1 - alpha_s / alpha_r`, and `Reveal(Spaced())` makes far fewer errors. A very
    large strength draws all of x_0 and noises it: the Psi sampler with kappa = 0.

    References:
        Remasking discrete diffusion models with inference-time scaling (Wang et al., 2025),
        https://arxiv.org/abs/2503.00307, equation 5;
        The diffusion duality, chapter II: Psi-samplers and efficient curriculum (Deschenaux et al.,
        2026), https://arxiv.org/abs/2602.21185.

    Args:
        strength: How far to step past s, as a multiple of the step; > 0.

    Raises:
        TypeError: `strength` is no number.
        ValueError: It is out of range.

    Example:
        >>> from ddm import ForwardProcess, SamplingSchedule, Uniform
        >>> from ddm.datamodules import countdown_chain
        >>> from ddm.denoisers import MarkovChainDenoiser
        >>> from ddm.noise import LogLinear
        >>> from ddm.samplers import Renoise
        >>> process = ForwardProcess(Uniform(8), LogLinear())
        >>> denoiser = MarkovChainDenoiser(process, *countdown_chain(8, 0.01))
        >>> x_1 = process.kernel.sample_prior((2, 6))
        >>> samples = Renoise()(denoiser, x_1, SamplingSchedule.uniform(4))
        >>> samples.tokens.shape, samples.num_calls
        (torch.Size([2, 6]), 4)
    """

    def __init__(self, strength: float = 1.0) -> None:
        remedy = "1 goes as far past s as the step is long; use `Analytic` for 0"
        self.strength = require_number("strength", strength, 1e-6, 1e6, remedy)

    def law(
        self, predictions: Sequence[Prediction], s: Float[Tensor, " B"]
    ) -> Float[Tensor, "B L K"]:
        """Return the bridge law at r, noised to s."""
        p = predictions[-1]
        r = p.process.overshoot(p.t, s, self.strength)
        return p.process.carry(p.bridge(r), r, s)

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Float[Tensor, " B"],
        generator: torch.Generator | None = None,
    ) -> Int[Tensor, "B L"]:
        """Draw from the bridge at r as `Analytic` does, then the noise."""
        p = predictions[-1]
        r = p.process.overshoot(p.t, s, self.strength)
        return p.process.renoise(Analytic().draw(predictions, r, generator), r, s, generator)
