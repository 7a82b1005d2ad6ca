"""What does a schedule lose where it was not optimised for? Kernels, samplers, data, checkpoints.

- Kernels and data: the schedule of one exact denoiser is carried to another through t, through
  alpha (the correlation of the channel of one token, the share of tokens without mask), and through
  the information curve H(x_0 | x_t), summed over tokens. The loss is its cost over that of the
  schedule optimised for the target, minus 1, judged by a table of independent sequences.
- Samplers: rule violations of every sampler with uniform steps and those of the analytic step, by
  which all are judged.
- Checkpoints: a small network is trained; schedules of earlier steps are used at later ones, and
  those of its weights with their average.

Writes docs/results/transfer.{json,png}.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations, product
from typing import Any, cast

from ddm import Absorbing, CostTable, ForwardProcess, Gaussian, Kernel, Uniform
from ddm.backbones import Transformer
from ddm.datamodules.countdown import sample_chain
from ddm.denoisers import Denoiser, MeanDenoiser
from ddm.functional import stratified_times, times_like
from ddm.losses import NELBO
from ddm.noise import Geometric, LogLinear, NoiseSchedule
from ddm.samplers import Analytic, Euler, Sampler, TauLeaping, ThetaTrapezoidal
from ddm.schedules import SamplingSchedule
from ddm.schedules.optimal.optimal_steps import pilot_grid

import numpy as np
import torch
from _report import finish, resume
from kernel_gain import LENGTH, VOCAB_SIZE, Chain, chains, exact, table_of, violations
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

NUM_STEPS = (4, 8, 16)
CLOCKS = ("t", "alpha", "information")
SAMPLERS: dict[str, Sampler] = {
    "Analytic": Analytic(),
    "Euler": Euler(),
    "TauLeaping": TauLeaping(),
    "ThetaTrapezoidal": ThetaTrapezoidal(),
}
RIGID, SMOOTH, SLOW = list(chains())[:3]


@dataclass(frozen=True)
class Place:
    """What a schedule is carried from or to.

    Attributes:
        table: Finds schedules.
        judge: From other sequences: says what schedules cost.
        clocks: Increasing functions of t from 0 to 1 by name, on the times `pilot_grid(64)`.
    """

    table: CostTable
    judge: CostTable
    clocks: Mapping[str, Sequence[float]]


def alpha(process: ForwardProcess, t: Tensor) -> Tensor:
    """Return how much of a token is left at t: exp(-gap sigma), with a spectral gap of 1."""
    return 1 - process.mask_ratio(t)


def information(denoiser: Denoiser, x_0: Tensor, times: Tensor) -> Tensor:
    """Return H(x_0^i | x_t) at increasing times in nats, summed over tokens; no decrease."""
    path = denoiser.process.sample_path(x_0, times, torch.Generator().manual_seed(2))
    nats = []
    for t, x_t in zip(times, path, strict=True):
        p = denoiser(x_t, times_like(t, x_t)).posterior()
        nats.append(float(torch.special.entr(p).sum((1, 2)).mean()))
    return torch.from_numpy(isotonic_regression(nats).x.copy())


def clocks(denoiser: Denoiser, chain: Chain) -> dict[str, list[float]]:
    """Return the clocks on `pilot_grid(64)`, from 0 to 1 and strictly increasing."""
    t = pilot_grid(64)
    x_0 = sample_chain(*chain, 64, LENGTH, torch.Generator().manual_seed(3))
    levels = {
        "t": t,
        "alpha": 1 - alpha(denoiser.process, t),
        "information": information(denoiser, x_0, t),
    }
    # A plateau of a measured curve would map two times to one.
    return {name: ((x - x[0]) / (x[-1] - x[0]) + 1e-4 * t).tolist() for name, x in levels.items()}


def carried(
    times: Sequence[float], source: Sequence[float], target: Sequence[float]
) -> list[float]:
    """Return the times at which the target's clock shows what the source's did."""
    grid = pilot_grid(64).numpy()
    found = np.interp(np.interp(times, grid, source), target, grid)
    return [1.0, *(float(t) for t in found[1:-1]), 0.0]


def place(kernel: Kernel, noise: NoiseSchedule, chain: Chain, num_data: int) -> Place:
    """Measure one place."""
    denoiser = exact(kernel, noise, chain)
    tables = (table_of(denoiser, chain, num_data, seed) for seed in (0, 1))
    return Place(next(tables), next(tables), clocks(denoiser, chain))


def losses(source: Place, target: Place, num_steps: int) -> dict[str, float]:
    """Return the relative loss of the carried schedule by clock, and that of uniform steps."""
    times = source.table.schedule(num_steps).times
    best = target.judge.evaluate(target.table.schedule(num_steps).times)
    tried = {name: carried(times, source.clocks[name], target.clocks[name]) for name in CLOCKS} | {
        "uniform": SamplingSchedule.uniform(num_steps).times
    }
    return {name: target.judge.evaluate(t) / best - 1 for name, t in tried.items()}


def across_places(places: Mapping[str, Callable[[], Place]]) -> dict[str, Any]:
    """Return the losses of all ordered pairs and N, as "source -> target/N"."""
    found = {name: measure() for name, measure in places.items()}
    return {
        f"{a} -> {b}/{n}": losses(found[a], found[b], n)
        for a, b in permutations(found, 2)
        for n in NUM_STEPS
    }


def across_samplers(chain: Chain, num_data: int, num_samples: int) -> dict[str, Any]:
    """Return violations by sampler, schedule and N; uniform kernel."""
    denoiser = exact(Uniform(VOCAB_SIZE), LogLinear(), chain)
    table = table_of(denoiser, chain, num_data, 0)
    found: dict[str, Any] = {}
    for n in NUM_STEPS:
        schedules = {"uniform": SamplingSchedule.uniform(n), "optimal": table.schedule(n)}
        for (name, sampler), (grid, schedule) in product(SAMPLERS.items(), schedules.items()):
            share = violations(denoiser, schedule.times, num_samples, sampler)
            found[f"{name}/{grid}/{n}"] = share
    return found


def training(
    kernel: Kernel, chain: Chain, at: Sequence[int]
) -> Iterator[tuple[int, Denoiser, Denoiser]]:
    """Train a 2 x 64 Transformer; yield it and its average at some steps.

    The rates are those of configs/countdown.yaml.
    """
    torch.manual_seed(0)
    noise = torch.Generator().manual_seed(0)
    network = Transformer(kernel.num_states, dim=64, depth=2, num_heads=4)
    denoiser = MeanDenoiser(network, ForwardProcess(kernel, LogLinear()))
    average = AveragedModel(denoiser, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    averaged = cast("Denoiser", average.module)  # a copy of its type
    optimizer = torch.optim.AdamW(network.parameters(), lr=4e-3)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, total_iters=100)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, at[-1])
    scheduler = torch.optim.lr_scheduler.ChainedScheduler([warmup, decay])
    for step in range(1, at[-1] + 1):
        x_0 = sample_chain(*chain, 64, LENGTH, noise)
        loss = NELBO()(denoiser, x_0, stratified_times(64, noise), noise).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        average.update_parameters(denoiser)
        if step in at:
            yield step, denoiser.eval(), averaged.eval()
            denoiser.train()


def across_checkpoints(
    kernel: Kernel, chain: Chain, at: Sequence[int], num_data: int
) -> dict[str, Any]:
    """Return the loss of the schedule of step a at the later step b, "a/b/N", averaged weights.

    Also those of uniform steps and of the schedule of the weights that were not averaged.
    """
    tables: dict[int, tuple[CostTable, CostTable]] = {}
    raw: dict[int, CostTable] = {}
    for step, denoiser, averaged in training(kernel, chain, at):
        pair = (table_of(averaged, chain, num_data, seed) for seed in (0, 1))
        tables[step] = (next(pair), next(pair))
        raw[step] = table_of(denoiser, chain, num_data, 0)
    found: dict[str, Any] = {}
    for b, (table, judge) in tables.items():
        for n in NUM_STEPS:
            best = judge.evaluate(table.schedule(n).times)
            found[f"uniform/{b}/{n}"] = judge.evaluate(SamplingSchedule.uniform(n).times) / best - 1
            found[f"not averaged/{b}/{n}"] = judge.evaluate(raw[b].schedule(n).times) / best - 1
            for a in (a for a in tables if a < b):
                found[f"{a}/{b}/{n}"] = judge.evaluate(tables[a][0].schedule(n).times) / best - 1
    return found


def draw(result: Mapping[str, Any]) -> Figure:
    """Draw losses by clock, violations by sampler and losses of stale schedules; N = 8."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    rng = np.random.default_rng(0)
    names = [*CLOCKS, "uniform"]
    for color, group in enumerate(("kernels", "data, absorbing", "data, uniform")):
        cells = [cell for key, cell in result[group].items() if key.endswith("/8")]
        for k, name in enumerate(names):
            loss = [100 * cell[name] for cell in cells]
            jitter = k + (color - 1) / 4 + rng.uniform(-0.08, 0.08, len(loss))
            label = group if k == 0 else None
            panels[0].plot(jitter, loss, ".", color=f"C{color}", alpha=0.6, label=label)
    panels[0].set_xticks(range(len(names)), labels=["t", "alpha", "H(x_0 | x_t)", "uniform\nsteps"])
    panels[0].set_yscale("symlog", linthresh=10)
    panels[0].set(xlabel="carried through", ylabel="loss against re-optimising, %")
    for k, grid in enumerate(("uniform", "optimal")):
        share = [result["samplers"][f"{name}/{grid}/8"] for name in SAMPLERS]
        place = np.arange(len(SAMPLERS)) + 0.4 * k - 0.2
        panels[1].bar(place, share, 0.4, label=f"{grid} steps")
    panels[1].set_xticks(range(len(SAMPLERS)), labels=[*list(SAMPLERS)[:3], "Theta-\nTrapezoidal"])
    panels[1].set(yscale="log", xlabel="sampler, N = 8", ylabel="pairs that break the rule")
    for color, kernel in enumerate(("absorbing", "uniform")):
        cells = result[f"checkpoints, {kernel}"]
        steps = sorted({int(key.split("/")[1]) for key in cells})
        uniform = [100 * cells[f"uniform/{b}/8"] for b in steps]
        panels[2].plot(steps, uniform, "--", color=f"C{color}", label=f"{kernel}, uniform steps")
        for k, a in enumerate(steps[:-1]):
            line = [0.0] + [100 * cells[f"{a}/{b}/8"] for b in steps[k + 1 :]]
            label = f"{kernel}, of an earlier step" if k == 0 else None
            panels[2].plot(steps[k:], line, ".-", color=f"C{color}", linewidth=1, label=label)
    panels[2].set_xscale("log", base=2)
    panels[2].set_yscale("symlog", linthresh=10)
    panels[2].set_xticks(steps, labels=[str(b) for b in steps])
    panels[2].set(xlabel="training step", ylabel="loss against re-optimising, %")
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


def show(name: str, values: Mapping[str, float], scale: float, digits: int) -> None:
    """Print one row."""
    print(f"{name:76s}", *(f"{key} {scale * x:.{digits}f}" for key, x in values.items()), sep="  ")


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--num-data", type=int, default=256, help="sequences per cost table")
    parser.add_argument("--num-samples", type=int, default=1024, help="samples per schedule")
    parser.add_argument("--steps", type=int, nargs="+", default=[25, 50, 100, 200, 400, 800])
    options = parser.parse_args()
    laws, num_data = chains(), options.num_data
    kernels: dict[str, tuple[Kernel, NoiseSchedule]] = {
        "absorbing": (Absorbing(VOCAB_SIZE), LogLinear()),
        "uniform": (Uniform(VOCAB_SIZE), LogLinear()),
        "Gaussian": (Gaussian(VOCAB_SIZE), LogLinear()),
        "uniform, Geometric": (Uniform(VOCAB_SIZE), Geometric()),
    }
    between_kernels = {
        name: partial(place, *setting, laws[SMOOTH], num_data) for name, setting in kernels.items()
    }
    measures: dict[str, Callable[[], Any]] = {"kernels": partial(across_places, between_kernels)}
    for name in ("absorbing", "uniform"):
        between_data = {
            chain: partial(place, *kernels[name], laws[chain], num_data)
            for chain in (RIGID, SMOOTH, SLOW)
        }
        measures[f"data, {name}"] = partial(across_places, between_data)
    measures["samplers"] = partial(across_samplers, laws[RIGID], num_data, options.num_samples)
    for name in ("absorbing", "uniform"):
        measures[f"checkpoints, {name}"] = partial(
            across_checkpoints, kernels[name][0], laws[RIGID], options.steps, num_data
        )
    result = resume("transfer", vars(options), measures)
    for group, cells in result.items():
        print(f"\n{group}" + ("" if group == "samplers" else ": loss against re-optimising in %"))
        if group == "samplers":
            show("sampler/schedule/N: share of broken pairs", cells, 1.0, 4)
        elif group.startswith("checkpoints"):
            show("schedule of step/used at step/N", cells, 100.0, 0)
        else:
            for key, cell in cells.items():
                show(key, cell, 100.0, 1)
    finish("transfer", {"settings": vars(options), **result}, draw(result), seed=0)


if __name__ == "__main__":
    main()
