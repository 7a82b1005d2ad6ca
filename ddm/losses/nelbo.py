"""The continuous-time negative evidence lower bound and its relatives."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_number
from ddm.losses.loss import Loss


class CrossEntropy(Loss):
    r"""Cross-entropy of x_0 under the full posterior, every noise level weighted equally.

    `- sum_i log p(x_0^i | x_t)`; tokens that the kernel shows to be clean contribute zero.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import MeanDenoiser
        >>> from ddm.losses import CrossEntropy
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = MeanDenoiser(MLP(5, length=6), process)
        >>> CrossEntropy()(denoiser, torch.zeros(2, 6).long(), torch.rand(2)).shape
        torch.Size([2])
    """

    def per_token(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the cross-entropy, nats per position."""
        return -prediction.log_prob(x_0)


class NELBO(Loss):
    r"""Continuous-time negative evidence lower bound, for any kernel.

    `sum_i sum_{v != x_t} R1 log(R1 / R2) - R1 + R2 + KL(q(x_1 | x_0) || prior)`, where R1 is the
    reverse rate given x_0 and R2 that of the model's posterior. For the absorbing kernel it is
    the weighted cross-entropy of MDLM, `beta alpha / (1 - alpha)` times that of the masked tokens.

    References:
        A continuous time framework for discrete denoising models (Campbell et al., 2022),
        https://arxiv.org/abs/2205.14987, proposition 2;
        Simple and effective masked diffusion language models (Sahoo et al., 2024),
        https://arxiv.org/abs/2406.07524, equation 10.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import MeanDenoiser
        >>> from ddm.losses import NELBO
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = MeanDenoiser(MLP(5, length=6), process)
        >>> NELBO()(denoiser, torch.zeros(2, 6).long(), torch.rand(2)).shape
        torch.Size([2])
    """

    def per_token(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the integrand of the bound at the prediction's times, nats per position."""
        process = prediction.process
        if process.kernel.absorbing:
            # Both total rates are equal, so only the logarithm of the posterior at x_0 is left.
            sigma = process.noise.sigma(prediction.t)
            weight = process.noise.beta(prediction.t) / torch.expm1(sigma)
            nats = -prediction.log_prob(x_0)
            return weight.to(nats.dtype)[:, None] * nats
        return _score_entropy(prediction, x_0)


class ScoreEntropy(Loss):
    r"""Denoising score entropy (SEDD): the NELBO in terms of the ratios that the network gives.

    `sum_i sum_{v != x_t} beta Q[v, x_t] (s_v - r_v + r_v log(r_v / s_v))` with the true ratio
    `r_v = A_t[x_0, v] / A_t[x_0, x_t]`. Equal to `NELBO` where the ratios s belong to a posterior;
    it also trains networks whose ratios do not.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, theorem 3.6.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import MeanDenoiser
        >>> from ddm.losses import ScoreEntropy
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = MeanDenoiser(MLP(5, length=6), process)
        >>> ScoreEntropy()(denoiser, torch.zeros(2, 6).long(), torch.rand(2)).shape
        torch.Size([2])
    """

    def per_token(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the score entropy at the prediction's times, nats per position."""
        return _score_entropy(prediction, x_0)


class Hybrid(Loss):
    r"""NELBO plus a small multiple of the cross-entropy, from one network call.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, section 3.4, equation 5.

    Args:
        weight: Factor of the cross-entropy.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import MeanDenoiser
        >>> from ddm.losses import Hybrid
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = MeanDenoiser(MLP(5, length=6), process)
        >>> Hybrid()(denoiser, torch.zeros(2, 6).long(), torch.rand(2)).shape
        torch.Size([2])
    """

    def __init__(self, weight: float = 0.01) -> None:
        if weight < 0:
            raise ValueError(f"`weight` must be >= 0, got {weight}; it multiplies a penalty.")
        self.weight = require_number("weight", weight, 0.0, 1e6, "0.01 is usual")

    def per_token(self, prediction: Prediction, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return the weighted sum, nats per position."""
        nelbo = NELBO().per_token(prediction, x_0)
        return nelbo + self.weight * CrossEntropy().per_token(prediction, x_0)


def _score_entropy(prediction: Prediction, x_0: Tensor) -> Float[Tensor, "B L"]:
    """Return the path divergence per unit of time between true and modeled ratios."""
    process, x_t, t = prediction.process, prediction.x_t, prediction.t
    log_ratio = prediction.log_ratio()
    true = process.ratio_of_tokens(x_0, x_t, t).to(log_ratio.dtype)
    rate = process.jump_rate_to(x_t, t).to(log_ratio.dtype)
    # Rates of 0 times -inf, or in the gradient times an exponential that overflows, would be NaN.
    log_ratio = log_ratio.masked_fill(rate == 0, 0.0).clamp(min=torch.finfo(log_ratio.dtype).min)
    divergence = log_ratio.exp() - true + torch.xlogy(true, true) - true * log_ratio
    # rate is 0 where the chain cannot jump; the divergence there may be infinite.
    nats = torch.where(rate > 0, rate * divergence, 0.0).sum(-1)
    return nats + process.prior_divergence(x_0).to(nats.dtype)
