"""How far are the schedules from the best possible ones? Joints that can be enumerated, exactly.

Cost tables are sums over all (x_0, x_t), and a schedule is judged by KL(data || samples) of the
analytic sampler, whose whole law is propagated. The best possible schedule is the best that
coordinate descent on this divergence finds from five starts: the two best of the schedules that are
compared, the uniform, the cosine and a random one. Prints the median and the worst regret,
`KL / best KL - 1`, and writes docs/results/regret.{json,png}. r is the retention of OptimalSteps,
rho the correlation of the channel of one token.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

from ddm import Absorbing, CostTable, ForwardProcess, Kernel, OptimalSteps, Uniform
from ddm.datamodules.countdown import countdown_chain
from ddm.denoisers import ExactDenoiser, Prediction
from ddm.files import read_json
from ddm.functional import times_like
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import SamplingSchedule, StepCosts
from ddm.schedules.optimal.retention import blind_ratio, sign_test, still_seen
from ddm.schedules.optimal.step_cost import step_costs

import numpy as np
import torch
from _report import RESULTS, save
from exact_chains import discretised_gaussian
from matplotlib.figure import Figure
from scipy.optimize import minimize_scalar
from torch import Tensor
from tqdm import tqdm

ORDINARY, NEAR = "ordinary", "near-deterministic"
KERNELS: dict[str, Callable[[int], Kernel]] = {
    "absorbing": Absorbing,
    "uniform": Uniform,
    "gaussian": lambda vocab_size: discretised_gaussian(vocab_size, width=0.8),
}
NUM_STEPS = (2, 3, 4, 6, 8)
DEFAULT = "r^0.5"


def joints() -> dict[str, tuple[str, Tensor]]:
    """Return group and law, L axes of size V, of every joint by name."""
    found: dict[str, tuple[str, Tensor]] = {}
    spins = 2.0 * torch.cartesian_prod(*[torch.arange(2)] * 6).double() - 1
    for beta in (0.2, 0.4, 0.6, 0.8, 1.0):
        energy = beta * (spins * spins.roll(1, 1)).sum(1)
        found[f"Ising ring, beta = {beta}"] = ORDINARY, torch.softmax(energy, 0).reshape([2] * 6)
    for beta in (0.5, 1.0, 2.0):
        energy = beta * spins[:, :5].prod(1)[::2]
        found[f"soft parity, beta = {beta}"] = ORDINARY, torch.softmax(energy, 0).reshape([2] * 5)
    for v, length, coupling in ((2, 6, 1.0), (3, 4, 1.0), (3, 4, 2.0), (4, 3, 1.0), (4, 3, 2.0)):
        generator = torch.Generator().manual_seed(v + length)
        logits = torch.randn(v**length, generator=generator, dtype=torch.float64)
        law = torch.softmax(coupling * logits, 0).reshape([v] * length)
        found[f"random, V = {v}, L = {length}, coupling {coupling}"] = ORDINARY, law
    for group, flip in ((ORDINARY, 0.1), (ORDINARY, 0.2), (ORDINARY, 0.3), (NEAR, 0.01)):
        rows = torch.tensor([[1 - flip, flip], [flip, 1 - flip]], dtype=torch.float64)
        initial = torch.full((2,), 0.5, dtype=torch.float64)
        found[f"binary chain, flip {flip}"] = group, chain_law(initial, rows, 6)
    for v, length in ((3, 4), (4, 4)):
        generator = torch.Generator().manual_seed(v)
        rows = torch.softmax(1.5 * torch.randn(v, v, generator=generator, dtype=torch.float64), -1)
        initial = torch.full((v,), 1 / v, dtype=torch.float64)
        found[f"random chain, V = {v}, L = {length}"] = ORDINARY, chain_law(initial, rows, length)
    for group, v, length, smoothing in (
        (ORDINARY, 3, 4, 0.1),
        (ORDINARY, 3, 4, 0.3),
        (ORDINARY, 4, 4, 0.2),
        (NEAR, 3, 4, 0.001),
        (NEAR, 3, 5, 0.002),
        (NEAR, 4, 3, 0.01),
        (NEAR, 4, 4, 0.001),
    ):
        initial, rows = countdown_chain(v, smoothing)
        law = chain_law(initial, rows, length)
        found[f"CountDown, V = {v}, L = {length}, smoothing {smoothing}"] = group, law
    return found


def chain_law(initial: Tensor, transition: Tensor, length: int) -> Tensor:
    """Return the law of a Markov chain, `length` axes."""
    law = initial
    for _ in range(length - 1):
        law = law[..., None] * transition
    return law


class Enumerated:
    """Everything about one joint and kernel that takes the sum over all states."""

    def __init__(self, kernel: Kernel, joint: Tensor) -> None:
        self.process = ForwardProcess(kernel, LogLinear())
        self.denoiser = ExactDenoiser(self.process, joint)
        self.joint = torch.nn.functional.pad(
            joint, (0, kernel.num_states - kernel.vocab_size) * joint.ndim
        )
        grid = [torch.arange(kernel.num_states)] * joint.ndim
        self.states = torch.cartesian_prod(*grid).reshape(-1, joint.ndim)
        self._said: dict[float, Prediction] = {}

    def prediction(self, t: float) -> Prediction:
        """Return the posteriors at all states, (S, L, V)."""
        if t not in self._said:
            self._said[t] = self.denoiser(self.states, times_like(t, self.states))
        return self._said[t]

    def marginal(self, t: float) -> Tensor:
        """Return the law of x_t, (S,)."""
        law, sigma = self.joint, self.process.noise.sigma(torch.tensor(t, dtype=torch.float64))
        for i in range(law.ndim):
            law = self.process.kernel.evolve(law.movedim(i, -1), sigma).movedim(-1, i)
        return law.flatten()

    def mean(self, f: Tensor, t: float, s: float) -> Tensor:
        """Return E[f(x_t) | x_s] for functions f of x_t, (S, *)."""
        kernel, times = self.process.kernel, torch.tensor([s, t], dtype=torch.float64)
        one_token = kernel.evolve(
            torch.eye(kernel.num_states, dtype=torch.float64),
            self.process.noise.sigma(times).diff(),
        )
        out = f.reshape(*[kernel.num_states] * self.joint.ndim, -1)
        for i in range(self.joint.ndim):
            out = torch.tensordot(one_token, out, ([1], [i])).movedim(0, i)
        return out.reshape(f.shape)

    def errors(self, times: Tensor) -> Tensor:
        """Return the errors of a cost table on an increasing grid, (M, 2); see `StepCosts`."""
        found = torch.zeros(len(times) - 1, 2, dtype=torch.float64)
        if isinstance(self.process.kernel, Absorbing):
            return found  # nothing is repaired
        for i in range(1, len(times)):
            t, below = float(times[i]), float(times[max(i - 1, 1)])  # whose context sees the error
            ratio, before = blind_ratio(self.prediction(t), times[i - 1])
            seen = still_seen(
                sign_test(self.prediction(below), times[i - 1]), self.mean(ratio, t, below)
            )
            found[i - 1] = torch.stack(
                [self.marginal(t) @ before.sum(-1), self.marginal(below) @ seen.sum(-1)]
            )
        return found

    def step(self, law: Tensor, t: float, s: float) -> Tensor:
        """Return the law after one analytic step, (S,)."""
        p = self.prediction(t)
        tokens = Analytic().law([p], times_like(s, self.states))
        half = tokens.shape[1] // 2
        left, right = product_law(tokens[:, :half]), product_law(tokens[:, half:])
        return ((law[:, None] * left).T @ right).flatten()

    def divergence(self, law: Tensor, times: Sequence[float]) -> float:
        """Return KL(data || samples) in nats after the rest of a schedule, from the law before."""
        for t, s in pairwise(times):
            law = self.step(law, t, s)
        data = self.joint.flatten()
        return float((torch.xlogy(data, data) - torch.xlogy(data, law.clamp(min=1e-300))).sum())

    def start(self) -> Tensor:
        """Return the prior of all positions, (S,)."""
        kernel = self.process.kernel
        return product_law(kernel.prior().expand(1, self.joint.ndim, -1))[0]

    def descend(self, times: Sequence[float], sweeps: int = 8) -> tuple[float, tuple[float, ...]]:
        """Return the least divergence that coordinate descent finds, and where."""
        times = list(times)
        best = self.divergence(self.start(), times)
        for _ in range(sweeps):
            before, law = best, self.start()
            for k in range(1, len(times) - 1):
                kept = self._said.copy()

                def cost(x: float, k: int = k, law: Tensor = law) -> float:
                    return self.divergence(law, [times[k - 1], x, *times[k + 1 :]])

                margin = 1e-3 * (times[k - 1] - times[k + 1])
                found = minimize_scalar(
                    cost,
                    bounds=(times[k + 1] + margin, times[k - 1] - margin),
                    method="bounded",
                    options={"xatol": margin, "maxiter": 12},
                )
                self._said = kept  # of no use any more, and large
                if found.fun < best:
                    best, times[k] = float(found.fun), float(found.x)
                law = self.step(law, times[k - 1], times[k])
            if best > (1 - 1e-3) * before:
                break
        return best, tuple(times)


def product_law(law: Tensor) -> Tensor:
    """Return the law of independent tokens (S, L, K) on all their sequences, (S, K^L)."""
    out = law[:, 0]
    for i in range(1, law.shape[1]):
        out = (out[:, :, None] * law[:, i, None, :]).flatten(1)
    return out


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
        size, length = self.world.states.shape
        vocab_size = self.world.process.kernel.vocab_size
        nats = torch.zeros(len(times), len(times), dtype=torch.float64)
        token = torch.arange(vocab_size).repeat(size * length)
        for i in range(1, len(times)):
            t = float(times[i])
            p, marginal = self.world.prediction(t), self.world.marginal(t)
            weight = (marginal[:, None, None] * p.posterior()).flatten()
            live = weight > 0
            row = torch.arange(size * length).repeat_interleave(vocab_size)[live]
            single = replace(
                p,
                output=p.output.reshape(-1, 1, vocab_size)[row],
                x_t=p.x_t.reshape(-1, 1)[row],
                t=p.t[:1].expand(len(row)),
            )
            cost = step_costs(single, token[live, None], times[:i])
            nats[i, :i] = cost @ weight[live]
        errors = self.world.errors(times)
        self.world._said.clear()
        # Copies stand for sequences; half of them are "held out".
        nats, errors = (x.expand(4, *x.shape) for x in (nats, errors))
        return StepCosts(times, nats, errors, 0)


def candidates(table: CostTable, rho: np.ndarray) -> dict[str, CostTable]:
    """Return the table with other weights; rho is the one-token correlation at its times."""
    return {
        "gamma 0": replace(table, gamma=0.0),
        "rho^2": replace(table, retention=rho, gamma=2.0),
        "rho^4": replace(table, retention=rho, gamma=4.0),
        "r^0.5": replace(table, gamma=0.5),
        "r^0.7": replace(table, gamma=0.7),
        "r^1": replace(table, gamma=1.0),
    }


def study(
    laws: dict[str, tuple[str, Tensor]],
    kernels: Sequence[str],
    num_steps: Sequence[int],
    known: dict[tuple[str, str, int], tuple[float, ...]],
) -> Iterator[dict[str, Any]]:
    """Yield one row of terminal divergences per joint, kernel and number of steps.

    The best schedule is searched for, or, where one is known, the best of it and the candidates.
    """
    rng = np.random.default_rng(0)
    cases = list(product(laws, kernels))
    for name, kernel in (bar := tqdm(cases, desc="joints and kernels")):
        group, joint = laws[name]
        bar.set_postfix_str(f"{name}, {kernel}")
        world = Enumerated(KERNELS[kernel](joint.shape[0]), joint)
        none = torch.zeros(8, joint.ndim, dtype=torch.int64)  # data, which exact costs do not need
        table = ExactSteps(world).table(world.denoiser, Analytic(), none)
        # The spectral gap of all kernels here is 1; with masks errors are never repaired.
        sigma = world.process.noise.sigma(torch.from_numpy(table.times))
        forgets = 0.0 if world.process.kernel.absorbing else 1.0
        tables = candidates(table, torch.exp(-forgets * sigma).numpy())
        for n in num_steps:
            times = {key: weighted.schedule(n).times for key, weighted in tables.items()}
            times["uniform"] = SamplingSchedule.uniform(n).times
            times["cosine"] = SamplingSchedule.cosine(n).times
            nats = {key: world.divergence(world.start(), t) for key, t in times.items()}
            if best_times := known.get((name, kernel, n)):
                found = (world.divergence(world.start(), best_times), best_times)
                best, where = min([found, *((nats[key], times[key]) for key in nats)])
            else:
                starts = [times[key] for key in sorted(nats, key=nats.__getitem__)[:2]]
                starts += [times["uniform"], times["cosine"]]
                starts += [(1.0, *np.sort(rng.random(n - 1) ** 2)[::-1].tolist(), 0.0)]
                best, where = min(world.descend(start) for start in dict.fromkeys(starts))
            world._said.clear()
            yield {
                "joint": name,
                "group": group,
                "kernel": kernel,
                "num_steps": n,
                "best": best,
                "best_times": list(where),
                "nats": nats,
            }


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


def draw(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw every regret as a dot, one panel per kernel."""
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    figure = Figure(figsize=(4 * len(kernels), 3.6), layout="constrained")
    rng = np.random.default_rng(0)
    panels = figure.subplots(1, len(kernels), sharey=True, squeeze=False)[0]
    for axes, kernel in zip(panels, kernels, strict=True):
        names = list(rows[0]["nats"])
        for group, color in ((ORDINARY, "C0"), (NEAR, "C1")):
            mine = [r for r in rows if r["kernel"] == kernel and r["group"] == group]
            for k, name in enumerate(names):
                regret = np.array([100 * (r["nats"][name] / r["best"] - 1) for r in mine])
                place = k + rng.uniform(-0.25, 0.25, len(regret))
                label = group if k == 0 else None
                axes.plot(place, regret, ".", color=color, markersize=4, alpha=0.6, label=label)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.set_xticks(range(len(names)), labels=names, rotation=60)
        axes.set(title=kernel)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylim(bottom=-0.1)  # of all panels, when all dots are there
    panels[0].set_ylabel("regret, % of the best KL")
    panels[0].legend(frameon=False)
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kernels", nargs="+", choices=KERNELS, default=list(KERNELS))
    parser.add_argument(
        "--search",
        action="store_true",
        help="search for the best schedules instead of taking those of regret.json",
    )
    options = parser.parse_args()
    earlier = read_json(RESULTS / "regret.json")["rows"] if not options.search else []
    known = {(r["joint"], r["kernel"], r["num_steps"]): tuple(r["best_times"]) for r in earlier}
    rows = list(study(joints(), options.kernels, NUM_STEPS, known))
    table = summary(rows)
    for kernel, groups in table.items():
        for group, names in groups.items():
            cells = "  ".join(f"{k}: {100 * m:.1f}/{100 * w:.1f}" for k, (m, w) in names.items())
            print(f"{kernel}, {group}, median/worst regret in %:  {cells}")
    draw(rows).savefig(RESULTS / "regret.png", dpi=120)
    save("regret", {"median_worst": table, "rows": rows}, seed=0)


if __name__ == "__main__":
    main()
