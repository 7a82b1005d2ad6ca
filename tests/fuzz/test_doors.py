"""Bad inputs at the doors of the commands: each ends in one line, status 2, before any work.

The inputs are drawn from a fixed seed. Work is replaced by a failure, so what is accepted in
silence is found, too. `FUZZ=10` tries ten times as many.
"""

import json
import os
import random
import string
from pathlib import Path

import pytest
import yaml

from ddm.commands import (
    COMMANDS,
    data,
    demo,
    evaluate,
    export,
    optimize,
    parsers,
    sample,
    subject,
    train,
)

ROOT = Path(__file__).resolve().parents[2]
TIMES = int(os.environ.get("FUZZ", "1"))
MAINS = {
    module.__name__.rpartition(".")[2]: module.main
    for module in (data, demo, evaluate, export, optimize, sample, train)
}
CHECKPOINT = str(ROOT / "checkpoints" / "countdown.ckpt")
NUMBERS = (
    "-1",
    "1e9",
    "nan",
    "inf",
    "-inf",
    "1.5",
    "",
    " ",
    "abc",
    "9" * 30,
    "0x10",
    "1,2",
    "None",
)
STRINGS = (
    "",
    "\0",
    "a" * 5000,
    "..",
    "/",
    "/dev/null/x",
    "/proc/x",
    "\udc80",
    "~",
    "*",
    "%s",
    "{}",
)


@pytest.fixture(autouse=True)
def no_work(monkeypatch, tmp_path):
    """Fail where a command begins to work: then it has accepted its input."""

    def accepted(*args, **settings):
        raise AssertionError("accepted")  # no command takes this for a foreseen error

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sample, "draw", accepted)
    monkeypatch.setattr(evaluate, "find_schedules", accepted)
    monkeypatch.setattr(data, "fetch_datasets", accepted)
    monkeypatch.setattr(data, "folk_pieces", accepted)
    monkeypatch.setattr(export, "shrink", accepted)
    monkeypatch.setattr(optimize.OptimalSteps, "__call__", accepted)
    monkeypatch.setattr("lightning.pytorch.Trainer.fit", accepted)


def noise(draw: random.Random, length: int = 8) -> str:
    """Return random printable characters that are no option."""
    return "x" + "".join(draw.choices(string.printable, k=draw.randrange(length)))


def refused(capsys, command: str, arguments: list[str]) -> str:
    """Run a command that has to refuse its arguments; return the line that it ends with."""
    with pytest.raises(SystemExit) as error:
        MAINS[command](arguments)
    shown = capsys.readouterr().err
    assert error.value.code == 2, (command, arguments)
    lines = [line for line in shown.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, (command, arguments, shown)
    assert "Traceback" not in shown
    assert len(lines[0]) > len("error: x")
    return lines[0]


def positionals(command: str) -> list[str]:
    """Return good positional arguments."""
    return {"data": ["folk"], "demo": [], "export": [CHECKPOINT, "out.ckpt"]}.get(
        command, [CHECKPOINT]
    )


def numeric_options() -> list[tuple[str, str]]:
    """Return every option of the commands that takes numbers."""
    found = []
    for command in COMMANDS:
        parser = getattr(parsers, command, None)
        for action in parser()._actions if parser else ():
            if getattr(action.type, "__qualname__", "").startswith(("whole", "real")):
                found.append((command, action.option_strings[0]))
    return found


@pytest.mark.parametrize(("command", "option"), numeric_options())
def test_numbers(command: str, option: str, capsys) -> None:
    """What is no number of the option's range is refused, and the option is named."""
    draw = random.Random(f"{command} {option}")
    words = [noise(draw) for _ in range(5 * TIMES)]
    for value in (*NUMBERS, *words):
        if option == "--gamma" and value == "1.5":
            continue
        line = refused(capsys, command, [*positionals(command), f"{option}={value}"])
        assert option.lstrip("-").replace("-", "_") in line


@pytest.mark.parametrize("command", ["sample", "optimize", "evaluate", "export"])
def test_checkpoints(command: str, capsys, tmp_path: Path) -> None:
    """A path that leads to no checkpoint of ours, or to a part of one, is refused."""
    draw = random.Random(command)
    whole = Path(CHECKPOINT).read_bytes()
    contents = [b"", b"\x80\x02.", b"{}", *(whole[: draw.randrange(len(whole))] for _ in range(4))]
    contents += [draw.randbytes(draw.randrange(2000)) for _ in range(4 * TIMES)]
    names = [*STRINGS, str(tmp_path), *(noise(draw, 30) for _ in range(5 * TIMES))]
    for index, content in enumerate(contents):
        names.append(str(tmp_path / f"{index}.ckpt"))
        Path(names[-1]).write_bytes(content)
    for name in names:
        refused(capsys, command, [name, *positionals(command)[1:]])


@pytest.mark.parametrize("command", ["sample", "optimize", "evaluate", "data", "demo"])
def test_folders(command: str, capsys, tmp_path: Path) -> None:
    """A folder that cannot be made or written is refused before the work, and named."""
    (tmp_path / "file").touch()
    for value in ("/dev/null", "/dev/null/x", "/proc/x", "file", "file/x", "\0", "a" * 5000):
        line = refused(capsys, command, [*positionals(command), f"--out={value}"])
        assert "`out` must be" in line


def test_files(capsys, tmp_path: Path) -> None:
    """`ddm export` refuses to write where it cannot, and onto what it reads."""
    (tmp_path / "own.ckpt").write_bytes(Path(CHECKPOINT).read_bytes())
    (tmp_path / "link.ckpt").symlink_to("own.ckpt")
    (tmp_path / "other.schedules.json").touch()
    before = (tmp_path / "own.ckpt").read_bytes()
    for value in (
        "own.ckpt",
        "link.ckpt",
        "../" + tmp_path.name + "/own.ckpt",
        "other.ckpt",
        ".",
        "",
        "/",
        "own.ckpt/x",
        "/dev/null/x.ckpt",
        "/proc/x.ckpt",
        "a" * 5000,
    ):
        refused(capsys, "export", ["own.ckpt", value])
    assert (tmp_path / "own.ckpt").read_bytes() == before


@pytest.mark.parametrize("command", ["sample", "optimize", "evaluate"])
def test_devices(command: str, capsys) -> None:
    """A device that is not there is refused."""
    draw = random.Random(command)
    names = ("meta", "cuda:99", "cuda:-1", "cpu:7x", "gpu", "tpu", "mps", "xpu", "CUDA", *STRINGS)
    for name in (*names, *(noise(draw) for _ in range(5 * TIMES))):
        if name:
            assert "`device`" in refused(capsys, command, [CHECKPOINT, f"--device={name}"])


def test_prompts(capsys, monkeypatch) -> None:
    """Prompts that are empty, too long, or not in the vocabulary are refused."""
    for name in ("load_model", "load_data"):  # once, not for every prompt
        loaded = getattr(subject, name)(CHECKPOINT)
        monkeypatch.setattr(subject, name, lambda *args, loaded=loaded, **options: loaded)
    draw = random.Random("prompts")
    words = ["-1", "32", "1.5", "x", "9" * 30, "nan", "\uff19\uff19"]
    for _ in range(20 * TIMES):
        good = [str(draw.randrange(32)) for _ in range(draw.randrange(4))]
        bad = " ".join([*good, draw.choice(words), *good])
        refused(capsys, "sample", [CHECKPOINT, f"--prompt={bad}"])
        refused(capsys, "sample", [CHECKPOINT, "--infill", " ".join(good), f" {bad}"])
    for text in ("", " ", "1 " * 65, "\n"):
        refused(capsys, "sample", [CHECKPOINT, f"--prompt={text}"])
    for pair in (("", ""), ("1 " * 40, "1 " * 40)):
        refused(capsys, "sample", [CHECKPOINT, "--infill", *pair])


def test_schedules(capsys, tmp_path: Path) -> None:
    """A schedule file that is no list of falling times from 1 to 0 is refused."""
    draw = random.Random("schedules")
    path = tmp_path / "schedule.json"
    values = [None, "1", True, [], {}, -0.1, 1.1, 10**400, [0.5]]
    contents: list[object] = [None, 1, "x", [], {}, {"times": None}, {"times": []}, {"times": {}}]
    for _ in range(30 * TIMES):
        times = sorted((draw.random() for _ in range(draw.randrange(1, 5))), reverse=True)
        good: list[object] = [1.0, *times, 0.0]
        spoiled = list(good)
        kind = draw.randrange(4)
        if kind == 0:
            spoiled[draw.randrange(len(good))] = draw.choice(values)
        elif kind == 1:
            spoiled = good[::-1]
        elif kind == 2:
            spoiled = good[draw.randrange(1, len(good)) :]
        else:
            spoiled.insert(1, 1.0)
        contents.append({"times": spoiled, "source": "optimal", "info": {}})
    texts = [json.dumps(content) for content in contents]
    texts += ['{"times": [1, NaN, 0]}', '{"times": [1, 0]', "\0", "[" * 100_000]
    texts += [text[: draw.randrange(1, len(text))] for text in texts[-20:-4]]
    for text in texts:
        path.write_text(text)
        refused(capsys, "sample", [CHECKPOINT, f"--schedule={path}"])
    for name in (*STRINGS, "unifrom", "Uniform"):
        refused(capsys, "sample", [CHECKPOINT, f"--schedule={name}"])


def test_choices(capsys) -> None:
    """Unknown options and choices are refused, and so are options without their value."""
    draw = random.Random("choices")
    for command in ("sample", "optimize", "evaluate", "export", "data"):
        for word in (f"--{noise(draw)}" for _ in range(5 * TIMES)):
            refused(capsys, command, [*positionals(command), word])
    for command, further in (
        ("optimize", ["--method=best"]),
        ("optimize", ["--method"]),
        ("evaluate", ["--schedules", "best"]),
        ("evaluate", ["--schedules"]),
        ("evaluate", ["--num-steps"]),
        ("evaluate", ["--language-model=gpt2"]),
        ("export", ["--dtype=int8"]),
        ("export", []),
        ("data", ["mp3"]),
        ("sample", ["--infill", "1"]),
        ("sample", ["--prompt=1", "--infill", "1", "2"]),
    ):
        start = [CHECKPOINT] if command == "export" else positionals(command)
        refused(capsys, command, [*start, *further])


CONFIGS = (
    {"data.init_args.vocab_size": 0},
    {"data.init_args.length": "long"},
    {"data.class_path": "CountUp"},
    {"data": "nothing.at.all"},
    {"model.kernel": "Absorbin"},
    {"model.kernel": {"class_path": "Uniform", "init_args": {"vocab_size": -1, "speed": 2}}},
    {"model.warmup_steps": -1},
    {"model.backbone.init_args.num_heads": 7},
    {"model.optimizer.class_path": "Adamant"},
    {"trainer.max_epochs": "many"},
    {"trainer.devices": -7},
    {"trainer.accelerator": "abacus"},
    {"trainer.precision": "3-bit"},
    {"trainer.limit_train_batches": -3},
    {"trainer.callbacks": "Nothing"},
    {"schedule.num_steps": [0]},
    {"schedule.num_steps": "x"},
    {"samples.num_samples": -4},
    {"ema.decay": 7},
    {"unknown": 1},
)


@pytest.mark.parametrize("change", CONFIGS, ids=str)
def test_configurations(change: dict, capsys, tmp_path: Path) -> None:
    """A configuration with a wrong name or value is refused in one line that says which."""
    config = yaml.safe_load((ROOT / "configs" / "countdown.yaml").read_text())
    for key, value in change.items():
        *folders, last = key.split(".")
        inner = config
        for folder in folders:
            inner = inner.setdefault(folder, {})
        inner[last] = value
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    line = refused(capsys, "train", ["fit", f"--config={path}"])
    assert "Union subtypes" not in line
    assert next(iter(change)).split(".")[-1].rstrip("s") in line or "class_path" in str(change)


def test_configuration_files(capsys, tmp_path: Path) -> None:
    """A file that is no configuration is refused."""
    path = tmp_path / "config.yaml"
    for content in (b"[1, 2", b"- 1", b"a: b: c", b"\xff\xfe\x00", b"1"):
        path.write_bytes(content)
        refused(capsys, "train", ["fit", f"--config={path}"])
    for name in ("countdwn", "", "\0", str(tmp_path), "a" * 5000):
        refused(capsys, "train", ["fit", f"--config={name}"])
