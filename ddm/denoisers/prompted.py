"""Conditional generation: the denoiser of the tokens that are not given."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers.denoiser import Denoiser
from ddm.denoisers.prediction import Prediction


class PromptedDenoiser(Denoiser):
    """The denoiser of the F free tokens of a sequence, given the others: the prompt.

    The network sees whole sequences in which the prompt is clean at every time, as it is when
    samples are drawn around a prompt; the prediction is that of the free positions. So whatever
    takes a denoiser and tokens (losses, step costs, KLUB) becomes conditional when it is handed
    this one and the free tokens, and counts nothing at the prompt.

    The network is not told which tokens are given. It knows from their position, since the same
    positions are given in all of training and generation, for instance the first 32.

    Args:
        denoiser: The denoiser of whole sequences.
        prompt: Whole sequences, read where `free` is not.
        free: The positions that are not given, (F,).
    """

    def __init__(
        self, denoiser: Denoiser, prompt: Int[Tensor, "B L"], free: Int[Tensor, " F"]
    ) -> None:
        super().__init__(denoiser.process)
        self.denoiser = denoiser
        self.time_free = denoiser.time_free
        self.prompt = prompt
        self.free = free

    def forward(self, x_t: Int[Tensor, "B F"], t: Float[Tensor, " B"]) -> Prediction:
        """Make one network call, for as many sequences as there are prompts."""
        prediction: Prediction = self.denoiser(self.prompt.index_copy(1, self.free, x_t), t)
        return replace(prediction, output=prediction.output[:, self.free], x_t=x_t)


def given_prompt(
    denoiser: Denoiser, x_0: Int[Tensor, "B L"], prompt_mask: Bool[Tensor, "..."] | None
) -> tuple[Denoiser, Int[Tensor, "B F"]]:
    """Return the denoiser of the free tokens given the prompt, and the free tokens.

    Args:
        denoiser: The denoiser of whole sequences.
        x_0: Data tokens, of which some are the prompt.
        prompt_mask: The positions of the prompt, (L,), or (B, L) with equal rows; None leaves
            denoiser and tokens as they are.

    Raises:
        ValueError: The mask has another length, its rows differ, or it leaves nothing free.
    """
    if prompt_mask is None:
        return denoiser, x_0
    free = (~common_mask(prompt_mask).to(x_0.device)).nonzero().squeeze(1)
    if prompt_mask.shape[-1] != x_0.shape[1] or len(free) == 0:
        raise ValueError(
            f"`prompt_mask` must have {x_0.shape[1]} positions and leave some of them free, got "
            f"{prompt_mask.shape[-1]} and {len(free)} free; mend its length, or give less."
        )
    return PromptedDenoiser(denoiser, x_0, free), x_0[:, free]


def common_mask(prompt_mask: Bool[Tensor, "... L"]) -> Bool[Tensor, " L"]:
    """Return the row, (L,), that all rows of a mask, (L,) or (B, L), are equal to.

    Raises:
        ValueError: The rows differ.
    """
    rows = torch.atleast_2d(prompt_mask.bool())
    if (rows != rows[:1]).any():
        raise ValueError(
            "`prompt_mask` must mark the same positions in all sequences of a batch, got rows that "
            "differ; the network is not told which tokens are given, it knows from their position."
        )
    return rows[0]
