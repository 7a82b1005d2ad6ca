"""What every benchmark writes: its numbers and what is needed to get them again."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ddm.files import read_json, write_json

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"


def provenance(seed: int | None = None) -> dict[str, Any]:
    """Return command, commit, hardware, versions and seed of this run."""
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    code = ("ddm", "datamodules", "callbacks", "scripts")
    changed = subprocess.run([*git, "status", "--porcelain", *code], capture_output=True, text=True)
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "command": " ".join(["python", str(shown), *map(_short, sys.argv[1:])]),
        "commit": commit.stdout.strip() + (" + changes" if changed.stdout.strip() else ""),
        "hardware": f"{os.cpu_count()} CPU cores ({platform.machine()}), GPU: {gpu}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "seed": seed,
    }


def _short(argument: str) -> str:
    """Return an argument; of a file elsewhere only its name, which alone means something here."""
    path = Path(argument)
    return path.name if path.is_absolute() and path.exists() else argument


def save(name: str, content: dict[str, Any], seed: int | None = None) -> Path:
    """Write `docs/results/<name>.json` with its provenance and say where it is."""
    path = RESULTS / f"{name}.json"
    write_json(path, {"provenance": provenance(seed), **content})
    print(f"wrote {path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}")
    return path


def resume(
    name: str, settings: Mapping[str, Any], cells: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    """Measure what has not been measured yet, in order, and return these cells by key.

    An interrupted run goes on where it stopped, until `finish`.

    Args:
        name: Name of the benchmark.
        settings: What cells depend on; those measured with other settings are forgotten.
        cells: How to measure every cell, as numbers, strings, lists and dictionaries.
    """
    path = part_file(name)
    # What is returned must not depend on whether it was read from the file.
    content: dict[str, Any] = {"settings": json.loads(json.dumps(settings)), "cells": {}}
    if path.exists():
        kept = read_json(path)
        if kept["settings"] == content["settings"]:
            content = kept
    for key, measure in (bar := tqdm(cells.items(), desc=name)):
        bar.set_postfix_str(key)
        if key not in content["cells"]:
            content["cells"][key] = json.loads(json.dumps(measure()))
            write_json(path, content)
    return {key: content["cells"][key] for key in cells}


def finish(
    name: str, content: dict[str, Any], figure: Figure | None = None, seed: int | None = None
) -> None:
    """Write the results and their figure; the cells that `resume` kept have done their duty."""
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=120)
    save(name, content, seed)
    part_file(name).unlink(missing_ok=True)


def part_file(name: str) -> Path:
    """Return where the finished cells of an unfinished run are."""
    return RESULTS / f"{name}.part.json"
