"""How do peers from PyPI sample with the same exact denoiser, and with our grids?

`flow_matching` (MixtureDiscreteEulerSolver), `diffusers` (DiscreteDDIMScheduler) and `bionemo-moco`
(MDLM, DiscreteFlowMatcher) are given the posterior of a CountDown chain (V = 12, L = 32), each in
the form that it wants, at equal numbers of network calls; those that take a grid are also given the
optimal one. What is not installed is left out:

    pip install 'discrete-diffusion[peers]' && pip install --no-deps bionemo-moco

Quality is the Hellinger distance between the laws of adjacent pairs and the fraction of pairs that
break the CountDown rule, beside those of as many sequences of the chain itself. Times are CPU
seconds of one thread. Prints a table and writes docs/results/peers.json.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise, product
from time import process_time
from typing import Any

from ddm import Absorbing, Kernel, Uniform
from ddm.denoisers import Denoiser
from ddm.functional import times_like
from ddm.metrics import CountDownError
from ddm.noise import LogLinear
from ddm.samplers import Analytic, Euler, Sampler
from ddm.schedules import SamplingSchedule

import torch
from _report import Timed, finish, over_seeds, parse, resume
from problems import LENGTH, RIGID, VOCAB_SIZE, Chain, chains, data_of, exact, table_of
from torch import Tensor

EPS = 1e-6
"""What noise leaves at t = 1. Peers take alpha = 1 - t, and this is it to within EPS."""
NUM_STEPS = (4, 8, 32)
Draw = Callable[[Denoiser, Tensor, Sequence[float]], Tensor]
"""(denoiser, x at t = 1, times) -> x at t = 0. Peers draw from the global random state."""


def posterior(denoiser: Denoiser, x_t: Tensor, t: float) -> Tensor:
    """Return p(x_0 | x_t) on all K states, the mask among them, (B, L, K); one network call."""
    return denoiser.process.kernel.on_states(denoiser(x_t, times_like(t, x_t)).posterior())


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


OURS = "this project"
KERNELS: dict[str, Kernel] = {"absorbing": Absorbing(VOCAB_SIZE), "uniform": Uniform(VOCAB_SIZE)}
METHODS: dict[str, dict[str, tuple[Draw, str]]] = {
    "absorbing": {
        "ddm, Analytic": (partial(ours, Analytic()), OURS),
        "flow_matching, Euler": (flow_matching, "flow_matching"),
        "moco, MDLM": (moco_masked, "bionemo-moco"),
    },
    "uniform": {
        "ddm, Analytic": (partial(ours, Analytic()), OURS),
        "ddm, Euler": (partial(ours, Euler()), OURS),
        "flow_matching, Euler": (flow_matching, "flow_matching"),
        "diffusers, DiscreteDDIM": (diffusers, "diffusers"),
        "moco, stochasticity 0": (partial(moco_uniform, 0.0), "bionemo-moco"),
        "moco, default": (partial(moco_uniform, 1.0), "bionemo-moco"),
    },
}
"""How to draw samples, and the distribution that must be installed, by kernel and name."""


def installed(package: str) -> bool:
    """Return whether there is a distribution of this name; none is needed for our own methods."""
    try:
        return package == OURS or bool(version(package))
    except PackageNotFoundError:
        return False


def pair_law(chain: Chain, length: int) -> Tensor:
    """Return the law of (x_l, x_l+1), in the mean over the positions l, (V, V)."""
    initial, transition = chain
    law, total = initial, torch.zeros_like(transition)
    for _ in range(length - 1):
        total = total + law[:, None] * transition
        law = law @ transition
    return total / (length - 1)


def quality(tokens: Tensor, chain: Chain) -> dict[str, float]:
    """Return Hellinger distance of adjacent pairs and the fraction of pairs that break the rule."""
    v = len(chain[0])
    pairs = tokens[:, :-1] * v + tokens[:, 1:]
    share = torch.bincount(pairs.flatten(), minlength=v * v).double() / pairs.numel()
    overlap = (share * pair_law(chain, tokens.shape[1]).flatten()).sqrt().sum()
    metric = CountDownError(v)
    metric.update(tokens)
    hellinger = float((1 - overlap).clamp(min=0).sqrt())
    return {"hellinger": hellinger, "broken": float(metric.compute())}


def measure(
    draw: Draw, kernel: Kernel, chain: Chain, times: Sequence[float], num_samples: int, seed: int
) -> dict[str, float]:
    """Return quality, and CPU seconds per sample, all and outside of the network."""
    exactly = exact(kernel, LogLinear(EPS), chain)
    draw(exactly, kernel.sample_prior((1, LENGTH)), times)  # imports the peer
    denoiser = Timed(exactly, process_time)
    torch.manual_seed(seed)
    x = kernel.sample_prior((num_samples, LENGTH))
    begin = process_time()
    tokens = draw(denoiser, x, times)
    total = process_time() - begin
    return quality(tokens, chain) | {
        "seconds": total / num_samples,
        "overhead": (total - denoiser.seconds) / num_samples,
    }


def optimal(kernel: Kernel, chain: Chain, num_data: int) -> dict[str, list[float]]:
    """Return the times of the optimal schedules by N."""
    table = table_of(exact(kernel, LogLinear(EPS), chain), chain, num_data, seed=0)
    return {str(n): list(table.schedule(n).times) for n in NUM_STEPS}


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        num_samples=(512, "samples per cell and seed"),
        num_data=(256, "sequences for the cost tables"),
        seeds=(3, "number of seeds"),
    )
    torch.set_num_threads(1)
    chain, packages = chains()[RIGID], ("flow_matching", "diffusers", "bionemo-moco")
    versions = {package: version(package) for package in packages if installed(package)}
    print("installed:", versions)
    settings = vars(options) | {"versions": versions}
    find = {name: partial(optimal, KERNELS[name], chain, options.num_data) for name in KERNELS}
    grids = resume("peers", settings, find)
    measures: dict[str, Callable[[], dict[str, float]]] = {}
    for (kernel, group), seed in product(METHODS.items(), range(options.seeds)):
        tokens, _ = data_of(chain, options.num_samples, seed)
        measures[f"{kernel}/data/{seed}"] = partial(quality, tokens, chain)
        for (name, (draw, package)), n in product(group.items(), NUM_STEPS):
            tried = {"uniform": SamplingSchedule.uniform(n).times, "optimal": grids[kernel][str(n)]}
            for grid, times in tried.items():
                if installed(package) and (grid == "uniform" or draw is not diffusers):
                    key = f"{kernel}/{name}/{grid}/{n}/{seed}"
                    size = options.num_samples
                    measures[key] = partial(
                        measure, draw, KERNELS[kernel], chain, times, size, seed
                    )
    cells = resume("peers", settings, measures)
    rows = {
        key: over_seeds([cells[f"{key}/{seed}"] for seed in range(options.seeds)])
        for key in sorted({key.rpartition("/")[0] for key in cells})
    }
    for key, row in rows.items():
        shown = (f"{name} {mean:.4g} +- {error:.1g}" for name, (mean, error) in row.items())
        print(f"{key:48s}", *shown, sep="  ")
    finish("peers", {"settings": settings, "grids": grids, "rows": rows}, seed=0)


if __name__ == "__main__":
    main()
