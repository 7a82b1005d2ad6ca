"""How far samples are from data, with what chance has to do with it: two-sample statistics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

CONFIDENCE = 0.95
"""How sure a difference must be to be claimed."""


@dataclass(frozen=True)
class Distance:
    """A squared distance between two laws, from sequences of both.

    Attributes:
        value: Without bias, so that it is around 0, and below it half of the time, if both laws are
            the same.
        chance: What as many sequences of the data's law would show in place of the samples if the
            distance were measured with bias. A level that no schedule can be told from data below.
        samples: How much every sample contributes to `value`, up to a constant, (n,): the first
            order of the jackknife, whose variance over n is that of `value`.
        data: The same of every data sequence, (m,).
    """

    value: float
    chance: float
    samples: Float[Tensor, " n"]
    data: Float[Tensor, " m"]


def energy_distance(
    x: Int[Tensor, "n L"], y: Int[Tensor, "m L"], *, ordinal: bool = False
) -> Distance:
    r"""Return `2 E|X - Y| - E|X - X'| - E|Y - Y'|`, which is zero only for equal laws.

    The norm is that of vectors of numbers if states are such, else that of one-hot codes, up to a
    factor: the root of the number of positions that differ.

    Args:
        x: Samples.
        y: Data.
        ordinal: Whether states are numbers.
    """
    between, own, other = (_norms(a, b, ordinal) for a, b in ((x, y), (x, x), (y, y)))
    n, m = between.shape
    to_samples, to_data = own.sum(1) / (n - 1), other.sum(1) / (m - 1)
    return Distance(
        value=float(2 * between.mean() - to_samples.mean() - to_data.mean()),
        chance=float(to_data.mean()) * (1 / n + 1 / m),
        samples=2 * (between.mean(1) - to_samples),
        data=2 * (between.mean(0) - to_data),
    )


def mean_distance(f: Float[Tensor, "n F"], g: Float[Tensor, "m F"]) -> Distance:
    """Return the squared difference of the means of F features, each in units of its spread in g.

    Args:
        f: Features of samples.
        g: Features of data.
    """
    n, m = len(f), len(g)
    scale = g.var(0)
    unit = torch.where(scale > 0, 1 / scale, 0.0)
    difference = f.mean(0) - g.mean(0)
    noise = f.var(0) / n + scale / m
    return Distance(
        value=float((unit * (difference**2 - noise)).sum()),
        chance=float((unit * scale).sum()) * (1 / n + 1 / m),
        samples=2 * f @ (unit * difference),
        data=-2 * g @ (unit * difference),
    )


def log_distance(distances: Sequence[Distance]) -> Distance:
    """Return the mean of the logs of distances (not squared), each above its chance.

    The same for all statistics, whatever they are measured in; what is at the level of chance
    counts little.
    """
    levels = [max(d.value, 0.0) + d.chance for d in distances]
    num = 2 * len(distances)  # the log of a root is half of the log
    parts = list(zip(distances, levels, strict=True))
    return Distance(
        value=sum(math.log(level) for level in levels) / num,
        chance=0.0,
        samples=torch.stack([d.samples / level for d, level in parts]).sum(0) / num,
        data=torch.stack([d.data / level for d, level in parts]).sum(0) / num,
    )


def paired_error(a: Distance, b: Distance) -> float:
    """Return the standard error of the difference of two values, of samples from the same noise."""
    parts = (a.samples - b.samples, a.data - b.data)
    return math.sqrt(sum(float(part.var()) / len(part) for part in parts))


def t_test(mean: float, error: float, num: int) -> float:
    """Return how sure it is that a mean of `num` values, with a standard error, is above 0.

    One minus the p-value of the one-sided t-test; one half for zeros.
    """
    from scipy.special import stdtr  # here, as `import ddm` must not wait for it

    if error == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    return float(stdtr(num - 1, mean / error))


def _norms(a: Tensor, b: Tensor, ordinal: bool) -> Tensor:
    if ordinal:
        return torch.cdist(a.double(), b.double())
    return torch.cdist(a.float(), b.float(), p=0.0).double().sqrt()  # p = 0 counts what differs
