"""What every benchmark writes: its numbers and what is needed to get them again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ddm.schedules.schedule import read_json, write_json

import torch
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Return command, commit, hardware, versions and seed of this run."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "ddm"], capture_output=True, text=True)
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "command": " ".join(["python", str(shown), *sys.argv[1:]]),
        "commit": commit.stdout.strip() + (" + changes" if changed.stdout.strip() else ""),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), GPU: {gpu}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "seed": seed,
    }


def save(name: str, content: dict[str, Any], seed: int | None = None) -> Path:
    """Write `docs/results/<name>.json` with its provenance and say where it is."""
    path = RESULTS / f"{name}.json"
    write_json(path, {"provenance": provenance(seed), **content})
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return path


class Cells:
    """Finished cells of a benchmark; on disk, so that an interrupted run goes on where it stopped.

    Args:
        name: Name of the benchmark, of its results and of the file beside them.
        setting: What the cells depend on; cells of another setting are measured again.
    """

    def __init__(self, name: str, setting: dict[str, Any]) -> None:
        self.name = name
        self.setting = setting
        self.path = RESULTS / f"{name}.part.json"
        kept = read_json(self.path) if self.path.exists() else {}
        self.done: dict[str, Any] = kept["cells"] if kept.get("setting") == setting else {}

    def get(self, key: str, measure: Callable[[], Any]) -> Any:  # noqa: ANN401
        """Return a cell; measure it, and write the file, if it is not there."""
        if key not in self.done:
            self.done[key] = measure()
            write_json(self.path, {"setting": self.setting, "cells": self.done})
        return self.done[key]

    def finish(self, content: dict[str, Any], figure: Figure, seed: int | None = None) -> None:
        """Write the results and the figure; the cells have done their duty."""
        figure.savefig(RESULTS / f"{self.name}.png", dpi=120)
        save(self.name, {"setting": self.setting, **content}, seed)
        self.path.unlink(missing_ok=True)
