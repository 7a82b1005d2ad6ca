"""The schedules of a checkpoint: inside of it, and in a JSON file beside it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from ddm.files import read_json, write_json
from ddm.schedules.optimizer import Optimized, schedules_beside


def save_beside(optimized: Optimized, checkpoint: str | Path, global_step: int) -> Path:
    """Write the schedules of a checkpoint beside it, stamped with its step; return the path.

    Args:
        optimized: The schedules.
        checkpoint: Path of the checkpoint.
        global_step: Its number of optimizer steps.
    """
    path = schedules_beside(checkpoint)
    write_json(path, optimized.to_dict() | {"global_step": global_step})
    return path


def schedules_of(checkpoint: str | Path) -> Optimized | None:
    """Return the schedules of a checkpoint, None if it has none.

    A JSON file beside the checkpoint counts if it carries the checkpoint's step: it is then what
    training wrote, or what was optimized later for these weights. One that carries another step
    belongs to other weights, as after a run that was killed between the two files. Else those
    inside of the checkpoint count (a file is copied or renamed alone), and a JSON file without a
    stamp only where there are none inside.

    Raises:
        ValueError: Checkpoint or JSON file are missing or damaged.
    """
    path = schedules_beside(checkpoint)
    content = _read(Path(checkpoint))
    step, inside = content.get("global_step"), _inside(content, str(checkpoint))
    if not path.is_file():
        return inside
    beside = read_json(path)
    stamp = beside.get("global_step")
    if stamp == step or (stamp is None and inside is None):
        return Optimized.from_dict(beside, str(path))
    if stamp is not None:
        rank_zero_warn(
            f"`{path}` was written at step {stamp} and the checkpoint at step {step}: "
            + ("uniform steps are used." if inside is None else "those inside of it are used.")
        )
    return inside


def step_of(checkpoint: str | Path) -> int:
    """Return the number of optimizer steps of a checkpoint.

    Raises:
        ValueError: The checkpoint is missing or damaged.
    """
    return int(_read(Path(checkpoint)).get("global_step", 0))


def _read(checkpoint: Path) -> dict[str, Any]:
    try:
        content = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"`checkpoint` must be written by Lightning, but '{checkpoint}' is damaged or "
            f"something else: {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("callbacks") or {}, Mapping):
        raise ValueError(f"`checkpoint` must be written by Lightning, but '{checkpoint}' is not.")
    return content


def _inside(content: Mapping[str, Any], name: str) -> Optimized | None:
    """Return the schedules inside of a checkpoint, those of all its callbacks."""
    states = (content.get("callbacks") or {}).values()
    kept = [one for state in states if (one := content_of(state)) is not None]
    found = [Optimized.from_dict(one, name) for one in kept if one.get("schedules")]
    if not found:
        return None
    schedules = {n: schedule for one in found for n, schedule in one.schedules.items()}
    table = next((one.table for one in found if one.table is not None), None)
    return Optimized(schedules, sum(one.num_calls for one in found), table)


def content_of(state: Any) -> Mapping[str, Any] | None:  # noqa: ANN401
    """Return the schedules in the state of a callback, if it has any.

    Checkpoints of version 0.1 spell their key `optimised`.
    """
    if not isinstance(state, Mapping):
        return None
    content = state.get("optimized", state.get("optimised"))
    return content if isinstance(content, Mapping) else None
