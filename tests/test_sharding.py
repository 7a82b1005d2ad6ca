"""Two processes that share the weights of a network."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy

from ddm.backbones import Transformer
from ddm.files import read_json
from ddm.kernels import Absorbing
from ddm.module import DiscreteDiffusion
from ddm.schedules import Optimized
from ddm.sharding import ShardedEMA, shard, whole_weights
from fsdp_schedule import make_model


@pytest.mark.slow
def test_two_processes_with_sharded_weights(tmp_path):
    """Each holds half of the weights and measures its own sequences; both hold the same schedules.

    An update in which one process fails inside of the network is made by none, and training goes
    on. The checkpoint holds whole weights, which a model without shards reads. Validation, samples
    and predictions keep no process waiting, however often each of them calls the network; and runs
    that were resumed, from sharded checkpoints and with an average of the weights, end with the
    weights of one that was not stopped. The average is that of whole weights, to rounding.
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
    assert runs[0]["bits"] == runs[1]["bits"] > 0
    assert [run["drawn"] for run in runs] == [6 * [1]] * 2
    assert all(run["highest"] < 4 for run in runs)
    assert all(run["resumed"] and run["with_average"] for run in runs)
    assert all(run["error"] < 1e-6 for run in runs)
    averaged = torch.load(tmp_path / "average" / "last.ckpt", weights_only=True)
    assert averaged["state_dict"].keys() == make_model().state_dict().keys()
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    model = make_model()
    before = model.denoiser.backbone.out.bias.clone()
    model.load_state_dict(weights)
    assert all(weight.isfinite().all() for weight in weights.values())
    assert not torch.equal(model.denoiser.backbone.out.bias, before)


class Plain(torch.nn.Linear):
    """A network without blocks."""

    def __init__(self, num_states, dim, **sizes):
        super().__init__(dim, num_states)


class Mesh:
    """What `ModelParallelStrategy` gives to a model before it is configured."""

    def __getitem__(self, name):
        return self


@pytest.mark.parametrize(
    ("kind", "callback", "message"),
    [
        (
            Transformer,
            EMAWeightAveraging(),
            "`callbacks` must .* by `ShardedEMA`",
        ),
        (Plain, ModelCheckpoint(), "`backbone` must have `blocks` .*, got a Plain; call"),
    ],
)
def test_what_cannot_be_sharded(kind, callback, message):
    """Averages of weights and networks without blocks are refused, with what to do instead."""
    network = partial(kind, dim=8, depth=1, num_heads=2)
    module = DiscreteDiffusion(Absorbing(4), network, length=8, optimizer=torch.optim.Adam)
    shard(module)  # without processes nothing happens
    module.trainer = Trainer(accelerator="cpu", logger=False, callbacks=[callback])
    module._device_mesh = Mesh()
    with pytest.raises(ValueError, match=message):
        shard(module)


def test_averages_and_sharded_checkpoints():
    """Averages are not written in parts: they are refused before training begins."""
    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    trainer = Trainer(accelerator="cpu", devices=1, strategy=strategy, logger=False)
    with pytest.raises(ValueError, match="`save_distributed_checkpoint` must be False"):
        ShardedEMA().setup(trainer, make_model(), "fit")


def test_weights_that_are_whole_stay_as_they_are():
    """Without sharded weights nothing happens."""
    model = make_model()
    with whole_weights(model):
        assert torch.isfinite(model.denoiser(torch.zeros(1, 8, dtype=torch.long), 0.5).output).all()
