"""What schedules cost: all candidates of the last update, and how costs move in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from ddm.callbacks.overview import COLORS
from ddm.schedules import CostTable

MARKERS = {"uniform": "s", "cosine": "^", "previous": "D", "new": "o"}
RANGE = 1000
"""Largest ratio of costs that an axis shows; what is less stands at its lower end, or below."""


def plot_update_costs(updates: Sequence[Mapping[str, Any]], table: CostTable) -> Figure:
    """Draw measured costs of all candidates beside the predicted optimum, and costs over training.

    Costs are excess nats per sequence on held-out sequences, less is better; they are not biased,
    so that one may be below zero by chance and is left out of a logarithmic axis. Colors are those
    of `plot_overview`.

    Args:
        updates: See `JYSScheduleCallback.updates`.
        table: The table of the last update, which predicts the cost of any number of steps.
    """
    figure = Figure(figsize=(5, 5.5), layout="constrained")
    above, below = figure.subplots(2, 1)
    _candidates(above, updates[-1], table)
    _history(below, updates)
    numbers = [row["num_steps"] for row in updates[-1]["schedules"]]
    steps = sorted({update["step"] for update in updates})
    for axes, ticks in ((above, numbers), (below, steps[:: max(1, len(steps) // 6)])):
        axes.set_xscale("log")
        largest = max(np.nanmax(line.get_ydata(), initial=0.0) for line in axes.lines)
        if largest > 0:
            axes.set_yscale("log")
            # Chance makes some costs next to nothing, which would press the others together.
            axes.set_ylim(bottom=max(axes.get_ylim()[0], largest / RANGE))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))  # ticks in narrow ranges
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
        axes.set_xticks(ticks, labels=[f"{tick:,}" for tick in ticks])
        axes.minorticks_off()
    figure.supylabel("excess cost, weighted nats per sequence; less is better", fontsize=8)
    return figure


def _candidates(axes: Axes, update: Mapping[str, Any], table: CostTable) -> None:
    """Draw the costs of all candidates against the number of steps."""
    rows = update["schedules"]
    numbers = [row["num_steps"] for row in rows]
    line = np.unique(np.geomspace(max(1, min(numbers) / 2), 2 * max(numbers), 24).astype(int))
    predicted = [_positive(table.cost(int(n))) for n in line]
    axes.plot(line, predicted, color="0.8", linewidth=1, label="optimum, predicted", zorder=0)
    # Side by side, or markers of equal costs would hide each other.
    for place, (name, marker) in enumerate(MARKERS.items()):
        at = [n * 1.06 ** (place - 1.5) for n in numbers]
        costs = [_positive(row["costs"].get(name, np.nan)) for row in rows]
        axes.plot(at, costs, marker, color=COLORS[name], markersize=5, label=name)
    title = f"at step {update['step']:,}: candidates on held-out sequences"
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xlabel("number of steps", fontsize=8)
    axes.legend(frameon=False, fontsize=8)


def _history(axes: Axes, updates: Sequence[Mapping[str, Any]]) -> None:
    """Draw the costs of uniform and kept schedules against the training step."""
    steps, ends = [update["step"] for update in updates], {}
    for k, last in enumerate(updates[-1]["schedules"]):
        rows = [update["schedules"][k] for update in updates]
        kept = [_positive(r["costs"].get(r["winner"], np.nan)) for r in rows]
        uniform = [_positive(r["costs"].get("uniform", np.nan)) for r in rows]
        axes.plot(steps, uniform, ":", color=COLORS["uniform"], linewidth=1)
        axes.plot(steps, kept, color="0.15", linewidth=1)
        axes.scatter(steps, kept, 16, [COLORS.get(r["winner"], "k") for r in rows], zorder=3)
        ends[f"{last['num_steps']} steps"] = ([0.0] + [cost for cost in kept if cost > 0])[-1]
    for label, cost in ends.items():
        if cost > max(ends.values()) / RANGE:
            axes.annotate(
                label,
                (1, cost),
                (4, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
    title = "while training: kept (colored by what won) and uniform (dotted)"
    axes.set_title(title, fontsize=8, loc="left")
    axes.set_xlabel("training step", fontsize=8)


def _positive(cost: float) -> float:
    return cost if cost > 0 else np.nan
