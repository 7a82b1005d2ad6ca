"""Find sampling schedules for a trained model; `ddm optimize --help` says more."""

from __future__ import annotations

import argparse
import shlex
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ddm.commands import parsers
from ddm.commands.door import command
from ddm.commands.options import make_folder
from ddm.commands.subject import (
    check_steps,
    examples,
    folder_of,
    load,
    name_of,
    order_named,
)
from ddm.orders import settings_of
from ddm.pictures import save_figure
from ddm.schedules import (
    BySamples,
    CostTable,
    Evidence,
    JumpYourSteps,
    OptimalCounts,
    OptimalOrders,
    OptimalSteps,
    Optimized,
    SamplingSchedule,
    ScheduleOptimizer,
    choose,
)
from ddm.schedules.beside import save_beside, step_of
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.plots import plot_costs, plot_density, plot_schedules
from ddm.schedules.setting import Setting


def keep(
    table: CostTable,
    methods: dict[str, dict[int, SamplingSchedule]],
    method: str,
    num_steps: list[int],
    evidence: Evidence | None = None,
) -> dict[int, SamplingSchedule]:
    """Print what the schedules cost on held-out sequences; return the best for every N."""
    kept = {}
    print("\nexcess cost on held-out sequences, weighted nats per sequence")
    names = ("uniform", "cosine", *methods)
    print(f"{'N':>4s}", *(f"{name:>10s}" for name in names), "   kept       over uniform")
    for n in num_steps:
        decision = choose(table, methods[method][n], evidence=evidence)
        kept[n] = decision.schedule
        costs = [decision.costs["uniform"], decision.costs["cosine"]]
        costs += [table.sequence_costs(each[n].times).mean() for each in methods.values()]
        row = " ".join(f"{cost:10.4g}" for cost in costs)
        winner = method if decision.winner == "new" else decision.winner
        print(f"{n:4d} {row}    {winner:10s} {decision}")
    return kept


def keep_counts(found: Optimized) -> None:
    """Print what orders or counts cost on held-out sequences; the best are kept already."""
    print("\n-log p of held-out sequences, nats per sequence")
    for n, schedule in found.schedules.items():
        info = schedule.info
        costs = info.get("costs", info["nats"])
        shown = "  ".join(f"{name} {nats:.4g}" for name, nats in costs.items())
        kept = ", ".join(filter(None, [info.get("winner"), schedule.source]))
        print(f"{n:4d}  {shown}  kept: {kept}")


def save(
    found: Optimized, path: Path, setting: Setting, origin: str, options: argparse.Namespace
) -> Optimized:
    """Write the schedules; those of a model of others say which it is. Return them as written."""
    if options.model is None:
        save_beside(found, path.parent / options.checkpoint.name, step_of(options.checkpoint))
        return found
    facts: dict[str, Any] = {"model": name_of(options), "data": origin, **asdict(setting)}
    if (order := order_named(options)) is not None:
        facts["order"] = settings_of(order)
    schedules = {n: replace(s, info=facts | s.info) for n, s in found.schedules.items()}
    found = replace(found, schedules=schedules)
    found.save(path)
    return found


def exponent(options: argparse.Namespace) -> dict[str, Any]:
    """Return the exponent that is asked for, else that of the schedules beside the checkpoint."""
    if options.gamma is not None:
        return {"gamma": options.gamma}
    if options.model is not None or not (path := schedules_beside(options.checkpoint)).is_file():
        return {}
    try:
        table = Optimized.load(path).table
    except ValueError as error:
        print(f"{path} is written anew: {error}")
        return {}
    return {} if table is None else {"gamma": table.gamma}


def next_command(path: Path, options: argparse.Namespace) -> str:
    """Return a command that samples along the first of the schedules."""
    steps = f"--num-steps {options.num_steps[0]}"
    if options.model is None:
        trust = "".join(f" --trust {package}" for package in options.trust)
        return f"ddm sample {options.checkpoint} {steps}{trust}"
    names = ("model", "adapter", "tokenizer", "prompts", "num_tokens")
    words = ["ddm", "sample"]
    for name in names:
        if (value := getattr(options, name)) is not None:
            words += [f"--{name.replace('_', '-')}", str(value)]
    words += ["--trust-remote-code"] * options.trust_remote_code
    return f"{shlex.join([*words, '--schedule', str(path)])} {steps}"


@command
def main(args: list[str]) -> Optimized:
    """Run the command line; return what was found."""
    options = parsers.optimize().parse_args(args)
    # All that can be wrong, before the first network call.
    module, data = load(options)
    size = options.batch_size
    select = BySamples() if options.by_samples else None
    optimizer: ScheduleOptimizer = OptimalSteps(**exponent(options), batch_size=size, select=select)
    if options.method == "order":
        shape = getattr(data, "shape", ())
        optimizer = OptimalOrders(counts=OptimalCounts(batch_size=size)).shaped(shape)
    if select and (options.method != "optimal" or options.order is not None):
        raise ValueError(
            "`by_samples` must be left out where an order or another method is asked for, got "
            "both; it chooses `gamma`, which they do not have."
        )
    if options.order is not None:
        optimizer = OptimalCounts(batch_size=size)
        if options.gamma is not None or options.method != "optimal":
            raise ValueError(
                "`order` has optimal numbers of tokens, for which there is no `gamma` and no other "
                "`method`, got one of them; leave it out."
            )
    check_steps(module, data, options.num_steps)
    out = make_folder(options.out or folder_of(options)) / f"{name_of(options)}.schedules.json"

    x_0, free, origin = examples(module, data, options.num_samples, size)
    settings: dict[str, Any] = {
        "free": None if free is None else free.to(module.device),
        "generator": torch.Generator(module.device).manual_seed(options.seed),
        "progress": True,
    }
    setting = (module.denoiser, module.sampler, x_0.to(module.device), options.num_steps)
    begin = time.monotonic()
    found = optimizer(*setting, **settings)
    table, num_calls, kept = found.table, found.num_calls, found.schedules
    figures = {}
    if table is None:
        keep_counts(found)
    else:
        if select is not None:
            said = found.evidence or "all exponents have the same schedules, or sequences are few"
            print("\nchosen by samples:", said)
        methods = {"optimal": found.schedules}
        if options.method == "jys":
            result = JumpYourSteps(batch_size=size)(*setting, **settings)
            methods["jys"], num_calls = result.schedules, num_calls + result.num_calls
        kept = keep(table, methods, options.method, options.num_steps, found.evidence)
        figures["costs"] = plot_costs(table, sorted({2, *options.num_steps}))
        figures["density"] = plot_density(table)
    figures["times"] = plot_schedules({f"N = {n}": schedule for n, schedule in kept.items()})
    optimized = Optimized(kept, num_calls, table, found.evidence)
    optimized = save(optimized, out, Setting.of(module.process, module.sampler), origin, options)
    paths = [save_figure(f, out.with_suffix(f".{name}.png")) for name, f in figures.items()]
    seconds = time.monotonic() - begin
    print(f"{num_calls} network calls on {len(x_0)} sequences ({origin}), {seconds:.1f} s")
    print("written:", out, *paths)
    print("next:", next_command(out, options))
    return optimized
