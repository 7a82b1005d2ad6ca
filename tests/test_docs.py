"""README and docs: what a reader copies has to run."""

import re
import shlex
from pathlib import Path

import pytest

from ddm.commands import COMMANDS, parsers

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list[tuple[str, str]]:
    """Return (id, code) of every fenced block of a language in the pages."""
    found = []
    for page in PAGES:
        codes = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)
        found += [(f"{page.name}-{i}", code) for i, code in enumerate(codes)]
    return found


@pytest.mark.filterwarnings("ignore:The .* does not have many workers")
@pytest.mark.parametrize("code", [pytest.param(c, id=i) for i, c in blocks("python")])
def test_python_blocks_run(code, tmp_path, monkeypatch):
    """Every Python block runs by itself, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "block", "exec"), {"__name__": "block"})


@pytest.mark.parametrize("code", [pytest.param(c, id=i) for i, c in blocks("(?:ba)?sh")])
def test_shell_blocks_name_what_exists(code):
    """Every make target, script and configuration in a shell block exists."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        if "make" in words:
            assert words[words.index("make") + 1] in targets, line
        for word in words:
            if word.startswith(("scripts/", "configs/")):
                assert (ROOT / word).exists(), line
        for name in re.findall(r"--config (\w+)(?![\w/.])", line):
            assert (ROOT / "configs" / f"{name}.yaml").exists(), line


def test_pages_link_to_what_exists():
    """Every relative link of a page leads somewhere."""
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_options_of_shell_blocks_exist(tmp_path, monkeypatch):
    """Every `--option` that a block passes to a command is known to it, by `ddm` or by script."""
    scripts = {
        "optimize_schedule": "optimize",
        "export_checkpoint": "export",
        "prepare_data": "data",
    }
    (tmp_path / "CHECKPOINT").touch()
    monkeypatch.chdir(tmp_path)
    for _, code in blocks("(?:ba)?sh"):
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            for index, word in enumerate(words[:-1]):
                name = Path(word).stem if word.startswith("scripts/") else None
                name = words[index + 1] if word == "ddm" else scripts.get(name, name)
                if name in COMMANDS and name != "train":
                    getattr(parsers, name)().parse_args(
                        words[index + (2 if word == "ddm" else 1) :]
                    )
