"""The scripts around a trained checkpoint: optimise schedules, and the demo."""

import sys
from pathlib import Path

import pytest

from ddm.schedules import Optimised

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "--data.vocab_size=5",
    "--data.length=12",
    "--data.num_samples=192",
    "--data.num_val=16",
    "--data.batch_size=16",
    "--model.backbone.dim=16",
    "--model.backbone.depth=1",
    "--model.backbone.num_heads=2",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.max_epochs=1",
]
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(scope="module")
def scripts():
    """Make the folder of the scripts importable, as it is for each of them."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, scripts):
    """Return a small trained checkpoint."""
    from train import main

    folder = tmp_path_factory.mktemp("run")
    config, place = ROOT / "configs" / "countdown.yaml", "--trainer.logger.init_args.save_dir"
    run = main(["fit", f"--config={config}", f"{place}={folder}", *SMALL])
    return Path(run.trainer.checkpoint_callback.last_model_path)


@pytest.mark.parametrize("method", ["optimal", "jys"])
def test_optimize_schedule(checkpoint, tmp_path, capsys, method):
    """It prints all costs, keeps the best, writes JSON and plots, and `sample.py` reads them."""
    from optimize_schedule import main
    from sample import load_schedule

    arguments = ["--num-steps", "2", "4", "--num-samples=32", f"--out={tmp_path}"]
    found = main([str(checkpoint), *arguments, f"--method={method}"])
    file = tmp_path / f"{checkpoint.stem}.schedules.json"
    assert Optimised.load(file).schedules == found.schedules
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".png"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("uniform", "cosine", method, "gain over uniform"))
    assert load_schedule(checkpoint, 4, str(file)) == found.schedules[4]
    table = found.table
    for n, schedule in found.schedules.items():
        costs = [table.evaluate(s.times, held_out=True) for s in (schedule, _uniform(n))]
        assert costs[0] <= costs[1]


def _uniform(n):
    from ddm import SamplingSchedule

    return SamplingSchedule.uniform(n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "`num_steps` must be at least 1, got 0"),
        (["--gamma", "-1"], "`gamma` must be >= 0, got -1.0"),
        (["--num-samples", "0"], "`num_samples` must be at least 1, got 0"),
        (["--num-samples", "4"], "`x_0` must hold at least 8 sequences, got 4"),
    ],
)
def test_optimize_schedule_refuses(checkpoint, tmp_path, capsys, arguments, message):
    """Bad arguments end the program with their name, rule and value, before any network call."""
    from optimize_schedule import main

    with pytest.raises((SystemExit, ValueError)) as error:
        main([str(checkpoint), f"--out={tmp_path}", *arguments])
    assert message in capsys.readouterr().err + str(error.value)


def test_missing_checkpoint(tmp_path, capsys, scripts):
    """A checkpoint that is not there is named."""
    from optimize_schedule import main

    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.ckpt")])
    assert "`checkpoint` must be a file" in capsys.readouterr().err


def test_demo(tmp_path, capsys, scripts):
    """The demo trains, compares four schedules at three N, and says where everything is."""
    from demo import main

    errors = main([f"--out={tmp_path}", "--num-samples=64", *SMALL, "--trainer.max_epochs=4"])
    assert set(errors) == {"uniform", "cosine", "JYS", "optimal"}
    assert all(set(row) == {4, 8, 16} for row in errors.values())
    assert all(0 <= value <= 1 for row in errors.values() for value in row.values())
    printed = capsys.readouterr().out
    for name in ("checkpoint", "schedules", "samples", "plots"):
        line = next(row for row in printed.splitlines() if row.startswith(name))
        assert list(Path(line.split()[-1]).parent.glob(Path(line.split()[-1]).name)), line
