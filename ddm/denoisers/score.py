"""Predictions of ratios."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ddm.denoisers.network import NetworkDenoiser
from ddm.denoisers.prediction import LogRatio
from ddm.denoisers.time_input import Time, TimeInput
from ddm.functional import log1mexp
from ddm.process import ForwardProcess


class ScoreDenoiser(NetworkDenoiser):
    """Prediction of ratios (SEDD): the network's outputs are log p_t(x_t with v) / p_t(x_t).

    The outputs are shifted by `-log(exp(sigma) - 1)`, the size of the ratios of a masked token,
    where the kernel is absorbing, so that the network need not learn their scale. A posterior of
    x_0, of which the last step draws, is deconvolved from ratios (`Kernel.deconvolve`): with the
    Gaussian kernel and dozens of values they do not tell fine differences, and `MeanDenoiser` is
    the better choice.

    References:
        Discrete diffusion modeling by estimating the ratios of the data distribution (Lou et al.,
        2024), https://arxiv.org/abs/2310.16834, section 5.1 and appendix C.2.

    Args:
        backbone: Network (x_t (B, L), t (B,)) -> log ratios (B, L, K).
        process: The forward process that the denoiser undoes.
        time: What the network is told of the time, see `NetworkDenoiser`.
        pad: Token id of padding, see `NetworkDenoiser`.

    Example:
        >>> import torch
        >>> from ddm import Absorbing, ForwardProcess
        >>> from ddm.backbones import MLP
        >>> from ddm.denoisers import ScoreDenoiser
        >>> from ddm.noise import LogLinear
        >>> process = ForwardProcess(Absorbing(4), LogLinear())
        >>> denoiser = ScoreDenoiser(MLP(5, length=6), process)
        >>> denoiser(torch.full((2, 6), 4), torch.ones(2)).posterior().shape
        torch.Size([2, 6, 4])
    """

    def __init__(
        self,
        backbone: nn.Module,
        process: ForwardProcess,
        *,
        time: TimeInput = Time(),  # noqa: B008 (a value without state)
        pad: int | None = None,
    ) -> None:
        super().__init__(backbone, process, time=time, pad=pad)
        self.time_free = False  # the shift depends on t

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogRatio:
        """Make one network call."""
        output = self.output(x_t, t, free)
        if self.process.kernel.absorbing:
            sigma = self.process.noise.sigma(t)
            shift = sigma + log1mexp(sigma)  # log(exp(sigma) - 1)
            output = output - shift.to(output.dtype)[:, None, None]
        return LogRatio(self.process, output, x_t, t, free)

    @property
    def output_sizes(self) -> set[int]:
        """One log ratio for every state."""
        return {self.process.kernel.num_states}
