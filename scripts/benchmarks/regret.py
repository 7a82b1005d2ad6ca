"""How far are the schedules from the best possible ones? Joints that can be enumerated, exactly.

Cost tables are sums over all (x_0, x_t), and a schedule is judged by KL(data || samples) of the
analytic sampler, whose whole law is propagated. The best possible schedule is the best that
coordinate descent on this divergence finds from five starts: the two best of the schedules that are
compared, the uniform, the cosine and a random one. Prints the median and the worst regret,
`KL / best KL - 1`, and writes docs/results/regret.json. r is the retention of OptimalSteps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

from ddm import OptimalSteps
from ddm.files import read_json
from ddm.samplers import Analytic
from ddm.schedules import SamplingSchedule, StepCosts
from ddm.schedules.optimal.step_cost import step_costs

import numpy as np
import torch
from _report import RESULTS, finish, parse
from problems import SMALL_KERNELS, Enumerated, joints
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm import tqdm

NUM_STEPS = (2, 3, 4, 6, 8)
GAMMAS = (0.0, 0.5, 0.7, 1.0)
DEFAULT = "r^0.5"


class ExactSteps(OptimalSteps):
    """`OptimalSteps` with exact costs in place of measured ones."""

    def __init__(self, world: Enumerated) -> None:
        super().__init__()
        self.world = world

    def measure(self, denoiser: Any, x_0: Any, times: Tensor, **_: Any) -> StepCosts:  # noqa: ANN401
        """Return the exact costs of all steps of the analytic sampler.

        Its cost is a sum over positions, and given x_t only the token at the position matters: one
        pseudo sequence of a single token stands for every state, position and token.
        """
        nats = torch.zeros(len(times), len(times), dtype=torch.float64)
        for i in range(1, len(times)):
            p, marginal = (
                self.world.prediction(float(times[i])),
                self.world.marginal(float(times[i])),
            )
            weight = marginal[:, None, None] * p.posterior()
            row, column, token = (weight > 0).nonzero(as_tuple=True)
            cost = step_costs(p.at(row, column), token[:, None], times[:i])[0]
            nats[i, :i] = cost @ weight[row, column, token]
        errors = self.world.errors(times)
        self.world.said.clear()
        # Copies stand for sequences; half of them are "held out".
        nats, errors = (x.expand(4, *x.shape) for x in (nats, errors))
        return StepCosts(times, nats, nats, errors, 0)


def descend(
    world: Enumerated, times: Sequence[float], sweeps: int = 8
) -> tuple[float, tuple[float, ...]]:
    """Return the least divergence that coordinate descent finds, and where."""
    times = list(times)
    best = world.divergence(world.start(), times)
    for _ in range(sweeps):
        before, law = best, world.start()
        for k in range(1, len(times) - 1):
            kept = world.said.copy()

            def cost(x: float, k: int = k, law: Tensor = law) -> float:
                return world.divergence(law, [times[k - 1], x, *times[k + 1 :]])

            margin = 1e-3 * (times[k - 1] - times[k + 1])
            found = minimize_scalar(
                cost,
                bounds=(times[k + 1] + margin, times[k - 1] - margin),
                method="bounded",
                options={"xatol": margin, "maxiter": 12},
            )
            world.said = kept  # the others are of no use any more, and large
            if found.fun < best:
                best, times[k] = float(found.fun), float(found.x)
            law = world.step(law, times[k - 1], times[k])
        if best > (1 - 1e-3) * before:
            break
    return best, tuple(times)


def study(
    laws: dict[str, tuple[str, Tensor]],
    kernels: Sequence[str],
    num_steps: Sequence[int],
    known: Mapping[str, Sequence[float]],
) -> Iterator[dict[str, Any]]:
    """Yield one row of terminal divergences per joint, kernel and number of steps.

    The best schedule is searched for, or, where one is known, the best of it and the candidates.
    """
    rng = np.random.default_rng(0)
    cases = list(product(laws, kernels))
    for name, kernel in (bar := tqdm(cases, desc="joints and kernels")):
        group, joint = laws[name]
        bar.set_postfix_str(f"{name}, {kernel}")
        world = Enumerated(SMALL_KERNELS[kernel](joint.shape[0]), joint)
        none = torch.zeros(8, joint.ndim, dtype=torch.int64)  # data, which exact costs do not need
        table = ExactSteps(world).table(world.denoiser, Analytic(), none)
        for n in num_steps:
            times = {
                f"r^{gamma:g}": replace(table, gamma=gamma).schedule(n).times for gamma in GAMMAS
            }
            times["uniform"] = SamplingSchedule.uniform(n).times
            times["cosine"] = SamplingSchedule.cosine(n).times
            nats = {x: world.divergence(world.start(), times[x]) for x in times}
            key = f"{name}|{kernel}|{n}"
            if best_times := known.get(key):
                found = (world.divergence(world.start(), best_times), best_times)
                best, where = min([found, *((nats[x], times[x]) for x in nats)])
            else:
                starts = [times[x] for x in sorted(nats, key=nats.__getitem__)[:2]]
                starts += [times["uniform"], times["cosine"]]
                starts += [(1.0, *np.sort(rng.random(n - 1) ** 2)[::-1].tolist(), 0.0)]
                best, where = min(descend(world, start) for start in dict.fromkeys(starts))
            world.said.clear()
            row = {"kernel": kernel, "group": group, "nats": nats, "best": best}
            yield row | {"key": key, "best_times": list(where)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return median and worst regret by kernel, group and schedule."""
    regrets: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        group = regrets.setdefault(row["kernel"], {}).setdefault(row["group"], {})
        for name, nats in row["nats"].items():
            group.setdefault(name, []).append(nats / row["best"] - 1)
    return {
        kernel: {
            group: {name: [float(np.median(r)), max(r)] for name, r in names.items()}
            for group, names in groups.items()
        }
        for kernel, groups in regrets.items()
    }


def by_number(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Return by kernel, group and N what weights lose to the default ones, mean of logs, worst."""
    logs: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        cell = logs.setdefault(f"{row['kernel']}, {row['group']}, {row['key'].split('|')[-1]}", {})
        for name in (f"r^{gamma:g}" for gamma in GAMMAS):
            cell.setdefault(name, []).append(np.log(row["nats"][name] / row["nats"]["r^0.5"]))
    return {
        key: {name: [float(np.exp(f(x))) for f in (np.mean, np.max)] for name, x in names.items()}
        for key, names in logs.items()
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        kernels=(list(SMALL_KERNELS), "kernels"),
        search=(False, "search for the best schedules instead of taking those of regret.json"),
    )
    known = {} if options.search else read_json(RESULTS / "regret.json")["best"]
    rows = list(study(joints(), options.kernels, NUM_STEPS, known))
    table = summary(rows)
    for kernel, groups in table.items():
        for group, names in groups.items():
            cells = "  ".join(f"{k}: {100 * m:.1f}/{100 * w:.1f}" for k, (m, w) in names.items())
            print(f"{kernel}, {group}, median/worst regret in %:  {cells}")
    numbers = by_number(rows)
    for key, names in numbers.items():
        cells = "  ".join(f"{x}: {mean:.3f}/{worst:.2f}" for x, (mean, worst) in names.items())
        print(f"{key} steps, nats over those of r^0.5, mean/worst:  {cells}")
    best = known | {row["key"]: row["best_times"] for row in rows}
    results = {"median_worst": table, "over_default": numbers, "best": best}
    finish("regret", results, seed=0)


if __name__ == "__main__":
    main()
