"""Cells of a benchmark, kept while it runs, so that an interrupted run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ddm.schedules.schedule import read_json, write_json

from _report import RESULTS
from tqdm import tqdm


def resume(
    name: str, settings: Mapping[str, Any], cells: Mapping[str, Callable[[], Any]]
) -> dict[str, Any]:
    """Measure what has not been measured yet, in order, and return all cells by name.

    Args:
        name: What the part file `docs/results/<name>.part.json` is called after.
        settings: What cells depend on; a part file with other settings is not used.
        cells: How to measure every cell, as numbers, strings, lists and dictionaries.
    """
    path = RESULTS / f"{name}.part.json"
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


def finish(name: str) -> None:
    """Remove the part file; the result has been written."""
    (RESULTS / f"{name}.part.json").unlink()
