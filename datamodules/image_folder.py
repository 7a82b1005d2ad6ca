"""Images in the files of a folder, decoded when they are asked for."""

import hashlib
import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ddm.datamodules.cache import visible
from ddm.datamodules.rows import Rows

SUFFIXES = (".png", ".jpg", ".jpeg")
TAIL = 4096
"""Bytes at the end of a file that are looked at, where formats say that it is whole."""

# Modes of Pillow with at most 8 bits per channel: the others would be clipped without a word.
_GRAY, _COLOR = {"1", "L", "LA"}, {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}

_ORIENTATION = 0x0112  # of the tags of EXIF; its values are the eight ways to hold a sheet
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What a file that is no whole image leads to."""


class ImageFolder:
    """The images of a folder, at any depth and in sorted order, all of one size.

    At first their headers are read alone, and the ends of the files. Pixels are decoded whenever
    they are asked for, and not kept. The images are gray (C = 1) if all of them are, else RGB
    (C = 3), and turned as their EXIF data say; transparency is dropped. Hidden files and folders
    are not looked at. Files that are cut off or no images are skipped with a warning that counts
    them and names the first ones. In the place of one whose damage shows only later stands the
    next image that is whole, with a warning.

    Args:
        folder: The folder.

    Attributes:
        shape: Channels C, height H and width W.
        digests: For every image bytes that copies of a file have in common.

    Raises:
        ValueError: There is no image, or two differ in size.
    """

    def __init__(self, folder: Path) -> None:
        files = visible(folder, *SUFFIXES)
        if not files:
            raise ValueError(
                f"`source` must name a folder with images, got '{folder}', which has no "
                f"{', '.join(f'*{suffix}' for suffix in SUFFIXES)} at any depth; check the "
                "folder, or convert the files."
            )
        found: list[tuple[Path, _Header]] = []
        failed: list[str] = []
        for file in files:
            try:
                found.append((file, _header(file, None if not found else found[0][1].size)))
            except _FAULTS as error:
                failed.append(f"'{file}' ({_reason(error)})")
        if failed:
            message = (
                f"{len(failed)} of {len(files)} images cannot be read: {'; '.join(failed[:3])}"
            )
            if not found:
                raise ValueError(f"`source` must name a folder of whole images, but {message}.")
            warnings.warn(f"{message}. They are skipped.", stacklevel=2)
        first, (gray, (width, height), _) = found[0]
        for file, header in found:
            if header.size != (width, height):
                raise ValueError(
                    f"`source` must hold images of one size, got {width} x {height} for '{first}' "
                    f"and {' x '.join(map(str, header.size))} for '{file}'; resize or crop them, "
                    f"for instance with `mogrify -resize {width}x{height}!`."
                )
            gray &= header.gray
        self.shape = (1 if gray else 3, height, width)
        self.digests = [header.digest for _, header in found]
        # An array of bytes: processes that load batches share it, as they do not share strings.
        self._files = np.array([os.fsencode(file) for file, _ in found])

    def __len__(self) -> int:
        return len(self._files)

    def pixels(self, number: int) -> UInt8[np.ndarray, "C H W"]:
        """Decode an image, by its number in 0..N-1.

        Raises:
            ValueError: No image of the folder can be read any more.
        """
        channels, height, width = self.shape
        for k in range(len(self)):
            file = Path(os.fsdecode(self._files[(number + k) % len(self)]))
            try:
                image = _decoded(file)
                if image.size != (width, height):
                    raise ValueError(f"its size is {image.size[0]} x {image.size[1]} now")
            except _FAULTS as error:
                warnings.warn(
                    f"'{file}' cannot be read ({_reason(error)}); the next image takes its place.",
                    stacklevel=2,
                )
                continue
            pixels = np.array(image.convert("L" if channels == 1 else "RGB"))
            return pixels.reshape(height, width, channels).transpose(2, 0, 1)
        raise ValueError(
            f"`source` must name a folder of whole images, but none of {len(self)} can be read any "
            "more; bring the files back."
        )


class ImageRows(Rows):
    """Images of a folder as rows of tokens, decoded when they are asked for.

    Args:
        images: The images.
        numbers: Those of them that there are rows of, (N,).
        levels: The level of every value of a pixel, 256 of them.
        flip: Whether all images follow once more, mirrored.
    """

    def __init__(
        self,
        images: ImageFolder,
        numbers: Integer[np.ndarray, " N"],
        levels: UInt8[np.ndarray, " D"],
        *,
        flip: bool = False,
    ) -> None:
        self.images, self.numbers, self.levels = images, numbers, levels
        super().__init__((1 + flip) * len(numbers), int(np.prod(images.shape)))

    def row(self, number: int) -> UInt8[Tensor, " L"]:
        """Decode one image and return its tokens."""
        mirrored, place = divmod(number, len(self.numbers))
        pixels = self.images.pixels(int(self.numbers[place]))
        return torch.from_numpy(self.levels[pixels[..., ::-1] if mirrored else pixels]).flatten()


class _Header(NamedTuple):
    """Whether an image is gray, its width and height as it is shown, and what copies share."""

    gray: bool
    size: tuple[int, int]
    digest: bytes


def _header(file: Path, expected: tuple[int, int] | None) -> _Header:
    """Read what a file says of its image; decode that where this alone settles a doubt."""
    with _opened(file) as image:
        gray, size = image.mode in _GRAY, image.size
        if image.format == "JPEG" and _turn(image) in (5, 6, 7, 8):
            size = size[1], size[0]
    length = file.stat().st_size
    with file.open("rb") as stream:
        stream.seek(max(0, length - TAIL))
        tail = stream.read()
    # PNG may say at its end how it is turned. A file without the mark of an end may be cut off, and
    # one with much else behind it need not be.
    if size != expected or not (b"IEND" in tail or b"\xff\xd9" in tail):
        size = _decoded(file).size
    return _Header(gray, size, hashlib.sha256(b"%d " % length + tail).digest())


def _opened(file: Path) -> Image.Image:
    # Other formats under these names may start other programs, as EPS does.
    image = Image.open(file, formats=("PNG", "JPEG"))
    if image.mode not in _GRAY | _COLOR:
        image.close()
        raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
    return image


def _decoded(file: Path) -> Image.Image:
    """Return an image as a viewer shows it, gray or RGB."""
    with _opened(file) as image:
        pixels = image.convert("L" if image.mode in _GRAY else "RGB")
        turn = _TURNS.get(_turn(image))
    return pixels if turn is None else pixels.transpose(turn)


def _turn(image: Image.Image) -> int:
    """Return how an image was held, by its EXIF data."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data say nothing; the pixels are fine
        return 1


def _reason(error: BaseException) -> str:
    return "no image" if isinstance(error, UnidentifiedImageError) else str(error)
