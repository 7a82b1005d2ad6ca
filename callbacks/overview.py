"""One figure that tells how the schedules have moved while the model was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

NUM_BINS = 32
COLORS = {"new": "C3", "previous": "C1", "cosine": "C2", "uniform": "0.5"}
MOST_PANELS = 6
MOST_LINES = 32
"""Times drawn in a panel; of more steps every second or third one is."""


def binned_density(
    density: Float[np.ndarray, " M"], times: Float[np.ndarray, " M+1"]
) -> list[float]:
    """Return a density of times, normalized, in equal bins of [0, 1]; 1 everywhere if uniform."""
    level = np.concatenate([[0.0], (density * np.diff(times)).cumsum()])
    if level[-1] <= 0:  # no schedule costs anything
        return [1.0] * NUM_BINS
    edges = np.interp(np.linspace(0, 1, NUM_BINS + 1), times, level / level[-1])
    return [round(float(d), 4) for d in np.diff(edges) * NUM_BINS]


def plot_overview(updates: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the times of all numbers of steps against the training step.

    Behind them lies the optimal density of times; marks at the top say what was kept.

    Args:
        updates: Steps, densities, and for every number of steps the times that were kept, see
            `JYSScheduleCallback.updates`.
    """
    last = updates[-1]["schedules"]
    chosen = np.linspace(0, len(last) - 1, min(len(last), MOST_PANELS)).round().astype(int)
    num_rows = 1 if len(chosen) == 1 else 2
    num_columns = -(-len(chosen) // num_rows)
    figure = Figure(figsize=(5, 3.9))
    grid = figure.subplots(num_rows, num_columns, sharex=True, sharey=True, squeeze=False)
    # Far faster than a layout that is found by drawing.
    figure.subplots_adjust(left=0.11, right=0.98, bottom=0.18, top=0.86, wspace=0.08, hspace=0.4)
    steps = np.array([update["step"] for update in updates], dtype=np.float64)
    density = np.array([update["density"] for update in updates])
    for axes, k in zip(grid.flat, chosen, strict=False):
        _panel(axes, steps, density, [update["schedules"][k] for update in updates])
    for axes in grid.flat[len(chosen) :]:
        axes.remove()
    for axes in grid.flat[: len(chosen)][-num_columns:]:  # the lowest ones, also above a gap
        axes.tick_params(labelbottom=True)
    grid[0, 0].set_yticks([0, 0.5, 1], labels=["data 0", "0.5", "noise 1"])
    marks = [
        Line2D([], [], marker="s", linestyle="", markersize=5, color=color, label=name)
        for name, color in COLORS.items()
    ]
    figure.legend(
        handles=marks,
        loc="lower right",
        ncols=len(marks),
        frameon=False,
        fontsize=8,
        handletextpad=0.1,
        columnspacing=1.0,
    )
    figure.text(0.01, 0.025, "squares: which schedule was kept", fontsize=8)
    figure.text(0.98, 0.085, "training step", fontsize=8, ha="right")
    title = "Lines: times of steps. Darker: more belong here. Dotted, compared with: uniform steps"
    figure.text(0.01, 0.965, title, fontsize=8)
    return figure


def _panel(
    axes: Axes,
    steps: Float[np.ndarray, " U"],
    density: Float[np.ndarray, "U B"],
    rows: Sequence[Mapping[str, Any]],
) -> None:
    """Draw the schedules with one number of steps."""
    edges = _edges(steps)
    axes.pcolormesh(
        edges,
        np.linspace(0, 1, NUM_BINS + 1),
        np.log2(density.clip(0.125, 8)).T,
        cmap="Blues",
        vmin=-3,
        vmax=5,
        rasterized=True,
    )
    # Every schedule holds until the next one.
    times = np.array([row["times"] for row in rows])
    number = times.shape[1] - 1
    width = 1.2 if number <= 8 else 0.6
    every = -(-number // MOST_LINES)  # more lines would be a black area
    held = np.concatenate([times, times[-1:]])
    axes.plot(
        np.append(steps, edges[-1]),
        held[:, every:-1:every],
        color="0.15",
        linewidth=width,
        drawstyle="steps-post",
    )
    for k in range(1, number) if number <= 8 else ():
        axes.axhline(k / number, color="0.4", linewidth=0.5, linestyle=":")
    colors = [COLORS.get(row["winner"], "k") for row in rows]
    axes.scatter(steps, np.full(len(rows), 1.05), 14, colors, marker="s", clip_on=False)
    gain = rows[-1]["gain"]
    # By chance a measured cost may be below zero, and a gain above one.
    words = f"{min(gain, 1.0):.0%} less cost" if gain > 0 else "no gain"
    axes.set_title(f"{number} step{'s' * (number > 1)}: {words}", fontsize=8, loc="left", pad=9)
    if every > 1:
        white = {"color": "w", "alpha": 0.8, "pad": 1}
        label = f"1 of {every} steps"
        axes.text(0.97, 0.05, label, size=7, ha="right", transform=axes.transAxes, bbox=white)
    axes.set_xscale("log")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, 1))
    ticks = steps[np.unique(np.linspace(0, len(steps) - 1, 5).round().astype(int))]
    axes.set_xticks(ticks, labels=[f"{int(step):,}" for step in ticks])
    axes.minorticks_off()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)


def _edges(steps: Float[np.ndarray, " U"]) -> Float[np.ndarray, " U+1"]:
    """Return the borders of columns around steps on a logarithmic axis."""
    log = np.log(np.maximum(steps, 1))
    between = (log[1:] + log[:-1]) / 2
    half = (log[-1] - log[0]) / (2 * (len(log) - 1)) if len(log) > 1 else 0.5
    return np.asarray(np.exp(np.concatenate([[log[0] - half], between, [log[-1] + half]])))
