"""The models that come with the repository: they load, have learned, and draw samples."""

import math
from pathlib import Path

import pytest
import torch

from ddm.checkpoint import load_data, load_model
from ddm.functional import stratified_times
from ddm.losses import NELBO
from ddm.schedules import Optimized, SamplingSchedule
from ddm.schedules.optimizer import schedules_beside
from ddm.schedules.setting import Setting

ROOT = Path(__file__).resolve().parents[1]
CHECKPOINTS = sorted((ROOT / "checkpoints").glob("*.ckpt"))
SCALE = "C4 D4 E4 F4 G4 A4 B4 C5 " * 4

# The built-in text, and with it the characters, change with the version of Python.
pytestmark = pytest.mark.filterwarnings("ignore:No data module, tokens are shown as numbers")

checkpoints = pytest.mark.parametrize("path", CHECKPOINTS, ids=[p.stem for p in CHECKPOINTS])


@checkpoints
def test_draws_samples(path, tmp_path, monkeypatch, capsys):
    """Every model draws samples with its own schedule, without training and without its data."""
    from ddm.commands.sample import main

    monkeypatch.chdir(tmp_path)  # where no data set lies
    prompt = [f"--prompt={SCALE}"] if path.stem.startswith("folk") else []
    main([str(path), "--num-steps=2", "--num-samples=2", "--out=out", *prompt])
    kinds = {file.suffix for file in (tmp_path / "out").iterdir()}
    assert {"folk": {".mid", ".wav"}, "digits": {".png"}}.get(
        path.stem.split("_")[0], set()
    ) <= kinds
    assert "2 steps (optimal" in capsys.readouterr().out


@checkpoints
def test_schedules_belong_to_the_model(path):
    """They are for its process and sampler, and cost no more than uniform ones."""
    model, optimized = load_model(path), Optimized.load(schedules_beside(path))
    table = optimized.table
    assert table.setting == Setting.of(model.process, model.sampler)
    for n, schedule in optimized.schedules.items():
        uniform = table.evaluate(SamplingSchedule.uniform(n).times)
        assert table.evaluate(schedule.times) <= uniform


@pytest.mark.parametrize("name", ["countdown", "countdown_uniform", "digits", "digits_absorbing"])
def test_has_learned(name):
    """The bound on held-out data is far below log2 V bits per token."""
    path = ROOT / "checkpoints" / f"{name}.ckpt"
    data, model = load_data(path), load_model(path)
    x_0 = data.val_tokens[:16].long()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        t = stratified_times(len(x_0), generator)
        nats = NELBO()(model.denoiser, x_0, t, generator).mean() / x_0.shape[1]
    assert nats < 0.75 * math.log(data.vocab_size)
