"""Muon and AdamW side by side, behind the interface of one optimizer."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Muon, Optimizer


class MuonAdamW(Optimizer):
    """Muon for the matrices of a network, AdamW for all its other parameters.

    Muon makes the update of a matrix orthogonal, so that rare directions learn as fast as common
    ones. The character model of `configs/pydoc.yaml` needs about half the steps that AdamW needs.
    Both parts share the learning rate: Muon's updates are scaled to the size of AdamW's.

    References:
        | Muon is scalable for LLM training (Liu et al., 2025)
        | https://arxiv.org/abs/2502.16982

    Args:
        params: Parameters; those with two axes count as matrices.
        lr: Learning rate.
        weight_decay: Decoupled weight decay.
        betas: Decay rates of AdamW's moments.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.95),
    ) -> None:
        params = list(params)
        matrices = [p for p in params if p.ndim == 2]
        others = [p for p in params if p.ndim != 2]
        self.parts: list[Optimizer] = []
        if matrices:
            scaled = "match_rms_adamw"
            self.parts += [Muon(matrices, lr, weight_decay, adjust_lr_fn=scaled)]
        if others:
            self.parts += [AdamW(others, lr, betas, weight_decay=weight_decay)]
        # The very groups of the parts: a schedule of the learning rate changes them there.
        super().__init__(self._groups(), {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Update all parameters."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both parts."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = self._groups()

    def _groups(self) -> list[dict[str, Any]]:
        return list(chain.from_iterable(part.param_groups for part in self.parts))
