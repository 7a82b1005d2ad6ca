"""Figures of schedules and cost tables, for TensorBoard and for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ddm.schedule import SamplingSchedule
from ddm.schedules.optimal.cost_table import CostTable


def plot_schedules(schedules: Mapping[str, SamplingSchedule]) -> Figure:
    """Draw the times of several schedules against the index of the step."""
    figure, axes = _figure()
    for name, schedule in schedules.items():
        index = np.arange(schedule.num_steps + 1) / schedule.num_steps
        axes.plot(index, schedule.times, ".-", label=name, linewidth=1.2, markersize=5)
    axes.set(xlabel="share of steps made", ylabel="t  (1 is noise, 0 is data)")
    axes.legend(frameon=False)
    return figure


def plot_costs(table: CostTable, num_steps: Sequence[int]) -> Figure:
    """Draw the price of a schedule against its number of steps, beside fixed shapes."""
    figure, axes = _figure()
    shapes = {
        "uniform": [table.evaluate(SamplingSchedule.uniform(n).times) for n in num_steps],
        "cosine": [table.evaluate(SamplingSchedule.cosine(n).times) for n in num_steps],
        "optimal": [table.cost(n) for n in num_steps],
    }
    for name, costs in shapes.items():
        axes.loglog(num_steps, costs, ".-", label=name, linewidth=1.2, markersize=5)
    axes.set_xticks(num_steps, labels=[str(n) for n in num_steps])
    axes.minorticks_off()
    axes.set(
        xlabel="steps N",
        ylabel="excess cost, weighted nats per sequence",
        title=f"{table.setting.sampler}, gamma = {table.gamma:g}",
    )
    axes.legend(frameon=False)
    return figure


def plot_density(table: CostTable) -> Figure:
    """Draw where the cost lies: the optimal density of times over t."""
    figure, axes = _figure()
    total = float((table.density * np.diff(table.times)).sum())
    axes.stairs(
        table.density / max(total, 1e-300), table.times, fill=True, baseline=0.01, alpha=0.4
    )
    axes.axhline(1.0, color="0.6", linewidth=0.8)
    axes.set_yscale("log")
    axes.set_ylim(bottom=0.03)
    axes.set(
        xlabel="t  (0 is data, 1 is noise)",
        ylabel="density of steps (uniform: 1)",
        title=f"optimal density of times, gamma = {table.gamma:g}",
    )
    return figure


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes
