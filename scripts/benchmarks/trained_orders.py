"""Which tokens first, with trained networks? Orders and counts of the shipped masked models.

In nats of the sampler's own likelihood of sequences that a model was not trained on, along uniform,
cosine and optimal counts, which are found on other sequences. One cell is one order on one share of
the data, so differences to random order are paired, sequence by sequence, whenever they are
measured. Prints tables and writes docs/results/trained_orders.{json,png}. Finished cells are kept,
so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from typing import Any

from ddm.checkpoint import load_data, load_model
from ddm.datamodules.sequences import SequenceDataModule
from ddm.denoisers import Denoiser
from ddm.files import read_json
from ddm.likelihood import sampler_nats
from ddm.orders import (
    Confidence,
    Measured,
    Random,
    RevealOrder,
    Spaced,
    averaged_over_offsets,
    measure_dependence,
)
from ddm.samplers import Reveal
from ddm.schedules import (
    OptimalCounts,
    OptimalOrders,
    SamplingSchedule,
    ScheduleOptimizer,
    sampler_of,
)

import numpy as np
import torch
from _report import RESULTS, ROOT, draw_curves, finish, parse, resume, show
from torch import Tensor

NUM_STEPS = (2, 4, 8, 16, 32)
SAMPLED = 8
"""Calls of the samples whose metrics are measured."""
MODELS = ["digits_absorbing", "countdown", "pydoc", "folk_absorbing"]
ORDERS = ["random", "spaced", "measured", "chosen", "confidence"]
"""*Chosen* is what `OptimalOrders` chooses of the first three, for every N."""
ONCE = "folk_absorbing", "confidence"
"""A model of long calls and an order of long search: one share of the data."""
FAST = "digits_absorbing", "countdown"
"""Models of short calls, which are measured on twice as many sequences."""


def load(name: str, num: int, first: int = 0) -> tuple[Denoiser, Tensor, SequenceDataModule]:
    """Return the network of a shipped model, sequences that it was not trained on, and its data.

    The sequences are shuffled, once and for all; `first` says where to begin, `num` how many.
    """
    path = ROOT / "checkpoints" / f"{name}.ckpt"
    data = load_data(path)
    assert isinstance(data, SequenceDataModule)
    data.prepare_data()
    data.setup("test")
    tokens = torch.cat([data.val_tokens[:], data.test_tokens[:]])
    shuffled = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))
    chosen = shuffled.roll(-first)[:num]
    return load_model(path).denoiser, tokens[chosen].long(), data


def order_of(
    name: str, denoiser: Denoiser, x_0: Tensor, free: Tensor | None, shape: tuple[int, ...]
) -> RevealOrder:
    """Return an order by its name; *measured* from some 8 revealed tokens per position."""
    if name != "measured":
        known: dict[str, RevealOrder] = {
            "random": Random(),
            "spaced": Spaced(shape),
            "confidence": Confidence(),
        }
        return known[name]
    generator = torch.Generator().manual_seed(0)
    rounds = -(-8 * x_0.shape[1] // len(x_0))
    dependence = measure_dependence(denoiser, x_0, rounds, free=free, generator=generator)
    return Measured(dependence if shape else averaged_over_offsets(dependence))


def one_order(name: str, order_name: str, seed: int, num_search: int, num_judge: int) -> Any:  # noqa: ANN401
    """Return nats of one order by counts and N, sequence by sequence, and metrics of samples.

    For random order also those of one token per call: what is lost at N calls is the rest.
    """
    # The shares that are judged are disjoint, even where there are few sequences.
    denoiser, tokens, data = load(name, num_judge + num_search, seed * num_judge)
    free = None if data.free is None else data.free.expand(tokens.shape)
    held_out, x_0 = tokens[:num_judge], tokens[num_judge:]
    search, judge = (None if free is None else free[: len(x)] for x in (x_0, held_out))
    generator = torch.Generator().manual_seed(seed)
    optimizer: ScheduleOptimizer = OptimalCounts(num_times=64, num_tries=8)
    order: RevealOrder = Random()
    by_counts: dict[str, dict[int, SamplingSchedule]] = {}
    if order_name == "chosen":
        names = ("spaced", "measured")
        orders = [order_of(one, denoiser, x_0, search, data.shape) for one in names]
        optimizer = OptimalOrders(orders, counts=OptimalCounts(num_times=64))
    else:
        order = order_of(order_name, denoiser, x_0, search, data.shape)
        by_counts["uniform"] = {n: SamplingSchedule.uniform(n) for n in NUM_STEPS}
        by_counts["cosine"] = {n: SamplingSchedule.cosine(n) for n in NUM_STEPS}
    sampler = Reveal(order)
    found = optimizer(denoiser, sampler, x_0, NUM_STEPS, free=search, generator=generator)
    by_counts["optimal"] = found.schedules
    if order_name == "random":
        most = data.length if judge is None else int(judge.sum(-1).max())
        by_counts["one per call"] = {most: SamplingSchedule.uniform(most)}

    def nats(schedule: SamplingSchedule) -> list[float]:
        noise = torch.Generator().manual_seed(seed)
        cost = sampler_nats(
            denoiser,
            sampler_of(schedule, sampler),
            held_out,
            schedule,
            free=judge,
            generator=noise,
        )
        return [round(one, 4) for one in cost.tolist()]

    rows = {
        f"{order_name}, {key}": {str(n): nats(one) for n, one in by_n.items()}
        for key, by_n in by_counts.items()
    }
    x = denoiser.process.sample_prior(held_out, judge)
    best = found.schedules[SAMPLED]
    drawn = sampler_of(best, sampler)(denoiser, x, best, free=judge, generator=generator)
    metrics = {key: float(one) for key, one in data.measure(drawn.tokens, held_out).items()}
    return {"nats": rows, "metrics": metrics}


def together(cells: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return a model's table of all orders: each has its cells, one per seed.

    Nats are means, followed by the mean and the standard error of the differences to random order
    with optimal counts on the same sequences.
    """
    rows: dict[str, dict[str, np.ndarray]] = {}
    for seeds in cells.values():
        for key, row in seeds[0]["nats"].items():
            rows[key] = {n: np.concatenate([one["nats"][key][n] for one in seeds]) for n in row}
    base = rows["random, optimal"]
    (finest,) = rows.pop("random, one per call").values()
    table = {key: {n: _paired(own, base[n]) for n, own in row.items()} for key, row in rows.items()}
    metrics = {
        order: {
            key: float(np.mean([one["metrics"][key] for one in seeds]))
            for key in seeds[0]["metrics"]
        }
        for order, seeds in cells.items()
    }
    shares = {order: len(seeds) for order, seeds in cells.items()}
    return {
        "shares": shares,
        "nats": table,
        "one per call": float(finest.mean()),
        "metrics": metrics,
    }


def main(args: Sequence[str] | None = None) -> None:
    """Measure, print, draw."""
    options = parse(
        __doc__,
        args,
        models=(MODELS, "models to measure"),
        orders=(ORDERS, "orders to compare, random order among them"),
        seeds=(3, "shares of the data"),
        num_search=(32, "sequences of a share that counts are found on; twice for fast models"),
        num_judge=(16, "others that they are judged on; twice for fast models"),
        finished=(False, "report what an interrupted run has finished, measure nothing"),
    )
    sizes = {"num_search": options.num_search, "num_judge": options.num_judge}
    cells = {
        f"{name}|{order}|{seed}": partial(
            one_order, name, order, seed, *(size * (1 + (name in FAST)) for size in sizes.values())
        )
        for seed, name, order in product(range(options.seeds), options.models, options.orders)
        if seed == 0 or not {name, order} & set(ONCE)
    }
    if options.finished:
        kept = read_json(RESULTS / "trained_orders.part.json")["cells"]
        cells = {key: cell for key, cell in cells.items() if key in kept}
    measured = resume("trained_orders", sizes, cells)
    found_of: dict[str, dict[str, list[Any]]] = {}
    for key, cell in measured.items():
        name, order, _ = key.split("|")
        found_of.setdefault(name, {}).setdefault(order, []).append(cell)
    models = {name: together(by_order) for name, by_order in found_of.items()}
    for name, found in models.items():
        rows = found["nats"]
        show(f"{name}, nats", {key: _means(row) for key, row in rows.items()})
        show(f"{name}, less random order's", {key: _rest(row) for key, row in rows.items()})
        print(name, "one token per call:", found["one per call"], found["metrics"])
    curves = {
        name: {key: _means(row) for key, row in found["nats"].items() if "optimal" in key}
        for name, found in models.items()
    }
    figure = draw_curves(curves, ["nats per sequence"] * len(curves))
    finish("trained_orders", {"settings": vars(options), "models": models}, figure)


def _paired(own: np.ndarray, base: np.ndarray) -> list[float]:
    difference = own - base[: len(own)]
    error = difference.std(ddof=1) / len(own) ** 0.5
    # Where an order has fewer shares, its mean is that of random order plus the difference.
    mean = float(base.mean() + difference.mean())
    return [mean, float(difference.mean()), float(error)]


def _means(row: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {n: [cell[0], 0.0] for n, cell in row.items()}


def _rest(row: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    return {n: list(cell[1:]) for n, cell in row.items()}


if __name__ == "__main__":
    main()
