"""What comes back from a checkpoint: the model with its averaged weights, and its data module."""

from __future__ import annotations

import importlib
import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from ddm.module import DiscreteDiffusion


def load_model(checkpoint: str | Path) -> DiscreteDiffusion:
    """Return the model of a checkpoint of `scripts/train.py`, on the CPU and in eval mode.

    Where weights were averaged (`EMAWeightAveraging`) these are the averages: Lightning keeps them
    under `state_dict`, and the weights that training goes on with under `current_model_state`.

    Raises:
        ValueError: The file is missing, damaged, or no such checkpoint.
    """
    _read(checkpoint)
    return DiscreteDiffusion.load_from_checkpoint(checkpoint, map_location="cpu").eval()


def load_data(checkpoint: str | Path) -> LightningDataModule | None:
    """Return the data module of a checkpoint, or None, with a warning, if it cannot be made.

    Raises:
        ValueError: The file is missing, damaged, or no such checkpoint.
    """
    class_path = _read(checkpoint).get("datamodule_hyper_parameters", {}).get("_class_path")
    if class_path is None:
        rank_zero_warn(f"`{checkpoint}` names no data module; tokens are shown as numbers.")
        return None
    try:
        # Lightning makes only what is imported. Classes of kernels and networks are imported from
        # the names in a checkpoint anyway, so this trusts the file no further.
        importlib.import_module(class_path.rpartition(".")[0])
        return LightningDataModule.load_from_checkpoint(checkpoint)
    except (ImportError, OSError, ValueError) as error:
        rank_zero_warn(f"No data module, tokens are shown as numbers: {error}")
        return None


def _read(checkpoint: str | Path) -> dict[str, Any]:
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(
            f"`checkpoint` must be a file, got '{path}'; training leaves its checkpoints in "
            "'<save_dir>/<name>/version_<n>/checkpoints'."
        )
    try:
        # Mapped, not read: only the settings are looked at.
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(
            f"`checkpoint` must be written by Lightning, but '{path}' is damaged or something "
            f"else: {first}"
        ) from error
    settings = content.get("hyper_parameters", {}) if isinstance(content, dict) else {}
    if "kernel" not in settings:
        raise ValueError(
            f"`checkpoint` must hold a `DiscreteDiffusion` with its settings, as scripts/train.py "
            f"writes it, but '{path}' has none; build a model made in Python yourself and pass "
            "its parts to `DiscreteDiffusion.load_from_checkpoint`."
        )
    return content
