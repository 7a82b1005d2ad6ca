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
