"""The script that changes the code: every kind of change, and none that tests cannot see."""

import ast

import pytest


@pytest.fixture
def mutants(monkeypatch):
    """Return the script."""
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[1] / "scripts"))
    import mutants

    return mutants


def test_every_kind_of_change(mutants):
    """Signs, comparisons, constants, clamps and keyword arguments; one change at a time."""
    source = "def f(x: int = 1) -> int:\n    return max(-x + 2, g(x, k=3) < 0.5, 0.0)"
    found = {change for _, change, _ in mutants.mutants(source)}
    assert found == {
        "1  ->  3",
        "max(-x + 2, g(x, k=3) < 0.5, 0.0)  ->  -x + 2",
        "-x + 2  ->  -x - 2",
        "-x  ->  x",
        "2  ->  5",
        "g(x, k=3) < 0.5  ->  g(x, k=3) <= 0.5",
        "g(x, k=3)  ->  g(x)",
        "3  ->  7",
        "0.5  ->  0.75",
        "0.0  ->  0.5",
    }
    for _, _, text in mutants.mutants(source):
        assert text != ast.unparse(ast.parse(source))


def test_errors_and_annotations_stay(mutants):
    """What is said when something is refused, and types, are no law."""
    source = 'x: Float[Tensor, 3]\nraise ValueError(f"{x + 1}")'
    assert list(mutants.mutants(source)) == []


def test_survivors_are_listed(mutants, tmp_path, monkeypatch, capsys):
    """A change that no test sees is printed, one that a test sees is not."""
    for folder in ("ddm", "tests", "callbacks", "datamodules"):
        (tmp_path / folder).mkdir()
    (tmp_path / "ddm" / "functional.py").write_text("SEEN = 1\nUNSEEN = 1\n")
    test = "from ddm.functional import SEEN\n\n\ndef test():\n    assert SEEN == 1\n"
    (tmp_path / "tests" / "test_functional.py").write_text(test)
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    monkeypatch.setattr(mutants, "survives", _imports(mutants))
    assert mutants.main(["ddm/functional.py"]) == {"ddm/functional.py": ["2: 1  ->  3"]}
    assert "1 of 2 mutants survive" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        mutants.main(["README.md"])


def _imports(mutants):
    def survives(folder, tests, timeout):
        assert tests == ["tests/test_functional.py"]
        names = {}
        exec((folder / "ddm" / "functional.py").read_text(), names)
        return names["SEEN"] == 1

    return survives
