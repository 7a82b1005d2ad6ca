"""The parts of the benchmark scripts that can be wrong: their formulas, and that they run."""

import csv
import json
import math
import zipfile
from functools import partial

import ablations
import best_for_metric
import core_speed
import gpu_text
import kernel_gain
import losing_cells
import numpy as np
import peers
import problems
import pytest
import real_models
import torch
from _report import draw_curves, finish, over_seeds, resume, rounded

from ddm import Absorbing, CostTable, ForwardProcess, OptimalSteps, Uniform
from ddm.files import read_json
from ddm.noise import LogLinear
from ddm.samplers import Analytic
from ddm.schedules import SamplingSchedule
from ddm.schedules.setting import Setting

SMALL = {"num_times": 6, "pilot_times": 4}


@pytest.fixture(autouse=True)
def small(benchmarks, monkeypatch):
    """Keep the cost tables small, and write them elsewhere."""
    monkeypatch.setattr(problems, "GRID", SMALL)


def test_cells_are_measured_once(benchmarks):
    """After an interruption only what is missing is measured; other settings start again."""
    calls = []

    def cell(name, fails=False):
        calls.append(name)
        if fails:
            raise KeyboardInterrupt
        return (len(name), name)

    settings = {"seeds": 3}
    with pytest.raises(KeyboardInterrupt):
        resume("study", settings, {"a": partial(cell, "a"), "bb": partial(cell, "bb", fails=True)})
    cells = {name: partial(cell, name) for name in ("a", "bb")}
    assert resume("study", settings, cells) == {"a": [1, "a"], "bb": [2, "bb"]}
    assert calls == ["a", "bb", "bb"]
    resume("study", {"seeds": 4}, cells)
    assert calls == ["a", "bb", "bb", "a", "bb"]
    finish("study", {}, draw_curves({"one": {"curve": {"4": [0.2, 0.1], "8": [0.1, 0.0]}}}, ["y"]))
    assert {p.name for p in benchmarks.iterdir()} == {"study.json", "study.png"}


@pytest.mark.parametrize("kind", [Absorbing, Uniform])
def test_memory_of_large_vocabularies(kind):
    """What is measured at V = 262,144 runs; memory never falls below what was held before."""
    peaks = core_speed._memory(kind, 1200)
    assert 0 < peaks["sample_peak_gib"] <= peaks["table_peak_gib"] <= peaks["train_peak_gib"]


def test_numbers_over_seeds():
    """Means and standard errors stand where the numbers stood; files keep six digits."""
    assert over_seeds([{"a": {"4": 1.0}}, {"a": {"4": 3.0}}]) == {"a": {"4": [2.0, 1.0]}}
    assert over_seeds([0.5]) == [0.5, 0.0]
    assert rounded({"a": (1 / 3, 7, "b")}) == {"a": [0.333333, 7, "b"]}


def test_predicted_gain():
    """With the density 2t, N equal steps cost `(4 - 1 / N^2) / 3` times what the optimal ones do.

    The k-th one advances `F = t^2` by `(2k + 1) / N^2`.
    """
    t = np.linspace(0, 1, 481)
    for n in (1, 2, 4, 16):
        gain = kernel_gain.predicted_gain(t, t[1:] + t[:-1], n)
        assert gain == pytest.approx((4 - 1 / n**2) / 3, rel=1e-12)


def test_quartiles():
    """If a step costs `(t^2 - s^2)^2`, a share t^2 of the optimal steps lies below t."""
    t = np.linspace(0, 1, 201)
    excess = np.tril(np.subtract.outer(t**2, t**2) ** 2, -1)
    zeros, ones = np.zeros_like(excess), np.ones_like(t)
    setting = Setting.of(ForwardProcess(Uniform(2), LogLinear()), Analytic())
    table = CostTable(t, excess, zeros, ones, 0.75, setting, 8, 2, 0)
    assert kernel_gain.quartiles(table) == pytest.approx([0.25**0.5, 0.5**0.5, 0.75**0.5], rel=1e-3)


def test_kernel_gain_runs():
    """A small cell has finite gains."""
    chain = problems.chains()[problems.RIGID]
    denoiser = problems.exact(Absorbing(12), LogLinear(), chain)
    cell = kernel_gain.measure(denoiser, chain, num_data=8, num_samples=4)
    assert all(0 < kernel_gain.gain(cell, n) < math.inf for n in kernel_gain.NUM_STEPS)


def test_best_for_metric_runs(benchmarks):
    """Lengths become times; what is sought is compared on seeds that the search did not use."""
    assert best_for_metric.times_of([0.0, 0.0, 0.0]) == pytest.approx((1.0, 0.75, 0.5, 0.25, 0.0))
    sizes = ("--num-steps=2", "--num-samples=48", "--seeds=1", "--new-seeds=2", "--most=3")
    best_for_metric.main(sizes)
    found = read_json(benchmarks / "best_for_metric.json")
    assert found["times"][0] == 1
    assert found["table"].keys() == {"uniform", "sought", "sought - uniform"}


def test_losing_cells_run():
    """Every schedule of a small cell has an error; short Euler steps lose nearly nothing."""
    errors = losing_cells.chain(6, 8, LogLinear(), 2, num_data=16, num_samples=8, seed=0)
    assert errors.keys() == {"uniform", "JYS", "optimal", "kept", "JYS as released"}
    assert all(0 <= error <= 1 for error in errors.values())
    law = torch.tensor([[3.0, 1.0], [1.0, 3.0]]).double() / 8
    world = problems.Enumerated(Uniform(2), law)
    long, short = (
        losing_cells.euler_divergence(world, SamplingSchedule.uniform(n).times) for n in (1, 64)
    )
    assert long == pytest.approx(problems.kl(law, torch.full((2, 2), 0.25)), rel=1e-2)
    assert 0 < short < long / 100


def test_ablations_run(benchmarks, monkeypatch):
    """Every method is judged, and 48 calls on 512 sequences are paid by the steps they save."""
    monkeypatch.setattr(ablations, "METHODS", {"48 calls": (8, OptimalSteps(**SMALL))})
    monkeypatch.setattr(ablations, "NUM_STEPS", (4,))
    ablations.main(["--seeds=1", "--budgets", "64", "--num-judge=8"])
    found = read_json(benchmarks / "ablations.json")
    for table in found["costs"].values():
        assert table.keys() == {"48 calls", "48 calls, as measured"}
    for row in found["savings"].values():
        instead, samples = row["32"]
        assert samples * (32 - instead) == pytest.approx(48 * 512, rel=1e-4)


def test_pairs_of_a_chain():
    """Pairs in the shares of their law have the distance 0; a stationary chain repeats its law."""
    flat = torch.full((2,), 0.5, dtype=torch.float64)
    tokens = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])
    assert peers.quality(tokens, (flat, flat.expand(2, -1)))["hellinger"] == pytest.approx(
        0, abs=1e-7
    )
    rows = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64)
    torch.testing.assert_close(peers.pair_law((flat, rows), 7), flat[:, None] * rows)


def test_peers_runs():
    """The methods of this project give samples; peers that are not installed are known."""
    assert peers.installed("numpy")
    assert not peers.installed("no_such.package")
    chain, times = problems.chains()[problems.RIGID], SamplingSchedule.uniform(4).times
    for kernel, group in peers.METHODS.items():
        draw, _ = group["ddm, Analytic"]
        cell = peers.measure(draw, peers.KERNELS[kernel], chain, times, 8, 0)
        assert 0 <= cell["overhead"] <= cell["seconds"]


def test_gpu_text(benchmarks, monkeypatch, capsys):
    """The script for a GPU runs at a small size on the CPU, and prints each measurement."""
    monkeypatch.setattr(torch.nn.Module, "compile", lambda network: None)
    sizes = "--dim=8 --depth=1 --vocab-size=1200 --length=8 --batch-size=2 --repeats=1"
    gpu_text.main([*sizes.split(), "--device=cpu"])
    results = read_json(benchmarks / "gpu_text.json")["results"]
    assert len(results) == 8
    for name, found in results.items():
        assert all(measured["seconds"] > 0 for measured in found.values())
        cases = {"call", "row", "step, N = 8", "step, N = 32", "step, N = 128"}
        assert set(found) == (
            cases if "sampling" in name else {"by hand", "NELBO", "cross-entropy"}
        )
    assert capsys.readouterr().out.count("seconds") == 4 * (5 + 3)


def write_wheels(folder):
    """Write a tiny network with random weights, and a few chains, in the place of real ones."""
    from transformers import BertConfig, BertForMaskedLM

    config = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config |= {"vocab_size": 25, "max_position_embeddings": 152}
    torch.manual_seed(0)
    torch.save(BertForMaskedLM(BertConfig(**config)).state_dict(), folder / "weights.bin")
    place = "antiberty/trained_models/AntiBERTy_md_smooth/"
    with zipfile.ZipFile(folder / "antiberty-0-any.whl", "w") as wheel:
        wheel.writestr(place + "config.json", json.dumps(config))
        wheel.write(folder / "weights.bin", place + "pytorch_model.bin")
    letters = (real_models.RESIDUES * 8)[:149]
    with (folder / "chains.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["aligned_seq"])
        rows.writerows([letters[i:] + letters[:i][: i - 3] + "---"[: min(i, 3)]] for i in range(40))
    with zipfile.ZipFile(folder / "abnativ-0-any.whl", "w") as wheel:
        name = "abnativ/model/percentiles/test_vh_v2_abnativ_seq_scores.csv"
        wheel.write(folder / "chains.csv", name)


def test_real_models_run(tmp_path, benchmarks, capsys):
    """Loops are masked where the numbering says, and every cell has a value in both tables."""
    write_wheels(tmp_path)
    sizes = [
        "--num-search=8",
        "--num-held-out=3",
        "--seeds=1",
        "--num-steps",
        "2",
        "--dtype=float32",
    ]
    real_models.main(
        [f"--folder={tmp_path}", *sizes, "--regions", "third loop", "--orders", "random", "entropy"]
    )
    found = read_json(benchmarks / "real_models.json")
    assert found["share of masks"]["third loop"] == pytest.approx(32 / 149, abs=0.03)
    for what in ("nats", "recovered"):
        table = found[f"third loop: {what}"]
        assert set(table) == {
            f"{o}, {c}" for o in ("random", "entropy") for c in ("uniform", "optimal")
        }
        gain = found[f"third loop: {what}, minus random, uniform"]["entropy, uniform"]["2"][0]
        direct = table["entropy, uniform"]["2"][0] - table["random, uniform"]["2"][0]
        assert gain == pytest.approx(direct, abs=1e-5)
    nats = found["third loop: nats"]["random, uniform"]["2"][0]
    assert nats == pytest.approx(math.log(20), abs=0.3)  # of random weights
    assert "third loop: recovered" in capsys.readouterr().out


def test_regions_are_those_of_the_numbering():
    """Columns of AHo become positions of the tokens, behind the one at the front."""
    row = "-" * 100 + "ACDEFGHIKL" + "-" * 39  # columns 101 to 110
    x, free = real_models.batch([row], "third loop")
    assert x[0].tolist() == [2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 3]
    assert free[0].nonzero().squeeze(-1).tolist() == [7, 8, 9, 10]  # 107 to 110
