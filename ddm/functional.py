"""Numerics shared by the library: exact draws, stratified times, small algebra in nats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Integral, Real
from types import UnionType
from typing import TypeVar, get_args

import numpy as np
import torch
import torch.distributed
from jaxtyping import Float, Int
from torch import Tensor

T = TypeVar("T")


def categorical(
    probs: Float[Tensor, "*shape K"],
    generator: torch.Generator | None = None,
    num: int | None = None,
) -> Int[Tensor, "..."]:
    """Draw exactly from categorical distributions by the inverse distribution function in float64.

    Gumbel tricks and float32 sums lose the rare states; a rare jump is what a short sampling step
    consists of, so every draw of the library goes through here. A state of probability zero is
    never drawn.

    Args:
        probs: Non-negative weights with a positive sum; they need not be normalized.
        generator: Source of randomness, on the device of `probs`.
        num: Number of draws from every distribution, (*shape, num); by default one, (*shape).

    Returns:
        The drawn states, int64.

    Raises:
        ValueError: A weight is negative, or a sum is not positive and finite.
    """
    cdf = probs.to(torch.float64).cumsum(-1)
    total = cdf[..., -1:]
    if wrong := int((~((total > 0) & torch.isfinite(total))).sum()):
        lost = int((~torch.isfinite(total)).sum())
        reason = (
            "they are NaN or infinite: given tokens of probability 0 lead to that, and a network "
            "that returns NaN"
            if lost
            else "all weights are 0: nothing is left to draw, so allow a token"
        )
        raise ValueError(
            f"`probs` must have positive, finite sums, got {wrong} of {total.numel()} that have "
            f"not; {reason}."
        )
    if probs.numel() and (low := float(probs.min())) < 0:
        raise ValueError(f"`probs` must be >= 0, got {low:.4g}; they are probabilities, not logs.")
    shape = (*probs.shape[:-1], 1 if num is None else num)
    u = torch.rand(shape, generator=generator, dtype=torch.float64, device=probs.device)
    # u * total may round up to total itself, which no state lies above.
    u = torch.minimum(u * total, torch.nextafter(total, torch.zeros_like(total)))
    drawn = torch.searchsorted(cdf, u, right=True)
    return drawn.squeeze(-1) if num is None else drawn


def stratified_times(
    num: int, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
) -> Float[Tensor, " num"]:
    """Draw `num` times on (0, 1], one in every stratum of width 1 / num, in random order.

    Every time alone is uniform on (0, 1], so a mean over the batch stays unbiased, with a smaller
    variance than that of independent times (Kingma et al., Variational diffusion models, 2021,
    appendix I.1).
    """
    offset = torch.rand((), generator=generator, dtype=torch.float64, device=device)
    order = torch.randperm(num, generator=generator, device=device)
    return 1.0 - (order + offset) / num


def seeded(device: torch.device | str, *words: int) -> torch.Generator:
    """Return a generator on a device whose stream depends on all of some non-negative numbers.

    The CPU generator reads 32 bits of its seed; `SeedSequence` mixes all words into them, so that
    neighboring seeds, ranks and steps share no part of their streams. Zeros at the end are no words
    of their own: streams of one kind have as many words.
    """
    (state,) = np.random.SeedSequence(words).generate_state(1)
    return torch.Generator(device).manual_seed(int(state))


def require_at_least(least: int, **arguments: int) -> None:
    """Refuse arguments below a whole number, or not whole.

    Raises:
        TypeError: An argument is no integer.
        ValueError: An argument is below `least`.
    """
    for name, value in arguments.items():
        kind: object = value
        if isinstance(kind, bool) or not isinstance(kind, Integral):
            raise TypeError(f"`{name}` must be an integer, got {value!r}.")
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}; raise it.")


def require_instance(
    kind: type | UnionType,
    *,
    remedy: str = "pass an object, neither a class nor a name",
    **arguments: object,
) -> None:
    """Refuse arguments of another class.

    Args:
        kind: The class, or a union of classes; `Thing | None` for an argument that may be left out.
        remedy: What to do instead.
        arguments: The arguments by their names.

    Raises:
        TypeError: An argument has another class.
    """
    for name, value in arguments.items():
        if not isinstance(value, kind):
            kinds = (one for one in get_args(kind) or (kind,) if one is not type(None))
            wanted = " or ".join("number" if one is Real else f"`{one.__name__}`" for one in kinds)
            got = f"the class `{value.__name__}`" if isinstance(value, type) else f"{value!r:.80}"
            raise TypeError(f"`{name}` must be a {wanted}, got {got}; {remedy}.")


def require_number(name: str, value: float, low: float, high: float, remedy: str) -> float:
    """Return a number, or refuse one that is not in [low, high] (NaN, for instance).

    Args:
        name: The argument.
        value: Its value.
        low: Smallest value.
        high: Largest value.
        remedy: What the number means, or what to do instead.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of range.
    """
    kind: object = value
    if isinstance(kind, bool) or not isinstance(kind, Real):
        raise TypeError(f"`{name}` must be a number, got {value!r}; {remedy}.")
    if not low <= value <= high:
        raise ValueError(f"`{name}` must lie in [{low:g}, {high:g}], got {value}; {remedy}.")
    return float(value)


def log1mexp(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return log(1 - exp(-x)) for x > 0 without cancellation at either end."""
    small = x < 0.6931471805599453
    # Both branches are evaluated, so each gets an argument that is safe for its gradient.
    near = torch.log(-torch.expm1(-torch.where(small, x, torch.ones_like(x))))
    far = torch.log1p(-torch.exp(-torch.where(small, torch.ones_like(x), x)))
    return torch.where(small, near, far)


def positive_log(p: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Return log p, with the logarithm of the smallest positive number at 0, so that 0 log 0 = 0.

    The gradient there is 0, and not the NaN that 0 times the infinite slope of log would give.
    """
    return p.clamp(min=torch.finfo(p.dtype).tiny).log()


def largest_ratio(dtype: torch.dtype) -> float:
    """Return what ratios of probabilities are kept below: the root of the largest number.

    Rates, sums over states and inverse transitions multiply a ratio; what is left of the range
    holds them all. A jump with such a rate is certain anyway.
    """
    return float(torch.finfo(dtype).max ** 0.5)


def times_like(t: float | Tensor, x: Tensor) -> Float[Tensor, " B"]:
    """Return a time, or one per sequence, as float64 (B,) on the device of x, (B, L).

    Raises:
        ValueError: There are times for another number of sequences.
    """
    t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
    if t.ndim > 1 or (t.ndim == 1 and t.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"`t` must be one time, or one for each of the {x.shape[0]} sequences, got the shape "
            f"{tuple(t.shape)}."
        )
    return t.expand(x.shape[0])


def describe(thing: object) -> str:
    """Return the class name and the plain public attributes of an object, sorted by name.

    What tells two settings apart, in messages and in files.
    """
    parts = []
    for name, value in sorted(vars(thing).items()):
        if name.startswith("_") or name == "training":
            continue
        if isinstance(value, (int, float, str, tuple)):
            parts.append(f"{name}={value}")
        elif type(value).__module__.startswith("ddm."):
            parts.append(f"{name}={describe(value)}")
    return f"{type(thing).__name__}({', '.join(parts)})"


def normalized(p: Float[Tensor, "*shape K"]) -> Float[Tensor, "*shape K"]:
    """Return p without its negative entries, with sum 1; uniform where nothing is left."""
    p = p.clamp(min=0.0)
    total = p.sum(-1, keepdim=True)
    return torch.where(total > 0, p / total.where(total > 0, 1.0), 1.0 / p.shape[-1])


def expand_right(x: Tensor, ndim: int) -> Tensor:
    """Append axes of size 1 until `x` has `ndim` axes; a scalar is left alone."""
    return x if x.ndim == 0 else x.reshape(x.shape + (1,) * (ndim - x.ndim))


def one_hot(x: Int[Tensor, "*shape"], num: int, dtype: torch.dtype) -> Float[Tensor, "*shape num"]:
    """Return the one-hot code of `x` in a floating dtype (torch's own is int64, eight bytes)."""
    return torch.zeros(*x.shape, num, dtype=dtype, device=x.device).scatter_(-1, x[..., None], 1.0)


def all_but_one(
    rest: Float[Tensor, "..."], own: Float[Tensor, "..."], x: Int[Tensor, "*shape"], num: int
) -> Float[Tensor, "*shape num"]:
    """Return `rest` in all of `num` entries but x, where `own` stands; written in one pass."""
    table = rest.expand(x.shape)[..., None].repeat(*[1] * x.ndim, num)
    return table.scatter_(-1, x[..., None], own.expand(x.shape)[..., None])


class ProcessError(RuntimeError):
    """What went wrong in one of several processes, as all of them are told."""


def gather_objects(mine: T) -> list[T]:
    """Return the objects of all processes of a `torch.distributed` group, just one without it.

    A collective call: every process has to make it, or to fail inside of `gather_made`.

    Raises:
        ProcessError: A process has failed instead.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [mine]
    theirs: list[T] = [mine] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(theirs, mine)
    for found in theirs:
        if isinstance(found, ProcessError):
            raise found
    return theirs


def gather_made(make: Callable[[], T]) -> list[T]:
    """Return what every process makes; where one fails, all of them fail.

    So a process that gives up, having no memory left or a network that returns NaN, does not leave
    the others waiting. `make` may gather itself, as often as it likes: a process that fails answers
    the next gathering of the others, whichever that is, with its error, and no one gathers again
    after it. A collective call, see `gather_objects`.

    Raises:
        ProcessError: Another process has failed, or one of several; alone, `make` fails as it does.
    """
    try:
        mine = make()
    except ProcessError:  # all have been told
        raise
    except Exception as error:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            where = f"process {torch.distributed.get_rank()}"
            # The error itself might not survive the way to the others.
            gather_objects(ProcessError(f"{where}: {type(error).__name__}: {error}"))
        raise
    return gather_objects(mine)


def check_times(times: Float[Tensor, " T"] | Sequence[float]) -> Float[Tensor, " T"]:
    """Return the times as a float64 tensor.

    Raises:
        TypeError: They are no numbers.
        ValueError: They are not finite, do not decrease strictly or do not run from 1 to 0.
    """
    try:
        t = torch.as_tensor(times, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(
            f"`times` must be a list of numbers, or a `SamplingSchedule`, got {times!r:.80}; "
            "of several that were found, take `found.schedules[num_steps]`."
        ) from error
    if t.ndim != 1 or len(t) < 2:
        raise ValueError(
            f"`times` must be a list of at least 2 times, got shape {tuple(t.shape)}; one step is "
            "[1, 0]."
        )
    if not torch.isfinite(t).all():
        raise ValueError("`times` must be finite, got NaN or infinite values.")
    if t[0] != 1 or t[-1] != 0:
        raise ValueError(
            f"`times` must start at 1 (noise) and end at 0 (data), got {float(t[0]):.6g} and "
            f"{float(t[-1]):.6g}; add the end points, or reverse an increasing grid."
        )
    rising = (t.diff() >= 0).nonzero()
    if len(rising):
        i = int(rising[0])
        raise ValueError(
            f"`times` must decrease strictly, got {float(t[i]):.6g} then {float(t[i + 1]):.6g} at "
            f"index {i}; sort them or drop duplicates."
        )
    return t
