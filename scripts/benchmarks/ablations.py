"""What do the settings of the optimiser and the exactness of the draws matter? Exact denoisers.

Smoothed CountDown chains with V = 8 and L = 32, analytic sampler, three seeds. Each question varies
one thing: the exponent gamma of the weights (error of samples), placement and size of the grid of
the cost table, the number of its sequences and their averages over neighbouring times (cost of the
schedules as an independent, larger table sees it, over that of the best variant), and the draws:
exact ones in float64, an inverse distribution function in float32, and the double logarithm with
1e-6 inside of common code (error of samples, and whether schedules are still ranked in the same
order). Writes docs/results/ablations.{json,png}; finished cells are kept, so an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any

from ddm import Absorbing, CostTable, ForwardProcess, Kernel, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import MarkovChainDenoiser, Prediction
from ddm.metrics import CountDownError
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import SamplingSchedule

import numpy as np
import torch
from _report import finish, resume
from exact_chains import discretised_gaussian
from matplotlib.figure import Figure
from torch import Tensor

VOCAB_SIZE, LENGTH, SMOOTHING = 8, 32, 0.002
KERNELS: dict[str, Callable[[int], Kernel]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "gaussian": discretised_gaussian,
}
GAMMAS = (0.0, 0.5, 0.7, 1.0, 2.0, 4.0)
NUM_CALLS = (16, 24, 48, 96)
NUM_SEQUENCES = (16, 64, 256, 1024)
AS_MEASURED = ", as measured"
"""Ending of the names of tables without averages over neighbouring times."""
NUM_STEPS = (4, 8, 16)
NUM_STEPS_DRAWN = (8, 32)


class OnePass(OptimalSteps):
    """`OptimalSteps` on given times, without a pilot."""

    def __init__(self, times: Tensor) -> None:
        super().__init__()
        self.times = times

    def table(
        self,
        denoiser: Any,  # noqa: ANN401
        sampler: Any,  # noqa: ANN401
        x_0: Tensor,
        **settings: Any,  # noqa: ANN401
    ) -> CostTable:
        """Measure the cost table; costs one network call per time."""
        begin = time.monotonic()
        costs = self.measure(denoiser, x_0, self.times, **settings)
        return self._table(denoiser, sampler, costs, 0, begin)


def two_passes(num_calls: int) -> OptimalSteps:
    """Return the optimiser with a quarter of the calls for the pilot, as by default."""
    return OptimalSteps(num_times=num_calls - num_calls // 4, pilot_times=num_calls // 4)


def log_spaced(num_calls: int) -> OptimalSteps:
    """Return the optimiser on 0 and times with equal ratios."""
    times = np.append(0.0, np.geomspace(1e-4, 1.0, num_calls))
    return OnePass(torch.from_numpy(times))


PLACEMENTS: dict[str, Callable[[int], OptimalSteps]] = {
    "uniform": lambda n: OnePass(torch.linspace(0, 1, n + 1, dtype=torch.float64)),
    "log": log_spaced,
    "two passes": two_passes,
}


class Drawn(Analytic):
    """The analytic sampler with draws of another make."""

    def __init__(self, how: Callable[[Tensor, torch.Generator | None], Tensor]) -> None:
        self.how = how

    def draw(
        self,
        predictions: Sequence[Prediction],
        s: Tensor,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Draw all positions."""
        return self.how(self.law(predictions, s), generator)


def single_precision_draw(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw by the inverse distribution function in float32."""
    cdf = probs.float().cumsum(-1)
    u = torch.rand(cdf[..., :1].shape, generator=generator)
    return torch.searchsorted(cdf, u * cdf[..., -1:], right=True).squeeze(-1)


def biased_draw(probs: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw the largest of log p + g with the Gumbel noise `g = -log(1e-6 - log(max(u, 1e-6)))`.

    Computed in float32. g is at most 13.8: what is rarer than about 1e-6 of the most likely state
    never wins.
    """
    u = torch.rand(probs.shape, generator=generator).clamp(min=1e-6)
    return (probs.float() / (1e-6 - u.log())).argmax(-1)


def biased_jump(jump: float, vocab_size: int) -> float:
    """Return how likely a jump is under the biased draw if its targets are equally likely.

    The noise of a state is 1e-6 + E with E exponential; the least of V - 1 of them is too.
    """
    return jump * math.exp(-1e-6 * ((1 - jump) * (vocab_size - 1) / jump - 1))


DRAWS = {
    "float64": Analytic(),
    "float32": Drawn(single_precision_draw),
    "biased Gumbel": Drawn(biased_draw),
}


@cache
def chain(kernel: str) -> MarkovChainDenoiser:
    """Return the exact denoiser of the chain."""
    initial, transition = countdown_chain(VOCAB_SIZE, SMOOTHING)
    process = ForwardProcess(KERNELS[kernel](VOCAB_SIZE), LogLinear())
    return MarkovChainDenoiser(process, initial, transition)


@cache
def measured(
    kernel: str, seed: int, num_sequences: int, placement: str, num_calls: int
) -> CostTable:
    """Return a cost table."""
    denoiser, generator = chain(kernel), torch.Generator().manual_seed(seed)
    initial, transition = countdown_chain(VOCAB_SIZE, SMOOTHING)
    x_0 = sample_chain(initial, transition, num_sequences, LENGTH, generator)
    optimizer = PLACEMENTS[placement](num_calls)
    return optimizer.table(denoiser, Analytic(), x_0, generator=generator)


def error(
    kernel: str, schedule: SamplingSchedule, seed: int, num_samples: int, draw: str = "float64"
) -> float:
    """Return the share of pairs that break the rule; the same noise for all schedules."""
    denoiser, noise = chain(kernel), torch.Generator().manual_seed(1000 + seed)
    x = denoiser.process.kernel.sample_prior((num_samples, LENGTH), noise)
    metric = CountDownError(VOCAB_SIZE)
    metric.update(DRAWS[draw](denoiser, x, schedule.times, generator=noise).tokens)
    return float(metric.compute())


def over_reference(kernel: str, table: CostTable, size: int) -> dict[str, float]:
    """Return the cost of its schedules, as a larger table sees it, over that table's own.

    The larger one is taken as measured, which favours no way to smooth.
    """
    reference = replace(measured(kernel, 1000, size, "two passes", 120), width=0.0)
    return {
        str(n): reference.evaluate(table.schedule(n).times) / reference.cost(n) - 1
        for n in NUM_STEPS
    }


def gammas(kernel: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return errors by gamma and N, and those of the schedules that need no table."""
    table = measured(kernel, seed, max(options.num_sequences), "two passes", 48)
    found: dict[str, dict[str, float]] = {}
    for n in NUM_STEPS:
        schedules = {f"gamma {g:g}": replace(table, gamma=g).schedule(n) for g in GAMMAS}
        schedules |= plain(n)
        for name, schedule in schedules.items():
            value = error(kernel, schedule, seed, options.num_samples)
            found.setdefault(name, {})[str(n)] = value
    return found


def plain(num_steps: int) -> dict[str, SamplingSchedule]:
    """Return the schedules that need no table."""
    uniform, cosine = SamplingSchedule.uniform(num_steps), SamplingSchedule.cosine(num_steps)
    return {"uniform": uniform, "cosine": cosine}


def grids(kernel: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return judged costs by placement, number of calls and N."""
    return {
        f"{placement}, {calls}": over_reference(
            kernel,
            measured(kernel, seed, options.num_grid_sequences, placement, calls),
            options.num_reference,
        )
        for placement, calls in product(PLACEMENTS, NUM_CALLS)
    }


def sequences(kernel: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return judged costs by number of sequences, smoothed or as measured, and N."""
    found = {}
    for size in options.num_sequences:
        table = measured(kernel, seed, size, "two passes", 48)
        for name, variant in (("", table), (AS_MEASURED, replace(table, width=0.0))):
            found[f"{size}{name}"] = over_reference(kernel, variant, options.num_reference)
    return found


def draws(kernel: str, seed: int, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return errors by draw, schedule and N."""
    table = measured(kernel, seed, max(options.num_sequences), "two passes", 48)
    found: dict[str, dict[str, float]] = {}
    for n, draw in product(NUM_STEPS_DRAWN, DRAWS):
        schedules = plain(n) | {"optimal": table.schedule(n)}
        for name, schedule in schedules.items():
            value = error(kernel, schedule, seed, options.num_samples, draw)
            found.setdefault(f"{draw}, {name}", {})[str(n)] = value
    return found


QUESTIONS = {"gamma": gammas, "grid": grids, "sequences": sequences, "draws": draws}
Table = dict[str, dict[str, list[float]]]
"""Mean and standard error over seeds, by variant and N."""


def summary(seeds: Sequence[dict[str, dict[str, float]]]) -> Table:
    """Return mean and standard error over seeds."""
    return {
        variant: {
            n: [
                float(np.mean([s[variant][n] for s in seeds])),
                float(np.std([s[variant][n] for s in seeds], ddof=1) / len(seeds) ** 0.5)
                if len(seeds) > 1
                else 0.0,
            ]
            for n in row
        }
        for variant, row in seeds[0].items()
    }


def over_best(questions: dict[str, Table]) -> dict[str, Table]:
    """Return the tables with costs over the least mean of all variants.

    The schedule of the table that judges has fitted that table's noise: nobody can reach it.
    """
    judged = {name: questions[name] for name in ("grid", "sequences")}
    rows = [row for table in judged.values() for row in table.values()]
    least = {n: 1 + min(row[n][0] for row in rows) for n in rows[0]}
    return questions | {
        name: {
            variant: {
                n: [(1 + mean) / least[n] - 1, error / least[n]] for n, (mean, error) in row.items()
            }
            for variant, row in table.items()
        }
        for name, table in judged.items()
    }


def draw_figure(tables: dict[str, dict[str, Table]]) -> Figure:
    """Draw error against gamma, and judged cost against network calls and sequences."""
    figure = Figure(figsize=(12, 3.2 * len(tables)), layout="constrained")
    panels = figure.subplots(len(tables), 3, squeeze=False)
    for (gamma_axes, grid_axes, size_axes), (kernel, found) in zip(
        panels, tables.items(), strict=True
    ):
        for k, n in enumerate(map(str, NUM_STEPS)):
            mean, spread = np.array([found["gamma"][f"gamma {g:g}"][n] for g in GAMMAS]).T
            places = range(len(GAMMAS))
            gamma_axes.errorbar(places, mean, spread, marker=".", capsize=2, label=f"N = {n}")
            gamma_axes.axhline(found["gamma"]["uniform"][n][0], color=f"C{k}", linestyle=":")
            sizes = [size for size in found["sequences"] if not size.endswith(AS_MEASURED)]
            for ending, line in (("", "-"), (AS_MEASURED, ":")):
                points = [found["sequences"][size + ending][n] for size in sizes]
                mean, spread = 100 * np.array(points).T
                size_axes.errorbar(
                    sizes, mean, spread, marker=".", capsize=2, color=f"C{k}", linestyle=line
                )
        gamma_axes.set_xticks(places, labels=[f"{g:g}" for g in GAMMAS])
        gamma_axes.set(yscale="log", xlabel="gamma", ylabel="pairs that break the rule")
        gamma_axes.set_title(f"{kernel} (dotted: uniform schedule)")
        size_axes.set(
            xlabel="sequences (dotted: table as measured)", ylabel="cost over the best variant, %"
        )
        for k, placement in enumerate(PLACEMENTS):
            rows = [found["grid"][f"{placement}, {calls}"] for calls in NUM_CALLS]
            for n, line in (("4", ":"), ("16", "-")):
                mean = 100 * np.array([row[n][0] for row in rows])
                label = f"{placement}, N = {n}"
                grid_axes.plot(NUM_CALLS, mean, "." + line, color=f"C{k}", label=label)
        grid_axes.set_xscale("log")
        grid_axes.set_xticks(NUM_CALLS, labels=[str(calls) for calls in NUM_CALLS])
        grid_axes.minorticks_off()
        for axes in (grid_axes, size_axes):
            axes.set_yscale("symlog", linthresh=1.0)
        grid_axes.set(xlabel="network calls of the table", ylabel="cost over the best variant, %")
        for axes in (gamma_axes, grid_axes, size_axes):
            axes.spines[["top", "right"]].set_visible(False)
    left, right = (axes.get_legend_handles_labels() for axes in panels[0, :2])
    figure.legend(*left, loc="outside lower left", ncols=3, frameon=False)
    figure.legend(*right, loc="outside lower right", ncols=3, frameon=False)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add = parser.add_argument
    add("--kernels", nargs="+", choices=KERNELS, default=["absorbing", "uniform"])
    add("--seeds", type=int, default=3)
    add("--num-samples", type=int, default=512, help="samples per cell and seed")
    add("--num-sequences", nargs="+", type=int, default=list(NUM_SEQUENCES))
    add("--num-grid-sequences", type=int, default=96, help="sequences for the study of grids")
    add("--num-reference", type=int, default=1536, help="sequences for the table that judges")
    options = parser.parse_args(args)
    settings = {k: v for k, v in vars(options).items() if k not in ("kernels", "seeds")}
    measures = {
        f"{kernel}|{question}|{seed}": partial(QUESTIONS[question], kernel, seed, options)
        for kernel, question, seed in product(options.kernels, QUESTIONS, range(options.seeds))
    }
    cells = resume("ablations", settings, measures)
    tables: dict[str, dict[str, Table]] = {}
    for kernel in options.kernels:
        found = {
            question: [cells[f"{kernel}|{question}|{seed}"] for seed in range(options.seeds)]
            for question in QUESTIONS
        }
        tables[kernel] = over_best({question: summary(rows) for question, rows in found.items()})
    for kernel, questions in tables.items():
        for question, rows in questions.items():
            print(f"\n{kernel}, {question}: mean +- s.e. over seeds, by N")
            for variant, row in rows.items():
                numbers = (f"{n}: {mean:.4f} +- {half:.4f}" for n, (mean, half) in row.items())
                print(f"{variant:24s}", "  ".join(numbers))
    jumps = {
        f"V = {v}, P = {jump}": biased_jump(jump, v)
        for v, jump in product((32, 4096, 50257), (0.1, 0.01, 0.001))
    }
    print("\nchance of a jump under the biased draw:", jumps)
    content = {"settings": settings, "tables": tables, "biased_jumps": jumps}
    finish("ablations", content, draw_figure(tables), seed=options.seeds)


if __name__ == "__main__":
    main()
