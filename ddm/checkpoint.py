"""What comes back from a checkpoint: the model with its averaged weights, and its data module.

A checkpoint is data. It is read without unpickling objects, its checksums are verified, and the
classes that it names are made only if they are trusted; see `ddm.trust`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor

from ddm.module import DiscreteDiffusion
from ddm.trust import UntrustedError, arguments, check_trust, make, resolve

_NO_ARGUMENTS = ("_class_path", "_instantiator")


def load_model(checkpoint: str | Path, *, trust: Sequence[str] = ()) -> DiscreteDiffusion:
    """Return the model of a checkpoint of `scripts/train.py`, on the CPU and in eval mode.

    Where weights were averaged (`EMAWeightAveraging`) these are the averages: Lightning keeps them
    under `state_dict`, and the weights that training goes on with under `current_model_state`.

    Args:
        checkpoint: The file.
        trust: The packages (or classes) that the file may name beside those of `ddm` and the
            optimizers of torch: whatever they hold may be run.

    Raises:
        ValueError: The file is missing, damaged, no such checkpoint, or names other classes.
    """
    content = _read(checkpoint)
    settings, weights = content["hyper_parameters"], content["state_dict"]
    check_trust(settings, trust)
    try:
        cls = resolve(
            settings.get("_class_path", "ddm.module.DiscreteDiffusion"), DiscreteDiffusion, trust
        )
        model = make(cls, _arguments(settings), trust)
        model.save_hyperparameters(settings, logger=False)
        model.on_load_checkpoint(content)
        model.load_state_dict(weights)
    except UntrustedError:
        raise
    except Exception as error:  # whatever a constructor raises on settings that are none
        raise _damaged(checkpoint, f"its model cannot be made: {_first_line(error)}") from error
    for name, weight in model.named_parameters():
        if weights[name].is_floating_point() != weight.is_floating_point():
            raise _damaged(checkpoint, f"'{name}' has the type {weights[name].dtype}")
        if not weight.isfinite().all():
            raise _damaged(checkpoint, f"'{name}' holds weights that are NaN or infinite")
    return model.eval()


def load_data(checkpoint: str | Path, *, trust: Sequence[str] = ()) -> LightningDataModule | None:
    """Return the data module of a checkpoint, or None, with a warning, if it cannot be made.

    Args:
        checkpoint: The file.
        trust: See `load_model`.

    Raises:
        ValueError: The file is missing, damaged, no such checkpoint, names other classes, or its
            data do not fit its model.
    """
    content = _read(checkpoint)
    settings = content.get("datamodule_hyper_parameters", {})
    if not isinstance(settings, Mapping):
        raise _damaged(checkpoint, "the settings of its data are none")
    if "_class_path" not in settings:
        rank_zero_warn(f"`{checkpoint}` names no data module; tokens are shown as numbers.")
        return None
    check_trust(settings, trust)
    try:
        cls = resolve(settings["_class_path"], LightningDataModule, trust)
        given, state = arguments(cls, _arguments(settings), trust), content.get(cls.__qualname__)
        restore = getattr(cls, "restore", None)
        data = cls(**given) if restore is None or state is None else restore(state, **given)
        data.save_hyperparameters(settings, logger=False)
        if state is not None:
            data.load_state_dict(state)
    except UntrustedError:
        raise
    except Exception as error:  # whatever a constructor raises
        rank_zero_warn(f"No data module, tokens are shown as numbers: {_first_line(error)}")
        return None
    model = content["hyper_parameters"]
    kernel = model["kernel"].get("init_args") if isinstance(model["kernel"], Mapping) else None
    vocab_size = kernel.get("vocab_size") if isinstance(kernel, Mapping) else None
    check_data(data, vocab_size=vocab_size, length=model.get("length"))
    return data


def check_data(data: LightningDataModule | None, *, vocab_size: object, length: object) -> None:
    """Refuse a data module whose sequences a model is not made for; `load_data` does that, too.

    Args:
        data: The data module, if there is one.
        vocab_size: The number of tokens that the model knows, None if that is not known.
        length: The number of tokens of its sequences.

    Raises:
        ValueError: Vocabulary or length differ.
    """
    for name, ours in (("vocab_size", vocab_size), ("length", length)):
        theirs = getattr(data, name, ours)
        if ours is not None and theirs != ours:
            raise ValueError(
                f"`checkpoint` must hold a model and its own data, but the data have `{name}` "
                f"{theirs}, and the model {ours}; the data have changed, or the file was put "
                "together from two: train anew, or give the data of the training."
            )


def check_checkpoint(
    checkpoint: str | Path, *, trust: Sequence[str] = (), resume: bool = False
) -> None:
    """Refuse a checkpoint that `load_model` or `load_data` would refuse, before anything is made.

    Args:
        checkpoint: The file.
        trust: See `load_model`.
        resume: Whether a training is to go on from there.

    Raises:
        ValueError: The file is missing, damaged, no such checkpoint, names other classes, or holds
            weights alone where a training is to go on.
    """
    content = _read(checkpoint)
    if resume and not {"optimizer_states", "lr_schedulers", "loops"} <= content.keys():
        raise ValueError(
            f"`ckpt_path` must hold the state of a training that goes on, but '{checkpoint}' holds "
            "the model alone, as `ddm export` leaves it; take one that training wrote."
        )
    for name in ("hyper_parameters", "datamodule_hyper_parameters"):
        check_trust(content.get(name), trust)


def _read(checkpoint: str | Path) -> dict[str, Any]:
    path = Path(checkpoint)
    if not path.is_file():
        raise ValueError(
            f"`checkpoint` must be a file, got '{path}'; training leaves its checkpoints in "
            "'<save_dir>/<name>/version_<n>/checkpoints'."
        )
    try:
        with zipfile.ZipFile(path) as archive:
            if (name := archive.testzip()) is not None:
                raise ValueError(f"the checksum of '{name}' is wrong")
        # Mapped, not read: not all that looks at the settings needs the weights.
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except Exception as error:  # whatever the two raise on bytes that are no checkpoint
        raise ValueError(
            f"`checkpoint` must be written by Lightning, but '{path}' is damaged or something "
            f"else: {_first_line(error)}"
        ) from error
    settings = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(settings, Mapping) or "kernel" not in settings:
        raise ValueError(
            f"`checkpoint` must hold a `DiscreteDiffusion` with its settings, as scripts/train.py "
            f"writes it, but '{path}' has none; build a model made in Python yourself and pass "
            "its parts to `DiscreteDiffusion.load_from_checkpoint`."
        )
    weights = content.get("state_dict")
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise _damaged(checkpoint, "it holds no weights, or some that are no tensors")
    return content


def _arguments(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name not in _NO_ARGUMENTS}


def _damaged(checkpoint: str | Path, fault: str) -> ValueError:
    return ValueError(
        f"`checkpoint` must hold one whole model, but '{checkpoint}' is damaged, or of another "
        f"version: {fault}; take another checkpoint of the run, or train anew."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
