"""Sums over the vocabulary that many landing times ask for, from one pass over the logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import positive_log

EXACT = 1024
"""Largest vocabulary whose sums are computed term by term."""
WIDTH = 0.04
"""Width of a bin of log probabilities."""
NUM_BINS = 1000
"""Bins from a log probability of 0 down to -40; the last one holds all that are smaller."""


class LogSums:
    r"""The sums `sum_v log(a p_v + b)` of distributions p, for any number of pairs a, b > 0.

    With `x = log p` the summand is `log b + softplus(x + log(a / b))`, a smooth function of x. For
    a large vocabulary the x are counted once in bins of width h, with their mean in every bin, so
    that a sum costs a few hundred terms instead of V. What is left is the spread within a bin:
    `softplus'' h^2 / 24` is added for it, and the error is of order h^3, about 1e-6 per term.

    Args:
        log_p: Normalized log probabilities.
    """

    def __init__(self, log_p: Float[Tensor, "*shape V"]) -> None:
        self.size = log_p.shape[-1]
        self.x = log_p.double() if self.size <= EXACT else None
        if self.x is None:
            flat = log_p.reshape(-1, self.size)
            index = (flat * (-1 / WIDTH)).clamp(0, NUM_BINS - 1).long()
            index += NUM_BINS * torch.arange(len(flat), device=flat.device)[:, None]
            size, index = len(flat) * NUM_BINS, index.flatten()
            # -inf has no part in any sum: softplus(-inf) = 0.
            sums = flat.double().clamp(min=-1e4).flatten()
            count = torch.bincount(index, minlength=size)
            mean = torch.bincount(index, sums, minlength=size) / count.clamp(min=1)
            used = count.reshape(-1, NUM_BINS).sum(0) > 0
            shape = (*log_p.shape[:-1], -1)
            self.count = count.reshape(-1, NUM_BINS)[:, used].double().reshape(shape)
            self.mean = mean.reshape(-1, NUM_BINS)[:, used].reshape(shape)

    def __call__(
        self, a: Float[Tensor, "*#shape"], b: Float[Tensor, "*#shape"]
    ) -> Float[Tensor, "*shape"]:
        """Return the sums, float64."""
        shift = (a.log() - b.log())[..., None]
        if self.x is not None:
            return (positive_log(b)[..., None] + softplus(self.x + shift)).sum(-1)
        y = self.mean + shift
        slope = torch.sigmoid(y)
        terms = softplus(y) + slope * (1 - slope) * WIDTH**2 / 24
        return self.size * b.log() + (self.count * terms).sum(-1)


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)); torch's own cuts off at 20."""
    return torch.logaddexp(x, torch.zeros_like(x))
