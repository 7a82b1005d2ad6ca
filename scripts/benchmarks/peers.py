"""How do peers from PyPI sample with the same exact denoiser, and with our grids?

`flow_matching` (MixtureDiscreteEulerSolver), `diffusers` (DiscreteDDIMScheduler) and `bionemo-moco`
(MDLM, DiscreteFlowMatcher) are given the posterior of a CountDown chain (V = 12, L = 32), each in
the form that it wants, at equal numbers of network calls; those that take a grid are also given the
optimal one. What is not installed is left out:

    pip install 'ddm[peers]' && pip install --no-deps bionemo-moco

Quality is the Hellinger distance between the laws of adjacent pairs and the share of pairs that
break the CountDown rule, beside those of as many sequences of the chain itself. Times are CPU
seconds of one thread. Writes docs/results/peers.{json,png}.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise, product
from time import process_time
from typing import Any

from ddm import Absorbing, Kernel, Uniform
from ddm.datamodules.countdown import sample_chain
from ddm.denoisers import Denoiser
from ddm.functional import times_like
from ddm.metrics import CountDownError
from ddm.noise import LogLinear
from ddm.samplers import Analytic, Euler, Sampler
from ddm.schedules import SamplingSchedule

import numpy as np
import torch
from _report import finish, resume
from kernel_gain import LENGTH, VOCAB_SIZE, Chain, chains, exact, table_of
from matplotlib.figure import Figure
from schedule_speed import Timed
from torch import Tensor

EPS = 1e-6
"""What noise leaves at t = 1. Peers take alpha = 1 - t, and this is it to within EPS."""
NUM_STEPS = (4, 8, 32)
Draw = Callable[[Denoiser, Tensor, Sequence[float]], Tensor]
"""(denoiser, x at t = 1, times) -> x at t = 0. Peers draw from the global random state."""


def posterior(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
    """Return p(x_0 | x_t) on all K states, the mask among them, (B, L, K); one network call."""
    p = denoiser(x_t, times_like(t, x_t)).posterior()
    return torch.nn.functional.pad(p, (0, denoiser.process.kernel.num_states - p.shape[-1]))


def ours(sampler: Sampler, denoiser: Denoiser, x: Tensor, times: Sequence[float]) -> Tensor:
    """Draw with a sampler of this project."""
    return sampler(denoiser, x, times).tokens


def flow_matching(denoiser: Denoiser, x: Tensor, times: Sequence[float]) -> Tensor:
    """Draw with `flow_matching`: full posterior as probabilities, any grid from 0 up to 1."""
    from flow_matching.path import MixtureDiscreteProbPath
    from flow_matching.path.scheduler import PolynomialConvexScheduler
    from flow_matching.solver import MixtureDiscreteEulerSolver

    def model(x: Tensor, t: Tensor) -> Tensor:
        return posterior(denoiser, x, 1 - float(t[0]))

    path = MixtureDiscreteProbPath(PolynomialConvexScheduler(n=1.0))
    solver = MixtureDiscreteEulerSolver(model, path, denoiser.process.kernel.num_states)
    rising = 1 - torch.tensor(times, dtype=torch.float64)
    return solver.sample(x, step_size=None, time_grid=rising)


def diffusers(denoiser: Denoiser, x: Tensor, times: Sequence[float]) -> Tensor:
    """Draw with `diffusers`, uniform kernel: logits of the full posterior, equal steps alone."""
    from diffusers import DiscreteDDIMScheduler

    scheduler: Any = DiscreteDDIMScheduler(num_inference_steps=len(times) - 1)
    for k, t in enumerate(times[:-1]):
        logits = posterior(denoiser, x, t).log()
        x = scheduler.step(logits, k, x, temperature=1.0).prev_sample
    return x


def moco_masked(denoiser: Denoiser, x: Tensor, times: Sequence[float]) -> Tensor:
    """Draw with `bionemo-moco`, masks: logits on K states, any grid from 1 down to 0."""
    from bionemo.moco.distributions.prior import DiscreteMaskedPrior
    from bionemo.moco.distributions.time import UniformTimeDistribution
    from bionemo.moco.interpolants import MDLM
    from bionemo.moco.schedules.noise.continuous_noise_transforms import LogLinearExpNoiseTransform

    prior = DiscreteMaskedPrior(denoiser.process.kernel.num_states)
    mdlm = MDLM(UniformTimeDistribution(), prior, LogLinearExpNoiseTransform(EPS))
    for t, s in pairwise(times):
        logits = posterior(denoiser, x, t).log()
        x = mdlm.step(logits, times_like(t, x), x, times_like(t - s, x))
    return x


def moco_uniform(
    stochasticity: float, denoiser: Denoiser, x: Tensor, times: Sequence[float]
) -> Tensor:
    """Draw with `bionemo-moco`, uniform kernel: float32 logits, any grid from 0 up to 1."""
    from bionemo.moco.distributions.prior import DiscreteUniformPrior
    from bionemo.moco.distributions.time import UniformTimeDistribution
    from bionemo.moco.interpolants import DiscreteFlowMatcher

    prior = DiscreteUniformPrior(denoiser.process.kernel.num_states)
    flow = DiscreteFlowMatcher(UniformTimeDistribution(), prior)
    for t, s in pairwise(times):
        logits = posterior(denoiser, x, t).log().float()
        now, width = times_like(1 - t, x).float(), times_like(t - s, x).float()
        x = flow.step(logits, now, x, width, stochasticity=stochasticity)
    return x


@dataclass(frozen=True)
class Method:
    """A way to draw samples.

    Attributes:
        draw: The sampler.
        package: What must be installed, as it is imported.
        any_grid: Whether it takes a grid.
    """

    draw: Draw
    package: str = "ddm"
    any_grid: bool = True

    @property
    def installed(self) -> bool:
        """Whether the package is there."""
        try:
            return find_spec(self.package) is not None
        except ModuleNotFoundError:  # the parent of bionemo.moco
            return False


METHODS: dict[str, dict[str, Method]] = {
    "absorbing": {
        "ddm, Analytic": Method(partial(ours, Analytic())),
        "flow_matching, Euler": Method(flow_matching, "flow_matching"),
        "moco, MDLM": Method(moco_masked, "bionemo.moco"),
    },
    "uniform": {
        "ddm, Analytic": Method(partial(ours, Analytic())),
        "ddm, Euler": Method(partial(ours, Euler())),
        "flow_matching, Euler": Method(flow_matching, "flow_matching"),
        "diffusers, DiscreteDDIM": Method(diffusers, "diffusers", any_grid=False),
        "moco, stochasticity 0": Method(partial(moco_uniform, 0.0), "bionemo.moco"),
        "moco, default": Method(partial(moco_uniform, 1.0), "bionemo.moco"),
    },
}
KERNELS: dict[str, Kernel] = {"absorbing": Absorbing(VOCAB_SIZE), "uniform": Uniform(VOCAB_SIZE)}
PACKAGES = {
    "flow_matching": "flow_matching",
    "diffusers": "diffusers",
    "bionemo.moco": "bionemo-moco",
}
"""Names on PyPI by names of import."""


def pair_law(chain: Chain, length: int) -> Tensor:
    """Return the law of (x_l, x_l+1), in the mean over the positions l, (V, V)."""
    initial, transition = chain
    law, total = initial, torch.zeros_like(transition)
    for _ in range(length - 1):
        total = total + law[:, None] * transition
        law = law @ transition
    return total / (length - 1)


def quality(tokens: Tensor, chain: Chain) -> dict[str, float]:
    """Return Hellinger distance of adjacent pairs and the share of pairs that break the rule."""
    v = len(chain[0])
    pairs = tokens[:, :-1] * v + tokens[:, 1:]
    share = torch.bincount(pairs.flatten(), minlength=v * v).double() / pairs.numel()
    overlap = (share * pair_law(chain, tokens.shape[1]).flatten()).sqrt().sum()
    metric = CountDownError(v)
    metric.update(tokens)
    return {
        "hellinger": float((1 - overlap).clamp(min=0).sqrt()),
        "broken": float(metric.compute()),
    }


def measure(
    method: Method,
    kernel: Kernel,
    chain: Chain,
    schedule: SamplingSchedule,
    num_samples: int,
    seed: int,
) -> dict[str, float]:
    """Return quality, and CPU seconds per sample, all and outside of the network."""
    exactly = exact(kernel, LogLinear(EPS), chain)
    method.draw(exactly, kernel.sample_prior((1, LENGTH)), schedule.times)  # imports the peer
    denoiser = Timed(exactly, process_time)
    torch.manual_seed(seed)
    x = kernel.sample_prior((num_samples, LENGTH))
    begin = process_time()
    tokens = method.draw(denoiser, x, schedule.times)
    total = process_time() - begin
    return quality(tokens, chain) | {
        "seconds": total / num_samples,
        "overhead": (total - denoiser.seconds) / num_samples,
    }


def optimal(kernel: Kernel, chain: Chain, num_data: int) -> dict[str, list[float]]:
    """Return the times of the optimal schedules by N."""
    table = table_of(exact(kernel, LogLinear(EPS), chain), chain, num_data, seed=0)
    return {str(n): list(table.schedule(n).times) for n in NUM_STEPS}


def summary(cells: Mapping[str, Mapping[str, float]], seeds: int) -> dict[str, dict[str, Any]]:
    """Return mean and standard error over seeds of every number, by cell without its seed."""
    found = {}
    for key in dict.fromkeys(key.rsplit("/", 1)[0] for key in cells):
        rows = [cells[f"{key}/{seed}"] for seed in range(seeds)]
        found[key] = {
            name: [
                float(np.mean([row[name] for row in rows])),
                float(np.std([row[name] for row in rows], ddof=min(1, seeds - 1)) / seeds**0.5),
            ]
            for name in rows[0]
        }
    return found


def draw(rows: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw broken pairs against the number of calls: uniform steps dashed, the optimal solid."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    for axes, kernel in zip(figure.subplots(1, 2), METHODS, strict=True):
        for color, name in enumerate(METHODS[kernel]):
            for grid, line in (("uniform", "o--"), ("optimal", "o-")):
                keys = [f"{kernel}/{name}/{grid}/{n}" for n in NUM_STEPS]
                if keys[0] not in rows:
                    continue
                mean, error = zip(*(rows[key]["broken"] for key in keys), strict=True)
                label = name if grid == "uniform" else None
                axes.errorbar(
                    NUM_STEPS, mean, error, fmt=line, color=f"C{color}", markersize=3, label=label
                )
        axes.axhline(rows[f"{kernel}/data"]["broken"][0], color="0.6", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xticks(NUM_STEPS, labels=[str(n) for n in NUM_STEPS])
        axes.set(title=kernel, xlabel="network calls", ylabel="pairs that break the rule")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--num-samples", type=int, default=512, help="samples per cell and seed")
    parser.add_argument("--num-data", type=int, default=256, help="sequences for the cost tables")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    chain = chains()["CountDown, smoothing .002"]
    methods = [method for group in METHODS.values() for method in group.values()]
    there = {m.package for m in methods if m.installed}
    for package in PACKAGES:
        if package not in there:
            print(f"{package} is not installed and is left out.")
    settings = vars(options) | {
        "versions": {PACKAGES[p]: version(PACKAGES[p]) for p in PACKAGES if p in there}
    }
    grids = resume(
        "peers",
        settings,
        {name: partial(optimal, KERNELS[name], chain, options.num_data) for name in KERNELS},
    )
    measures: dict[str, Callable[[], dict[str, float]]] = {}
    for kernel, group in METHODS.items():
        for seed in range(options.seeds):
            noise = torch.Generator().manual_seed(seed)
            tokens = sample_chain(*chain, options.num_samples, LENGTH, noise)
            measures[f"{kernel}/data/{seed}"] = partial(quality, tokens, chain)
            for (name, method), n in product(group.items(), NUM_STEPS):
                if not method.installed:
                    continue
                schedules = {"uniform": SamplingSchedule.uniform(n)}
                if method.any_grid:
                    schedules["optimal"] = SamplingSchedule(tuple(grids[kernel][str(n)]))
                for grid, schedule in schedules.items():
                    measures[f"{kernel}/{name}/{grid}/{n}/{seed}"] = partial(
                        measure,
                        method,
                        KERNELS[kernel],
                        chain,
                        schedule,
                        options.num_samples,
                        seed,
                    )
    rows = summary(resume("peers", settings, measures), options.seeds)
    for key, row in sorted(rows.items()):
        numbers = f"Hellinger {row['hellinger'][0]:.4f} +- {row['hellinger'][1]:.4f}  "
        numbers += f"broken {row['broken'][0]:.4f} +- {row['broken'][1]:.4f}"
        if "seconds" in row:
            numbers += f"  {1e3 * row['seconds'][0]:.3f} ms per sample, "
            numbers += f"{1e3 * row['overhead'][0]:.3f} outside of the network"
        print(f"{key:48s} {numbers}")
    content = {"settings": settings, "grids": grids, "rows": rows}
    finish("peers", content, draw(rows), seed=0)


if __name__ == "__main__":
    main()
