"""Files with random images, for tests of what reads them."""

import gzip
import struct
from pathlib import Path

import numpy as np
from PIL import Image

RNG = np.random.default_rng(0)


def write_images(folder: Path, shape: tuple[int, int, int], num: int) -> None:
    """Write images of shape (C, H, W) as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    channels, height, width = shape
    size = (height, width) if channels == 1 else (height, width, channels)
    for index in range(num):
        pixels = RNG.integers(256, size=size, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")


def write_idx(
    folder: Path, *, packed: bool = False, num_train: int = 20, num_test: int = 4
) -> list[np.ndarray]:
    """Write the image files of MNIST and return their pixels, (N, 28, 28)."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, num in (("train", num_train), ("t10k", num_test)):
        pixels = RNG.integers(256, size=(num, 28, 28), dtype=np.uint8)
        content = struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes()
        path = folder / f"{name}-images-idx3-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(content) if packed else content)
        parts.append(pixels)
    return parts
