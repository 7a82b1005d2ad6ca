"""Images: the order of the pixels, levels, splits, what is read from where, and the metric."""

import gzip
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ddm.backbones import UNet
from ddm.datamodules import Images, image_folder, image_sources
from ddm.datamodules.image_folder import ImageFolder
from ddm.metrics import PCA, FrechetDistance, Inception, inception
from ddm.pictures import image_grid
from image_files import write_idx, write_images


def rows(tokens: Tensor) -> set[tuple[int, ...]]:
    """Return the different sequences."""
    return {tuple(row) for row in tokens.tolist()}


def folder_of(path: Path, *arrays: np.ndarray, **arguments) -> Images:
    """Return the images of a new folder with these arrays."""
    for index, array in enumerate(arrays):
        Image.fromarray(array).save(path / f"{index}.png")
    return Images(str(path), **{"batch_size": 1, "val_fraction": 0.2, **arguments})


def everything(data: Images) -> Tensor:
    """Return the sequences of all splits."""
    return torch.cat([data.train_tokens[:], data.val_tokens[:], data.test_tokens[:]])


def decoded(folder: Path) -> list[np.ndarray]:
    """Return the pixels of all images of a folder."""
    images = ImageFolder(folder)
    return [images.pixels(number) for number in range(len(images))]


# Tokens


def test_order_is_color_row_column(tmp_path):
    """Token (c H + h) W + w is the level of color c in row h and column w."""
    arrays = np.random.default_rng(0).integers(256, size=(5, 2, 4, 3), dtype=np.uint8)
    data = folder_of(tmp_path, *arrays)
    assert data.shape == (3, 2, 4)
    assert data.length == 24
    assert data.vocab_size == 256
    tokens = everything(data)
    assert rows(tokens) == rows(torch.from_numpy(arrays).permute(0, 3, 1, 2).flatten(1))
    assert torch.equal(data.to_images(tokens).flatten(1), tokens)


def test_unet_reads_this_order():
    """A change of one pixel reaches only what its convolutions can see: rows and columns."""
    shape = (2, 3, 17)
    network = UNet(4, shape=shape, channels=4, multipliers=(1,), num_blocks=1)
    seen = []
    network.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x = torch.zeros(2, 102, dtype=torch.long)
    c, h, w = 1, 2, 5
    x[1, (c * shape[1] + h) * shape[2] + w] = 3
    network(x, torch.zeros(2))
    changed = (seen[0][0] != seen[0][1]).unflatten(0, (2, -1)).any(1).nonzero()
    assert changed.tolist() == [[c, h, w]]


@pytest.mark.parametrize("num_levels", [2, 3, 8, 100, 256])
def test_levels_are_uniform_bins(tmp_path, num_levels):
    """Bins differ by at most one value in width; their centers have their own level."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = folder_of(tmp_path, *5 * [ramp], num_levels=num_levels)
    assert data.vocab_size == num_levels
    tokens = data.encode(torch.from_numpy(ramp)[None, None])
    widths = tokens.flatten().bincount(minlength=num_levels)
    assert len(widths) == num_levels
    assert widths.max() - widths.min() <= (256 % num_levels > 0)
    shown = data.to_images(tokens)
    assert torch.equal(data.encode(shown), tokens)
    assert (shown.flatten().int() - torch.arange(256)).abs().max() <= widths.max() // 2


def test_digits():
    """The built-in digits have 17 levels, shown from black to white, and decode to rows."""
    data = Images()
    assert (data.vocab_size, data.length, data.shape) == (17, 64, (1, 8, 8))
    splits = (data.train_tokens, data.val_tokens, data.test_tokens)
    assert [len(split) for split in splits] == [1437, 180, 180]
    assert data.train_tokens.max() == 16
    assert data.to_images(torch.tensor([[0, 16, 17] + 61 * [8]])).unique().tolist() == [0, 128, 255]
    (text,) = data.decode(torch.arange(64)[None] % 17)
    assert text.splitlines()[1] == " 8  9 10 11 12 13 14 15"


@pytest.mark.parametrize("seed", [0, 3])
def test_splits_partition_the_images(seed):
    """Every image is in one split, and which one depends on the seed alone."""
    data, again = Images(seed=seed), Images(seed=seed)
    parts = [data.train_tokens, data.val_tokens, data.test_tokens]
    whole = torch.cat(parts)
    everything = image_sources.read_digits(Path(), False)[0].flatten(1)
    assert torch.equal(
        *(torch.unique(x, dim=0, return_counts=True)[1] for x in (whole, everything))
    )
    assert rows(whole) == rows(everything)
    assert torch.equal(again.val_tokens, data.val_tokens)
    assert not torch.equal(Images(seed=seed + 1).val_tokens, data.val_tokens)


def test_flips_are_for_training_only():
    """With `flip` every training image comes once as it is and once with its columns reversed."""
    plain, flipped = Images(), Images(flip=True)
    images = plain.train_tokens.view(-1, 8, 8)
    both = torch.cat([images, images.flip(-1)]).flatten(1)
    assert torch.equal(flipped.train_tokens, both)
    for name in ("val_tokens", "test_tokens"):
        assert torch.equal(getattr(flipped, name), getattr(plain, name))


# Sources


@pytest.mark.parametrize("place", ["FashionMNIST/raw", ".", "shared"])
def test_idx_files(tmp_path, monkeypatch, place):
    """Packed or not, IDX files are found in torchvision's layout, directly, and in Debian's."""
    monkeypatch.setattr(image_sources, "SHARED", tmp_path / "debian")
    folder = tmp_path / ("debian/fashion-mnist" if place == "shared" else place)
    train, test = write_idx(folder, packed=place != ".")
    data = Images("fashion_mnist", root=str(tmp_path), val_fraction=0.2)
    assert data.shape == (1, 28, 28)
    assert len(data.train_tokens) == 16
    tokens = torch.cat([data.train_tokens, data.val_tokens])
    assert rows(tokens) == rows(torch.from_numpy(train).flatten(1))
    assert torch.equal(data.test_tokens, torch.from_numpy(test).flatten(1))


@pytest.mark.parametrize("num", [2, 5, 9])
def test_image_grid(num):
    """A grid of images is torchvision's."""
    from torchvision.utils import make_grid

    images = torch.arange(num * 3 * 4 * 5, dtype=torch.uint8).view(num, 3, 4, 5)
    expected = make_grid(images, nrow=3, pad_value=128)
    assert torch.equal(image_grid(images, columns=3), expected)


def test_cifar10(monkeypatch):
    """CIFAR-10 comes from torchvision, which gives (H, W, C), with its own test split."""

    class Fake:
        base_folder = "cifar-10-batches-py"

        def __init__(self, root, train, *, download):
            self.data = np.full((20 if train else 4, 32, 32, 3), [1, 2, 3], np.uint8)

    monkeypatch.setattr("torchvision.datasets.CIFAR10", Fake)
    data = Images("cifar10")
    assert [len(x) for x in (data.train_tokens, data.val_tokens, data.test_tokens)] == [18, 2, 4]
    assert data.train_tokens[0].view(3, -1).unique(dim=1).tolist() == [[1], [2], [3]]


def test_folder_of_gray_and_colored_images(tmp_path):
    """Gray images keep one channel, unless one image has colors; folders are read in depth."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    gray = folder_of(tmp_path / "a" / "b", *5 * [np.full((2, 3), 7, np.uint8)])
    assert gray.shape == (1, 2, 3)
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a" / "color.PNG")
    data = Images(str(tmp_path), val_fraction=0.2)
    assert data.shape == (3, 2, 3)
    tokens = everything(data)
    assert rows(tokens) == {18 * (7,), (*6 * [1], *6 * [2], *6 * [3])}


def test_unreadable_files_are_skipped(tmp_path):
    """What is no whole image is skipped, counted, and the first ones are named."""
    write_images(tmp_path, (1, 16, 16), num=10)
    whole = (tmp_path / "0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no image")
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "deep.png")
    with pytest.warns(UserWarning, match=r"3 of 13 .*cut\.png' \(.*deep\.png' \(more than 8 bits"):
        data = Images(str(tmp_path))
    assert len(data.train_tokens) == 8


def test_images_are_decoded_when_asked_for(tmp_path, monkeypatch):
    """The size of the first image is looked at, then only what a batch holds, at any epoch."""
    write_images(tmp_path / "a", (1, 4, 4), num=20)
    write_images(tmp_path / "b" / "c", (3, 4, 4), num=20)
    asked, decode = [], image_folder._decoded
    monkeypatch.setattr(image_folder, "_decoded", lambda file: asked.append(file) or decode(file))
    data = Images(str(tmp_path), batch_size=4, flip=True)
    data.prepare_data()
    assert len(asked) == 1
    assert data.train_tokens.shape == (64, 48)
    batches = iter(data.train_dataloader())
    first = next(batches)["tokens"]
    assert len(asked) == 5
    pixels = [np.array(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file in asked[1:]]
    for row, image in zip(first.view(4, 3, 4, 4).numpy(), pixels, strict=True):
        assert any(np.array_equal(row, x) for x in (image, image[..., ::-1]))
    every = data.train_tokens[:]
    assert torch.equal(every[32:].view(-1, 4), every[:32].view(-1, 4).flip(-1))
    assert torch.equal(data.train_tokens[-1], every[-1])
    assert data.train_tokens[:0].shape == (0, 48)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_folder_goes_on_anywhere(tmp_path, num_workers):
    """A run that is resumed inside of an epoch sees the batches of the run without a stop."""
    write_images(tmp_path, (1, 4, 4), num=20)
    data = Images(str(tmp_path), batch_size=4, num_workers=num_workers)
    loader = data.train_dataloader()
    batches, states = zip(
        *((batch["tokens"], dict(loader.state_dict())) for batch in loader), strict=True
    )
    again = data.train_dataloader()
    again.load_state_dict(states[1])
    left = [batch["tokens"] for batch in again]
    assert len(batches) == 4
    for expected, batch in zip(batches[2:], left, strict=True):
        assert torch.equal(batch, expected)


def test_damage_that_shows_later(tmp_path):
    """The next image takes the place of one that is damaged inside, gone or another by now."""
    write_images(tmp_path, (1, 16, 16), num=10)
    images = ImageFolder(tmp_path)
    whole = (tmp_path / "3.png").read_bytes()
    middle = len(whole) // 2
    (tmp_path / "3.png").write_bytes(whole[:middle] + b"\0" * 8 + whole[middle + 8 :])
    (tmp_path / "5.png").unlink()
    Image.new("L", (2, 2)).save(tmp_path / "9.png")
    for number, message in ((3, "3.png"), (5, "No such file"), (9, "its size is 2 x 2 now")):
        with pytest.warns(UserWarning, match=rf"{message}.*next image takes its place"):
            pixels = images.pixels(number)
        assert np.array_equal(pixels, images.pixels((number + 1) % 10))
    for file in tmp_path.glob("*.png"):
        file.unlink()
    with (
        pytest.warns(UserWarning, match="takes its place"),
        pytest.raises(ValueError, match="none of 10 can be read any more"),
    ):
        images.pixels(0)


def test_what_stands_behind_an_image(tmp_path):
    """A file with much behind its image is whole; one that is cut off is not, however long."""
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(noise).save(tmp_path / name, quality=95)
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole + bytes(2 * image_folder.TAIL))
    (tmp_path / "b.jpg").write_bytes(whole[:-100])
    with pytest.warns(UserWarning, match=r"1 of 2 images cannot be read: .*b\.jpg"):
        assert len(ImageFolder(tmp_path)) == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: Images("cifr10"), r"`source` must be 'digits', .* got 'cifr10'; check"),
        (lambda p: Images(str(p)), r"`source` must name a folder with images, got .*\*\.png"),
        (lambda p: Images(num_levels=18), r"`num_levels` must lie in 2\.\.17, .*got 18; leave"),
        (lambda p: Images(num_levels=1), r"`num_levels` must lie in 2\.\.17, .*got 1; leave"),
        (lambda p: Images(val_fraction=0.5), r"`val_fraction` must lie in \]0, 0\.5\[, got 0\.5"),
        (
            lambda p: Images(val_fraction=1e-4).val_tokens,
            r"`val_fraction` must leave an image in every split, got 0\.0001 for 1797 images",
        ),
    ],
)
def test_errors(make, message, tmp_path):
    """Errors name the argument, the rule, the value and the remedy."""
    with pytest.raises(ValueError, match=message):
        make(tmp_path)


@pytest.mark.parametrize("source", ["mnist", "fashion_mnist", "cifar10"])
def test_absent_data_set(source, tmp_path, monkeypatch):
    """The error names the folders that were looked into; nothing is fetched unasked."""
    monkeypatch.setattr(image_sources, "SHARED", tmp_path / "debian")
    data = Images(source, root=str(tmp_path))
    message = f"the data set '{source}', which is not in '{tmp_path}"
    with pytest.raises(ValueError, match=rf"`root` .*{re.escape(message)}.*`download=True`"):
        data.prepare_data()


def test_damaged_files(tmp_path):
    """A damaged data set and a folder of unequal or broken images are refused by name."""
    write_idx(tmp_path, packed=True)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    whole = gzip.decompress(path.read_bytes())
    for content in (path.read_bytes()[:-9], gzip.compress(whole[:-1]), gzip.compress(b"1234" * 5)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"whole IDX files, but .*t10k.*gz' is damaged"):
            _ = Images("mnist", root=str(tmp_path)).test_tokens
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "0.png").write_text("no image")
    with pytest.raises(ValueError, match=r"1 of 1 images cannot be read: .*0\.png' \(no image\)"):
        Images(str(folder))
    Image.new("L", (4, 2)).save(folder / "0.png")
    Image.new("L", (4, 3)).save(folder / "1.png")
    with pytest.raises(ValueError, match=r"one size, got 4 x 2 for .* and 4 x 3 for .*1\.png'"):
        Images(str(folder))


# Samples


@pytest.mark.parametrize("num", [3, 65])
def test_samples_are_pictures(tmp_path, num):
    """TensorBoard and files show the images; single files hold the very levels."""
    data = Images()
    tokens = data.val_tokens[:num].long()
    paths = data.save_samples(tokens, tmp_path)
    assert paths == [tmp_path / "samples.png"] + (num == 3) * [tmp_path / "samples"]
    singles = sorted((tmp_path / "samples").glob("*.png"))
    assert len(singles) == (3 if num == 3 else 0)
    for path, image in zip(singles, data.to_images(tokens), strict=False):
        assert np.array_equal(np.asarray(Image.open(path)), image[0].numpy())
    with Image.open(paths[0]) as grid:
        assert grid.size == ((2 * 66 + 2,) * 2 if num == 3 else (8 * 66 + 2, 9 * 66 + 2))
    (axes,) = data.samples_figure(tokens).axes
    with Image.open(paths[0]) as grid:
        assert np.array_equal(axes.images[0].get_array(), np.asarray(grid))
    assert data.samples_text(tokens) == ""
    assert len(data.arrival_figure(tokens[:3].expand(2, -1, -1)).axes) == 2 * 3 + 1


# The metric


def exact_sample(mean: Tensor, std: Tensor) -> Tensor:
    """Return 8 vectors with exactly this mean and standard deviation, not correlated."""
    signs = torch.tensor([[(k >> i & 1) * 2.0 - 1 for i in range(3)] for k in range(8)])
    return mean + (7 / 8) ** 0.5 * std * signs.double()


@pytest.mark.parametrize("rank", [3, 2, 0])
def test_frechet_distance_of_diagonal_gaussians(rank):
    """|mean difference|^2 + sum (std difference)^2, with and without full rank."""
    mean, std = torch.tensor([[1.0, -2, 0.5], [2.0, 1, 3]]).double()
    std[rank:] = 0
    other = torch.tensor([0.5, 4, 2]).double()
    metric = FrechetDistance(exact_sample(torch.zeros(3).double(), other), torch.nn.Identity())
    for batch in exact_sample(mean, std).split(3):
        metric.update(batch)
    expected = mean.square().sum() + (std - other).square().sum()
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-13, atol=0)


@pytest.mark.parametrize("rank", [5, 2])
def test_frechet_distance_is_that_of_torchmetrics(rank):
    """On the same features, both are one number; theirs is computed from eigenvalues."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Features(torch.nn.Module):
        num_features = 5

        def __init__(self, matrix):
            super().__init__()
            self.matrix = matrix

        def forward(self, vectors):
            return vectors.double() / 255 @ self.matrix

    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, rank, generator=generator).double() @ torch.eye(rank, 5).double()
    features = Features(matrix)
    real, fake = torch.randint(256, (2, 40, 12), generator=generator)
    theirs, ours = FrechetInceptionDistance(features), FrechetDistance(real, features)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours.update(fake)
    # Square roots of eigenvalues that should be 0 leave 1e-8 where the rank is not full.
    torch.testing.assert_close(ours.compute(), theirs.compute(), rtol=1e-6, atol=0)


class Brightness(torch.nn.Module):
    """Two features of an image, as a network of the user's own would give."""

    def forward(self, images):
        """Return the brightness of the upper and the lower half."""
        assert images.dtype == torch.uint8
        return images.double().unflatten(2, (2, -1)).mean((1, 3, 4))


def test_features_of_a_network():
    """The distance sees the images in 0..255 through the network, after which it is called."""
    data = Images(num_levels=4, features=Brightness)
    assert "features" not in data.hparams
    held_out = torch.cat([data.val_tokens, data.test_tokens])
    metric = data.metrics()["frechet_brightness"]
    metric.update(held_out)
    assert metric.compute() < 1e-9
    metric.reset()
    brighter = (held_out + 1).clamp(max=3)
    metric.update(brighter)
    difference = data.to_images(brighter).double() - data.to_images(held_out).double()
    shift = difference.unflatten(2, (2, -1)).mean((0, 1, 3, 4)).square().sum()
    assert metric.compute() >= shift * (1 - 1e-12)


def test_inception(monkeypatch):
    """Gray images become RGB, few at a time; what is missing is named, with the remedy."""
    seen = []

    class Network(torch.nn.Module):
        def __init__(self, name, features, weights):
            super().__init__()
            if weights is not None:
                raise FileNotFoundError(f"no file '{weights}'")
            assert (name, features) == ("inception-v3-compat", ["2048"])

        def forward(self, images):
            seen.append(images.shape)
            return images[:, :, 0, 0].float()

    monkeypatch.setattr(inception.fid, "NoTrainInceptionV3", Network)
    data = Images(features=Inception)
    data.prepare_data()
    features = data.metrics()["frechet_inception"].features(data.val_tokens)
    assert torch.equal(features, data.to_images(data.val_tokens)[:, :, 0, 0].float().expand(-1, 3))
    assert set(seen) == {(64, 3, 8, 8), (52, 3, 8, 8)}
    with pytest.raises(ValueError, match=r"`weights` must be .* from 'here' \(no file 'here'\)"):
        Inception("here")

    def absent(*args):
        raise ModuleNotFoundError("torch-fidelity")

    monkeypatch.setattr(inception.fid, "NoTrainInceptionV3", absent)
    with pytest.raises(ValueError, match=r"run `pip install 'discrete-diffusion\[fid\]'`"):
        Images(features=Inception).prepare_data()


def test_frechet_distance_to_itself_is_zero():
    """Equal sets have distance 0 to rounding, also with fewer vectors than dimensions."""
    data = Images()
    for num in (2, 20, 360):
        held_out = torch.cat([data.val_tokens, data.test_tokens])[:num]
        metric = FrechetDistance(held_out, data.metrics()["frechet_pca32"].features)
        metric.update(held_out)
        spread = metric.reference_covariance.trace()
        assert metric.compute() <= 1e-13 * spread
        metric.reset()
        metric.update(held_out[:1])
        assert metric.compute().isnan()


def test_frechet_distance_tells_digits_from_noise():
    """Training digits are nearer to held-out ones than are pixels drawn independently."""
    data = Images()
    train = data.train_tokens[:360].long()
    order = torch.rand(train.shape, generator=torch.Generator().manual_seed(0)).argsort(dim=0)
    values = [
        data.measure(tokens, tokens)["frechet_pca32"] for tokens in (train, train.gather(0, order))
    ]
    assert values[0] < 0.2 < 1 < values[1]
    assert data.measure(train, train)["frechet_pca32"] == values[0]  # no state is left behind


def test_pca_is_an_orthogonal_projection():
    """The features are uncorrelated with the largest variances; all of them keep distances."""
    x = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)).double()
    x = x * torch.arange(1, 7)
    variances = torch.linalg.eigvalsh(x.T.cov())
    torch.testing.assert_close(PCA(x, 2)(x).T.cov(), variances[-2:].diag())
    torch.testing.assert_close(torch.pdist(PCA(x, 99)(x)), torch.pdist(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: FrechetDistance(x[:1], torch.nn.Identity()), "`reference` .* got 1; give more"),
        (lambda x: PCA(x, 0), "`num_features` and the number of vectors .* got 0 and 2; raise"),
    ],
)
def test_metric_errors(make, message):
    """Errors name the argument, the rule, the value and the remedy."""
    with pytest.raises(ValueError, match=message):
        make(torch.zeros(2, 3))


# The eight values of the tag, and what a viewer shows of the stored pixels.
SHOWN = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(p, 2).swapaxes(0, 1),
    8: np.rot90,
    9: lambda p: p,  # no such value
}


@pytest.mark.parametrize("suffix", ["png", "JPG"])
@pytest.mark.parametrize("tag", SHOWN)
def test_images_are_upright(tmp_path, tag, suffix):
    """Photographs that a camera turned by EXIF are read as every viewer shows them."""
    stored = np.zeros((16, 8, 3), np.uint8)
    stored[:8] = 250
    stored[:, :4] += 5  # two edges, so that each of the eight ways differs
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif, quality=100, subsampling=0)
    (pixels,) = (image.transpose(1, 2, 0) for image in decoded(tmp_path))
    expected = SHOWN[tag](stored)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 2  # of JPEG


def test_turned_images_have_one_size(tmp_path):
    """A folder whose images all look alike is accepted, however the camera was held."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((16, 8), np.uint8)).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "b.png")
    assert [x.shape for x in decoded(tmp_path)] == 2 * [(1, 8, 16)]


def test_damaged_exif_is_ignored(tmp_path, monkeypatch):
    """The pixels are fine."""
    write_images(tmp_path, (1, 4, 4), 2)

    def fail(image):
        raise SyntaxError("not a TIFF file")

    monkeypatch.setattr(Image.Image, "getexif", fail)
    assert [x.shape for x in decoded(tmp_path)] == 2 * [(1, 4, 4)]


def test_other_files_are_no_images(tmp_path, monkeypatch):
    """Hidden files, pipes and links to nowhere are not looked at; EPS starts no program."""
    write_images(tmp_path, (1, 4, 4), 2)
    write_images(tmp_path / ".thumbnails", (1, 2, 2), 2)
    write_images(tmp_path / "deep" / ".ipynb_checkpoints", (1, 2, 2), 2)
    (tmp_path / "._0.png").write_bytes(b"resource fork")
    (tmp_path / "link.png").symlink_to("nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert [x.shape for x in decoded(tmp_path)] == 2 * [(1, 4, 4)]
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n"
    (tmp_path / "script.png").write_bytes(script)
    monkeypatch.setattr(subprocess, "check_call", pytest.fail)
    monkeypatch.setattr(subprocess, "Popen", pytest.fail)
    with pytest.warns(UserWarning, match=r"1 of 3 images .*script\.png' \(no image\)"):
        assert [x.shape for x in decoded(tmp_path)] == 2 * [(1, 4, 4)]


@pytest.mark.parametrize("seed", range(4))
def test_copies_stand_in_one_split(tmp_path, seed):
    """No image is held out that was trained on; every copy is kept."""
    write_images(tmp_path, (1, 4, 4), 12)
    for i in range(12):
        for copy in range(i % 4):
            (tmp_path / f"{i}-{copy}.PNG").write_bytes((tmp_path / f"{i}.png").read_bytes())
    data = Images(str(tmp_path), val_fraction=0.2, seed=seed)
    splits = (data.train_tokens, data.val_tokens, data.test_tokens)
    distinct = [rows(split[:]) for split in splits]
    assert sum(map(len, splits)) == 12 + 3 * (0 + 1 + 2 + 3)
    assert sum(map(len, distinct)) == len(set.union(*distinct)) == 12


def test_nothing_but_copies(tmp_path):
    """One image under many names is split like any other images."""
    write_images(tmp_path, (1, 4, 4), 1)
    for i in range(1, 10):
        (tmp_path / f"{i}.png").write_bytes((tmp_path / "0.png").read_bytes())
    data = Images(str(tmp_path), val_fraction=0.2)
    assert [len(x) for x in (data.train_tokens, data.val_tokens, data.test_tokens)] == [6, 2, 2]
