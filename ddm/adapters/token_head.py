"""Networks called but for the module that makes their logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn


class TokenHead:
    """Calls a network and leaves out the module that makes the logits, if that is the last one.

    The module is shown the last two positions alone. In the first call it is seen whether it is the
    last one: whether what it makes of them is what the network returns, to the bit. If not, as with
    logits that are scaled or capped, it is never left out.
    """

    is_last: bool | None = None
    """Whether it is; None as long as nobody knows."""
    dtype: torch.dtype
    """What the network returns."""

    def read(self, head: nn.Module, call: Callable[[], Any]) -> Float[Tensor, "B L D"] | None:
        """Call the network; return what the module reads, or None if it cannot be left out.

        Args:
            head: The module.
            call: Calls the network, and returns its logits.
        """
        if self.is_last is False:
            return None
        read = list[Tensor]()

        def look(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            read.append(inputs[0])
            return inputs[0][:, -2:], *inputs[1:]  # of two positions none can be moved unseen

        with head.register_forward_pre_hook(look):
            try:
                some = call()
            except RuntimeError:  # what comes after it may need all positions
                if self.is_last:
                    raise
                some = None
        if self.is_last is None and len(read) == 1 and isinstance(some, Tensor):
            made = head(read[0][:, -2:])
            if made.shape == some.shape and not made.any():
                return None  # an untrained head shows nothing, whatever comes after it
            self.dtype = some.dtype
            self.is_last = made.shape == some.shape and torch.equal(made.to(some.dtype), some)
        self.is_last = bool(self.is_last)
        return read[0] if self.is_last else None
