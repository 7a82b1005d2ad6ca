"""Networks that are called with `(x_t, sigma)`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.adapters.adapter import Adapter, logits_of
from ddm.denoisers import NetworkDenoiser


class ToldSigma(Adapter):
    """Base class of adapters of networks that are called with the tokens and the noise level."""

    def call(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> Any:  # noqa: ANN401 (whatever the network returns; `output` checks it)
        """Call the network with the tokens and with sigma."""
        return logits_of(self.backbone(x_t, *self.time_input(t)))

    def features(
        self, x_t: Int[Tensor, "B L"], t: Float[Tensor, " B"], free: Bool[Tensor, "B L"] | None
    ) -> tuple[Float[Tensor, "B L D"], Callable[[Tensor], Tensor] | None]:
        """Make one network call; networks of ours leave out their head by themselves."""
        if getattr(self.backbone, "token_head", None) is None:
            return super().features(x_t, t, free)
        self.count(x_t, free)
        return NetworkDenoiser.features(self, x_t, t, free)
