"""Schedules in the loops of other libraries, which are rebuilt here in short."""

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import yaml

from ddm.adapters import counts_per_step, flow_matching_grid, sglang_config
from ddm.kernels import Absorbing
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.schedule import SamplingSchedule

V, MASK, BLOCK = 12, 4, 8
PROCESS = ForwardProcess(Absorbing(V, mask=MASK), LogLinear())
SCHEDULE = SamplingSchedule((1.0, 0.9, 0.6, 0.3, 0.0))


class Algorithm:
    """SGLang's base class, as far as an algorithm meets it: the loop over one block."""

    def __init__(self, config):
        self.block_size, self.mask_id = config.block_size, config.mask_id

    def run(self, model, forward_batch):
        """Call the network and `step` until all blocks are full; return the states between."""
        states, seen = self.init_step_state(forward_batch), []
        for _ in range(self.block_size + 1):
            done = self.step(forward_batch, model(forward_batch.input_ids), states)
            seen.append(forward_batch.input_ids.clone().view(-1, self.block_size))
            if all(done):
                return seen
        raise AssertionError("blocks must be full after as many calls as they have tokens")


@pytest.fixture
def algorithm(monkeypatch):
    """The class of the file, found by SGLang's rule: the name `Algorithm` of a module."""
    base = ModuleType("base")
    base.DllmAlgorithm = Algorithm
    for name in ("sglang", "sglang.srt", "sglang.srt.dllm", "sglang.srt.dllm.algorithm"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sglang.srt.dllm.algorithm.base", base)
    path = Path(__file__).resolve().parents[1] / "scripts" / "sglang_counts.py"
    spec = importlib.util.spec_from_file_location("sglang_counts", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Algorithm


def config(text, block=BLOCK):
    """Return SGLang's configuration with the content of a file."""
    return SimpleNamespace(block_size=block, mask_id=MASK, algorithm_config=yaml.safe_load(text))


@pytest.mark.parametrize("wrapped", [False, True])
def test_sglang_reveals_what_a_schedule_says(algorithm, wrapped):
    """Blocks with 8, 5 and no masks: as many tokens per call as for LLaDA, the surest ones."""
    text = sglang_config(PROCESS, SCHEDULE, BLOCK)
    assert yaml.safe_load(text)["block_size"] == BLOCK
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3 * BLOCK, V, generator=generator).index_fill(1, torch.tensor([MASK]), -9)
    ids = torch.full((3, BLOCK), MASK)
    ids[1, :3], ids[2] = 7, 8

    def model(_):
        return SimpleNamespace(full_logits=logits) if wrapped else logits

    batch = SimpleNamespace(input_ids=ids.view(-1).clone())
    seen = torch.stack([ids, *algorithm(config(text)).run(model, batch)])
    left = (seen == MASK).sum(-1)
    assert left[:, 2].tolist() == 6 * [0]
    for row, masks in ((0, 8), (1, 5)):
        (counts,) = counts_per_step(PROCESS, SCHEDULE, masks)
        assert (-left[:, row].diff()).tolist() == [*counts, 0]  # one more call for the cache
    sure, token = logits.view(3, BLOCK, V).softmax(-1).max(-1)
    first = seen[1, 0] != MASK
    assert sure[0][first].min() > sure[0][~first].max()
    assert torch.equal(seen[-1], torch.where(ids == MASK, token, ids))


def test_sglang_needs_a_row_for_every_number_of_masks(algorithm):
    """A file for shorter blocks is refused when the server starts."""
    with pytest.raises(ValueError, match="up to 8, the block size, got 4"):
        algorithm(config(sglang_config(PROCESS, SCHEDULE, 4)))


@pytest.mark.parametrize("num", [8, 33, 1024])
def test_dream_reveals_what_a_schedule_says(num):
    """Its rule, `int(masks (1 - s / t))` and all in the last call, with the times of the manual."""
    (counts,) = counts_per_step(PROCESS, SCHEDULE, num)
    times, masks, found = num - torch.tensor([0, *counts]).cumsum(0) - 0.5, num, []
    for t, s in pairwise(times[:-1]):
        found.append(int(masks * (1 - s / t)))
        masks -= found[-1]
    assert [*found, masks] == counts


def test_flow_matching_solves_on_our_grid():
    """Its Euler step, rebuilt, keeps as many masks as our times say, within 5 deviations.

    16,384 tokens: a false alarm in 2e-6 of runs for each of three times.
    """
    u = flow_matching_grid(PROCESS, SCHEDULE)
    x, generator, num = torch.full((16384,), MASK), torch.Generator().manual_seed(0), 16384
    for now, after, t in zip(u[:-1], u[1:], SCHEDULE.times[1:], strict=True):
        jumps = 1 - torch.exp(-(after - now) / (1 - now))  # alpha = u, and its rate 1 / (1 - u)
        if after == 1:
            break  # the last step draws all that is left
        jump = torch.rand(num, generator=generator).double() < jumps
        x = torch.where((x == MASK) & jump, 7, x)
        share = float((x == MASK).double().mean())
        assert abs(share - t) < 5 * (t * (1 - t) / num) ** 0.5
