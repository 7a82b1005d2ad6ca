"""Find sampling schedules for a trained checkpoint; `ddm optimize --help` says more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ddm.batch import free_of, tokens_of
from ddm.checkpoint import load_data, load_model
from ddm.commands import parsers
from ddm.commands.door import command
from ddm.commands.options import find_device, make_folder
from ddm.commands.shipped import folder_beside
from ddm.pictures import save_figure
from ddm.schedules import (
    CostTable,
    JumpYourSteps,
    OptimalSteps,
    Optimized,
    SamplingSchedule,
    choose,
)
from ddm.schedules.beside import save_beside, step_of
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.plots import plot_costs, plot_density, plot_schedules


def training_tokens(
    checkpoint: Path, num: int, trust: Sequence[str] = ()
) -> tuple[Tensor, Tensor | None]:
    """Return the first `num` training sequences of the data, and the positions that are free.

    Raises:
        ValueError: The checkpoint does not say what data it was trained on, or they are few.
    """
    data = load_data(checkpoint, trust=trust)
    if data is None:
        raise ValueError(
            f"`checkpoint` must say what data it was trained on, but '{checkpoint}' does not; "
            "train it with `ddm train`."
        )
    data.prepare_data()
    data.setup("fit")
    batches, masks, count = [], [], 0
    for batch in data.train_dataloader():
        batches.append(tokens_of(batch))
        masks.append(free_of(batch))
        count += len(batches[-1])
        if count >= num:
            break
    free = [mask for mask in masks if mask is not None]
    return torch.cat(batches)[:num], torch.cat(free)[:num] if free else None


def keep(
    table: CostTable,
    methods: dict[str, dict[int, SamplingSchedule]],
    method: str,
    num_steps: list[int],
) -> dict[int, SamplingSchedule]:
    """Print what the schedules cost on held-out sequences; return the best for every N."""
    kept = {}
    print("\nexcess cost on held-out sequences, weighted nats per sequence")
    names = ("uniform", "cosine", *methods)
    print(f"{'N':>4s}", *(f"{name:>10s}" for name in names), "   kept       over uniform")
    for n in num_steps:
        decision = choose(table, methods[method][n])
        kept[n] = decision.schedule
        costs = [decision.costs["uniform"], decision.costs["cosine"]]
        costs += [table.sequence_costs(each[n].times).mean() for each in methods.values()]
        row = " ".join(f"{cost:10.4g}" for cost in costs)
        winner = method if decision.winner == "new" else decision.winner
        print(f"{n:4d} {row}    {winner:10s} {decision}")
    return kept


@command
def main(args: list[str]) -> Optimized:
    """Run the command line; return what was found."""
    options = parsers.optimize().parse_args(args)
    # All that can be wrong, before the first network call.
    gamma = {} if options.gamma is None else {"gamma": options.gamma}
    optimizer = OptimalSteps(**gamma, batch_size=options.batch_size)
    device = find_device(options.device)
    module = load_model(options.checkpoint, trust=options.trust).to(device)
    x_0, free = training_tokens(options.checkpoint, options.num_samples, options.trust)
    name = schedules_beside(options.checkpoint).name
    out = make_folder(options.out or folder_beside(options.checkpoint)) / name

    generator = torch.Generator(device).manual_seed(options.seed)
    free = None if free is None else free.to(device)
    setting = (module.denoiser, module.sampler, x_0.to(device), options.num_steps)
    found = optimizer(*setting, free=free, generator=generator, progress=True)
    table, num_calls = found.table, found.num_calls
    assert table is not None
    methods = {"optimal": found.schedules}
    if options.method == "jys":
        jys = JumpYourSteps(batch_size=options.batch_size)
        result = jys(*setting, free=free, generator=generator, progress=True)
        methods["jys"], num_calls = result.schedules, num_calls + result.num_calls
    kept = keep(table, methods, options.method, options.num_steps)
    optimized = Optimized(kept, num_calls, table)
    save_beside(optimized, out.parent / options.checkpoint.name, step_of(options.checkpoint))
    shown = {f"N = {n}": schedule for n, schedule in kept.items()}
    figures = {
        "costs": plot_costs(table, sorted({2, *options.num_steps})),
        "density": plot_density(table),
        "times": plot_schedules(shown),
    }
    paths = [save_figure(f, out.with_suffix(f".{name}.png")) for name, f in figures.items()]
    print(f"{num_calls} network calls on {len(x_0)} sequences, {table.seconds:.1f} s")
    print("written:", out, *paths)
    print(f"next: ddm sample {options.checkpoint} --num-steps {options.num_steps[0]}")
    return optimized
