import dataclasses
import json
import math
import os

import pytest
import torch

from ddm.files import read_json, write_json
from ddm.schedules import SamplingSchedule


@pytest.mark.parametrize("make", [SamplingSchedule.uniform, SamplingSchedule.cosine])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 1000])
def test_fixed_schedules(make, num_steps):
    """N steps are N + 1 strictly decreasing times from exactly 1 to exactly 0."""
    schedule = make(num_steps)
    assert schedule.num_steps == num_steps
    assert len(schedule.times) == num_steps + 1
    assert (schedule.times[0], schedule.times[-1]) == (1.0, 0.0)
    assert all(t > s for t, s in zip(schedule.times[:-1], schedule.times[1:], strict=True))
    assert schedule.source == make.__name__


def test_shapes():
    """The uniform schedule has equal steps; the cosine one is a quarter of a circle, short first.

    1e-15 is the rounding of one float64 operation.
    """
    assert SamplingSchedule.uniform(4).times == (1.0, 0.75, 0.5, 0.25, 0.0)
    times = SamplingSchedule.cosine(3).times
    assert times == pytest.approx((1.0, math.sqrt(3) / 2, 0.5, 0.0), abs=1e-15)


@pytest.mark.parametrize("num_steps", [0, -3])
@pytest.mark.parametrize("make", [SamplingSchedule.uniform, SamplingSchedule.cosine])
def test_num_steps_errors(make, num_steps):
    """A schedule has at least one step."""
    with pytest.raises(ValueError, match=f"`num_steps` must be at least 1, got {num_steps}"):
        make(num_steps)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ((1.0,), "at least 2 times"),
        ((), "at least 2 times"),
        ((1.0, math.nan, 0.0), "finite"),
        ((0.99, 0.5, 0.0), "start at 1"),
        ((1.0, 0.5, 1e-3), "end at 0"),
        ((0.0, 0.5, 1.0), "reverse an increasing grid"),
        ((1.0, 0.5, 0.5, 0.0), "got 0.5 then 0.5 at index 1"),
        ((1.0, 0.2, 0.5, 0.0), "got 0.2 then 0.5 at index 1"),
    ],
)
def test_times_errors(times, message):
    """Times that are no schedule are refused with the reason."""
    with pytest.raises(ValueError, match=message):
        SamplingSchedule(times)


def test_is_a_value():
    """A schedule cannot change; schedules with equal content are equal."""
    schedule = SamplingSchedule.uniform(3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        schedule.times = (1.0, 0.0)
    assert schedule == SamplingSchedule.uniform(3)
    assert schedule != SamplingSchedule.uniform(4)


def test_keeps_double_precision():
    """Times are Python floats with all their digits, also from tensors and integers."""
    t = 0.1 + 1e-15
    schedule = SamplingSchedule((1, t, 0))
    assert schedule.times == (1.0, t, 0.0)
    assert all(isinstance(time, float) for time in schedule.times)
    assert torch.tensor(schedule.times, dtype=torch.float64)[1] == t


def test_save_and_load(tmp_path):
    """A file gives back the same schedule, bit by bit, and leaves nothing else in its folder."""
    path = tmp_path / "new" / "schedule.json"
    info = {"kernel": "Absorbing", "cost": 1 / 3, "samples": 64}
    schedule = SamplingSchedule((1.0, 1 / 3, 1e-17, 0.0), "optimal", info)
    schedule.save(path)
    assert SamplingSchedule.load(path) == schedule
    SamplingSchedule.uniform(2).save(path)
    assert SamplingSchedule.load(str(path)) == SamplingSchedule.uniform(2)
    assert os.listdir(path.parent) == ["schedule.json"]


def test_load_a_list_of_times(tmp_path):
    """A file written by hand needs nothing but the times."""
    path = tmp_path / "schedule.json"
    path.write_text('{"times": [1, 0.5, 0]}')
    assert SamplingSchedule.load(path) == SamplingSchedule((1.0, 0.5, 0.0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"times": [1, 0.5', "damaged or cut off"),
        ("", "damaged or cut off"),
        ("[1, 0.5, 0]", "must hold a JSON object, got list"),
        ('{"steps": 3}', "the key 'times' is missing"),
        ('{"times": [0, 1]}', "must start at 1"),
    ],
)
def test_load_errors(tmp_path, text, message):
    """A file that is no schedule is refused with the reason."""
    path = tmp_path / "schedule.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        SamplingSchedule.load(path)


def test_failed_write_keeps_the_old_file(tmp_path):
    """A write that fails half-way leaves the old file and no other."""
    path = tmp_path / "schedule.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": [1, 2, object()]})
    assert read_json(path) == json.loads('{"a": 1}')
    assert os.listdir(tmp_path) == ["schedule.json"]
