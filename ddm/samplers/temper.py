"""Temperature, top-k and top-p: what is changed in a distribution before tokens are drawn."""

from __future__ import annotations

from numbers import Real

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import describe, require_at_least, require_instance


class Temper:
    """Sharpen a distribution: temperature first, then the most likely tokens alone.

    Samples become more typical and less diverse, so quality is to be judged together with
    diversity.

    Args:
        temperature: T > 0: probabilities become proportional to `p^(1 / T)`.
        top_k: The number of tokens that are kept; None keeps all, 1 is greedy decoding.
        top_p: The fewest tokens whose probabilities sum to that are kept, in (0, 1].
    """

    def __init__(
        self, temperature: float = 1.0, *, top_k: int | None = None, top_p: float = 1.0
    ) -> None:
        require_instance(Real, remedy="1 changes nothing", temperature=temperature, top_p=top_p)
        if not 0 < temperature < float("inf"):
            raise ValueError(
                f"`temperature` must be positive and finite, got {temperature}; for greedy "
                "decoding use `top_k=1`."
            )
        if not 0 < top_p <= 1:
            raise ValueError(f"`top_p` must lie in (0, 1], got {top_p}; 1 keeps all tokens.")
        if top_k is not None:
            require_at_least(1, top_k=top_k)
        self.temperature = temperature
        self.top_k = top_k
        self.top_p = top_p

    def __call__(self, p: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
        """Return the distributions that tokens are drawn from."""
        if self.temperature != 1:
            p = torch.softmax(p.log() / self.temperature, -1)
        if self.top_k is not None:
            p = _kept(p, torch.arange(p.shape[-1], device=p.device) < self.top_k)
        if self.top_p < 1:
            before = p.sort(dim=-1, descending=True, stable=True).values
            p = _kept(p, before.cumsum(-1) - before < self.top_p)
        return p

    def __repr__(self) -> str:
        """Show the class and its arguments."""
        return describe(self)


def _kept(p: Tensor, keep: Tensor) -> Tensor:
    """Return p without the tokens that are not kept, given by their place from the likeliest."""
    index = p.sort(dim=-1, descending=True, stable=True).indices
    kept = p * torch.zeros_like(p).scatter(-1, index, keep.to(p.dtype).expand_as(p))
    return kept / kept.sum(-1, keepdim=True)
