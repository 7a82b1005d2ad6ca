"""Images as sequences of pixel levels."""

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, Integer, UInt8
from lightning.pytorch.utilities import rank_zero_info
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor, nn
from torchmetrics import Metric

from ddm.arrivals import image_arrivals
from ddm.datamodules.image_folder import ImageFolder, ImageRows
from ddm.datamodules.image_sources import SOURCES, Pixels
from ddm.datamodules.rows import Rows
from ddm.datamodules.sequences import SequenceDataModule
from ddm.datamodules.splits import digests, next_original, order_by_content
from ddm.files import replacing
from ddm.metrics import PCA, FrechetDistance, UnigramEntropy
from ddm.pictures import image_grid, image_trajectory_figure

GRID_SIZE = 64
"""Images with a smaller height are enlarged in a grid, by a whole factor."""

MASK_RGB = (200, 0, 200)
"""The color of masks along a trajectory; pixels are seldom magenta."""


class Images(SequenceDataModule):
    r"""Images whose pixels are ordinal tokens, in the order (C, H, W).

    Token :math:`((c H + h) W + w)` is the level of color c in row h and column w, the order that
    `ddm.backbones.UNet` reads. A pixel p in 0..D-1 has the level :math:`\lfloor p V / D \rfloor`;
    a level is shown as the center of its bin. As a token is a pixel of one color, the
    `val/bits_per_token` of a model is its bound in bits per dimension; with fewer levels V it is
    that of the levels.

    The sources 'mnist', 'fashion_mnist' and 'cifar10' have a test split of their own; of the
    others, `val_fraction` of the images is the test split. The validation split is `val_fraction`
    of all images that are not that official test split. `seed` alone says which images these are;
    images with equal pixels stand in one split, so that none is held out that was trained on.
    Known data sets are read on first use, so that samples of a checkpoint can be shown without.
    A folder may be larger than the memory: its files are decoded whenever they are asked for, and
    there copies of a file, found by its length and its end, stand in one split.

    Args:
        source: 'digits' (inside of scikit-learn, 8 x 8, 17 levels), 'mnist', 'fashion_mnist',
            'cifar10', or a folder of `*.png`, `*.jpg` and `*.jpeg` files of one size, at any depth;
            they are turned as their EXIF data say, and hidden ones are not looked at.
        root: The folder of 'mnist', 'fashion_mnist' or 'cifar10', in the layout of torchvision;
            IDX files may also lie in it directly, or where Debian's `dataset-fashion-mnist` is.
        download: Whether a missing data set is fetched into `root`.
        num_levels: The number of levels V, at least 2; by default all D of the source.
        features: Makes the network whose features the Frechet distance compares, for instance
            `ddm.metrics.Inception`: images in 0..255, uint8, (B, C, H, W), give features (B, F). By
            default, 32 principal components of the pixels, which is no perceptual distance.
        flip: Whether training sees every image once as it is and once mirrored, per epoch.
        batch_size: The number of images of a batch, in each process.
        val_fraction: The share of images held out for validation, and for testing where the source
            has no test split, in ]0, 0.5[.
        num_workers: The number of processes that load batches; 0 is fastest for data in memory,
            which the images of a folder are not.
        seed: The seed of the splits and of the order of the training images.

    Attributes:
        shape: Channels C, height H and width W.

    Raises:
        ValueError: If an argument is out of its domain, or images are missing, damaged or of
            different sizes.

    Example:
        >>> from ddm.datamodules import Images
        >>> data = Images("digits", num_levels=4)
        >>> data.shape, data.vocab_size, data.val_tokens.shape
        ((1, 8, 8), 4, torch.Size([180, 64]))
    """

    shape: tuple[int, int, int]
    _folder: ImageFolder | None = None

    def __init__(
        self,
        source: str = "digits",
        *,
        root: str = "data",
        download: bool = False,
        num_levels: int | None = None,
        features: Callable[[], nn.Module] | None = None,
        flip: bool = False,
        batch_size: int = 64,
        val_fraction: float = 0.1,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        # Not logged: the logger refuses a name that the model has with another value.
        self.save_hyperparameters(logger=False)
        if callable(self.hparams["features"]):
            # Under LightningCLI it is a class path, from which a checkpoint is rebuilt; an object
            # is left out, because none is loaded from a checkpoint without trust in the file.
            del self.hparams["features"]
        if not 0 < val_fraction < 0.5:
            raise ValueError(
                f"`val_fraction` must lie in ]0, 0.5[, got {val_fraction}: validation and "
                "testing may take as much each; try 0.1."
            )
        known = SOURCES.get(source)
        if known is not None:
            self.shape, self.depth = known.shape, known.depth
        elif Path(source).is_dir():
            self._folder = ImageFolder(Path(source))
            self.shape, self.depth = self._folder.shape, 256
        else:
            raise ValueError(
                f"`source` must be {', '.join(map(repr, SOURCES))} or an existing folder, got "
                f"'{source}'; check the spelling and the working folder ('{Path.cwd()}')."
            )
        num_levels = self.depth if num_levels is None else num_levels
        if not 2 <= num_levels <= self.depth:
            raise ValueError(
                f"`num_levels` must lie in 2..{self.depth}, the levels of '{source}', got "
                f"{num_levels}; leave it out to keep all of them."
            )
        self.source, self.root, self.download = source, Path(root), download
        self.features = features
        self.flip, self.val_fraction = flip, val_fraction
        self.vocab_size = num_levels
        self.length = int(np.prod(self.shape))

    def prepare_data(self) -> None:
        """Read the images, or download them, in one process before the others read them."""
        _ = self._splits, self._network

    @cached_property
    def train_tokens(self) -> Integer[Tensor, "N L"] | Rows:
        """The training images, uint8, with shape (N, L); with `flip`, mirrored ones follow."""
        tokens = self._splits[0]
        if not self.flip:
            return tokens
        if isinstance(tokens, ImageRows):
            return ImageRows(tokens.images, tokens.numbers, tokens.levels, flip=True)
        mirrored = tokens.unflatten(1, self.shape).flip(-1).flatten(1)
        return torch.cat([tokens, mirrored])

    @property
    def val_tokens(self) -> Integer[Tensor, "N L"] | Rows:
        """The validation images, uint8, with shape (N, L)."""
        return self._splits[1]

    @property
    def test_tokens(self) -> Integer[Tensor, "N L"] | Rows:
        """The test images, uint8, with shape (N, L)."""
        return self._splits[2]

    def encode(self, pixels: Pixels) -> UInt8[Tensor, "N L"]:
        """Return the levels of pixels in 0..D-1, with shape (N, C, H, W), as tokens (N, L)."""
        # Indexed by NumPy: for torch, bytes are masks, and wider indices take longer.
        return torch.from_numpy(self._levels.numpy()[pixels.numpy()]).flatten(1)

    def to_images(self, tokens: Integer[Tensor, "B L"]) -> UInt8[Tensor, "B C H W"]:
        """Return tokens as images in 0..255, with shape (B, C, H, W); the mask is white."""
        return self._shown(tokens.cpu())

    def decode(self, tokens: Integer[Tensor, "B L"]) -> list[str]:
        """Return each image as the numbers of its levels, row by row, color after color."""
        width = len(str(self.vocab_size))
        return [
            "\n\n".join(
                "\n".join(" ".join(f"{level:{width}d}" for level in row) for row in color)
                for color in image
            )
            for image in tokens.unflatten(1, self.shape).tolist()
        ]

    def metrics(self) -> dict[str, Metric]:
        """Return the distance to the held-out images, and the diversity inside of an image.

        The distance is called after its features, `frechet_pca32` or for instance
        `frechet_inception`: values with other features cannot be compared with it. The features of
        the held-out images are computed once, on the CPU.
        """
        name, distance = self._distance
        return {f"frechet_{name}": distance.clone(), "unigram_entropy": UnigramEntropy()}

    def samples_figure(self, tokens: Int[Tensor, "B L"]) -> Figure:
        """Return samples as one picture."""
        grid = self._grid(tokens).permute(1, 2, 0).numpy()
        figure = Figure(figsize=(3.5, 3.5 * len(grid) / grid.shape[1]), layout="constrained")
        axes = figure.add_subplot()
        axes.imshow(grid, interpolation="nearest")
        axes.axis("off")
        return figure

    def samples_text(self, tokens: Int[Tensor, "B L"]) -> str:
        """Return nothing: levels in lines are no picture."""
        return ""

    def save_samples(self, tokens: Int[Tensor, "B L"], folder: Path) -> list[Path]:
        """Write `samples.png`, a grid, and at most 64 samples also one by one in `samples/`.

        Returns:
            The grid, and the folder of the single images if there is one.
        """
        grid, singles = folder / "samples.png", folder / "samples"
        _save_png(self._grid(tokens), grid)
        if len(tokens) > 64:
            return [grid]
        for index, image in enumerate(self.to_images(tokens)):
            _save_png(image, singles / f"{index:02d}.png")
        return [grid, singles]

    def trajectory_figure(
        self, times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"]
    ) -> Figure:
        """Return strips of images on their way from noise to data; masks are magenta."""
        images = self.to_images(states.flatten(0, 1))
        images = images.expand(-1, 3, -1, -1) if self.shape[0] == 1 else images
        masked = (states.flatten(0, 1) >= self.vocab_size).unflatten(1, self.shape).any(1)
        color = torch.tensor(MASK_RGB, dtype=torch.uint8)
        images = torch.where(masked[:, None], color[:, None, None], images)
        return image_trajectory_figure(times, images.unflatten(0, states.shape[:2]))

    def arrival_figure(self, states: Int[Tensor, "T M L"]) -> Figure:
        """Return maps of when the pixels of images came, below the images."""
        return image_arrivals(states, self.to_images(states[-1]))

    def trajectory_text(self, times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"]) -> str:
        """Return nothing: levels in lines are no picture."""
        return ""

    @property
    def _levels(self) -> UInt8[Tensor, " D"]:
        """The level of every value of a pixel."""
        return (torch.arange(self.depth) * self.vocab_size // self.depth).to(torch.uint8)

    @cached_property
    def _splits(self) -> tuple[Tensor | ImageRows, Tensor | ImageRows, Tensor | ImageRows]:
        if self._folder is not None:
            parts = self._cut(self._folder.digests, has_test=False)
            levels = self._levels.numpy()
            first, second, third = (ImageRows(self._folder, part, levels) for part in parts)
            return first, second, third
        pixels, official = SOURCES[self.source].read(self.root, self.download)
        parts = self._cut(digests(pixels), has_test=official is not None)
        tokens = self.encode(pixels)
        train, val, rest = (tokens[part] for part in parts)
        return train, val, rest if official is None else self.encode(official)

    def _cut(self, contents: Sequence[bytes], *, has_test: bool) -> list[Int[np.ndarray, " n"]]:
        """Return the numbers of the images of each split; with a test split there is no third."""
        order, is_copy = order_by_content(contents, self.seed)
        num_held_out = round(self.val_fraction * len(order))
        num_train = len(order) - num_held_out * (1 if has_test else 2)
        if num_held_out < 1 or num_train < 1:
            raise ValueError(
                f"`val_fraction` must leave an image in every split, got {self.val_fraction} for "
                f"{len(order)} images of '{self.source}'; change it or give more images."
            )
        cuts = [num_train, num_train + num_held_out]
        free = [next_original(is_copy, cut) for cut in cuts]
        if free[0] == free[1] or (not has_test and free[1] == len(order)):
            rank_zero_info(f"'{self.source}': copies of an image stand in more than one split.")
            free = cuts
        return np.split(order, free)

    @property
    def _shown(self) -> "_Shown":
        brightness = torch.linspace(0, 255, self.depth, dtype=torch.float64)
        centers = self._levels.int().bincount(brightness) / self._levels.int().bincount()
        return _Shown(centers.round().to(torch.uint8), self.shape)

    @cached_property
    def _network(self) -> nn.Module | None:
        return None if self.features is None else self.features().eval()

    @cached_property
    def _distance(self) -> tuple[str, FrechetDistance]:
        features: nn.Module
        if self._network is None:
            # So many images in random order say as much of 32 directions as all of them.
            num = 4096 if self.length <= 4096 else 1024
            features = PCA(self._splits[0][:num], 32, scale=1 / (self.vocab_size - 1))
            name = f"pca{features.num_features}"
        else:
            features = nn.Sequential(self._shown, self._network)
            name = type(self._network).__name__.lower()
        held_out = chain(self.val_tokens.split(1024), self.test_tokens.split(1024))
        return name, FrechetDistance(held_out, features)

    def _grid(self, tokens: Int[Tensor, "B L"]) -> UInt8[Tensor, "3 height width"]:
        images = self.to_images(tokens)
        factor = max(1, GRID_SIZE // self.shape[1])
        images = images.repeat_interleave(factor, dim=2).repeat_interleave(factor, dim=3)
        return image_grid(images, columns=max(1, round(len(images) ** 0.5)))


class _Shown(nn.Module):
    """Turns tokens (B, L) into images in 0..255, uint8, with shape (B, C, H, W)."""

    centers: Tensor

    def __init__(self, centers: UInt8[Tensor, " V"], shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.register_buffer("centers", centers)

    def forward(self, tokens: Integer[Tensor, "B L"]) -> UInt8[Tensor, "B C H W"]:
        levels = tokens.long().clamp(0, len(self.centers) - 1)
        return self.centers[levels].unflatten(1, self.shape)


def _save_png(image: UInt8[Tensor, "C H W"], path: Path) -> None:
    array = image.permute(1, 2, 0).squeeze(-1).numpy()
    with replacing(path) as unfinished:
        Image.fromarray(array).save(unfinished)
