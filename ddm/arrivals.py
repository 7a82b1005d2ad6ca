"""Pictures of when tokens got their final value: one color per step."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
import numpy as np
import torch
from jaxtyping import Int, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, Colormap, ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from ddm.pictures import NUM_PITCHES, shown, used_pitches

LETTER = 0.08 / 0.602
"""Height of letters in inches. They are .602 of it wide, which is to be whole pixels."""


def last_changes(states: Int[Tensor, "T M L"]) -> Int[Tensor, "M L"]:
    """Return for every token the number of the last step that changed it, 0 if none did.

    Args:
        states: The first state and those after each of T - 1 steps.
    """
    steps = torch.arange(1, len(states)).view(-1, 1, 1)
    changed = (states[1:] != states[:-1]) * steps
    return changed.amax(0) if len(changed) else torch.zeros_like(states[0])


def token_arrivals(states: Int[Tensor, "T M L"]) -> Figure:
    """Draw when the tokens of samples came, one sample per row."""
    steps = last_changes(states)
    num, length = steps.shape
    width = min(16.0, max(5.0, length / 12))
    figure = Figure(figsize=(width, min(12.0, 1.2 + num / 4)), layout="constrained")
    axes = figure.add_subplot()
    colors, norm = _colors(len(states) - 1)
    axes.imshow(steps.numpy(), aspect="auto", interpolation="nearest", cmap=colors, norm=norm)
    axes.set(xlabel="position", yticks=[])
    _legend(figure, [axes], len(states) - 1)
    return figure


def text_arrivals(states: Int[Tensor, "T M L"], pieces: Sequence[Sequence[str]]) -> Figure:
    """Draw when the pieces of texts came, as letters on colored ground.

    Args:
        states: The states of M texts.
        pieces: The text of each final token, M times L.
    """
    steps, width = last_changes(states).numpy(), 100
    lines, rows = [], []
    for row, tokens in zip(steps, pieces, strict=True):
        text = shown("".join(tokens))
        spread = np.repeat(row, [len(piece) for piece in tokens])
        for start in range(0, max(len(text), 1), width):
            lines.append(text[start : start + width])
            rows.append(np.pad(spread[start : start + width], (0, width), constant_values=-1))
        lines.append("")
        rows.append(np.full(width, -1))
    columns = max(1, *map(len, lines))
    ground = np.ma.masked_less(np.stack([row[:columns] for row in rows[:-1]]), 0)
    high, wide = 1.5 * LETTER * len(ground), 0.602 * LETTER * columns
    figure = Figure(figsize=(wide + 0.2, high + 0.9))
    size = figure.get_size_inches()
    axes = figure.add_axes((0.1 / size[0], 0.8 / size[1], wide / size[0], high / size[1]))
    colors, norm = _colors(len(states) - 1, white=0.5)
    axes.imshow(ground, aspect="auto", interpolation="nearest", cmap=colors, norm=norm)
    for line, text in enumerate(lines[:-1]):
        style = {"family": "monospace", "size": 72 * LETTER, "va": "center_baseline"}
        axes.text(-0.5, line, text, style, parse_math=False)
    axes.axis("off")
    _legend(
        figure, figure.add_axes((0.2, 0.45 / size[1], 0.6, 0.1 / size[1])), len(states) - 1, 0.5
    )
    return figure


def image_arrivals(states: Int[Tensor, "T M L"], images: UInt8[Tensor, "M C H W"]) -> Figure:
    """Draw when the pixels of images came, below the images; of several colors the last counts."""
    num, _, height, width = images.shape
    steps = last_changes(states).unflatten(1, images.shape[1:]).amax(1).numpy()
    figure = Figure(figsize=(1.6 * num + 1, 1.6 * 2 * height / width + 0.9), layout="constrained")
    grid = figure.subplots(2, num, squeeze=False)
    colors, norm = _colors(len(states) - 1)
    for k in range(num):
        image = images[k].expand(3, -1, -1).permute(1, 2, 0).numpy()
        grid[0, k].imshow(image, interpolation="nearest")
        grid[1, k].imshow(steps[k], interpolation="nearest", cmap=colors, norm=norm)
    for axes in grid.flat:
        axes.axis("off")
    _legend(figure, list(grid.flat), len(states) - 1)
    return figure


def pianoroll_arrivals(states: Int[Tensor, "T M L"], *, voices: int = 1) -> Figure:
    """Draw when the notes of music came: pianorolls, one sample per row."""
    steps, final = last_changes(states), states[-1]
    figure = Figure(figsize=(10, 0.9 + 1.1 * len(final)), layout="constrained")
    rows = figure.subplots(len(final), 1, sharex=True, squeeze=False)[:, 0]
    colors, norm = _colors(len(states) - 1)
    for axes, music, when in zip(rows, final.numpy(), steps.numpy(), strict=True):
        (at,) = np.nonzero((music >= 0) & (music < NUM_PITCHES))
        shades = colors(norm(when[at]))
        axes.hlines(music[at], at // voices, at // voices + 1, colors=shades, linewidth=3)
        axes.set(xlim=(0, len(music) // voices), ylim=used_pitches(music))
    rows[-1].set_xlabel("sixteenth")
    figure.supylabel("pitch")
    _legend(figure, list(rows), len(states) - 1)
    return figure


def _colors(num_steps: int, white: float = 0.0) -> tuple[Colormap, BoundaryNorm]:
    """Return a color for each of the steps 0 to `num_steps`, mixed with white; 0 is gray."""
    shades = matplotlib.colormaps["turbo"](np.linspace(0.05, 0.95, max(num_steps, 1)))
    shades = np.concatenate([np.full((1, 4), 0.85), white + (1 - white) * shades])
    return ListedColormap(shades), BoundaryNorm(np.arange(-0.5, num_steps + 1), len(shades))


def _legend(figure: Figure, axes: Axes | list[Axes], num_steps: int, white: float = 0.0) -> None:
    """Draw the bar of colors: into axes of its own, or beside a list of axes."""
    colors, norm = _colors(num_steps, white)
    place = {"ax": axes, "aspect": 60} if isinstance(axes, list) else {"cax": axes}
    bar = figure.colorbar(
        matplotlib.cm.ScalarMappable(norm, colors), orientation="horizontal", **place
    )
    ticks = sorted({0, 1, *np.linspace(0, num_steps, 9).round().astype(int).tolist()})
    bar.set_ticks(ticks, labels=[str(k) for k in ticks])
    bar.set_label("step that set the token; 0: as it was", size=8)
    bar.ax.tick_params(labelsize=8, length=0)
