"""Cells in which schedules once lost: does the default of today lose there?

Trained networks (the shipped models of CountDown with the Gaussian and of digits with the uniform
kernel, N = 4), exact denoisers of CountDown chains (uniform kernel, two steps; uniform kernel with
Cosine noise, eight steps), and `Euler` with the Gaussian kernel on joints that can be enumerated.
Every seed has its own sequences, its own table of `OptimalSteps()` and its own noise of the
samples; JYS has half of the sequences. *Kept* is what the keep-best guard leaves in use. Prints
mean and half of the 95 % interval, and writes docs/results/losing_cells.json; finished cells are
kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from ddm import OptimalSteps, Uniform
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule, countdown_chain
from ddm.denoisers import Denoiser
from ddm.evaluation import interval, measure
from ddm.functional import times_like
from ddm.noise import Cosine, LogLinear, NoiseSchedule
from ddm.samplers import Analytic, Euler
from ddm.schedules import JumpYourSteps, SamplingSchedule, choose

import torch
from _released_jys import released_jys
from _report import ROOT, finish, parse, resume, show
from problems import (
    SMALL_KERNELS,
    Enumerated,
    data_of,
    exact,
    joints,
    kl,
    product_law,
    sequences,
    violations,
)
from torch import Tensor

Errors = dict[str, float]


def found(
    denoiser: Denoiser, x_0: Tensor, num_steps: int, seed: int
) -> dict[str, SamplingSchedule]:
    """Return uniform steps, those of JYS and the default's, as found and as kept by the guard."""
    generator, half = torch.Generator().manual_seed(seed), x_0[: len(x_0) // 2]
    ours = OptimalSteps(batch_size=128)(denoiser, Analytic(), x_0, num_steps, generator=generator)
    assert ours.table is not None
    new = ours.schedules[num_steps]
    jys = JumpYourSteps(batch_size=128)(denoiser, Analytic(), half, num_steps, generator=generator)
    return {
        "uniform": SamplingSchedule.uniform(num_steps),
        "JYS": jys.schedules[num_steps],
        "optimal": new,
        "kept": choose(ours.table, new).schedule,
    }


def trained(model: str, metric: str, num_data: int, num_samples: int, seed: int) -> Errors:
    """Return what samples of a shipped model are off by, N = 4."""
    checkpoint = ROOT / "checkpoints" / f"{model}.ckpt"
    module, data = load_model(checkpoint), load_data(checkpoint)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(data.train_tokens), generator=generator)[:num_data]
    x_0 = data.train_tokens[rows].long()
    return {
        name: measure(module, data, schedule, num_samples, seed, batch_size=128)[metric]
        for name, schedule in found(module.denoiser, x_0, 4, seed).items()
    }


def chain(
    vocab_size: int,
    length: int,
    noise: NoiseSchedule,
    num_steps: int,
    num_data: int,
    num_samples: int,
    seed: int,
) -> Errors:
    """Return the fraction of pairs that break the rule, uniform kernel and exact denoiser."""
    law = countdown_chain(vocab_size, 0.002)
    denoiser = exact(Uniform(vocab_size), noise, law)
    x_0, generator = data_of(law, num_data, seed, length)
    schedules = found(denoiser, x_0, num_steps, seed)
    schedules["JYS as released"] = released_jys(
        denoiser, x_0[: num_data // 2], num_steps, generator
    )
    setting = {"length": length, "batch_size": 256, "seed": 1000 + seed}
    return {name: violations(denoiser, x, num_samples, **setting) for name, x in schedules.items()}


def euler(num_data: int, _: int, seed: int) -> Errors:
    """Return KL(data || samples) of Euler steps over that of uniform ones, Gaussian kernel.

    By joint and N, of the schedules that the guard keeps; exact laws, no samples.
    """
    ratios = {}
    for name, (_group, law) in joints().items():
        world = Enumerated(SMALL_KERNELS["gaussian"](law.shape[0]), law)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.multinomial(law.flatten(), num_data, True, generator=generator)
        x_0 = sequences(law.shape[0], law.ndim)[rows]
        table = OptimalSteps().table(world.denoiser, Analytic(), x_0, generator=generator)
        for n in (4, 8):
            kept = choose(table, table.schedule(n)).schedule
            ours, uniform = (
                euler_divergence(world, steps.times)
                for steps in (kept, SamplingSchedule.uniform(n))
            )
            ratios[f"{name}, N = {n}"] = ours / uniform
    return ratios


def euler_divergence(world: Enumerated, times: Sequence[float]) -> float:
    """Return KL(data || samples) of the Euler sampler, nats."""
    law = world.start()
    for t, s in pairwise(times):
        law = law @ product_law(Euler().law([world.prediction(t)], times_like(s, world.states)))
    world.said.clear()
    return kl(world.data, law.clamp(min=1e-300))


CELLS: dict[str, Callable[[int, int, int], Errors]] = {
    "digits, uniform kernel, N = 4": partial(trained, "digits_uniform", "frechet_pca32"),
    "CountDown, Gaussian kernel, N = 4": partial(trained, "countdown_gaussian", "countdown_error"),
    "exact chain, uniform kernel, N = 2": partial(chain, 16, 64, LogLinear(), 2),
    "exact chain, uniform kernel, Cosine, N = 8": partial(chain, 12, 32, Cosine(), 8),
    "Euler, Gaussian kernel, KL over that of uniform steps": euler,
}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        cells=(list(CELLS), "cells"),
        seeds=(4, "tables and samples per cell"),
        num_data=(256, "sequences per table"),
        num_samples=(512, "samples per seed"),
    )
    sizes = (options.num_data, options.num_samples)
    measures = {
        f"{cell}|{seed}": partial(CELLS[cell], *sizes, seed)
        for cell in options.cells
        for seed in range(options.seeds)
    }
    errors = resume("losing_cells", {"sizes": sizes}, measures)
    tables: dict[str, Any] = {}
    for cell in options.cells:
        rows = [errors[f"{cell}|{seed}"] for seed in range(options.seeds)]
        if "uniform" in rows[0]:
            rows = [row | {"kept - uniform": row["kept"] - row["uniform"]} for row in rows]
        tables[cell] = {name: interval([row[name] for row in rows]) for name in rows[0]}
        show(cell, {name: {"mean": value} for name, value in tables[cell].items()})
    finish("losing_cells", {"sizes": sizes, "tables": tables}, seed=options.seeds)


if __name__ == "__main__":
    main()
