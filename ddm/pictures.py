"""Pictures of tokens, outside of pyplot's global state."""

from jaxtyping import Int
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor


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


def pianoroll_figure(tokens: Int[Tensor, "B L"], prompt_length: int = 0) -> Figure:
    """Return the pianorolls of melodies, one below the other: time against pitch.

    Args:
        tokens: Melodies with shape (B, L): pitches in 0..127; all else is silent.
        prompt_length: The number of first tokens that were given, before a dashed line.
    """
    num, length = tokens.shape
    figure = Figure(figsize=(10, 0.6 + 1.1 * num), layout="constrained")
    rows = figure.subplots(num, 1, sharex=True, squeeze=False)[:, 0]
    for axes, row in zip(rows, tokens.cpu().tolist(), strict=True):
        pitches = [(t, pitch) for t, pitch in enumerate(row) if 0 <= pitch < 128]
        times, heights = zip(*pitches, strict=True) if pitches else ((), ())
        axes.hlines(heights, times, [t + 1 for t in times], linewidth=2.5)
        axes.set(
            xlim=(0, length), ylim=(min(heights, default=60) - 2, max(heights, default=60) + 2)
        )
        if prompt_length:
            axes.axvline(prompt_length, color="black", linestyle="--", linewidth=1)
    figure.supylabel("pitch")
    rows[-1].set_xlabel("sixteenth")
    return figure
