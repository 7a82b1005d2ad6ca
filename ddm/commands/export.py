"""Shrink a checkpoint to what sampling needs; `ddm export --help` says more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ddm.checkpoint import load_model
from ddm.commands import parsers
from ddm.commands.door import command
from ddm.commands.options import make_folder
from ddm.files import replacing
from ddm.schedules.beside import save_beside, schedules_of, step_of
from ddm.schedules.optimizer import schedules_beside

LEFT_OUT = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state")


def shrink(checkpoint: dict[str, Any], dtype: torch.dtype = torch.float16) -> dict[str, Any]:
    """Return the part of a checkpoint that sampling needs.

    Raises:
        ValueError: A weight is too large for `dtype`.
    """
    kept = {name: value for name, value in checkpoint.items() if name not in LEFT_OUT}
    kept["state_dict"] = {}
    for name, value in checkpoint["state_dict"].items():
        small = value.to(dtype) if value.dtype == torch.float32 else value
        if small.is_floating_point() and (small.isinf() & value.isfinite()).any():
            raise ValueError(
                f"`dtype` must hold all weights, but '{name}' has values up to "
                f"{value.abs().max():.3g} and float16 ends at 65504; pass `--dtype float32`."
            )
        kept["state_dict"][name] = small
    return kept


@command
def main(args: list[str]) -> Path:
    """Run the command line; return the path of what it wrote."""
    options = parsers.export().parse_args(args)
    source, out = options.checkpoint, options.out
    if out.is_dir() or not out.name:
        raise ValueError(f"`out` must be a file, got the folder '{out}'; add a name.")
    pairs = [(source, out), (schedules_beside(source), schedules_beside(out))]
    for old, new in [*pairs, (source, schedules_beside(out))]:
        if old.exists() and new.exists() and old.samefile(new):
            raise ValueError(f"`out` must not be what is exported, got '{new}'; name another file.")
    beside, copy = pairs[1]
    if copy.exists() and not beside.exists():
        raise ValueError(
            f"`out` must have no schedules of another checkpoint beside it, got '{copy}'; name "
            "another file, or remove them."
        )
    load_model(source, trust=options.trust)  # refuses what is no checkpoint of ours
    make_folder(out.parent)
    content = torch.load(source, map_location="cpu", weights_only=True)
    small = shrink(content, getattr(torch, options.dtype))
    with replacing(out) as unfinished:
        torch.save(small, unfinished)
    written = [out]
    if (schedules := schedules_of(source)) is not None:
        written.append(save_beside(schedules, out, step_of(source)))
    sizes = [path.stat().st_size / 1e6 for path in (source, out)]
    print(f"{sizes[1]:.2f} MB of {sizes[0]:.2f} MB")
    print("written:", *written)
    return out
