"""The noun `Denoiser`: a network and the process it undoes."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ddm.denoisers.prediction import LogLeaveOneOut, LogPosterior, LogRatio, Prediction
from ddm.functional import log1mexp
from ddm.process import ForwardProcess


class Denoiser(nn.Module, ABC):
    """What samplers, losses and schedule optimisers call: `denoiser(x_t, t) -> Prediction`.

    Args:
        process: The forward process that the denoiser undoes.
    """

    time_free: bool = False
    """Whether the raw output does not depend on t, so that unchanged rows can be reused."""

    def __init__(self, process: ForwardProcess) -> None:
        super().__init__()
        self.process = process

    @abstractmethod
    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> Prediction:
        """Make one network call."""


class MeanDenoiser(Denoiser):
    """Prediction of x_0: the network's logits are leave-one-out posteriors, Bayes does the rest.

    `p(x_0^i | x_t) ~ softmax(logits)[x_0] A_t[x_0, x_t^i]`. The factor is known exactly, so the
    network need not learn how far to trust the token in front of it at every noise level. For the
    absorbing kernel it is constant at masked positions and copies revealed tokens.

    References:
        Simple and effective masked diffusion language models (Sahoo et al., 2024),
        https://arxiv.org/abs/2406.07524, section 3.2.3 (absorbing);
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, section 3.3.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> logits (B, L, V or more); logits past V are
            ignored.
        process: The forward process that the denoiser undoes.
    """

    def __init__(self, backbone: nn.Module, process: ForwardProcess) -> None:
        super().__init__(process)
        self.backbone = backbone
        self.time_free = bool(getattr(backbone, "time_free", False))

    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> LogLeaveOneOut:
        """Make one network call."""
        logits = self.backbone(x_t, t)[..., : self.process.kernel.vocab_size]
        return LogLeaveOneOut(self.process, logits, x_t, t)


class PosteriorDenoiser(Denoiser):
    """Prediction of x_0 whose logits are full posteriors, the token itself taken into account.

    What a network learns from plain cross-entropy with a kernel that shows noisy tokens (D3PM).
    With the absorbing kernel `MeanDenoiser` serves as well, and copies revealed tokens.

    References:
        Structured denoising diffusion models in discrete state-spaces (Austin et al., 2021),
        https://arxiv.org/abs/2107.03006, section 3.3.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> logits (B, L, V or more); logits past V are
            ignored.
        process: The forward process that the denoiser undoes.
    """

    def __init__(self, backbone: nn.Module, process: ForwardProcess) -> None:
        super().__init__(process)
        self.backbone = backbone

    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> LogPosterior:
        """Make one network call."""
        logits = self.backbone(x_t, t)[..., : self.process.kernel.vocab_size]
        return LogPosterior(self.process, torch.log_softmax(logits, -1), x_t, t)


class ScoreDenoiser(Denoiser):
    """Prediction of ratios (SEDD): the network's outputs are log p_t(x_t with v) / p_t(x_t).

    The outputs are shifted by `-log(exp(sigma) - 1)`, the size of the ratios of a masked token,
    where the kernel is absorbing, so that the network need not learn their scale.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, section 5.1 and appendix C.2.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> log ratios (B, L, K).
        process: The forward process that the denoiser undoes.
    """

    def __init__(self, backbone: nn.Module, process: ForwardProcess) -> None:
        super().__init__(process)
        self.backbone = backbone

    def forward(self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> LogRatio:
        """Make one network call."""
        output = self.backbone(x_t, t)[..., : self.process.kernel.num_states]
        if self.process.kernel.num_states > self.process.kernel.vocab_size:
            sigma = self.process.noise.sigma(t)
            shift = sigma + log1mexp(sigma)  # log(exp(sigma) - 1)
            output = output - shift.to(output.dtype)[:, None, None]
        return LogRatio(self.process, output, x_t, t)


def checked_call(denoiser: Denoiser, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"]) -> Prediction:
    """Make one network call and refuse NaN and infinite outputs.

    Raises:
        ValueError: There are such outputs.
    """
    prediction: Prediction = denoiser(x_t, t)
    wrong = prediction.num_invalid()
    if wrong:
        raise ValueError(
            f"the network must return finite outputs, got {wrong} NaN or infinite values of "
            f"{prediction.output.numel()} at t = {float(t.mean()):.4g}; lower the learning rate or "
            "check the weights."
        )
    return prediction


def times_like(t: float | Tensor, x: Int[Tensor, "B L"]) -> Float[Tensor, " B"]:
    """Return a time, or one per sequence, as float64 (B,) on the device of x."""
    return torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(x.shape[0])
