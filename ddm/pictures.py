"""Pictures of tokens, outside of pyplot's global state."""

import numpy as np
from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

NUM_PITCHES = 128


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


def pianoroll_figure(
    tokens: Int[Tensor, "B L"], *, voices: int = 1, prompt_length: int = 0
) -> Figure:
    """Return pianorolls, one below the other: time against pitch, one colour per voice.

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
        heights: list[int] = []
        for voice, row in enumerate(music.reshape(-1, voices).T):
            (at,) = np.nonzero((row >= 0) & (row < NUM_PITCHES))
            axes.hlines(row[at], at, at + 1, colors=f"C{voice}", linewidth=2.5)
            heights += row[at].tolist()
        axes.set(
            xlim=(0, length // voices),
            ylim=(min(heights, default=60) - 2, max(heights, default=60) + 2),
        )
        if prompt_length:
            axes.axvline(prompt_length, color="black", linestyle="--", linewidth=1)
    figure.supylabel("pitch")
    rows[-1].set_xlabel("sixteenth")
    return figure
