"""Do the default schedules lose anywhere? Joints of kinds that were not used to choose anything.

Long-range parities, images by Markov random fields, hidden Markov chains, grammars, permutations,
an urn, random graphs, mixtures, a code: all can be enumerated, so that a schedule is judged by
KL(data || samples) of the analytic sampler, whose whole law is propagated. Schedules are found from
sampled sequences, several data sets of them, by `OptimalSteps()`, by `JumpYourSteps()` and by its
released code, which have half of the sequences and make 119 and 280 calls on them for N = 8,
against 48 for all N; uniform and cosine steps need none. *Guarded* is what the keep-best guard
leaves in use. Prints ratios by kernel and every cell that is lost beyond the error, and writes
docs/results/held_out.json. Finished cells are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from ddm import OptimalSteps
from ddm.noise import Cosine, LogLinear, NoiseSchedule
from ddm.samplers import Analytic
from ddm.schedules import JumpYourSteps, SamplingSchedule, choose

import numpy as np
import torch
from _held_out_joints import first_nine, second_nine
from _released_jys import released_jys
from _report import finish, over_seeds, parse, resume
from problems import SMALL_KERNELS, Enumerated, Law, sequences

NUM_STEPS = (2, 3, 4, 8)
POWERS_OF_TWO = (2, 4, 8)
OURS, KEPT = "optimal", "guarded"
RIVALS, BEST = ("uniform", "cosine", "JYS", "JYS as released"), "the best of these"
SETTINGS: dict[str, tuple[str, Callable[[], NoiseSchedule]]] = {
    "absorbing": ("absorbing", LogLinear),
    "uniform": ("uniform", LogLinear),
    "uniform, Cosine": ("uniform", Cosine),
    "Gaussian": ("gaussian", LogLinear),
}


def found_schedules(
    world: Enumerated, num_data: int, seed: int, num_steps: Sequence[int]
) -> Iterator[tuple[str, SamplingSchedule]]:
    """Yield the schedules that are found from one data set, with their names."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.multinomial(world.data.flatten(), num_data, True, generator=generator)
    x_0 = sequences(world.data.shape[0], world.data.ndim)[chosen]
    optimal = OptimalSteps()(world.denoiser, Analytic(), x_0, num_steps, generator=generator)
    half = x_0[: num_data // 2]
    jys = JumpYourSteps()(world.denoiser, Analytic(), half, num_steps, generator=generator)
    for n in num_steps:
        yield OURS, optimal.schedules[n]
        yield "JYS", jys.schedules[n]
        if optimal.table is not None:
            yield KEPT, choose(optimal.table, optimal.schedules[n]).schedule
        if n in POWERS_OF_TWO:
            yield "JYS as released", released_jys(world.denoiser, half, n, generator)


def measure(
    joint: Law, setting: str, seeds: int, num_data: int, num_steps: Sequence[int]
) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard error over data sets of the nats, by schedule and N."""
    kernel, noise = SETTINGS[setting]
    world = Enumerated(SMALL_KERNELS[kernel](joint.shape[0]), joint, noise())

    def nats(schedule: SamplingSchedule) -> float:
        value = world.divergence(world.start(), schedule.times)
        world.said.clear()
        return value

    fixed: dict[str, dict[str, float]] = {
        "uniform": {str(n): nats(SamplingSchedule.uniform(n)) for n in num_steps},
        "cosine": {str(n): nats(SamplingSchedule.cosine(n)) for n in num_steps},
    }
    rows = []
    for seed in range(seeds):
        row: dict[str, dict[str, float]] = {}
        for name, schedule in found_schedules(world, num_data, seed, num_steps):
            row.setdefault(name, {})[str(schedule.num_steps)] = nats(schedule)
        rows.append(fixed | row)
    found: dict[str, dict[str, list[float]]] = over_seeds(rows)
    return found


def comparison(cells: Mapping[str, Any], name: str, rival: str) -> dict[str, list[float]]:
    """Return the nats of a schedule over those of a rival, and twice the error of the ratio."""
    found = {}
    for key, cell in cells.items():
        for n in cell[name].keys() & cell[rival].keys():
            (ours, error), (theirs, other) = cell[name][n], cell[rival][n]
            spread = 2 * float(np.hypot(error, other * ours / theirs)) / theirs
            found[f"{key}, N = {n}"] = [ours / theirs, spread]
    return found


def with_best(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same nats, and those of whatever rival is best at each N."""
    best = {n: min(cell[r][n] for r in RIVALS if n in cell[r]) for n in cell["uniform"]}
    return {**cell, BEST: best}


def summary(cells: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return median and worst ratio to every rival, and the cells lost beyond the error."""
    found: dict[str, Any] = {}
    for rival in (*RIVALS, BEST):
        ratios = comparison(cells, name, rival)
        lost = {k: [r, e] for k, (r, e) in ratios.items() if r - e > 1 + 1e-9}  # above rounding
        worst = max(ratios, key=lambda key: ratios[key][0])
        found[rival] = {
            "cells": len(ratios),
            "median": float(np.median([r for r, _ in ratios.values()])),
            "worst": {worst: ratios[worst]},
            "lost": dict(sorted(lost.items(), key=lambda item: -item[1][0])),
        }
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    laws = first_nine() | second_nine()
    options = parse(
        __doc__,
        args,
        joints=(list(laws), "joints"),
        settings=(list(SETTINGS), "kernels and noise schedules"),
        num_steps=(list(NUM_STEPS), "numbers of steps"),
        seeds=(3, "data sets"),
        num_data=(256, "sequences per data set"),
    )
    sizes = (options.seeds, options.num_data, options.num_steps)
    cells = resume(
        "held_out",
        {"sizes": sizes},
        {
            f"{name}|{setting}": partial(measure, laws[name], setting, *sizes)
            for setting, name in product(options.settings, options.joints)
        },
    )
    table: dict[str, Any] = {}
    for setting in options.settings:
        mine = {name: with_best(cells[f"{name}|{setting}"]) for name in options.joints}
        for name in (OURS, KEPT):
            table.setdefault(setting, {})[name] = summary(mine, name)
            for rival, row in table[setting][name].items():
                print(
                    f"{setting:16s} {name} / {rival:18s} median {row['median']:.3f}, "
                    f"lost {len(row['lost'])} of {row['cells']}; the worst and the lost:"
                )
                for key, (ratio, error) in (row["worst"] | row["lost"]).items():
                    print(f"    {key}: {ratio:.3f} ± {error:.3f}")
    finish("held_out", {"sizes": sizes, "ratios": table, "nats": cells}, seed=options.seeds)


if __name__ == "__main__":
    main()
