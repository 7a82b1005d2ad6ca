"""Classifier-free guidance."""

from __future__ import annotations

from collections.abc import Collection
from numbers import Real

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.denoisers import Denoiser, LogLeaveOneOut
from ddm.functional import require_instance, seeded
from ddm.process import keep_given


class Guided(Denoiser):
    r"""Classifier-free guidance: a conditional denoiser against one that does not see the prompt.

    `log p = log p_un + (1 + w) (log p_c - log p_un)`, not normalized, of the leave-one-out
    posteriors. In the unconditional call the given tokens are noise: masks with the absorbing
    kernel, else the same random tokens in every call. A prediction costs the calls of both.

    References:
        Unlocking guidance for discrete state-space diffusion and flow models (Nisonoff et al.,
        2024), https://arxiv.org/abs/2406.01572;
        Large language diffusion models (Nie et al., 2025), https://arxiv.org/abs/2502.09992.

    Args:
        denoiser: The conditional denoiser.
        unconditional: The one whose prompt is hidden; the same one again, as a rule.
        scale: The weight w; 0 is the conditional denoiser alone.
        visible: Given ids that stay in the unconditional call; by default those of `denoiser` that
            are padding or never drawn, which are no part of a prompt.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        unconditional: Denoiser,
        scale: float,
        *,
        visible: Collection[int] | None = None,
    ) -> None:
        require_instance(Denoiser, denoiser=denoiser, unconditional=unconditional)
        require_instance(Real, remedy="0 leaves the second one out", scale=scale)
        super().__init__(denoiser.process)
        first, second = denoiser.process.kernel, unconditional.process.kernel
        if (first.vocab_size, first.mask) != (second.vocab_size, second.mask):
            raise ValueError(
                f"`unconditional` must have the vocabulary and the mask of `denoiser`, {first}, "
                f"got {second}; wrap networks of one tokenizer."
            )
        if visible is None:
            pad = getattr(denoiser, "pad", None)
            visible = {*getattr(denoiser, "banned", ()), *(() if pad is None else (pad,))}
        self.denoiser = denoiser
        self.unconditional = unconditional
        self.scale = scale
        self.visible = tuple(sorted(visible))
        self.time_free = denoiser.time_free and unconditional.time_free
        self.min_time = max(denoiser.min_time, unconditional.min_time)
        self.calls_per_prediction = (
            denoiser.calls_per_prediction + unconditional.calls_per_prediction
        )

    def forward(
        self,
        x_t: Int[Tensor, "B L"],
        t: Float[Tensor, " B"],
        free: Bool[Tensor, "B L"] | None = None,
    ) -> LogLeaveOneOut:
        """Call both denoisers."""
        known = self.denoiser(x_t, t, free).log_leave_one_out()
        blind = self.unconditional(self.hide(x_t, free), t, free).log_leave_one_out()
        impossible = torch.isneginf(known) | torch.isneginf(blind)  # -inf minus -inf is NaN
        log_p = torch.lerp(blind, known, 1.0 + self.scale).masked_fill_(impossible, -torch.inf)
        return LogLeaveOneOut(self.process, log_p, x_t, t, free)

    def hide(self, x_t: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None) -> Int[Tensor, "B L"]:
        """Return the tokens with noise in the place of the prompt."""
        if free is None:
            return x_t
        visible = torch.tensor(self.visible, dtype=x_t.dtype, device=x_t.device)
        shape, generator = (1, x_t.shape[1]), seeded(x_t.device, 0)
        noise = self.process.kernel.sample_prior(shape, generator, x_t.device).expand_as(x_t)
        return keep_given(x_t, noise, free | torch.isin(x_t, visible))

    def start(self) -> Denoiser:
        """Return the same of what both denoisers return for a run."""
        return self._of(self.denoiser.start(), self.unconditional.start())

    def rows(self, index: Int[Tensor, " n"]) -> Denoiser:
        """Return the same of the rows of both denoisers."""
        return self._of(self.denoiser.rows(index), self.unconditional.rows(index))

    def _of(self, denoiser: Denoiser, unconditional: Denoiser) -> Guided:
        return Guided(denoiser, unconditional, self.scale, visible=self.visible)
