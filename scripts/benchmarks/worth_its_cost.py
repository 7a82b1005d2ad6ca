"""Is an optimised schedule worth its cost? Time to find it against time saved by using it.

Times are CPU seconds of one thread, so that a busy machine does not change them; networks are
untrained, which changes no time. "Network" is the time inside the network, "search" all the rest:
the algebra of the cost table, golden sections, shortest paths. How many steps are saved, how far
schedules scatter and what samples are worth is measured with exact denoisers of CountDown chains
(V = 12, L = 32). Writes docs/results/worth_its_cost.{json,png}.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from ddm import ForwardProcess, OptimalSteps
from ddm.backbones import Transformer
from ddm.datamodules.countdown import sample_chain
from ddm.denoisers import MeanDenoiser
from ddm.noise import LogLinear
from ddm.samplers import Analytic, CallCounter
from ddm.schedules import JumpYourSteps, SamplingSchedule, ScheduleOptimizer

import numpy as np
import torch
from _report import finish, resume
from kernel_gain import KERNELS, LENGTH, VOCAB_SIZE, chains, exact, table_of, violations
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from schedule_speed import Timed

MODELS = {"2 x 64": (2, 64), "4 x 128": (4, 128), "4 x 256": (4, 256)}
RIGID, SMOOTH = list(chains())[:2]
SIZES = (16, 64, 256, 512)
NUM_STEPS = (4, 8, 16, 32)
GENERATED = (1_000, 10_000, 100_000)
"""Samples that share the cost of one optimisation."""


def cost(
    model: str, kernel: str, optimizer: ScheduleOptimizer, num_steps: int, num_sequences: int
) -> dict[str, float]:
    """Return calls and CPU seconds inside and outside the network of one optimisation."""
    torch.manual_seed(0)
    depth, dim = MODELS[model]
    process = ForwardProcess(KERNELS[kernel](VOCAB_SIZE), LogLinear())
    network = Transformer(process.kernel.num_states, dim=dim, depth=depth, num_heads=4).eval()
    # A new network says the same everywhere; a little noise makes it one with an opinion.
    torch.nn.init.normal_(network.out.weight, std=0.1)
    timed = Timed(MeanDenoiser(network, process), time.process_time)
    counter = CallCounter(timed)
    x_0 = torch.randint(VOCAB_SIZE, (num_sequences, LENGTH))
    begin = time.process_time()
    optimizer(counter, Analytic(), x_0, [num_steps], generator=torch.Generator().manual_seed(0))
    total = time.process_time() - begin
    return {
        "calls": counter.num_calls,
        "network": timed.seconds,
        "search": total - timed.seconds,
        "seconds_per_row": timed.seconds / counter.num_rows,
    }


def scatter(
    kernel: str, optimizer: ScheduleOptimizer, sizes: Sequence[int], seeds: int
) -> dict[str, Any]:
    """Return how far the times for N = 8 scatter between independent data sets, and their cost.

    The standard deviation is over data sets, in the mean over the inner times. The cost, weighted
    nats per sequence, is judged by a table of 512 other sequences.
    """
    chain = chains()[SMOOTH]
    denoiser = exact(KERNELS[kernel](VOCAB_SIZE), LogLinear(), chain)
    judge = table_of(denoiser, chain, 512, 1_000)
    found: dict[str, Any] = {"uniform": judge.evaluate(SamplingSchedule.uniform(8).times)}
    for size in sizes:
        times = []
        for seed in range(seeds):
            noise = torch.Generator().manual_seed(seed)
            x_0 = sample_chain(*chain, size, LENGTH, noise)
            result = optimizer(denoiser, Analytic(), x_0, [8], generator=noise)
            times.append(result.schedules[8].times)
        found[str(size)] = {
            "std": float(np.std(times, 0, ddof=1)[1:-1].mean()),
            "costs": [judge.evaluate(t) for t in times],
        }
    return found


def saving(kernel: str, num_data: int, num_samples: int) -> dict[str, Any]:
    """Return by N how many optimal steps cost what N uniform ones do, and violations of both."""
    chain = chains()[RIGID]
    denoiser = exact(KERNELS[kernel](VOCAB_SIZE), LogLinear(), chain)
    table, judge = (table_of(denoiser, chain, num_data, seed) for seed in (0, 1))
    found: dict[str, Any] = {}
    for n in NUM_STEPS:
        uniform, optimal = SamplingSchedule.uniform(n), table.schedule(n)
        found[str(n)] = {
            "instead": judge.steps_for(judge.evaluate(uniform.times)),
            "uniform": violations(denoiser, uniform.times, num_samples),
            "optimal": violations(denoiser, optimal.times, num_samples),
        }
    return found


def break_even(optimisation: float, num_steps: int, instead: int) -> float:
    """Return how many samples must be drawn until an optimisation has paid.

    Args:
        optimisation: What it costs, in network evaluations of one sequence.
        num_steps: Uniform steps per sample.
        instead: Optimal steps per sample of the same quality.
    """
    return optimisation / (num_steps - instead) if instead < num_steps else math.inf


def draw(cells: Mapping[str, Any], seconds: float, optimisation: float) -> Figure:
    """Draw costs by model, scatter by data, and quality against time.

    Args:
        cells: What `main` measured.
        seconds: CPU seconds of one network evaluation of one sequence.
        optimisation: Evaluations of one sequence that one optimisation costs.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    split, spread, quality = figure.subplots(1, 3)
    for k, (kernel, name) in enumerate(product(("absorbing", "uniform"), ("OptimalSteps", "JYS"))):
        mine = [cells[f"cost/{model}/{kernel}/{name}"] for model in MODELS]
        place = np.arange(len(MODELS)) + 0.2 * k - 0.3
        network, search = ([1e3 * c[p] / c["calls"] for c in mine] for p in ("network", "search"))
        split.bar(place, network, 0.18, color=f"C{k}", label=f"{name}, {kernel}")
        split.bar(place, search, 0.18, bottom=network, color=f"C{k}", alpha=0.4)
    split.set_xticks(range(len(MODELS)), labels=list(MODELS))
    split.set(xlabel="Transformer", ylabel="CPU ms per network call\n(pale: search)")
    for key, line in (("OptimalSteps", "o-"), ("JYS", "s--")):
        for k, kernel in enumerate(("absorbing", "uniform")):
            rows = cells[f"scatter/{kernel}/{key}"]
            sizes = [n for n in SIZES if str(n) in rows]
            std = [rows[str(n)]["std"] for n in sizes]
            spread.plot(sizes, std, line, color=f"C{k}", label=f"{key}, {kernel}", markersize=4)
    spread.set_xscale("log", base=2)
    spread.set_yscale("log")
    spread.set_xticks(SIZES, labels=[str(n) for n in SIZES])
    spread.set(xlabel="sequences", ylabel="standard deviation of the times, N = 8")
    for k, kernel in enumerate(KERNELS):
        rows = cells[f"saving/{kernel}"]
        calls = np.array([int(n) for n in rows])
        uniform, optimal = ([row[key] for row in rows.values()] for key in ("uniform", "optimal"))
        quality.plot(calls * seconds, uniform, ".--", color=f"C{k}", label=f"{kernel}, uniform")
        for generated, line in zip(GENERATED, (":", "-.", "-"), strict=True):
            x = (calls + optimisation / generated) * seconds
            label = f"optimal, {generated:,} samples" if k == 0 else None
            quality.plot(x, optimal, line, marker=".", color=f"C{k}", label=label, linewidth=1)
    quality.set(
        xscale="log",
        yscale="log",
        xlabel="CPU seconds per sample, 4 x 128,\noptimisation shared by the samples",
        ylabel="pairs that break the rule",
    )
    quality.xaxis.set_minor_formatter(NullFormatter())  # its labels run into each other
    for axes in (split, spread, quality):
        axes.spines[["top", "right"]].set_visible(False)
        # Above the panel, where it hides nothing.
        axes.legend(
            frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2
        )
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=4, help="data sets for the scatter")
    parser.add_argument("--num-data", type=int, default=256, help="sequences per cost table")
    parser.add_argument("--num-samples", type=int, default=1024, help="samples per schedule")
    options = parser.parse_args()
    torch.set_num_threads(1)
    small = partial(OptimalSteps, pilot_times=16)
    optimizers: dict[str, ScheduleOptimizer] = {
        "OptimalSteps": small(num_times=40),
        "JYS": JumpYourSteps(),
    }
    measures: dict[str, Callable[[], Any]] = {}
    for model, kernel, (name, optimizer) in product(
        MODELS, ("absorbing", "uniform"), optimizers.items()
    ):
        measures[f"cost/{model}/{kernel}/{name}"] = partial(cost, model, kernel, optimizer, 4, 8)
    for size in SIZES[:3]:
        measures[f"sequences/{size}"] = partial(
            cost, "2 x 64", "uniform", small(num_times=40), 4, size
        )
    for num_times in (20, 40, 80):
        measures[f"grid/{num_times}"] = partial(
            cost, "2 x 64", "uniform", small(num_times=num_times), 4, 64
        )
    for num_steps in NUM_STEPS[:3]:
        for name, optimizer in optimizers.items():
            measures[f"steps/{num_steps}/{name}"] = partial(
                cost, "2 x 64", "absorbing", optimizer, num_steps, 16
            )
    for kernel, (name, optimizer) in product(("absorbing", "uniform"), optimizers.items()):
        sizes = SIZES if name == "OptimalSteps" else SIZES[:3]  # a search is slow
        measures[f"scatter/{kernel}/{name}"] = partial(
            scatter, kernel, optimizer, sizes, options.seeds
        )
    for kernel in KERNELS:
        measures[f"saving/{kernel}"] = partial(
            saving, kernel, options.num_data, options.num_samples
        )
    cells = resume("worth_its_cost", vars(options), measures)

    for key, cell in cells.items():
        if "calls" in cell:
            share = cell["search"] / cell["network"]
            total = cell["network"] + cell["search"]
            print(
                f"{key:36s} {cell['calls']:5.0f} calls {total:7.2f} s, search/network {share:.2f}"
            )
        elif key.startswith("scatter"):
            print(f"{key:36s} cost of uniform steps {cell['uniform']:.3f} nats")
            for size in (size for size in SIZES if str(size) in cell):
                costs, std = cell[str(size)]["costs"], cell[str(size)]["std"]
                mean, worst = np.mean(costs), max(costs)
                print(f"{size:36d} std {std:.4f}, cost {mean:.3f} nats, worst {worst:.3f}")
    middle = cells["cost/4 x 128/uniform/OptimalSteps"]
    calls, overhead = 96, 1 + middle["search"] / middle["network"]
    optimisation = calls * options.num_data * overhead
    pays: dict[str, dict[str, float | None]] = {}
    for kernel in KERNELS:
        for n, row in cells[f"saving/{kernel}"].items():
            samples = break_even(optimisation, int(n), row["instead"])
            pays.setdefault(kernel, {})[n] = samples if math.isfinite(samples) else None
            print(
                f"{kernel:10s} {n:>2s} uniform steps = {row['instead']:2d} optimal, pays after "
                f"{samples:,.0f} samples, broken {row['uniform']:.4f} -> {row['optimal']:.4f}"
            )
    content = {"settings": vars(options), "break_even": pays, "cells": cells}
    figure = draw(cells, middle["seconds_per_row"], optimisation)
    finish("worth_its_cost", content, figure, seed=0)


if __name__ == "__main__":
    main()
