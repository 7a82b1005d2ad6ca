"""Find sampling schedules for a trained checkpoint: `python scripts/optimize_schedule.py CKPT`.

Measures what every step costs on training sequences, finds the best schedule for every number of
steps, keeps uniform steps unless the cosine or the found schedule is better on sequences that the
search did not use, by more than chance, and writes `<name>.schedules.json`, which
`scripts/sample.py` reads, with three plots beside it. Where the data ask for conditional
generation, schedules are those for generation around their prompt.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ddm.batch import free_of, tokens_of
from ddm.checkpoint import load_data, load_model
from ddm.schedules import JumpYourSteps, OptimalSteps, Optimised, choose
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.plots import plot_costs, plot_density, plot_schedules

import torch
from torch import Tensor


def training_tokens(checkpoint: Path, num: int) -> tuple[Tensor, Tensor | None]:
    """Return the first `num` training sequences of the data, and the positions that are free.

    Raises:
        ValueError: The checkpoint does not say what data it was trained on, or they are few.
    """
    data = load_data(checkpoint)
    if data is None:
        raise ValueError(
            f"`checkpoint` must say what data it was trained on, but '{checkpoint}' does not; "
            "train it with scripts/train.py."
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


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, help="checkpoint written by scripts/train.py")
    add("--num-steps", type=int, nargs="+", default=[4, 8, 16, 32, 64], help="numbers of steps")
    add("--method", choices=("optimal", "jys"), default="optimal", help="default: optimal")
    add("--gamma", type=float, help="exponent of the contraction weights (default: the method's)")
    add("--num-samples", type=int, default=512, help="training sequences (default: 512)")
    add("--batch-size", type=int, default=128, help="sequences per network call (default: 128)")
    add("--out", type=Path, help="folder to write to (default: beside the checkpoint)")
    add("--seed", type=int, default=0, help="seed of the noise (default: 0)")
    add("--device", help="default: cuda if there is one, else cpu")
    return parser


def main(args: Sequence[str] | None = None) -> Optimised:
    """Run the command line; return what was found."""
    parser = make_parser()
    options = parser.parse_args(args)
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    gamma = {} if options.gamma is None else {"gamma": options.gamma}
    try:  # all that can be wrong, before the first network call
        for name in ("num_steps", "num_samples", "batch_size"):
            value = min(options.num_steps) if name == "num_steps" else getattr(options, name)
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        optimizer = OptimalSteps(**gamma, batch_size=options.batch_size)
        module = load_model(options.checkpoint).to(device).eval()
        x_0, free = training_tokens(options.checkpoint, options.num_samples)
        x_0 = x_0.to(device)
        free = None if free is None else free.to(device)
        out = schedules_beside(options.checkpoint)
        out = out if options.out is None else options.out / out.name
        out.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))

    generator = torch.Generator(device).manual_seed(options.seed)
    setting = (module.denoiser, module.sampler, x_0, options.num_steps)
    found = optimizer(*setting, free=free, generator=generator, progress=True)
    table, num_calls = found.table, found.num_calls
    assert table is not None
    methods = {"optimal": found.schedules}
    if options.method == "jys":
        jys = JumpYourSteps(batch_size=options.batch_size)
        result = jys(*setting, free=free, generator=generator, progress=True)
        methods["jys"], num_calls = result.schedules, num_calls + result.num_calls

    kept = {}
    print("\nexcess cost on held-out sequences, weighted nats per sequence")
    names = ("uniform", "cosine", *methods)
    print(f"{'N':>4s}", *(f"{name:>10s}" for name in names), "   kept       over uniform")
    for n in options.num_steps:
        decision = choose(table, methods[options.method][n])
        kept[n] = decision.schedule
        costs = [decision.costs["uniform"], decision.costs["cosine"]]
        costs += [table.sequence_costs(each[n].times).mean() for each in methods.values()]
        row = " ".join(f"{cost:10.4g}" for cost in costs)
        winner = options.method if decision.winner == "new" else decision.winner
        print(f"{n:4d} {row}    {winner:10s} {decision}")
    optimised = Optimised(kept, num_calls, table)
    optimised.save(out)
    plot_costs(table, sorted({2, *options.num_steps})).savefig(out.with_suffix(".costs.png"))
    plot_density(table).savefig(out.with_suffix(".density.png"))
    shown = {f"N = {n}": schedule for n, schedule in kept.items()}
    plot_schedules(shown).savefig(out.with_suffix(".times.png"))
    print(f"{num_calls} network calls on {len(x_0)} sequences, {table.seconds:.1f} s")
    print("written:", out, *(out.with_suffix(f".{p}.png") for p in ("costs", "density", "times")))
    return optimised


if __name__ == "__main__":
    main()
