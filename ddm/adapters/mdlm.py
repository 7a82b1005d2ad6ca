"""MDLM's own networks."""

from __future__ import annotations

from torch import nn

from ddm.adapters.told_sigma import ToldSigma
from ddm.denoisers import NoiseLevel, TimeInput
from ddm.kernels import Absorbing
from ddm.noise import LogLinear, NoiseSchedule
from ddm.process import ForwardProcess


class MDLM(ToldSigma):
    """A network of MDLM: called with `(input_ids, sigma)`, raw logits, the mask last.

    The mask is never drawn and known tokens are copied, whatever the logits say. Where
    `model.config.time_conditioning` is false, the network does not read sigma.

    References:
        Simple and effective masked diffusion language models (Sahoo et al., 2024),
        https://arxiv.org/abs/2406.07524.

    Args:
        model: The network.
        mask: Id of the mask; by default the last one.
        noise: Noise schedule, by default `LogLinear()`.
        time: What the network is told; `NoTime()` for a network without sigma.
        vocab_size: Number of logits, by default that of `model.config`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        mask: int | None = None,
        noise: NoiseSchedule | None = None,
        time: TimeInput = NoiseLevel(),  # noqa: B008 (a value without state)
        vocab_size: int | None = None,
    ) -> None:
        size = num_logits(model, vocab_size)
        kernel = Absorbing(size, mask=size - 1 if mask is None else mask)
        super().__init__(model, ForwardProcess(kernel, noise or LogLinear()), time=time)
        self.time_free |= not getattr(getattr(model, "config", None), "time_conditioning", True)


def num_logits(model: nn.Module, vocab_size: int | None = None) -> int:
    """Return the number of logits of a network.

    Raises:
        ValueError: Its configuration does not say, nor does the user.
    """
    size = vocab_size or getattr(getattr(model, "config", None), "vocab_size", None)
    if size is None:
        raise ValueError("`vocab_size` must be given where `model.config` does not have it.")
    return int(size)
