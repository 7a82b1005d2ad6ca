"""How many tokens a call reveals where a call has a price: by row, at the costs of a table."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ddm.denoisers import Prediction
from ddm.functional import require_instance
from ddm.orders.entropy import Entropy
from ddm.samplers.stopping import StoppingRule, spent_in_order

LEAST_SPENT = 1e-3
"""Nats below which entropies tell nothing about the cost of a step."""
Matrix: TypeAlias = Sequence[Sequence[float]] | Float[Tensor, "M M"]


class Priced(StoppingRule):
    r"""Reveal as many tokens as cost least, in nats, together with the calls that are to follow.

    A table says what the mean sequence loses when it goes from m masks down to j in one call, and
    what the bound of `EntropyBound` is there. A sequence is taken to lose that, times its own
    bound over that of the mean one. With a price for every call, the least cost of going on from j
    masks is `V_j = min_k excess_jk + price + V_k`, and the sequence goes down to the j for which
    loss and `V_j` add up to least. The mean sequence so follows optimal counts; one whose tokens
    are known better than usual reveals more of them, one in doubt fewer.

    `OptimalCounts().rule(...)` measures the tables and finds the price for a number of calls.

    Args:
        masks: M increasing numbers of masks from 0 to those of a whole sequence; with other numbers
            of free tokens the same shares of these.
        excess: Nats lost between masks[i] and masks[j], j < i, in one call rather than in many,
            (M, M); what is not below the diagonal is not read.
        spent: The mean sum of the entropies without the largest, in nats, (M, M).
        price: What a call is worth, in nats, >= 0: the higher, the fewer calls.

    Example:
        >>> from ddm.orders import Spaced
        >>> from ddm.samplers import Priced, Reveal
        >>> excess, spent = [[0, 0, 0], [0, 0, 0], [0.5, 0, 0]], [[0, 0, 0], [0, 0, 0], [1, 0, 0]]
        >>> sampler = Reveal(Spaced(), stop=Priced([0, 1, 2], excess, spent, 0.1))
    """

    def __init__(
        self, masks: Sequence[int] | Int[Tensor, " M"], excess: Matrix, spent: Matrix, price: float
    ) -> None:
        require_instance(Real, remedy="0 makes every call that helps", price=price)
        if not 0 <= price < float("inf"):
            raise ValueError(
                f"`price` must be >= 0 and finite, got {price}; it is what a call is worth, nats."
            )
        self.price = float(price)
        self._masks = _checked("masks", masks)
        below = self._masks.diff()
        if self._masks.ndim != 1 or not len(below) or self._masks[0] != 0 or not (below > 0).all():
            raise ValueError(
                f"`masks` must increase from 0, got {self._masks.tolist()}; measure the table with "
                "`OptimalCounts().rule(...)`."
            )
        size = len(self._masks)
        self._excess, self._spent = (
            _checked(name, value, (size, size)).clamp(min=0)
            for name, value in {"excess": excess, "spent": spent}.items()
        )
        value = torch.zeros(size, dtype=torch.float64)
        for i in range(1, size):
            value[i] = self.price + (self._excess[i, :i] + value[:i]).min()
        self._value = value

    def count(
        self, prediction: Prediction, rank: Int[Tensor, "B L"], num: Int[Tensor, " B"]
    ) -> Int[Tensor, " B"]:
        """Return the numbers of tokens at which loss and the cost of going on are least."""
        device, length = num.device, rank.shape[1]
        num_free = torch.full_like(num, length)
        if prediction.free is not None:
            num_free = prediction.free.sum(-1)
        masks, excess, spent, value = (
            table.to(device) for table in (self._masks, self._excess, self._spent, self._value)
        )
        left = (masks / masks[-1] * num_free[:, None]).round()  # of every row, at the grid's shares
        here = (left < num[:, None]).sum(-1).clamp(max=len(masks) - 1)
        landing = (num[:, None] - left).long()
        allowed = landing > 0
        own = spent_in_order(Entropy().scores(prediction), rank)
        own = own.gather(-1, landing.clamp(1, length) - 1)
        usual = spent[here]
        ratio = torch.where(usual > LEAST_SPENT, own / usual.clamp(min=LEAST_SPENT), 1.0)
        cost = (excess[here] * ratio + value).masked_fill(~allowed, torch.inf)
        return landing.gather(-1, cost.argmin(-1, keepdim=True)).squeeze(-1).minimum(num)


def _checked(name: str, value: object, shape: tuple[int, ...] | None = None) -> Tensor:
    remedy = "measure the table with `OptimalCounts().rule(...)`"
    try:
        found = torch.as_tensor(value, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"`{name}` must be numbers, got {value!r:.80}; {remedy}.") from error
    if (shape is not None and found.shape != shape) or not torch.isfinite(found).all():
        raise ValueError(
            f"`{name}` must be finite, of the shape {shape or 'of a row'}, got {value!r:.80} of "
            f"the shape {tuple(found.shape)}; {remedy}."
        )
    return found
