"""Which tokens first? Orders and counts, in nats of the sampler's own likelihood.

Enumerated laws, against the best partition of the positions (`partitions.py`); an exact CountDown
chain, where samples are judged by the share of pairs that break the rule, too; the rules of others
on that chain and on the shipped CountDown (`rules.py`). Every order runs along uniform, cosine and
optimal counts, found on other sequences; `trained_orders.py` does so with trained networks. Prints
tables and writes docs/results/orders.{json,png} and orders_frontier.png. Finished cells are kept,
so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from time import process_time
from typing import Any

from ddm import Absorbing, ForwardProcess
from ddm.backbones import Transformer
from ddm.datamodules.countdown import countdown_chain, sample_chain
from ddm.denoisers import Denoiser, MarkovChainDenoiser, MeanDenoiser
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
from ddm.samplers import Reveal
from ddm.schedules import OptimalCounts, SamplingSchedule

import partitions
import rules
import torch
from _report import RESULTS, draw_curves, finish, over_seeds, parse, resume, show
from matplotlib.figure import Figure
from torch import Tensor
from trained_orders import load as shipped_model

NUM_STEPS = (2, 4, 8, 16, 32)
VOCAB_SIZE, LENGTH, SMOOTHING = 12, 48, 0.002
SIZE = 64, 256
"""Sequences and tokens of the network call that ranking is compared with."""


def orders_of(dependence: Tensor, shape: tuple[int, ...] = ()) -> dict[str, RevealOrder]:
    """Return the orders that are compared."""
    return {
        "random": Random(),
        "spaced, no jitter": Spaced(shape, jitter=0.0),
        "spaced": Spaced(shape),
        "measured": Measured(dependence if shape else averaged_over_offsets(dependence)),
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


def exact_chain() -> tuple[Denoiser, Callable[[int, int], Tensor]]:
    """Return the exact denoiser of the chain, and what draws sequences by number and seed."""
    law = countdown_chain(VOCAB_SIZE, SMOOTHING)
    denoiser = MarkovChainDenoiser(ForwardProcess(Absorbing(VOCAB_SIZE), LogLinear()), *law)

    def sequences(num: int, seed: int) -> Tensor:
        return sample_chain(*law, num, LENGTH, torch.Generator().manual_seed(seed))

    return denoiser, sequences


def chain(name: str, seed: int, num_data: int, num_samples: int) -> dict[str, Any]:
    """Return nats and broken pairs of one order on the exact chain, "nats, counts" by N."""
    denoiser, sequences = exact_chain()
    x_0, held_out = sequences(2 * num_data, seed).chunk(2)
    generator = torch.Generator().manual_seed(seed)
    order = orders_of(measure_dependence(denoiser, x_0, 8, generator=generator))[name]
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


def on_both(
    study: Callable[[Denoiser, Tensor, int, int], Any], seed: int, num_samples: int
) -> dict[str, Any]:
    """Return a study of `rules.py` on the exact chain and on the shipped CountDown."""
    denoiser, sequences = exact_chain()
    shipped, tokens, _ = shipped_model("countdown", 2 * num_samples)
    return {
        "exact chain": study(denoiser, sequences(num_samples, seed), num_samples, seed),
        "countdown": study(shipped, tokens[:num_samples], num_samples, seed),
    }


def speed() -> dict[str, float]:
    """Return what ranking and choosing cost on one core, as a share of a network call.

    A transformer of width 256 and depth 6 at 64 sequences of 256 tokens, 8 calls per sample: the
    mean over these calls.
    """
    torch.set_num_threads(1)
    size, length = SIZE
    process = ForwardProcess(Absorbing(64), LogLinear())
    denoiser = MeanDenoiser(Transformer(65, dim=256, depth=6, num_heads=8), process)
    x = process.sample_prior(torch.zeros(size, length, dtype=torch.long))
    begin = process_time()
    said = denoiser(x, torch.ones(size, dtype=torch.float64))
    call = process_time() - begin
    dependence = torch.rand(length, length, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    place = torch.rand(x.shape, generator=generator).argsort(-1).argsort(-1)
    shares = {}
    for name, order in orders_of(dependence, (length,)).items():
        begin = process_time()
        for k in range(8):
            masked = place >= k * length // 8
            state = replace(said, x_t=torch.where(masked, x, 0))
            order.rank(state, torch.full((size,), length // 8), generator)
        shares[name] = (process_time() - begin) / 8 / call
    return shares


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    options = parse(
        __doc__,
        args,
        seeds=(3, "seeds of the exact chain"),
        num_data=(128, "sequences of the chain that counts are found on"),
        num_samples=(128, "samples per cell of the chain"),
    )
    seeds, chain_size = range(options.seeds), (options.num_data, options.num_samples)
    names = list(orders_of(torch.zeros(LENGTH, LENGTH)))
    cells: dict[str, Callable[[], Any]] = {"partitions": partitions.compare, "speed": speed}
    for name, seed in product(names, seeds):
        cells[f"{name}|{seed}"] = partial(chain, name, seed, *chain_size)
    for seed in seeds:
        cells[f"rules|{seed}"] = partial(on_both, rules.compare, seed, options.num_samples)
        cells[f"frontier|{seed}"] = partial(on_both, rules.frontier, seed, options.num_samples)
    settings = vars(options)
    measured = resume("orders", settings, cells)
    exact: dict[str, dict[str, Any]] = {"nats": {}, "broken pairs": {}}
    for name in names:
        for key, row in over_seeds([measured[f"{name}|{seed}"] for seed in seeds]).items():
            metric, counts = key.split(", ")
            exact[metric][f"{name}, {counts}"] = row
    for metric, table in exact.items():
        show(f"exact CountDown chain, {metric}", table)
    others = over_seeds([measured[f"rules|{seed}"] for seed in seeds])
    for where, table in others.items():
        show(f"rules on {where}", table)
    frontiers = rules.average([measured[f"frontier|{seed}"] for seed in seeds])
    print(measured["partitions"], measured["speed"], sep="\n")
    curves = {"exact chain": {k: v for k, v in exact["nats"].items() if "optimal" in k}}
    rules.draw(frontiers).savefig(RESULTS / "orders_frontier.png", dpi=120)
    content = {
        "settings": settings,
        "partitions": measured["partitions"],
        "speed": measured["speed"],
        "exact": exact,
        "rules": others,
        "frontiers": frontiers,
    }
    finish("orders", content, draw(curves))


def draw(curves: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Draw nats against calls, each panel with a legend: not all orders are in all of them."""
    figure = draw_curves(curves, ["nats per sequence"] * len(curves))
    for panel in figure.axes:
        panel.legend(frameon=False, fontsize=7)
    return figure


if __name__ == "__main__":
    main()
