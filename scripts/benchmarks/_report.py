"""What every benchmark writes: its numbers and what is needed to get them again."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from ddm.schedules.schedule import write_json

import torch

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
    print(f"wrote {path.relative_to(ROOT)}")
    return path
