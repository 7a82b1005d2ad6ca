"""Would the error of the step's own be a better price of a step? An oracle, exactly.

`OptimalSteps` weighs what a step costs by how long a blind token survives (r^0.5). Here a step from
t to s has the price that no weight can know better: it starts from the true law of x_t, draws the
tokens independently, and the exact reverse process goes on from s to 0; what is left at 0 is its
price, KL(data || .) or the total variation. Joints that can be enumerated (those of regret.py and
of held_out.py), exact tables; a schedule is judged by KL(data || samples) of the analytic sampler.
Prints median, mean and worst regret, `KL / best KL - 1`, against the best of those compared and,
for the joints of regret.py, the best one known. Masks are left out, as nothing repairs an error
there. Writes docs/results/step_errors.json. Finished cells are kept, so an interrupted run goes on
where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

from ddm.files import read_json
from ddm.samplers import Analytic
from ddm.schedules import CostTable, SamplingSchedule

import numpy as np
import torch
from _held_out_joints import first_nine, second_nine
from _report import RESULTS, finish, parse, resume
from problems import SMALL_KERNELS, Enumerated, Law, joints, kl
from regret import DEFAULT, ExactSteps
from torch import Tensor

NUM_STEPS = (2, 4, 8)
SETTINGS = ("uniform", "gaussian")
ORACLE, VARIATION = "oracle", "oracle, total variation"
Regrets = dict[str, dict[str, float]]


def laws() -> dict[str, tuple[str, Law]]:
    """Return group and law of every joint by name."""
    held_out = {name: ("held out", law) for name, law in (first_nine() | second_nine()).items()}
    return joints() | held_out


def left_at_zero(world: Enumerated, t: float, s: float) -> Tensor:
    """Return the law at time 0 of one step from the true x_t to s and the exact process from s."""
    law = world.step(world.marginal(t), t, s)
    ratio = law / world.marginal(s).clamp(min=1e-300)
    return world.data.flatten() * world.mean(ratio, s, 0.0)


def prices(world: Enumerated, times: np.ndarray) -> dict[str, np.ndarray]:
    """Return the prices of all steps on an increasing grid, (M + 1, M + 1), by measure."""
    found = {name: np.zeros([len(times)] * 2) for name in (ORACLE, VARIATION)}
    data = world.data.flatten()
    for i, t in enumerate(times.tolist()):
        for j, s in enumerate(times[:i].tolist()):
            left = left_at_zero(world, t, s)
            found[ORACLE][i, j] = max(kl(data, left.clamp(min=1e-300)), 0.0)
            found[VARIATION][i, j] = 0.5 * float((data - left).abs().sum())
        world.said.clear()
    return found


def measure(
    joint: Law, kernel: str, num_steps: Sequence[int], known: Mapping[str, Sequence[float]]
) -> Regrets:
    """Return the regret of every price by number of steps, on one joint."""
    world = Enumerated(SMALL_KERNELS[kernel](joint.shape[0]), joint)
    none = torch.zeros(8, joint.ndim, dtype=torch.int64)  # data, which exact costs do not need
    table = ExactSteps(world).table(world.denoiser, Analytic(), none)
    tables = {DEFAULT: table, "r^0": replace(table, gamma=0.0)}
    tables |= {name: priced(table, x) for name, x in prices(world, table.times).items()}
    found: Regrets = {}
    for n in num_steps:
        times = {name: x.schedule(n).times for name, x in tables.items()}
        times["uniform"] = SamplingSchedule.uniform(n).times
        nats = {name: world.divergence(world.start(), x) for name, x in times.items()}
        best = min(nats.values())
        if str(n) in known:
            best = min(best, world.divergence(world.start(), known[str(n)]))
        found[str(n)] = {name: x / best - 1 for name, x in nats.items()}
        world.said.clear()
    return found


def priced(table: CostTable, price: np.ndarray) -> CostTable:
    """Return the table with other costs, unweighted and as they are."""
    zero = np.zeros_like(price)
    return replace(table, excess=price, standard_error=zero, gamma=0.0, width=0.0, held_out=None)


def summary(cells: Mapping[str, Regrets]) -> dict[str, dict[str, list[float]]]:
    """Return median, mean and worst regret, by kernel and group and by price."""
    regrets: dict[str, dict[str, list[float]]] = {}
    groups = {name: group for name, (group, _) in laws().items()}
    for key, by_steps in cells.items():
        name, kernel = key.split("|")
        rows = regrets.setdefault(f"{kernel}, {groups[name]}", {})
        for price, regret in (item for row in by_steps.values() for item in row.items()):
            rows.setdefault(price, []).append(regret)
    return {
        group: {k: [float(np.median(x)), float(np.mean(x)), max(x)] for k, x in rows.items()}
        for group, rows in regrets.items()
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    all_laws = laws()
    options = parse(
        __doc__,
        args,
        joints=(list(all_laws), "joints"),
        settings=(list(SETTINGS), "kernels"),
        num_steps=(list(NUM_STEPS), "numbers of steps"),
    )
    best = read_json(RESULTS / "regret.json")["best"]
    cells = {}
    for kernel, name in product(options.settings, options.joints):
        keys = {str(n): f"{name}|{kernel}|{n}" for n in options.num_steps}
        known = {n: best[key] for n, key in keys.items() if key in best}
        cell = partial(measure, all_laws[name][1], kernel, options.num_steps, known)
        cells[f"{name}|{kernel}"] = cell
    found = resume("step_errors", {"num_steps": options.num_steps}, cells)
    table = summary(found)
    for group, rows in table.items():
        print(f"\n{group}, median / mean / worst regret in %")
        for price, (median, mean, worst) in rows.items():
            print(f"  {price:24s} {100 * median:.1f} / {100 * mean:.1f} / {100 * worst:.1f}")
    finish("step_errors", {"regret": table, "cells": found}, seed=0)


if __name__ == "__main__":
    main()
