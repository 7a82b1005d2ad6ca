"""What can be wrong with a network that somebody else trained, found in a few calls."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ddm.adapters.adapter import Adapter
from ddm.denoisers import checked_call
from ddm.functional import require_instance

MARGIN = 0.1
"""Nats per token by which another reading of the logits must be better."""
SOME = 0.3
"""A time at which the network sees much of the text."""
UNCHANGED = 1e-3
"""Changes on the left that are smaller than this part of those on the right are rounding."""


@torch.no_grad()
def check_model(
    denoiser: Adapter, x_0: Int[Tensor, "B L"], free: Bool[Tensor, "B L"] | None = None
) -> None:
    """Refuse a network whose samples would be wrong without an error; costs at most five calls.

    Args:
        denoiser: The model, in evaluation mode.
        x_0: A few sequences of the kind that it was trained on; more find a wrong reading of the
            logits more surely, some hundred tokens are enough.
        free: Positions that would be generated. By default those that hold text.

    Raises:
        ValueError: The network is in training mode; a token to be generated can never be drawn; the
            logits do not fit the vocabulary, or are not finite; no position sees the ones to its
            right; or the logits fit the data better when moved by one.
    """
    require_instance(Adapter, denoiser=denoiser)
    free = denoiser.free_of(x_0) if free is None else free
    denoiser.check_data(x_0, free)
    if denoiser.backbone.training:
        raise ValueError(
            "`denoiser` must be in evaluation mode, got a network in training mode, whose dropout "
            "is noise; call `model.eval()` first."
        )
    generator = torch.Generator(x_0.device).manual_seed(0)
    for t in (1.0, SOME):
        x_t = denoiser.process.sample(x_0, t, generator, free=free)
        checked_call(denoiser, x_t, t, free)
    if denoiser.process.kernel.absorbing:
        _check_offset(denoiser, x_0, x_t, free)
    _check_sight(denoiser, x_0, free)


def _check_sight(denoiser: Adapter, x_0: Tensor, free: Tensor) -> None:
    """Refuse a network that sees only to the left.

    Exchanging a token in the middle changes logits to its right, and none to its left. A network
    that sees no other position at all passes: it is no causal one.
    """
    tokens, mask = x_0[:1], free[:1]
    where = mask[0].nonzero().squeeze(-1)
    if len(where) < 3:
        return
    middle = int(where[len(where) // 2])
    ids = tokens[mask].unique()
    others = ids[ids != tokens[0, middle]]
    if len(others) == 0:
        return
    changed = tokens.clone()
    changed[0, middle] = others[0]
    outputs = [checked_call(denoiser, x, 0.5, mask).leave_one_out() for x in (tokens, changed)]
    change = (outputs[0] - outputs[1]).abs().amax(-1)[0]
    left, right = float(change[:middle].max()), change[middle + 1 + denoiser.offset :]
    if len(right) and left < UNCHANGED * float(right.max()):
        raise ValueError(
            "`denoiser` must see the tokens on both sides, got logits of positions 0 to "
            f"{middle - 1} that do not change with the token at {middle}; the network is causal: "
            "patch its attention, or wrap it in `Bidirectional`."
        )


def _check_offset(denoiser: Adapter, x_0: Tensor, x_t: Tensor, free: Tensor) -> None:
    """Refuse logits that say more of the token beside them."""
    move = 2 * denoiser.offset - 1  # where the other reading finds the logits of a position
    masked = free & (x_t == denoiser.process.kernel.mask)
    masked[:, -1 if move > 0 else 0] = False
    output = checked_call(denoiser, x_t, SOME, free).log_leave_one_out()
    own, other = (
        -denoiser.process.kernel.log_prob(o, x_0)[masked].double()
        for o in (output, output.roll(-move, 1))
    )
    gain = own - other
    if len(gain) > 1 and gain.mean() > MARGIN + 4 * gain.std() / len(gain) ** 0.5:
        better, now = ("MaskedLM or LLaDA", "moved") if denoiser.offset else ("ShiftedLM", "as is")
        raise ValueError(
            f"`denoiser` must read each token's logits where the network writes them: {now}, they "
            f"cost {own.mean():.3g} nats per token, moved the other way {other.mean():.3g}; use "
            f"`{better}`."
        )
