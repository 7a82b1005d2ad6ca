"""Shrink a checkpoint to what sampling needs: `python scripts/export_checkpoint.py CKPT OUT`.

Keeps the averaged weights, in float16, and the settings of model and data; leaves out the state of
the optimiser, the loops and the callbacks. Every script reads the result like any checkpoint, but
training cannot go on from it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ddm.checkpoint import load_model
from ddm.files import replacing

import torch

LEFT_OUT = ("optimizer_states", "lr_schedulers", "loops", "callbacks", "current_model_state")


def shrink(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a checkpoint that sampling needs, weights in float16."""
    kept = {name: value for name, value in checkpoint.items() if name not in LEFT_OUT}
    kept["state_dict"] = {
        name: value.half() if value.dtype == torch.float32 else value
        for name, value in checkpoint["state_dict"].items()
    }
    return kept


def main(args: Sequence[str] | None = None) -> Path:
    """Run the command line; return the path of what it wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="checkpoint written by scripts/train.py")
    parser.add_argument("out", type=Path, help="file to write")
    options = parser.parse_args(args)
    try:
        load_model(options.checkpoint)  # refuses what is no checkpoint of ours
        options.out.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError, RuntimeError) as error:
        parser.error(str(error))
    checkpoint = torch.load(options.checkpoint, map_location="cpu", weights_only=True)
    with replacing(options.out) as unfinished:
        torch.save(shrink(checkpoint), unfinished)
    sizes = [path.stat().st_size / 1e6 for path in (options.checkpoint, options.out)]
    print(f"written: {options.out} ({sizes[1]:.2f} MB of {sizes[0]:.2f} MB)")
    return options.out


if __name__ == "__main__":
    main()
