"""Two processes that share the weights of a network."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ddm.files import read_json
from ddm.schedules import Optimized
from ddm.sharding import whole_weights
from fsdp_schedule import make_model


@pytest.mark.slow
def test_two_processes_with_sharded_weights(tmp_path):
    """Each holds half of the weights and measures its own sequences; both hold the same schedules.

    An update in which one process fails inside of the network is made by none, and training goes
    on. The checkpoint holds whole weights, which a model without shards reads.
    """
    script = Path(__file__).with_name("fsdp_schedule.py")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = [Optimized.load(tmp_path / f"rank{r}.json") for r in range(2)]
    assert found[0].schedules == found[1].schedules
    assert (found[0].table.excess == found[1].table.excess).all()
    assert found[0].table.num_samples + found[0].table.num_held_out == 32
    runs = [read_json(tmp_path / f"run{r}.json") for r in range(2)]
    assert [run["steps"] for run in runs] == [[4, 4]] * 2
    assert "process 1: KeyError: 'a network is in trouble'" in runs[0]["warnings"][0]
    assert [run["share"] for run in runs] == pytest.approx([0.5, 0.5], abs=0.01)
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    model = make_model()
    before = model.denoiser.backbone.out.bias.clone()
    model.load_state_dict(weights)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not torch.equal(model.denoiser.backbone.out.bias, before)


def test_weights_that_are_whole_stay_as_they_are():
    """Without sharded weights nothing happens."""
    model = make_model()
    with whole_weights(model):
        assert torch.isfinite(model.denoiser(torch.zeros(1, 8, dtype=torch.long), 0.5).output).all()
