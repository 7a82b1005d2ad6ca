"""Denoisers whose network predicts x_0 from all tokens, the token itself taken into account."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers.network import NetworkDenoiser
from ddm.denoisers.prediction import LogPosterior


class PosteriorDenoiser(NetworkDenoiser):
    """Prediction of x_0 whose logits are full posteriors, the token itself taken into account.

    What a network learns from plain cross-entropy with a kernel that shows noisy tokens (D3PM).
    With the absorbing kernel `MeanDenoiser` serves as well, and copies revealed tokens.

    References:
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
        >>> from ddm.denoisers import PosteriorDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = PosteriorDenoiser(MLP(5, length=6), process)
        >>> denoiser(torch.full((2, 6), 4), torch.ones(2)).posterior().shape
        torch.Size([2, 6, 4])
    """

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogPosterior:
        """Make one network call."""
        features, head = self.features(x_t, t, free)
        return LogPosterior(self.process, features, x_t, t, free, head)
