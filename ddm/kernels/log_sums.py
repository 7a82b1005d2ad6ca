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
BLOCK = 2**18
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
    slope, value = torch.sigmoid(y), softplus(y)
    bend = slope * (1 - slope)
    # The same of p softplus(x), and of p alone: what bins say of the mean is normalized.
    p = center.exp()[:, None]
    weighted = torch.cat([value, torch.ones_like(p)], -1)
    growth = torch.nn.functional.pad(slope, (0, 1))
    bent = torch.nn.functional.pad(bend, (0, 1))
    value += bend * WIDTH**2 / 24
    value = torch.cat([value, p * (weighted + (weighted + 2 * growth + bent) * WIDTH**2 / 24)], -1)
    slope = torch.cat([slope, p * (weighted + growth)], -1)
    value[-1], slope[-1] = 0.0, 0.0
    count, places, total = _count(log_p.reshape(-1, size))
    # From the center of a bin to the mean of its tokens.
    sums = count @ value + (count * -center - WIDTH * places) @ slope
    sums, means, mass = sums.T.reshape(-1, *shape).split([len(shift), len(shift), 1])
    return size * least + sums, least + means / mass, total.reshape(shape)


def _count(
    log_p: Float[Tensor, "n V"],
) -> tuple[Float[Tensor, "n bins"], Float[Tensor, "n bins"], Float[Tensor, " n"]]:
    """Count tokens in bins; return also the sum of their places, in bins, and the normalizers.

    A bin adds up one integer for each token, which is three times as fast as fractions: its upper
    bits count the tokens, its lower ones hold the sum of their places, to at least 2^-13 of a bin.
    """
    (num, size), device = log_p.shape, log_p.device
    fraction = min(16, 51 - 2 * size.bit_length())
    unit, shift = 1 << fraction, fraction + (NUM_BINS * size).bit_length()
    width = max(1, (BLOCK if device.type == "cpu" else 2**7 * BLOCK) // size)
    place = torch.empty(
        width, size, dtype=torch.promote_types(log_p.dtype, torch.float32), device=device
    )
    total, found = place.new_empty(num), torch.zeros(num, NUM_BINS, dtype=torch.long, device=device)
    bins, packed = place.int(), place.long()
    first = NUM_BINS * torch.arange(width, dtype=torch.int32, device=device)[:, None]
    for rows, sums, norm in zip(*(z.split(width) for z in (log_p, found, total)), strict=True):
        if len(rows) < width:
            place, bins, packed, first = (z[: len(rows)] for z in (place, bins, packed, first))
        most = rows.amax(-1, keepdim=True).to(place.dtype)
        torch.sub(rows, most, out=place)
        norm.copy_(place.exp_().sum(-1).log_() + most[:, 0])
        torch.sub(norm[:, None] * (unit / WIDTH), rows, alpha=unit / WIDTH, out=place)
        bins.copy_(place.clamp_(0, unit * (NUM_BINS - 1)))
        packed.copy_(bins).add_(1 << shift)
        bins.bitwise_right_shift_(fraction).add_(first)
        sums.view(-1).index_add_(0, bins.flatten(), packed.flatten())
    count = found.bitwise_right_shift(shift)
    places = found.sub_(count, alpha=1 << shift).double() / unit
    count = count.double()
    return count, places.add_(count, alpha=0.5 / unit), total  # half a unit was cut off


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + exp(x)); torch's own cuts off at 20."""
    return torch.logaddexp(x, torch.zeros_like(x))
