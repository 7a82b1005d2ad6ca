"""Which tokens first? Orders and counts, in nats of the sampler's own likelihood.

An exact CountDown chain, where samples are judged by the share of pairs that break the rule, too,
and the shipped masked models on held-out data. Every order runs along uniform, cosine and optimal
counts, found on other sequences. Prints tables and writes docs/results/orders.{json,png}. Finished
cells are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from ddm import Absorbing, ForwardProcess
from ddm.checkpoint import load_data, load_model
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.datamodules.sequences import SequenceDataModule
from ddm.denoisers import Denoiser, MarkovChainDenoiser
from ddm.likelihood import sampler_nats
from ddm.metrics import CountDownError
from ddm.noise import LogLinear
from ddm.orders import (
    Confidence,
    Entropy,
    LeftToRight,
    Margin,
    Measured,
    Random,
    RevealOrder,
    Spaced,
    averaged_over_offsets,
    measure_dependence,
)
from ddm.samplers import EntropyBound, Reveal
from ddm.schedules import OptimalCounts, SamplingSchedule

import torch
from _report import ROOT, draw_curves, finish, over_seeds, parse, resume, show
from matplotlib.figure import Figure
from torch import Tensor

NUM_STEPS = (4, 8, 16)
VOCAB_SIZE, LENGTH, SMOOTHING = 12, 48, 0.002
MODELS = ["countdown", "digits_absorbing", "folk_absorbing", "pydoc"]


def chain_orders() -> dict[str, RevealOrder]:
    """Return the orders that the exact chain is sampled in."""
    return {
        "random": Random(),
        "spaced, no jitter": Spaced(jitter=0.0),
        "spaced": Spaced(),
        "confidence": Confidence(),
        "entropy": Entropy(),
        "margin": Margin(),
        "left to right": LeftToRight(),
    }


def schedules(
    denoiser: Denoiser, order: RevealOrder, x_0: Tensor, seed: int
) -> dict[str, dict[int, SamplingSchedule]]:
    """Return schedules by their source and N."""
    generator = torch.Generator().manual_seed(seed)
    counts = OptimalCounts(num_times=40, num_tries=8)
    found = counts(denoiser, Reveal(order), x_0, NUM_STEPS, generator=generator).schedules
    return {
        "uniform": {n: SamplingSchedule.uniform(n) for n in NUM_STEPS},
        "cosine": {n: SamplingSchedule.cosine(n) for n in NUM_STEPS},
        "optimal": found,
    }


def nats(
    denoiser: Denoiser, order: RevealOrder, schedule: SamplingSchedule, x_0: Tensor, seed: int
) -> Tensor:
    """Return the likelihood cost of every sequence."""
    generator = torch.Generator().manual_seed(seed)
    return sampler_nats(denoiser, Reveal(order), x_0, schedule, generator=generator)


def chain(name: str, seed: int, num_data: int, num_samples: int) -> dict[str, Any]:
    """Return nats and broken pairs of one order on the exact chain, "nats, counts" by N."""
    law = countdown_chain(VOCAB_SIZE, SMOOTHING)
    denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(VOCAB_SIZE), LogLinear()), *law)
    generator, order = torch.Generator().manual_seed(seed), chain_orders()[name]
    x_0, held_out = sample_chain(*law, 2 * num_data, LENGTH, generator).chunk(2)
    found: dict[str, Any] = {}
    x = denoiser.process.kernel.sample_prior((num_samples, LENGTH), generator)
    for counts, by_n in schedules(denoiser, order, x_0, seed).items():
        found[f"nats, {counts}"], found[f"broken pairs, {counts}"] = {}, {}
        for n, schedule in by_n.items():
            cost = nats(denoiser, order, schedule, held_out, seed)
            found[f"nats, {counts}"][str(n)] = float(cost.mean())
            metric = CountDownError(VOCAB_SIZE)
            metric.update(Reveal(order)(denoiser, x, schedule, generator=generator).tokens)
            found[f"broken pairs, {counts}"][str(n)] = float(metric.compute())
    return found


def adaptive(seed: int, num_samples: int) -> dict[str, Any]:
    """Return mean calls and broken pairs of entropy bounds on the exact chain, by order and bound.

    Calls are evaluated sequences per sample: every sequence makes as many as it needs.
    """
    law = countdown_chain(VOCAB_SIZE, SMOOTHING)
    denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(VOCAB_SIZE), LogLinear()), *law)
    found = {}
    orders = {"entropy": Entropy(), "random": Random(), "spaced": Spaced()}
    for (name, order), bound in product(orders.items(), (0.1, 1.0, 4.0, 8.0)):
        generator = torch.Generator().manual_seed(seed)
        x = denoiser.process.kernel.sample_prior((num_samples, LENGTH), generator)
        samples = Reveal(order, stop=EntropyBound(bound))(denoiser, x, [1, 0], generator=generator)
        metric = CountDownError(VOCAB_SIZE)
        metric.update(samples.tokens)
        calls = samples.num_rows / num_samples
        found[f"{name}, bound {bound}"] = {"calls": calls, "broken": float(metric.compute())}
    return found


def model(name: str, num_data: int) -> dict[str, Any]:
    """Return nats of one shipped model by order, counts and N, and differences to random order.

    Differences are paired, sequence by sequence, to the optimal counts of the random order.
    """
    path = ROOT / "checkpoints" / f"{name}.ckpt"
    denoiser, data = load_model(path).denoiser, load_data(path)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("test")
    tokens = torch.cat([data.val_tokens, data.test_tokens])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(tokens), generator=generator)[: 2 * num_data]
    x_0, held_out = tokens[chosen].long().chunk(2)
    dependence = measure_dependence(denoiser, x_0, 24, generator=generator)
    shape = tuple(getattr(data, "shape", ()))
    orders = {
        "random": Random(),
        "spaced, no jitter": Spaced(shape, jitter=0.0),
        "spaced": Spaced(shape),
        "measured": Measured(dependence if shape else averaged_over_offsets(dependence)),
        "confidence": Confidence(),
    }
    cost = {
        f"{order}, {counts}": {n: nats(denoiser, orders[order], s, held_out, 0) for n, s in by_n}
        for order in orders
        for counts, by_n in (
            (counts, list(found.items()))
            for counts, found in schedules(denoiser, orders[order], x_0, 0).items()
        )
    }
    return {
        key: {
            str(n): [float(own.mean()), *_paired(own - cost["random, optimal"][n])]
            for n, own in row.items()
        }
        for key, row in cost.items()
    }


def _paired(difference: Tensor) -> tuple[float, float]:
    return float(difference.mean()), float(difference.std() / len(difference) ** 0.5)


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    options = parse(
        __doc__,
        args,
        models=(MODELS, "shipped models to measure"),
        seeds=(2, "seeds of the exact chain"),
        num_data=(192, "sequences of the chain that counts are found on"),
        num_samples=(192, "samples per cell of the chain"),
        num_model=(128, "sequences of a model's data, twice"),
    )
    seeds, chain_size = range(options.seeds), (options.num_data, options.num_samples)
    cells = {
        f"{name}|{seed}": partial(chain, name, seed, *chain_size)
        for name, seed in product(chain_orders(), seeds)
    }
    cells |= {f"adaptive|{seed}": partial(adaptive, seed, options.num_samples) for seed in seeds}
    cells |= {name: partial(model, name, options.num_model) for name in options.models}
    settings = {key: value for key, value in vars(options).items() if key != "models"}
    measured = resume("orders", settings, cells)
    exact: dict[str, dict[str, Any]] = {"nats": {}, "broken pairs": {}}
    for name in chain_orders():
        for key, row in over_seeds([measured[f"{name}|{seed}"] for seed in seeds]).items():
            metric, counts = key.split(", ")
            exact[metric][f"{name}, {counts}"] = row
    for metric, table in exact.items():
        show(f"exact CountDown chain, {metric}", table)
    bounds = over_seeds([measured[f"adaptive|{seed}"] for seed in seeds])
    models = {name: measured[name] for name in options.models}
    for name, rows in models.items():
        show(f"{name}, nats", {key: _first(row) for key, row in rows.items()})
        show(f"{name}, less random order's", {key: _rest(row) for key, row in rows.items()})
    curves = {"exact chain": {k: v for k, v in exact["nats"].items() if "optimal" in k}}
    curves |= {
        name: {k: _first(row) for k, row in rows.items() if "optimal" in k}
        for name, rows in models.items()
    }
    content = {"settings": settings, "exact": exact, "adaptive": bounds, "models": models}
    finish("orders", content, draw(curves))


def draw(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw nats against calls, each panel with a legend: not all orders are in all of them."""
    figure = draw_curves(curves, ["nats per sequence"] * len(curves))
    for panel in figure.axes:
        panel.legend(frameon=False, fontsize=7)
    return figure


def _first(row: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {n: [cell[0], 0.0] for n, cell in row.items()}


def _rest(row: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {n: list(cell[1:]) for n, cell in row.items()}


if __name__ == "__main__":
    main()
