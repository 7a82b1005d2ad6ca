"""What files hold is checked entry by entry: errors name file, key, rule and value."""

import json

import pytest

from ddm.evaluation import check_cells
from ddm.files import write_json
from ddm.schedules import Evidence, Optimized

SAID = {
    "winner": "b",
    "distances": {"a": 1.0, "b": 0.5},
    "errors": {"a": 0.0, "b": 0.1},
    "confidence": 0.99,
    "num_samples": 8,
    "num_calls": 4,
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"schedules": []},
            "f.json` must hold optimized schedules, but `schedules` must be a `dict`",
        ),
        ({"schedules": {"2": 3}}, r"f.json: schedules.2` must hold a schedule, but 'int' object"),
        ({"schedules": {"3": {"times": [1, 0.5, 0]}}}, "numbers of steps, got '3' for one of 2"),
        ({"schedules": {"-2": {"times": [1, 0.5, 0]}}}, "numbers of steps, got '-2' for one of 2"),
        ({"schedules": {"2": {"times": [1, 2, 0]}}}, "schedules.2` .* `times` must decrease"),
        ({"schedules": {"2": {"times": ["1", 0]}}}, "schedules.2` .* `times` must be numbers, got"),
        ({"schedules": {"1": {"times": [1, 0], "source": 3}}}, "`source` must be a `str`, got 3"),
        ({"schedules": {"1": {"times": [1, 0], "info": []}}}, r"`info` must be a `dict`, got \[\]"),
        ({"num_calls": -1}, "f.json` .* `num_calls` must be at least 0, got -1"),
        ({"table": {}}, "f.json: table` must hold a cost table, but the key 'setting' is missing"),
        ({"table": [1]}, "f.json: table` must hold a cost table, but 'list' object"),
        ({"evidence": []}, "f.json: evidence` must hold evidence, but .* must be a mapping"),
        ({"evidence": SAID | {"winner": "c"}}, r"`winner` must be one of \['a', 'b'\], got 'c'"),
        ({"evidence": SAID | {"distances": {"b": -1}}}, r"`distances.b` must lie in \[0, inf\]"),
        ({"evidence": SAID | {"errors": {"a": 0.0}}}, "evidence, but the key 'b' is missing"),
        (
            {"evidence": SAID | {"errors": {"a": 0.0, "b": -1}}},
            r"`errors.b` must lie in \[0, inf\]",
        ),
        ({"evidence": SAID | {"confidence": 7}}, r"`confidence` must lie in \[0, 1\], got 7"),
        ({"evidence": SAID | {"num_calls": -4}}, "`num_calls` must be at least 0, got -4"),
        ({"evidence": SAID | {"more": 1}}, "unexpected keyword argument 'more'"),
        # Here annotations are enforced, and refuse these; without that the same key is named.
        ({"evidence": SAID | {"winner": []}}, r"f.json: evidence` must hold [\s\S]*'winner'"),
        ({"evidence": SAID | {"distances": [1.0]}}, r"evidence` must hold [\s\S]*'distances'"),
        ({"evidence": SAID | {"distances": {"b": "1"}}}, r"evidence` must [\s\S]*'distances'"),
        ({"evidence": SAID | {"num_samples": 1.5}}, r"evidence` must hold [\s\S]*'num_samples'"),
    ],
)
def test_entries_of_schedules_are_refused_by_name(tmp_path, changes, message):
    """The error names the file, the key, the rule and the value, checksum or not."""
    path, good = tmp_path / "f.json", Optimized({}, 4).to_dict() | {"evidence": SAID}
    write_json(path, good)
    assert Optimized.load(path).evidence == Evidence(**SAID)
    write_json(path, good | changes)
    with pytest.raises(ValueError, match=message):
        Optimized.load(path)
    path.write_text(json.dumps(good | changes))
    with pytest.raises(ValueError, match=message):
        Optimized.load(path)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ([], "but 'list' object has no attribute 'items'"),
        ({"uniform/4": 3}, "but 'int' object has no attribute 'items'"),
        ({"uniform/4": {"0": [1]}}, "but 'list' object has no attribute 'items'"),
        ({"uniform/4": {"0": {"error": "x"}}}, r"but [\s\S]*'x'"),
        ({"uniform": {"0": {"error": 1.0}}}, "but `cells` must be named .*, got 'uniform/0/error'"),
        ({"uniform/x": {"0": {}}}, "but `cells` must be named .*, got 'uniform/x/0/'"),
        ({"uniform/4": {"one": {}}}, "but `cells` must be named .*, got 'uniform/4/one/'"),
        (
            {"uniform/4": {"0": {"../error": 1.0}}},
            "but `cells` must be named .*, got 'uniform/4/0/../error'",
        ),
    ],
)
def test_cells_of_evaluations_are_refused_by_name(cells, message):
    """Figures are named after metrics, so a metric names no folder."""
    check_cells({"cells": {"uniform/4": {"0": {"error": 1.0, "error_standard_error": 0}}}}, "f")
    with pytest.raises(
        ValueError, match=f"`f.json` must hold the cells of an evaluation, {message}"
    ):
        check_cells({"cells": cells}, "f.json")
