"""Progress: a bar where it can be redrawn, few lines where it cannot."""

import sys

from ddm import progress


def test_a_log_has_lines(capsys, monkeypatch):
    """Every state is a line of its own, the last one is the end, and nothing returns."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    assert list(progress.progress_bar([1, 2, 3], "counts")) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert "\r" not in shown
    lines = shown.splitlines()
    assert [line[:12] for line in lines[:2]] == ["counts:   0%", "counts:  33%"]
    assert all(line == line.strip() != "" for line in lines)
    assert "3/3" in lines[-1]


def test_short_work_is_not_in_the_log(capsys):
    """Whatever a caller says of when to show a bar, and whether it stays."""
    for settings in ({}, {"leave": False}, {"delay": 0}, {"disable": True}):
        assert list(progress.progress_bar(range(1000), **settings)) == list(range(1000))
    assert capsys.readouterr().err == ""


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    """It is drawn at once, and over itself."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress.progress_bar(total=2, desc="steps") as bar:
        bar.update(2)
    shown = capsys.readouterr().err
    assert shown.startswith("\rsteps:   0%")
    assert shown.count("\n") == 1
