"""Known data sets of images."""

import gzip
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Integer
from torch import Tensor

# Training and test images differ in number alone.
Pixels = Integer[Tensor, "_ C H W"]

SHARED = Path("/usr/share/datasets")
"""Where Debian's packages put data sets, for instance `dataset-fashion-mnist`."""


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
