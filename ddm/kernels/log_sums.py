"""Sums over the vocabulary for many landing times at once, from one pass over the logits."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ddm.functional import positive_log

EXACT = 1024
"""Largest vocabulary whose sums are computed term by term."""
WIDTH = 1 / 32
"""Width of a bin of log probabilities."""
NUM_BINS = 2048
"""Bins from a log probability of 0 down to -64; what is smaller has no part in any sum."""
BLOCK = 2**19
"""Logits that a CPU counts at a time, with all that is made of them within its caches."""


def log_sums(
    log_p: Float[Tensor, "*shape V"], a: Float[Tensor, " J"], b: Float[Tensor, " J"]
) -> tuple[Float[Tensor, "J ..."], Float[Tensor, "J ..."], Float[Tensor, "*shape"]]:
    r"""Return sums and means of `log(a p_v + b)` over tokens v, for many pairs a > 0, b >= 0.

    With `x = log p` the summand is `log b + softplus(x + log(a / b))`, a smooth function of x. For
    a large vocabulary the x are counted once in bins of width h, with their mean in every bin, so
    that all sums together are a product of matrices whose size does not depend on V. What is left
    is the spread within a bin: `softplus'' h^2 / 24` is added for it. The error is about 1e-6 per
    term, 2e-5 where all x are the same number, and 2e-4 for means.

    Args:
        log_p: Unnormalized log probabilities.
        a: Factors of the probabilities.
        b: What is added to them; a zero counts as the smallest positive number.

    Returns:
        The sums over all tokens and the means over tokens drawn from p, float64, and the log
        normalizers of p.
    """
    (*shape, size), shift = log_p.shape, a.log() - positive_log(b)
    least = positive_log(b).reshape(-1, *[1] * len(shape))
    if size <= EXACT:
        total = log_p.logsumexp(-1)
        x = (log_p - total[..., None]).double()
        p = x.exp()
        pairs = [(z.sum(-1), torch.linalg.vecdot(p, z)) for z in (softplus(x + s) for s in shift)]
        sums, means = (torch.stack(z) for z in zip(*pairs, strict=True))
        return size * least + sums, least + means, total
    center = -WIDTH * (torch.arange(NUM_BINS, dtype=torch.float64, device=log_p.device) + 0.5)
    y = center[:, None] + shift
    slope = torch.sigmoid(y)
    value = softplus(y) + slope * (1 - slope) * WIDTH**2 / 24
    # The same of p softplus(x), and of p alone: what bins say of the mean is normalized.
    p, bend = center.exp()[:, None], slope * (1 - slope)
    weighted = torch.cat([softplus(y), torch.ones_like(center)[:, None]], -1)
    growth = torch.nn.functional.pad(slope, (0, 1))
    bent = torch.nn.functional.pad(bend, (0, 1))
    value = torch.cat([value, p * (weighted + (weighted + 2 * growth + bent) * WIDTH**2 / 24)], -1)
    slope = torch.cat([slope, p * (weighted + growth)], -1)
    value[-1], slope[-1] = 0.0, 0.0
    flat = log_p.reshape(-1, size)
    sums, total = value.new_empty(len(flat), value.shape[1]), flat.new_empty(len(flat))
    width = max(1, (BLOCK if log_p.device.type == "cpu" else 2**5 * BLOCK) // size)
    for rows, out, norm in zip(*(z.split(width) for z in (flat, sums, total)), strict=True):
        norm.copy_(rows.logsumexp(-1))
        place = torch.sub(norm[:, None] / WIDTH, rows, alpha=1 / WIDTH).clamp_(0, NUM_BINS - 1)
        bins = place.int()
        bins += NUM_BINS * torch.arange(len(rows), dtype=bins.dtype, device=bins.device)[:, None]
        bins, num = bins.flatten(), len(rows) * NUM_BINS
        count = torch.bincount(bins, minlength=num).double().view(len(rows), -1)
        places = torch.bincount(bins, place.double().flatten(), minlength=num).view(len(rows), -1)
        out.copy_(count @ value + (count * -center - WIDTH * places) @ slope)
    sums, means, mass = sums.T.reshape(-1, *shape).split([len(shift), len(shift), 1])
    return size * least + sums, least + means / mass, total.reshape(shape)


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)); torch's own cuts off at 20."""
    return torch.logaddexp(x, torch.zeros_like(x))
