"""What `pip install` gives: the packages that the folders promise, and imports that work."""

import contextlib
import importlib
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
from importlib.metadata import version
from pathlib import Path

import pytest

from ddm.__main__ import main
from ddm.commands import COMMANDS

ROOT = Path(__file__).parents[1]
NAME = "discrete-diffusion"
FOLDERS = {"ddm": "ddm", "ddm.callbacks": "callbacks", "ddm.datamodules": "datamodules"}


def packages() -> list[str]:
    """Every folder with Python files, as the package it is installed as."""
    return sorted(
        ".".join([package, *path.parent.relative_to(ROOT / folder).parts])
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("__init__.py")
    )


@pytest.mark.parametrize("package", packages())
def test_folder_is_installed(package: str) -> None:
    """Every package of the checkout can be imported by its installed name."""
    assert importlib.import_module(package).__name__ == package


@pytest.mark.parametrize("folder", FOLDERS.values())
def test_folder_is_a_package(folder: str) -> None:
    """A folder of modules has an `__init__.py`; without one, wheels would leave it out silently."""
    missing = [
        str(path.parent.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        if not (path.parent / "__init__.py").exists()
    ]
    assert not missing


TOOLS = {"gallery", "mutants", "sglang_counts", "soak"}  # no commands
SCRIPTS = [path for path in sorted((ROOT / "scripts").glob("*.py")) if path.stem not in TOOLS]
SLOW = "jsonargparse lightning matplotlib pretty_midi scipy sklearn torchmetrics torchvision"


def test_import_brings_no_slow_package() -> None:
    """`import ddm` waits for torch and nothing else that takes long."""
    code = f"import sys, ddm; print([name for name in {SLOW.split()} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.strip() == "[]"


def test_data_without_torchvision() -> None:
    """Without torchvision only the images that it fetches are missing, and say what to install."""
    code = (
        "import sys, ddm.datamodules\n"
        "sys.modules['torchvision'] = None\n"  # from now on as if it were not installed
        "assert len(ddm.datamodules.Images('digits').train_tokens) > 0\n"
        "try: ddm.datamodules.Images('cifar10').train_tokens\n"
        "except ValueError as error: print(error)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "pip install 'discrete-diffusion[images]'" in run.stdout


def test_lightning_after_ddm() -> None:
    """In a fresh interpreter `ddm` makes torchvision and what imports it importable.

    Beside a CPU build of torch each of these imports fails on its own (see `ddm/_torchvision.py`).
    """
    code = "import ddm, lightning, torchmetrics, torchvision.datasets, torchvision.utils"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.stem)
def test_script_is_a_command(script: Path, monkeypatch) -> None:
    """Each script runs the command of the package, arguments and all."""
    command = re.search(r'ddm\(\["(\w+)"', script.read_text())[1]
    monkeypatch.setattr(sys, "argv", [str(script), "--this"])
    seen = []
    monkeypatch.setattr("ddm.__main__.main", seen.append)
    runpy.run_path(str(script), run_name="__main__")
    assert command in COMMANDS
    assert seen == [[command, "--this"]]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_a_command(command: str, capsys) -> None:
    """Every command explains itself, whether it is called by `ddm` or by its own function."""
    with contextlib.suppress(SystemExit):
        main([command, "--help"])
    assert f"usage: ddm {command}" in capsys.readouterr().out


def test_command_line(capsys) -> None:
    """`ddm --help` lists the commands, `ddm --version` is that of the distribution."""
    for argument, expected in (("--help", [*COMMANDS]), ("--version", [version(NAME)])):
        with pytest.raises(SystemExit) as error:
            main([argument])
        assert error.value.code == 0
        printed = capsys.readouterr().out
        assert all(word in printed for word in expected)
    with pytest.raises(SystemExit) as error:
        main(["smaple"])
    assert error.value.code == 2
    assert "invalid choice: 'smaple'" in capsys.readouterr().err


def test_citation_is_of_this_version() -> None:
    """CITATION.cff names the version that is installed, and its date in CHANGELOG.md."""
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version(NAME)}\n" in citation
    date = citation.partition("\ndate-released: ")[2][:10]
    assert f"\n## [{version(NAME)}] - {date}\n" in (ROOT / "CHANGELOG.md").read_text()


def test_help_does_not_wait_for_lightning() -> None:
    """`ddm --help` and the help of commands without Lightning's own parser import little."""
    code = (
        "import sys; from ddm.__main__ import main\n"
        "for name in ('train', 'evaluate'): main([name, '--help'])\n"
        f"print([name for name in {SLOW.split()} if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert run.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns(".*", "runs", "build", "data", "*.egg-info", "__pycache__")
    copy = shutil.copytree(ROOT, folder / "copy", symlinks=True, ignore=ignored)
    for kind in ("sdist", "wheel"):
        code = f"from setuptools import build_meta; build_meta.build_{kind}({str(folder)!r})"
        subprocess.run([sys.executable, "-c", code], cwd=copy, check=True, capture_output=True)
    return folder


@pytest.mark.slow
def test_wheel(built: Path, tmp_path: Path) -> None:
    """In an empty environment the wheel has its command, a model by name and the demo."""
    (wheel,) = built.glob("*.whl")
    assert wheel.stat().st_size < 15e6
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    install = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index"]
    subprocess.run([sys.executable, *install, str(wheel)], check=True, capture_output=True)
    (own,) = (tmp_path / "venv" / "lib").glob("python*/site-packages")
    # What ddm needs is borrowed from the environment of the tests, without its editable ddm.
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    def run(*words: str) -> str:
        command = [str(python.parent / words[0]), *words[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("python", "-c", "import ddm; print(ddm.__file__)").startswith(str(own))
    assert run("ddm", "--version").strip() == version(NAME)
    run("python", "-m", "ddm", "sample", "digits", "--num-steps=2", "--num-samples=4", "--out=out")
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".png", ".npz"}
    small = [
        "--data.num_samples=128",
        "--data.num_val=64",
        "--data.length=16",
        "--data.vocab_size=5",
    ]
    small += ["--model.backbone.depth=1", "--trainer.max_epochs=1", "--num-samples=16"]
    assert "runs/demo" in run("ddm", "demo", *small)


@pytest.mark.slow
def test_sdist(built: Path, tmp_path: Path) -> None:
    """The tests of the sdist are all there, and find what they need."""
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as package:
        package.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "pytest", "--collect-only", "--quiet", "--quiet"]
    found = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    assert {path.name for path in (folder / "tests").glob("*.py")} == {
        path.name for path in (ROOT / "tests").glob("*.py")
    }
