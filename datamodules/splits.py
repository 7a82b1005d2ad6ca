"""Random splits in which copies stay together."""

import hashlib

import numpy as np
from jaxtyping import Bool, Int, Integer
from torch import Tensor


def order_by_content(
    pixels: Integer[Tensor, "N ..."], seed: int
) -> tuple[Int[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Return images in random order, copies behind each other, and which are copies of the last."""
    first: dict[bytes, int] = {}
    contents = (hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels)
    original = np.array([first.setdefault(key, index) for index, key in enumerate(contents)])
    order = np.random.default_rng(seed).permutation(len(pixels))
    place = np.argsort(order)  # of each image
    order = order[np.argsort(place[original[order]], kind="stable")]
    return order, np.diff(original[order], prepend=-1) == 0


def next_original(is_copy: Bool[np.ndarray, " N"], start: int) -> int:
    """Return the first place from `start` on at which a new image stands."""
    return start + int(np.argmin(np.append(is_copy[start:], False)))
