"""Where images come from: known data sets, and folders of files."""

import gzip
import pickle
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from ddm.datamodules.cache import visible

# Training and test images differ in number alone.
Pixels = Integer[Tensor, "_ C H W"]

SUFFIXES = (".png", ".jpg", ".jpeg")
SHARED = Path("/usr/share/datasets")
"""Where Debian's packages put data sets, for instance `dataset-fashion-mnist`."""

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


class Source(NamedTuple):
    """A known data set.

    Attributes:
        shape: Channels, height and width of an image.
        depth: The number of values of a pixel, which are 0..depth-1.
        read: Returns the training and the test images, uint8, from a folder, which it may download
            into; no test images where the data set has no test split of its own.
    """

    shape: tuple[int, int, int]
    depth: int
    read: Callable[[Path, bool], tuple[Pixels, Pixels | None]]


def read_digits(root: Path, download: bool) -> tuple[Pixels, None]:
    """Return the 1,797 digits inside of scikit-learn; the arguments are not looked at."""
    from sklearn.datasets import load_digits  # slow to import, and few need it

    return torch.from_numpy(load_digits().images).to(torch.uint8)[:, None], None


def read_mnist(root: Path, download: bool) -> tuple[Pixels, Pixels]:
    """Return MNIST; see `_read_idx`."""
    return _read_idx("mnist", "MNIST", root, download)


def read_fashion_mnist(root: Path, download: bool) -> tuple[Pixels, Pixels]:
    """Return Fashion-MNIST; see `_read_idx`."""
    return _read_idx("fashion_mnist", "FashionMNIST", root, download)


def read_cifar10(root: Path, download: bool) -> tuple[Pixels, Pixels]:
    """Return CIFAR-10 as torchvision reads it, which checks the files before it unpickles them."""
    datasets = _torchvision_datasets()
    try:
        parts = [datasets.CIFAR10(root, train, download=download).data for train in (True, False)]
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        folder = root / datasets.CIFAR10.base_folder
        raise _absent("cifar10", [folder], error) from error
    train, test = (torch.from_numpy(part).permute(0, 3, 1, 2).contiguous() for part in parts)
    return train, test


SOURCES = {
    "digits": Source((1, 8, 8), 17, read_digits),
    "mnist": Source((1, 28, 28), 256, read_mnist),
    "fashion_mnist": Source((1, 28, 28), 256, read_fashion_mnist),
    "cifar10": Source((3, 32, 32), 256, read_cifar10),
}


def read_folder(folder: Path) -> Pixels:
    """Return the images of a folder, at any depth and in sorted order, uint8.

    They are gray (C = 1) if all of them are, else RGB (C = 3), and turned as their EXIF data say;
    transparency is dropped. Hidden files and folders are not looked at. Files that cannot be read
    are skipped with a warning that counts them and names the first ones.

    Raises:
        ValueError: There is no image, or two differ in size.
    """
    files = visible(folder, *SUFFIXES)
    if not files:
        raise ValueError(
            f"`source` must name a folder with images, got '{folder}', which has no "
            f"{', '.join(f'*{suffix}' for suffix in SUFFIXES)} at any depth; check the folder, or "
            "convert the files."
        )
    images: dict[Path, Image.Image] = {}
    failed: list[str] = []
    for file in files:
        try:
            # Other formats under these names may start other programs, as EPS does.
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                if image.mode not in _GRAY | _COLOR:
                    raise ValueError(f"more than 8 bits per channel (mode {image.mode})")
                # What is cut off is only found here.
                pixels = image.convert("L" if image.mode in _GRAY else "RGB")
                images[file] = _upright(image, pixels)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            unknown = isinstance(error, UnidentifiedImageError)
            failed.append(f"'{file}' ({'no image' if unknown else error})")
    if failed:
        message = f"{len(failed)} of {len(files)} images cannot be read: {'; '.join(failed[:3])}"
        if not images:
            raise ValueError(f"`source` must name a folder of whole images, but {message}.")
        warnings.warn(f"{message}. They are skipped.", stacklevel=2)
    first, *others = images
    for file in others:
        if images[file].size != images[first].size:
            width, height = images[first].size
            raise ValueError(
                f"`source` must hold images of one size, got {width} x {height} for '{first}' and "
                f"{' x '.join(map(str, images[file].size))} for '{file}'; resize or crop them, for "
                f"instance with `mogrify -resize {width}x{height}!`."
            )
    mode = "L" if all(image.mode == "L" for image in images.values()) else "RGB"
    arrays = np.stack([np.asarray(image.convert(mode)) for image in images.values()])
    stacked = torch.from_numpy(arrays.reshape(*arrays.shape[:3], -1))
    return stacked.permute(0, 3, 1, 2).contiguous()


def _upright(image: Image.Image, pixels: Image.Image) -> Image.Image:
    """Return pixels as a viewer shows the image, whose EXIF data say how it was held."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # damaged EXIF data say nothing; the pixels are fine
        return pixels
    return pixels if turn is None else pixels.transpose(turn)


def _read_idx(name: str, dataset: str, root: Path, download: bool) -> tuple[Pixels, Pixels]:
    """Return the images of IDX files, as they are or packed (.gz).

    They lie where torchvision puts them, in `root` itself, or where Debian's package puts them.
    """
    folders = [
        root / dataset / "raw",
        root,
        SHARED / name.replace("_", "-"),
    ]
    files = ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte"]
    found = _folder_with(files, folders)
    cause: Exception | None = None
    if found is None and download:
        try:
            getattr(_torchvision_datasets(), dataset)(root, download=True)
        except (RuntimeError, OSError) as error:
            cause = error
        found = _folder_with(files, folders)
    if found is None:
        raise _absent(name, folders, cause) from cause
    train, test = (_idx_images(found, file) for file in files)
    return train, test


def _torchvision_datasets() -> ModuleType:
    """Return the module, which this package can do without where nothing is fetched.

    Raises:
        ValueError: torchvision is not installed.
    """
    try:
        from torchvision import datasets
    except ModuleNotFoundError as error:
        raise ValueError(
            "`source` needs the package torchvision to fetch its images or to read CIFAR-10; run "
            "`pip install 'discrete-diffusion[images]'`."
        ) from error
    return datasets


def _folder_with(files: list[str], folders: list[Path]) -> Path | None:
    for folder in folders:
        if all(_packed_or_not(folder, file) for file in files):
            return folder
    return None


def _packed_or_not(folder: Path, file: str) -> Path | None:
    paths = (folder / file, folder / f"{file}.gz")
    return next((path for path in paths if path.is_file()), None)


def _idx_images(folder: Path, file: str) -> Pixels:
    path = _packed_or_not(folder, file)
    assert path is not None
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        # 4 numbers of 4 bytes: 0x803 for bytes in three dimensions, and these dimensions.
        magic, *shape = np.frombuffer(content, ">u4", count=4).tolist()
        if magic != 0x803:
            raise ValueError(f"it begins with {magic:#x}, not 0x803")
        pixels = np.frombuffer(content, np.uint8, offset=16).reshape(shape)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(
            f"`root` must hold whole IDX files, but '{path}' is damaged or cut off ({error}); "
            "fetch it again."
        ) from error
    return torch.from_numpy(pixels.copy())[:, None]


def _absent(name: str, folders: list[Path], cause: Exception | None) -> ValueError:
    looked = ", ".join(f"'{folder.resolve()}'" for folder in folders)
    package = "" if name != "fashion_mnist" else " or install Debian's `dataset-fashion-mnist`,"
    reason = "" if cause is None else f" ({str(cause).partition(chr(10))[0]})"
    return ValueError(
        f"`root` must be the folder of the data set '{name}', which is not in {looked}{reason}; "
        f"put it there,{package} or pass `download=True` where there is a network."
    )
