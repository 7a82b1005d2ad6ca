"""Random splits in which copies stay together."""

import hashlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Int, Integer
from torch import Tensor


def digests(pixels: Integer[Tensor, "N ..."]) -> list[bytes]:
    """Return for every image bytes that equal ones alone have in common."""
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels]


def order_by_content(
    contents: Sequence[bytes], seed: int
) -> tuple[Int[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Return a random order, copies behind each other, and which are copies of the one before."""
    first: dict[bytes, int] = {}
    original = np.array([first.setdefault(key, index) for index, key in enumerate(contents)])
    order = np.random.default_rng(seed).permutation(len(contents))
    place = np.argsort(order)  # of each image
    order = order[np.argsort(place[original[order]], kind="stable")]
    return order, np.diff(original[order], prepend=-1) == 0


def next_original(is_copy: Bool[np.ndarray, " N"], start: int) -> int:
    """Return the first place from `start` on at which a new image stands."""
    return start + int(np.argmin(np.append(is_copy[start:], False)))
