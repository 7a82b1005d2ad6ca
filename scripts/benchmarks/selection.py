"""Can samples choose the exponent of the weights? Joints that can be enumerated, and networks.

`OptimalSteps(select=BySamples())` chooses one exponent for all numbers of steps by samples that
need no labels, for as many network calls as the table makes. On joints (those of regret.py and
held_out.py, several data sets of 256 sequences) schedules are judged by the exact
KL(data || samples) of the analytic sampler, on shipped networks by the metrics of their data, with
other noise than the choice was made with. Prints default, chosen and best exponent and writes
docs/results/selection.json. Finished cells are kept, so an interrupted run goes on where it
stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ddm import OptimalSteps, SamplingSchedule
from ddm.checkpoint import load_data, load_model
from ddm.datamodules import SequenceDataModule
from ddm.denoisers import Denoiser
from ddm.evaluation import measure
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import BySamples, CostTable, Evidence

import numpy as np
import torch
from _held_out_joints import first_nine
from _report import ROOT, finish, parse, resume
from problems import (
    KERNELS,
    RIGID,
    SMALL_KERNELS,
    Enumerated,
    Law,
    chains,
    data_of,
    exact,
    joints,
    sequences,
    violations,
)
from torch import Tensor

NUM_STEPS = (4, 8)
SETTINGS = ("uniform", "gaussian")
"""Kernels; with masks all exponents are the same."""
DEFAULT, UNIFORM = "gamma 0.5", "uniform"
WORDS = "word_share"
MODELS = {
    "countdown_gaussian": "countdown_error",
    "countdown_uniform": "countdown_error",
    "digits": "frechet_pca32",
    "digits_uniform": "frechet_pca32",
    "pydoc_uniform": WORDS,
}
"""Metrics by shipped model. The first four were looked at when the statistics were made."""
Value = Callable[[SamplingSchedule], float]


def choose(
    denoiser: Denoiser, x_0: Tensor, num_steps: Sequence[int], seed: int, batch_size: int = 128
) -> tuple[CostTable, Evidence]:
    """Return the table and what samples say of its exponent."""
    optimizer = OptimalSteps(batch_size=batch_size, select=BySamples())
    generator = torch.Generator().manual_seed(seed)
    found = optimizer(denoiser, Analytic(), x_0, num_steps, generator=generator)
    assert found.table is not None
    assert found.evidence is not None
    return found.table, found.evidence


def row(
    table: CostTable, evidence: Evidence, num_steps: Sequence[int], value: Value
) -> dict[str, Any]:
    """Return what was chosen, and what all exponents and uniform steps are worth, by N."""
    worth = {UNIFORM: {str(n): value(SamplingSchedule.uniform(n)) for n in num_steps}}
    for name in (name for name in evidence.distances if name.startswith("gamma")):
        weighted = replace(table, gamma=float(name.split()[1]))
        worth[name] = {str(n): value(weighted.schedule(n)) for n in num_steps}
    return {
        "worth": worth,
        "winner": evidence.winner,
        "confidence": evidence.confidence,
        "distances": evidence.distances,
        "errors": evidence.errors,
        "num_samples": evidence.num_samples,
        "calls_of_table": table.num_calls,
        "calls_of_choice": evidence.num_calls,
    }


def on_joint(joint: Law, kernel: str, num_data: int, seed: int) -> dict[str, Any]:
    """Return what one data set of a joint chooses."""
    world = Enumerated(SMALL_KERNELS[kernel](joint.shape[0]), joint)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.multinomial(joint.flatten(), num_data, True, generator=generator)
    x_0 = sequences(joint.shape[0], joint.ndim)[drawn]
    table, evidence = choose(world.denoiser, x_0, NUM_STEPS, seed)

    def nats(schedule: SamplingSchedule) -> float:
        found = world.divergence(world.start(), schedule.times)
        world.said.clear()
        return found

    return row(table, evidence, NUM_STEPS, nats)


def on_chain(kernel: str, num_data: int, seed: int) -> dict[str, Any]:
    """Return what one data set of the exact CountDown chain chooses."""
    chain = chains()[RIGID]
    denoiser = exact(KERNELS[kernel](len(chain[0])), LogLinear(), chain)
    x_0, _ = data_of(chain, num_data, seed)
    table, evidence = choose(denoiser, x_0, NUM_STEPS, seed)
    return row(table, evidence, NUM_STEPS, lambda s: violations(denoiser, s, 256, seed=100 + seed))


def on_model(model: str, num_data: int, num_samples: int, seeds: int) -> dict[str, Any]:
    """Return what a shipped model chooses from training sequences."""
    checkpoint = ROOT / "checkpoints" / f"{model}.ckpt"
    module, data = load_model(checkpoint).eval(), load_data(checkpoint)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    every = data.train_tokens
    rows = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[:num_data]
    table, evidence = choose(module.denoiser, every[rows].long(), NUM_STEPS, 0)

    def metric(schedule: SamplingSchedule) -> float:
        values = [
            measure(module, data, schedule, num_samples, 100 + seed, batch_size=128)[MODELS[model]]
            for seed in range(seeds)
        ]
        mean = float(np.mean(values))
        return 1 - mean if MODELS[model] == WORDS else mean  # words that nobody knows

    return row(table, evidence, NUM_STEPS, metric)


def ratio(found: Mapping[str, Any], name: str, rival: str) -> float:
    """Return what a choice is worth over what a rival is worth, the geometric mean over N."""
    worth = found["worth"]
    logs = [np.log(worth[name][n] / worth[rival][n]) for n in worth[rival]]
    return float(np.exp(np.mean(logs)))


def best_of(found: Mapping[str, Any]) -> str:
    """Return the exponent whose schedules are best."""
    names = [name for name in found["worth"] if name != UNIFORM]
    return min(names, key=lambda name: ratio(found, name, DEFAULT))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return how the default and the chosen exponents do against the best and uniform steps."""
    best = [best_of(x) for x in rows]
    chosen = np.array([ratio(x, x["winner"], b) for x, b in zip(rows, best, strict=True)])
    default = np.array([ratio(x, DEFAULT, b) for x, b in zip(rows, best, strict=True)])
    return {
        "cells": len(rows),
        "moved": float(np.mean([x["winner"] != DEFAULT for x in rows])),
        "default within 5 % of the best": float(np.mean(default < 1.05)),
        "chosen within 5 % of the best": float(np.mean(chosen < 1.05)),
        "default over best, mean": float(default.mean()),
        "default over best, worst": float(default.max()),
        "chosen over best, mean": float(chosen.mean()),
        "chosen over best, worst": float(chosen.max()),
        "chosen over default, best": float((chosen / default).min()),
        "chosen over default, worst": float((chosen / default).max()),
        "chosen over uniform, worst": max(ratio(x, x["winner"], UNIFORM) for x in rows),
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    laws = {name: law for name, (_, law) in joints().items()}
    held = first_nine()
    options = parse(
        __doc__,
        args,
        joints=([*laws, *held], "joints"),
        settings=(list(SETTINGS), "kernels"),
        models=(list(MODELS), "names in checkpoints/"),
        seeds=(2, "data sets of joints, and seeds of the samples of networks"),
        num_data=(256, "sequences of joints and chains; networks have twice as many"),
        num_samples=(256, "samples that judge a network"),
    )
    num = options.num_data
    cells: dict[str, Callable[[], Any]] = {}
    for kernel in options.settings:
        for seed in range(options.seeds):
            for name in options.joints:
                group = "held out" if name in held else "joints"
                cell = partial(on_joint, (laws | held)[name], kernel, num, seed)
                cells[f"{group}, {kernel}|{name}|{seed}"] = cell
            named = {k.lower(): k for k in KERNELS}[kernel]
            cells[f"exact chain|{named}|{seed}"] = partial(on_chain, named, num, seed)
    for model in options.models:
        part = 2 if MODELS[model] == WORDS else 1  # a network that is slower
        sizes = (2 * num // part, options.num_samples // part, options.seeds)
        cells[f"networks|{model}|0"] = partial(on_model, model, *sizes)
    setting = {name: vars(options)[name] for name in ("seeds", "num_data", "num_samples")}
    found = resume("selection", setting, cells)
    groups = dict.fromkeys(key.split("|")[0] for key in cells)
    table = {g: summary([x for k, x in found.items() if k.split("|")[0] == g]) for g in groups}
    for group, numbers in table.items():
        print(f"\n{group}", *(f"  {k}: {x:.3f}" for k, x in numbers.items()), sep="\n")
    for key, x in found.items():
        if not key.startswith(("joints", "held out")):
            print(f"\n{key}: {x['winner']} (confidence {x['confidence']:.3f})")
            for name, by_steps in x["worth"].items():
                print(f"  {name:14s}", *(f"N = {n}: {v:.4f} " for n, v in by_steps.items()))
    finish("selection", {**setting, "summary": table, "cells": found}, seed=options.seeds)


if __name__ == "__main__":
    main()
