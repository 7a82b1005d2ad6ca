"""Denoisers whose network predicts x_0 from the other tokens: Bayes adds the token itself."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers.network import NetworkDenoiser
from ddm.denoisers.prediction import LogLeaveOneOut


class MeanDenoiser(NetworkDenoiser):
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
        backbone: Network (x_t (B, L), t (B,)) -> logits (B, L, V); those of further states, as our
            networks return them, are not read.
        process: The forward process that the denoiser undoes.
        time: What the network is told of the time, see `NetworkDenoiser`.
        pad: Token id of padding, see `NetworkDenoiser`.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import MeanDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = MeanDenoiser(MLP(5, length=6), process)
        >>> denoiser(torch.full((2, 6), 4), torch.ones(2)).posterior().shape
        torch.Size([2, 6, 4])
    """

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogLeaveOneOut:
        """Make one network call."""
        features, head = self.features(x_t, t, free)
        return LogLeaveOneOut(self.process, features, x_t, t, free, head)
