"""What one network call says about x_0, in whichever form the caller needs."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ddm.functional import largest_ratio, positive_log
from ddm.kernels.sparse import at_once, cached
from ddm.process import ForwardProcess

P = TypeVar("P", bound="Prediction")


@dataclass(frozen=True)
class Prediction(ABC):
    """The result of one denoiser call; its methods are algebra and cost no network call.

    Samplers and losses ask for the form they need and never for the parametrization of the
    network. Everything is computed when asked for, so a caller can cut a large prediction into
    pieces with `chunks` and never hold a second tensor of the size of the logits. Where the
    network has a `token_head`, that is the last thing to be computed: of the tokens
    that are asked for alone, with `at` or `positions`.

    Attributes:
        process: The forward process of the denoiser.
        features: What the head reads; the output itself where there is no head.
        x_t: The tokens that the network was called with, (B, L).
        t: Their times, (B,), float64.
        free: Positions that are generated, (B, L); the others are given and nobody reads their
            prediction. None if all are.
        head: Makes the output from the features, token by token.
    """

    process: ForwardProcess
    features: Float[Tensor, "B L D"]
    x_t: Int[Tensor, "B L"]
    t: Float[Tensor, " B"]
    free: Bool[Tensor, "B L"] | None = None
    head: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def output(self) -> Float[Tensor, "B L D"]:
        """The raw output of the network, (B, L, V) or (B, L, K)."""
        return self.features if self.head is None else self.head(self.features)

    @abstractmethod
    def log_leave_one_out(self) -> Float[Tensor, "B L V"]:
        """Return log p(x_0^i | x_t without position i), not normalized."""

    def leave_one_out(self) -> Float[Tensor, "B L V"]:
        """Return p(x_0^i | x_t without position i)."""
        return self.process.kernel.normalize(self.log_leave_one_out())

    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return log p(x_0^i | x_t), normalized."""
        return self.process.full_posterior(self.log_leave_one_out(), self.x_t, self.t)

    def posterior(self) -> Float[Tensor, "B L V"]:
        """Return p(x_0^i | x_t)."""
        return self.log_posterior().exp()

    def log_prob(self, x_0: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
        """Return log p(x_0^i | x_t) of given tokens; 0 where the kernel shows them clean."""
        kernel = self.process.kernel
        if kernel.absorbing:  # a mask is equally likely for all tokens
            clean = kernel.is_revealed(self.x_t)
            if self.head is None:
                return kernel.log_prob(self.log_leave_one_out(), x_0).masked_fill(clean, 0.0)
            where = (~clean).nonzero(as_tuple=True)
            log_p = kernel.log_prob(self.at(*where).log_leave_one_out().squeeze(1), x_0[where])
            return log_p.new_zeros(x_0.shape).index_put(where, log_p)
        return self.log_posterior().gather(-1, x_0[..., None]).squeeze(-1)

    def ratio(self) -> Float[Tensor, "B L K"]:
        """Return the ratios p_t(x_t with v at i) / p_t(x_t) (the concrete score)."""
        return self.process.ratio(self.log_leave_one_out(), self.x_t, self.t)

    def log_ratio(self) -> Float[Tensor, "B L K"]:
        """Return the log of `ratio`; a ratio of 0 counts as the smallest positive number."""
        return positive_log(self.ratio())

    def reverse_rate(self) -> Float[Tensor, "B L K"]:
        """Return the rates of the reverse jumps x_t -> v, zero at v = x_t."""
        return self.process.reverse_rate(self.ratio(), self.x_t, self.t)

    def bridge(self, s: Float[Tensor, " B"]) -> Float[Tensor, "B L K"]:
        """Return the distribution of x_s given x_t, s <= t."""
        return self.process.bridge(self.log_leave_one_out(), self.x_t, self.t, s)

    def num_invalid(self) -> int:
        """Count the outputs that no computation should go on with: NaN and +inf.

        -inf is legal: the log probability of a token that is impossible, or forbidden.
        """
        if self.output.numel() == 0 or self.output.amax() < torch.inf:  # NaN is not less
            return 0
        return int((torch.isnan(self.output) | torch.isposinf(self.output)).sum())

    def sum_free(self, nats: Float[Tensor, "*J B L"]) -> Float[Tensor, "*J B"]:
        """Return the sum over the positions that are free, whatever stands at the others."""
        return (nats if self.free is None else nats.where(self.free, 0.0)).sum(-1)

    def double(self: P) -> P:
        """Return the same prediction in float64, for drawing from it."""
        features, head = self._made
        if head is None:
            return replace(self, features=features.double(), head=None)
        return replace(self, head=lambda h: head(h).double())

    def positions(self: P, part: slice) -> P:
        """Return the prediction for some positions alone."""
        free = None if self.free is None else self.free[:, part]
        features, head = self._made
        return replace(
            self, features=features[:, part], x_t=self.x_t[:, part], free=free, head=head
        )

    def at(self: P, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]) -> P:
        """Return the prediction for n single tokens, as n sequences of length 1."""
        features, head = self._made
        features, x_t = features[rows, columns, None], self.x_t[rows, columns, None]
        return replace(self, features=features, x_t=x_t, t=self.t[rows], free=None, head=head)

    def tokens(
        self: P, rows: Int[Tensor, " n"], columns: Int[Tensor, " n"]
    ) -> Iterator[tuple[Tensor, Tensor, P]]:
        """Yield n single tokens, piece by piece: their rows, their columns, the prediction there.

        A head makes logits in large pieces, and what a CPU makes of these stays in its caches.
        """
        size, device = self.process.kernel.num_states, rows.device
        most = at_once(device) * (4 if device.type == "cpu" else 1)
        few = max(1, cached(device) // size)
        many = max(1, most // size) if self._made[1] else few
        for row, column in zip(rows.split(many), columns.split(many), strict=True):
            large = self.at(row, column)
            for first in range(0, len(row), few):
                part = slice(first, first + few)
                logits, x_t, t = large.output[part], large.x_t[part], large.t[part]
                piece = replace(large, features=logits, x_t=x_t, t=t, head=None)
                yield row[part], column[part], piece

    @property
    def _made(self) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        """The features and the head, or the output if it has been computed."""
        made = self.head is None or "output" in vars(self)
        return (self.output, None) if made else (self.features, self.head)


def chunks(predictions: Sequence[P], max_elements: int) -> Iterator[tuple[slice, list[P]]]:
    """Cut predictions of the same positions into pieces of at most `max_elements` outputs each.

    Yields the positions of a piece, and the predictions there.
    """
    batch, length = predictions[0].x_t.shape
    size = predictions[0].process.kernel.num_states
    width = max(1, max_elements // max(1, batch * size))
    for first in range(0, length, width):
        part = slice(first, min(first + width, length))
        yield part, [p.positions(part) for p in predictions]


class LogLeaveOneOut(Prediction):
    """A prediction whose output is the unnormalized log leave-one-out posterior."""

    def log_leave_one_out(self) -> Float[Tensor, "B L V"]:
        """Return the output."""
        return self.output


class LogPosterior(Prediction):
    """A prediction whose output is the log full posterior, the token itself taken into account."""

    def log_leave_one_out(self) -> Float[Tensor, "B L V"]:
        """Return the output divided by the likelihood of the token itself.

        A mask is equally likely for all tokens, so with the absorbing kernel they are the same.
        """
        if self.process.kernel.absorbing:
            return self.output
        return self.process.leave_one_out(self.output, self.x_t, self.t)

    def log_posterior(self) -> Float[Tensor, "B L V"]:
        """Return the output, normalized; with the absorbing kernel certain at clean tokens."""
        if self.process.kernel.absorbing:
            return super().log_posterior()
        return torch.log_softmax(self.process.kernel.data_only(self.output), -1)


class LogRatio(Prediction):
    """A prediction whose output is the log ratio (concrete score), (B, L, K)."""

    def log_ratio(self) -> Float[Tensor, "B L K"]:
        """Return the output, with 0 at x_t, where the ratio is 1 by definition."""
        return self.output.scatter(-1, self.x_t[..., None], 0.0)

    def ratio(self) -> Float[Tensor, "B L K"]:
        """Return the exponential of the output, without a detour through a posterior.

        Where it would leave the range of numbers, all ratios of a token are smaller by one factor,
        see `ForwardProcess.ratio`.
        """
        log_ratio = self.log_ratio()
        most = log_ratio.detach().amax(-1, keepdim=True)
        excess = (most - math.log(largest_ratio(log_ratio.dtype))).clamp(min=0.0)
        return (log_ratio - excess).exp()

    def log_leave_one_out(self) -> Float[Tensor, "B L V"]:
        """Return what the ratios of data tokens say; with the absorbing kernel, they themselves."""
        if self.process.kernel.absorbing:
            return self.log_ratio()[..., : self.process.kernel.vocab_size]
        return self.process.leave_one_out_of_ratio(self.ratio(), self.t)
