"""When does a corrector pay? Predictors, correctors and remasking at equal numbers of calls.

Three parts. Enumerated joints: the law of the samples is propagated exactly, and times, strength
and place of the corrector are searched together for the least KL( data || samples ), so no schedule
is to blame. Exact chains: samples at the optimal times of the analytic sampler and at uniform ones.
Shipped CountDown models with masks and with the uniform kernel: the errors of a network on top.
Chains and models are judged by the Hellinger distance of adjacent pairs and the fraction of pairs
that break the rule. Prints tables and writes docs/results/correctors.json. Finished cells are kept,
so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from ddm.checkpoint import load_data, load_model
from ddm.datamodules.countdown import countdown_chain
from ddm.datamodules.sequences import SequenceDataModule
from ddm.denoisers import Denoiser
from ddm.kernels import Absorbing, Kernel, Uniform
from ddm.noise import LogLinear
from ddm.orders import Spaced
from ddm.samplers import Analytic, KGillespie, PredictorCorrector, Renoise, Reveal, Sampler
from ddm.schedules import OptimalCounts, SamplingSchedule
from ddm.schedules.beside import schedules_of

import torch
from _corrector_search import JOINTS, on_joint
from _correctors import (
    Accept,
    AcceptAtRandom,
    Gibbs,
    Informed,
    Psi,
    ReMDM,
    ReMDMLoop,
    cap,
    rescale,
)
from _report import ROOT, finish, over_seeds, parse, resume, show
from peers import quality
from problems import (
    LENGTH,
    RIGID,
    Chain,
    chains,
    data_of,
    discretized_gaussian,
    exact,
    table_of,
)
from torch import Tensor

NUM_CALLS = (4, 8, 16, 32)
MODEL_CALLS = (4, 8, 16)
MIXES = "stays with .95"
CHAINS: dict[str, tuple[Kernel, str]] = {
    "masks": (Absorbing(12), RIGID),
    "uniform": (Uniform(12), RIGID),
    "uniform, second chain": (Uniform(12), MIXES),
    "Gaussian": (discretized_gaussian(12), RIGID),
}
MODELS = ["countdown", "countdown_uniform"]
Method = tuple[Sampler, str]
"""A sampler and its schedule: "uniform", "optimal", "counts", or "half" for two calls per step."""


def methods(kernel: Kernel) -> dict[str, Method]:
    """Return the methods of a kernel; masked networks say nothing of tokens that they see."""
    found: dict[str, Method] = {
        "Analytic, uniform times": (Analytic(), "uniform"),
        "Analytic": (Analytic(), "optimal"),
        "Renoise, uniform times": (Renoise(), "uniform"),
        "Renoise": (Renoise(), "optimal"),
        "Psi, kappa .5": (Psi(0.5), "optimal"),
        "Psi, kappa 0": (Psi(0.0), "optimal"),
        "forward-backward, N + 1 calls": (PredictorCorrector(), "half"),
    }
    if kernel.mask is not None:
        return found | {
            "KGillespie": (KGillespie(), "optimal"),
            "spaced, optimal counts": (Reveal(Spaced()), "counts"),
            "ReMDM-cap .05, uniform times": (ReMDM(cap(0.05)), "uniform"),
            "ReMDM-rescale .5, uniform times": (ReMDM(rescale(0.5)), "uniform"),
            "ReMDM-rescale 1, uniform times": (ReMDM(rescale(1.0)), "uniform"),
            "ReMDM-loop .05": (ReMDMLoop(cap(0.05)), "optimal"),
        }
    found |= {
        "Gibbs, 1 token": (Gibbs(1), "half"),
        "Gibbs, 4 tokens": (Gibbs(4), "half"),
        "informed, 1 token": (Informed(1), "half"),
        "informed, 4 tokens": (Informed(4), "half"),
        "accept least entropy": (Accept(), "uniform"),
        "accept at random": (AcceptAtRandom(), "uniform"),
    }
    return found


def judged(
    denoiser: Denoiser,
    chain: Chain,
    length: int,
    schedules: Mapping[str, Mapping[int, SamplingSchedule]],
    num_samples: int,
    seed: int,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return the quality of samples by metric, method and number of calls, from the same noise."""
    found: dict[str, dict[str, dict[str, float]]] = {"hellinger": {}, "broken": {}}
    kernel = denoiser.process.kernel
    x = kernel.sample_prior((num_samples, length), torch.Generator().manual_seed(1000 + seed))
    for name, (sampler, kind) in methods(kernel).items():
        for n, schedule in schedules[kind].items():
            generator = torch.Generator().manual_seed(2000 + seed)
            samples = sampler(denoiser, x, schedule, generator=generator)
            assert samples.num_calls <= n + isinstance(sampler, PredictorCorrector)
            for metric, value in quality(samples.tokens, chain).items():
                found[metric].setdefault(name, {})[str(n)] = value
    return found


def counts_of(
    denoiser: Denoiser, x_0: Tensor, numbers: Sequence[int], num_times: int
) -> dict[int, SamplingSchedule]:
    """Return the optimal counts of the spaced order."""
    counts = OptimalCounts(num_times=num_times, num_tries=4)
    generator = torch.Generator().manual_seed(0)
    return counts(denoiser, Reveal(Spaced()), x_0, numbers, generator=generator).schedules


def on_chain(name: str, seed: int, num_samples: int, num_data: int) -> dict[str, Any]:
    """Return the quality of all methods with the exact denoiser of a chain."""
    kernel, law = CHAINS[name][0], chains()[CHAINS[name][1]]
    denoiser = exact(kernel, LogLinear(), law)
    table = table_of(denoiser, law, num_data, seed)
    schedules: dict[str, dict[int, SamplingSchedule]] = {
        "uniform": {n: SamplingSchedule.uniform(n) for n in NUM_CALLS},
        "optimal": {n: table.schedule(n) for n in NUM_CALLS},
        "half": {n: table.schedule(n // 2 + 1) for n in NUM_CALLS},
    }
    if kernel.mask is not None:
        x_0, _ = data_of(law, num_data, 100 + seed, LENGTH)
        schedules["counts"] = counts_of(denoiser, x_0, NUM_CALLS, LENGTH + 1)
    return judged(denoiser, law, LENGTH, schedules, num_samples, seed)


def on_model(name: str, seed: int, num_samples: int) -> dict[str, Any]:
    """Return the quality of all methods with a shipped model, whose data are a known chain."""
    path = ROOT / "checkpoints" / f"{name}.ckpt"
    denoiser, data, shipped = load_model(path).denoiser, load_data(path), schedules_of(path)
    assert isinstance(data, SequenceDataModule)
    assert shipped is not None
    assert shipped.table is not None
    data.prepare_data()
    data.setup("test")
    numbers, kernel = MODEL_CALLS, denoiser.process.kernel
    schedules: dict[str, dict[int, SamplingSchedule]] = {
        "uniform": {n: SamplingSchedule.uniform(n) for n in numbers},
        "optimal": {n: shipped.table.schedule(n) for n in numbers},
        "half": {n: shipped.table.schedule(n // 2 + 1) for n in numbers},
    }
    tokens = data.val_tokens[:].long()
    if kernel.mask is not None:
        schedules["counts"] = counts_of(denoiser, tokens[:64], numbers, 24)
    law = countdown_chain(kernel.vocab_size, 0.0)
    return judged(denoiser, law, tokens.shape[1], schedules, num_samples, seed)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = parse(
        __doc__,
        args,
        seeds=(3, "number of seeds"),
        joints=(list(JOINTS), "enumerated joints"),
        chains=(list(CHAINS), "exact chains"),
        models=(MODELS, "shipped models"),
        num_samples=(256, "samples per cell and seed of a chain"),
        num_data=(256, "sequences for the cost tables of a chain"),
        num_model=(128, "samples per cell and seed of a model"),
    )
    torch.set_num_threads(1)
    seeds, sizes = range(options.seeds), (options.num_samples, options.num_data)
    cells = {
        f"{name}|{seed}": partial(on_model, name, seed, options.num_model)
        for name, seed in product(options.models, seeds)
    }
    cells |= {
        f"{name}|{kernel}": partial(on_joint, name, kernel)
        for name in options.joints
        for kernel in JOINTS[name]
    }
    cells |= {
        f"{name}|{seed}": partial(on_chain, name, seed, *sizes)
        for name, seed in product(options.chains, seeds)
    }
    names = ("joints", "chains", "models")
    settings = {key: value for key, value in vars(options).items() if key not in names}
    measured = resume("correctors", settings, cells)
    nats = {key: measured[key] for key in cells if key.partition("|")[0] in options.joints}
    print("\nLeast KL( data || samples ), N = 4, nats:")
    for key, row in nats.items():
        print(f"{key:50s}", *(f"{family} {value:.4f}" for family, value in row.items()))
    tables = {
        name: over_seeds([measured[f"{name}|{seed}"] for seed in seeds])
        for name in (*options.chains, *options.models)
    }
    for name, by_metric in tables.items():
        for metric, table in by_metric.items():
            show(f"{name}, {metric}", table)
    finish("correctors", {"settings": settings, "joints": nats, "tables": tables})


if __name__ == "__main__":
    main()
