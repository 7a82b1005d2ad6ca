"""Configurations and checkpoints that come with the package, by name."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def find_checkpoint(name: str) -> Path:
    """Return the path of a checkpoint, given by its path or by the name of a shipped model.

    Raises:
        ValueError: There is no such file.
    """
    return _find(name, "checkpoint", "ckpt")


def find_config(name: str) -> Path:
    """Return the path of a configuration, given by its path or by the name of a shipped one.

    Raises:
        ValueError: There is no such file.
    """
    return _find(name, "config", "yaml")


def folder_beside(checkpoint: Path) -> Path:
    """Return the folder of a checkpoint, or `runs` if it is one that comes with the package."""
    known = {path.resolve() for path in shipped("checkpoint", "ckpt").values()}
    return Path("runs") if checkpoint.resolve() in known else checkpoint.parent


def shipped(kind: str, suffix: str) -> dict[str, Path]:
    """Return the paths of what is shipped of a kind, 'checkpoint' or 'config', by name."""
    folder = PACKAGE / f"{kind}s"
    if not folder.is_dir():
        folder = PACKAGE.parent / f"{kind}s"  # in a checkout it lies beside the package
    return {path.stem: path for path in sorted(folder.glob(f"*.{suffix}"))}


def _find(name: str, kind: str, suffix: str) -> Path:
    path, known = Path(name), shipped(kind, suffix)
    if path.is_file():
        return path
    if name in known:
        return known[name]
    near = get_close_matches(name, known, 1)
    meant = f" (did you mean '{near[0]}'?)" if near else ""
    remedy = "training leaves checkpoints in '<save_dir>/<name>/version_<n>/checkpoints'"
    if kind == "config":
        remedy = "write one like those in the folder `configs`"
    raise ValueError(
        f"`{kind}` must be a file, or the name of one that comes with the package, got '{name}'"
        f"{meant}; here are {', '.join(known) or 'none'}, a checkout has more, and {remedy}."
    )
