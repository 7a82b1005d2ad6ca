"""Damaged files of schedules and tables: each is refused with a `ValueError` that names a rule."""

import json
import random
from dataclasses import replace

import pytest
import torch

from ddm.denoisers import ExactDenoiser
from ddm.files import read_json, write_json
from ddm.kernels import Uniform
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic
from ddm.schedules import Evidence, OptimalSteps, Optimized

WRONG = (None, "x", True, [], {}, -1, 2.5e300, "1", [None], [[0.5]], {"a": 1}, -0.5, 10**400)


@pytest.fixture(scope="module")
def optimized() -> Optimized:
    """Return schedules with their table and evidence."""
    process = ForwardProcess(Uniform(3), LogLinear())
    joint = torch.tensor([[0.3, 0.1, 0.0], [0.0, 0.2, 0.1], [0.1, 0.0, 0.2]], dtype=torch.float64)
    x_0 = torch.tensor([[0, 0], [0, 1], [1, 1], [1, 2], [2, 0], [2, 2], [0, 0], [1, 1]])
    search = OptimalSteps(num_times=6, pilot_times=4)
    denoiser = ExactDenoiser(process, joint)
    noise = torch.Generator().manual_seed(0)
    found = search(denoiser, Analytic(), x_0, [2, 3], generator=noise)
    said = Evidence("b", {"a": 1.0, "b": 0.5}, {"a": 0.0, "b": 0.1}, 0.99, 8, 4)
    return replace(found, evidence=said)


def spots(content: object, path: tuple = ()) -> list[tuple]:
    """Return the places of a JSON object."""
    inner = content.items() if isinstance(content, dict) else ()
    inner = enumerate(content) if isinstance(content, list) else inner
    return [path] * bool(path) + [spot for k, v in inner for spot in spots(v, (*path, k))]


def test_bytes_of_files(optimized: Optimized, tmp_path) -> None:
    """A file with one other byte, or without its end, is not read: the checksum tells."""
    draw, path = random.Random("bytes"), tmp_path / "table.json"
    write_json(path, optimized.to_dict())
    whole = path.read_bytes()
    for _ in range(150):
        place = draw.randrange(len(whole))
        other = draw.choice([b for b in range(256) if b != whole[place]])
        flipped = whole[:place] + bytes([other]) + whole[place + 1 :]
        for damaged in (flipped, whole[:place]):
            path.write_bytes(damaged)
            with pytest.raises(ValueError, match="`"):
                read_json(path)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda value: str(value)[:9])
def test_values_of_files(optimized: Optimized, tmp_path, wrong: object) -> None:
    """A wrong type or size anywhere in times, errors and costs is refused, never a traceback."""
    draw, path = random.Random(str(wrong)), tmp_path / "table.json"
    whole = json.loads(json.dumps(optimized.to_dict()))
    for *folders, last in draw.choices(spots(whole), k=15):
        content = json.loads(json.dumps(whole))
        inner = content
        for key in folders:
            inner = inner[key]
        inner[last] = wrong
        path.write_text(json.dumps(content))
        try:
            Optimized.load(path)
        except ValueError as error:
            shown = str(error)
            assert "`" in shown
        else:
            legal = (
                isinstance(wrong, int | float)
                or {"info", "setting"} & {*folders, last}
                or (isinstance(wrong, str) and last == "source")
                or (wrong is None and last in ("table", "evidence"))
            )
            assert legal, (folders, last, wrong)
