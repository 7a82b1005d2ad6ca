"""Pictures of tokens, outside of pyplot's global state."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int, UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import pad

from ddm.files import replacing

NUM_PITCHES = 128
WIDEST = 800
"""Pixels of a picture that can still be read in a narrow card."""


def token_figure(tokens: Int[Tensor, "B L"], vocab_size: int) -> Figure:
    """Return a heat map of tokens, one sequence per row."""
    num, length = tokens.shape
    width = min(16.0, max(4.0, length / 12))
    figure = Figure(figsize=(width, min(12.0, max(1.5, num / 5 + 0.8))), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        tokens.cpu().numpy(), aspect="auto", interpolation="nearest", vmin=0, vmax=vocab_size - 1
    )
    axes.set_xlabel("position")
    axes.set_ylabel("sample")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, label="token")
    return figure


def trajectory_figure(
    times: Float[Tensor, "T M"], states: Int[Tensor, "T M L"], vocab_size: int
) -> Figure:
    """Return heat maps of the states of samples, from noise (above) to data; masks are gray."""
    num_states, num, length = states.shape
    width = min(16.0, max(4.0, length / 12))
    height = num * (0.6 + 0.2 * num_states)
    figure = Figure(figsize=(width, min(24.0, height)), layout="constrained")
    colors = matplotlib.colormaps["viridis"].with_extremes(over="0.8")
    rows = figure.subplots(num, 1, sharex=True, squeeze=False)[:, 0]
    for sample, axes in enumerate(rows):
        image = axes.imshow(
            states[:, sample].numpy(),
            aspect="auto",
            interpolation="nearest",
            cmap=colors,
            vmin=0,
            vmax=vocab_size - 1,
        )
        _label_states(axes, times[:, sample])
    rows[-1].set_xlabel("position")
    masked = bool((states >= vocab_size).any())
    label = "token; gray: masked" if masked else "token"
    figure.colorbar(image, ax=list(rows), label=label, extend="max" if masked else "neither")
    return figure


def text_figure(text: str, width: int = 140) -> Figure:
    """Return a picture of text in letters of one width; masks, U+FFFD, are shaded.

    Args:
        text: Lines to show, at most 150; longer ones are cut and go on below.
        width: Letters per line.
    """
    lines = [
        line[start : start + width]
        for line in shown(text).splitlines()
        for start in range(0, max(len(line), 1), width)
    ][:150]  # a page of it takes a second
    letter = 7 / 72  # inches; the font is .602 of it wide
    size = (0.3 + 0.61 * letter * max(map(len, lines), default=1), 0.2 + 1.4 * letter * len(lines))
    figure = Figure(figsize=size)
    style = {"family": "monospace", "size": 72 * letter, "va": "top", "linespacing": 1.4}
    # A dollar is no formula here.
    figure.text(0.1 / size[0], 1 - 0.1 / size[1], "\n".join(lines), style, parse_math=False)
    return figure


def shown(text: str) -> str:
    """Return text with shaded masks, U+FFFD, and dots for what has no glyph."""
    text = text.replace("\ufffd", "\u2591")
    return "".join(c if c.isprintable() or c == "\n" else "\u00b7" for c in text)


def save_figure(figure: Figure, path: Path, dpi: int = 120) -> Path:
    """Write a figure, whole or not at all; return its path."""
    with replacing(path) as unfinished, _any_letter():
        figure.savefig(unfinished, format=path.suffix[1:], dpi=dpi)
    return path


def image_grid(
    images: UInt8[Tensor, "B C H W"], *, columns: int, border: int = 2, fill: int = 128
) -> UInt8[Tensor, "3 height width"]:
    """Return images, gray or RGB, row by row in one picture, with borders of `fill` around each."""
    columns = min(columns, len(images))
    images = pad(images.expand(-1, 3, -1, -1), (border, 0, border, 0), value=fill)
    blank = images.new_full((-len(images) % columns, *images.shape[1:]), fill)
    cells = torch.cat([images, blank])
    grid = rearrange(cells, "(row column) c h w -> c (row h) (column w)", column=columns)
    return pad(grid, (0, border, 0, border), value=fill)


def image_trajectory_figure(
    times: Float[Tensor, "T M"], images: UInt8[Tensor, "T M 3 H W"]
) -> Figure:
    """Return strips of images, one sample per row, from noise (left) to data (right)."""
    num_states, num, _, height, width = images.shape
    # (T, M, 3, H, W) as rows of samples and columns of times, with a border of one pixel.
    cells = np.pad(images.numpy(), (*3 * [(0, 0)], *2 * [(0, 1)]), constant_values=128)
    grid = cells.transpose(1, 3, 0, 4, 2).reshape(num * (height + 1), num_states * (width + 1), 3)
    figure = Figure(figsize=(num_states, 0.3 + num * height / width), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(grid, interpolation="nearest")
    centers = [(index + 0.5) * (width + 1) - 0.5 for index in range(num_states)]
    axes.set_xticks(centers, [f"t = {t:.2f}" for t in times.mean(1).tolist()], fontsize=8)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def pianoroll_trajectory_figure(
    times: Float[Tensor, "T M"],
    states: Int[Tensor, "T M L"],
    *,
    voices: int = 1,
    prompt_length: int = 0,
) -> Figure:
    """Return pianorolls of the states of samples, one sample per column, noise above data.

    They show the pitches that the last states use.

    Args:
        times: The times of the states.
        states: Music, as `pianoroll_figure` takes it; where there is a mask, the sixteenth is gray.
        voices: The number of voices.
        prompt_length: The number of first sixteenths that were given, before a dashed line.
    """
    num_states, num, length = states.shape
    steps = length // voices
    figure = Figure(figsize=(0.6 + 4 * num, 0.6 + num_states), layout="constrained")
    columns = figure.subplots(1, num, sharey=True, squeeze=False)[0]
    low, high = used_pitches(states[-1].numpy())  # noise may use all of them
    for sample, axes in enumerate(columns):
        roll = np.ones((num_states, NUM_PITCHES, steps, 3))
        for state, canvas in zip(states[:, sample].numpy(), roll, strict=True):
            tokens = state.reshape(steps, voices)
            # One shade darker for every voice that is not known.
            canvas[:] = 1 - 0.4 * (tokens > NUM_PITCHES).mean(1)[:, None]
            for voice, row in enumerate(tokens.T):
                (at,) = np.nonzero((row >= 0) & (row < NUM_PITCHES))
                canvas[NUM_PITCHES - 1 - row[at], at] = to_rgb(f"C{voice}")
        axes.imshow(
            roll[:, NUM_PITCHES - high : NUM_PITCHES - low].reshape(-1, steps, 3),
            aspect="auto",
            interpolation="nearest",
            extent=(0, steps, num_states - 0.5, -0.5),
        )
        for edge in range(1, num_states):
            axes.axhline(edge - 0.5, color="black", linewidth=0.5)
        if prompt_length:
            axes.axvline(prompt_length, color="black", linestyle="--", linewidth=1)
        axes.set_xlabel("sixteenth")
    _label_states(columns[0], times.mean(1))
    return figure


def pianoroll_figure(
    tokens: Int[Tensor, "B L"], *, voices: int = 1, prompt_length: int = 0
) -> Figure:
    """Return pianorolls, one below the other: time against pitch, one color per voice.

    Args:
        tokens: Music with shape (B, L), the voices of one sixteenth after those of another:
            pitches in 0..127; all else is silent.
        voices: The number of voices.
        prompt_length: The number of first sixteenths that were given, before a dashed line.
    """
    num, length = tokens.shape
    figure = Figure(figsize=(10, 0.6 + 1.1 * num), layout="constrained")
    rows = figure.subplots(num, 1, sharex=True, squeeze=False)[:, 0]
    for axes, music in zip(rows, tokens.cpu().numpy(), strict=True):
        for voice, row in enumerate(music.reshape(-1, voices).T):
            (at,) = np.nonzero((row >= 0) & (row < NUM_PITCHES))
            axes.hlines(row[at], at, at + 1, colors=f"C{voice}", linewidth=2.5)
        axes.set(xlim=(0, length // voices), ylim=used_pitches(music))
        if prompt_length:
            axes.axvline(prompt_length, color="black", linestyle="--", linewidth=1)
    figure.supylabel("pitch")
    rows[-1].set_xlabel("sixteenth")
    return figure


def used_pitches(tokens: Int[np.ndarray, "..."]) -> tuple[int, int]:
    """Return the range of pitches that music uses, with a margin of two, within 0..128."""
    notes = tokens[(tokens >= 0) & (tokens < NUM_PITCHES)]
    low, high = (int(notes.min()), int(notes.max())) if len(notes) else (60, 60)
    return max(0, low - 2), min(NUM_PITCHES, high + 3)


def pixels(figure: Figure, dpi: int = 100) -> UInt8[np.ndarray, "height width 3"]:
    """Return a figure as pixels."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with _any_letter():
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


@contextmanager
def _any_letter() -> Iterator[None]:
    """Draw a box for a letter that the font lacks, and say nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def together(figures: Mapping[str, Figure]) -> UInt8[np.ndarray, "height width 3"]:
    """Return figures as one picture, each under its title: side by side, wide ones stacked."""
    parts = []
    for title, figure in figures.items():
        picture = pixels(figure)
        strip = Figure(figsize=(picture.shape[1] / 100, 0.25))
        strip.text(0.01, 0.3, title, fontsize=9, parse_math=False)
        parts.append(np.concatenate([pixels(strip)[:, : picture.shape[1]], picture]))
    along = int(sum(part.shape[1] for part in parts) <= WIDEST)
    across = max(part.shape[1 - along] for part in parts)
    return np.concatenate([_padded(part, across, 1 - along) for part in parts], axis=along)


def _padded(picture: UInt8[np.ndarray, "h w 3"], size: int, axis: int) -> UInt8[np.ndarray, "..."]:
    """Return a picture with white up to a size along an axis."""
    widths = [(0, size - picture.shape[k] if k == axis else 0) for k in range(3)]
    return np.pad(picture, widths, constant_values=255)


def _label_states(axes: Axes, times: Float[Tensor, " T"]) -> None:
    axes.set_yticks(range(len(times)), [f"t = {t:.2f}" for t in times.tolist()], fontsize=8)
