"""Change the code a little and see whether its tests notice: `python scripts/mutants.py FILE ...`.

A mutant has one sign or comparison turned, one constant moved, one `max`, `min` or `clamp` left
out, or one keyword argument removed. The tests of its file run in a copy of the project; a mutant
under which they pass has survived, and says which law is missing. Of many mutants some are drawn.
"""

from __future__ import annotations

import argparse
import ast
import copy
import os
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import scipy.stats  # noqa: F401
import torch  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "ddm/schedules/optimal": ("table_laws", "guard"),
    "ddm/schedules/optimal/smoothing.py": ("smoothing",),
    "ddm/schedules/optimal/shortest_path.py": ("table_laws", "tables"),
    "ddm/schedules/optimal/step_cost.py": ("table_laws", "tables"),
    "ddm/schedules/optimal/retention.py": ("retention",),
    "ddm/schedules/jys": ("jump_your_steps",),
    "ddm/functional.py": ("functional",),
    "ddm/noise": ("noise",),
    "ddm/schedule.py": ("schedule",),
}
"""Test files by file or folder; the longest entry that fits is taken."""
OPERATORS: dict[type[ast.AST], Any] = {
    ast.Add: ast.Sub(),
    ast.Sub: ast.Add(),
    ast.Mult: ast.Div(),
    ast.Div: ast.Mult(),
    ast.Lt: ast.LtE(),
    ast.LtE: ast.Lt(),
    ast.Gt: ast.GtE(),
    ast.GtE: ast.Gt(),
    ast.Eq: ast.NotEq(),
    ast.NotEq: ast.Eq(),
}
CLAMPS = {"max", "min", "maximum", "minimum", "clamp", "clip", "nextafter"}


def variants(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what may stand in the place of a node, each with one change."""
    other = copy.deepcopy(node)
    if isinstance(other, (ast.BinOp, ast.AugAssign)) and type(other.op) in OPERATORS:
        other.op = OPERATORS[type(other.op)]
        yield other
    elif isinstance(other, ast.Compare) and type(other.ops[0]) in OPERATORS:
        other.ops[0] = OPERATORS[type(other.ops[0])]
        yield other
    elif isinstance(other, ast.UnaryOp) and isinstance(other.op, ast.USub):
        yield other.operand
    elif isinstance(other, ast.Constant) and isinstance(other.value, (bool, int, float)):
        known = other.value
        if isinstance(known, bool):
            other.value = not known
        else:
            other.value = 2 * known + 1 if isinstance(known, int) else 1.5 * known or 0.5
        yield other
    elif isinstance(other, ast.Call):
        function = other.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        if name in CLAMPS:
            of = function.value if isinstance(function, ast.Attribute) else None
            if of is not None and ast.unparse(of) not in ("np", "torch"):
                yield of
            else:
                yield other.args[0]
        for k, keyword in enumerate(other.keywords):
            if keyword.arg is not None:
                less = copy.deepcopy(other)
                del less.keywords[k]
                yield less


def mutants(source: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, change and text of all mutants of a module."""
    tree = ast.parse(source)
    ignored = {  # annotations and what is said when something is refused
        id(inner)
        for node in ast.walk(tree)
        for part in (getattr(node, "annotation", None), getattr(node, "returns", None), node)
        if isinstance(part, (ast.Raise, ast.JoinedStr)) or (part is not None and part is not node)
        for inner in ast.walk(part)
    }
    for parent in ast.walk(tree):
        for field, value in ast.iter_fields(parent):
            places = value if isinstance(value, list) else [value]
            for k, node in enumerate(places):
                if not isinstance(node, ast.AST) or id(node) in ignored:
                    continue
                for other in variants(node):
                    change = f"{ast.unparse(node)}  ->  {ast.unparse(other)}"
                    if isinstance(value, list):
                        value[k] = other
                    else:
                        setattr(parent, field, other)
                    yield getattr(node, "lineno", 0), change, ast.unparse(tree)
                    if isinstance(value, list):
                        value[k] = node
                    else:
                        setattr(parent, field, node)


def tests_of(path: str) -> list[str]:
    """Return the test files of a file.

    Raises:
        ValueError: None are known.
    """
    fitting = [place for place in TESTS if path == place or path.startswith(f"{place}/")]
    if not fitting:
        raise ValueError(
            f"`files` must lie in {', '.join(TESTS)}, got {path}; add its tests there."
        )
    return [f"tests/test_{name}.py" for name in TESTS[max(fitting, key=len)]]


def survives(folder: Path, tests: Sequence[str], timeout: int) -> bool:
    """Run the tests in a folder; return whether all of them pass in time.

    In a fork of this process, which has imported what takes long.
    """
    child = os.fork()
    if child == 0:
        signal.alarm(timeout)  # ends the child where a change has made a loop endless
        os.chdir(folder)
        sys.path.insert(0, str(folder))
        sys.dont_write_bytecode = True
        with open(os.devnull, "w") as silence:
            os.dup2(silence.fileno(), 1)
            os.dup2(silence.fileno(), 2)
        os._exit(pytest.main(["-qx", "-p", "no:cacheprovider", "-m", "not slow", *tests]))
    return os.waitpid(child, 0)[1] == 0


def main(args: Sequence[str] | None = None) -> dict[str, list[str]]:
    """Run the command line; return the survivors of every file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", help="files of ddm/, relative to the project")
    parser.add_argument("--tests", nargs="+", help="test files (default: those of the file)")
    parser.add_argument("--limit", type=int, default=60, help="mutants per file (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw (default: 0)")
    parser.add_argument("--timeout", type=int, default=300, help="seconds per run (default: 300)")
    options = parser.parse_args(args)
    survivors: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "project"
        left_out = shutil.ignore_patterns(".*", "runs", "checkpoints", "docs", "__pycache__")
        shutil.copytree(ROOT, folder, ignore=left_out, symlinks=True)
        for file in options.files:
            try:
                tests = options.tests or tests_of(file)
            except ValueError as error:
                parser.error(str(error))
            target, found = folder / file, list(mutants((ROOT / file).read_text()))
            if not survives(folder, tests, options.timeout):
                parser.error(f"`tests` must pass without a change, but {tests} do not.")
            drawn = random.Random(options.seed).sample(found, min(options.limit, len(found)))
            survivors[file] = []
            for line, change, text in sorted(drawn):
                target.write_text(text)
                if survives(folder, tests, options.timeout):
                    survivors[file].append(f"{line}: {change}")
                    print(f"  {file}:{line}  {change}", flush=True)
            target.write_text((ROOT / file).read_text())
            print(f"{file}: {len(survivors[file])} of {len(drawn)} mutants survive", flush=True)
    return survivors


if __name__ == "__main__":
    main()
