"""Set-up of the test session."""

from pathlib import Path

import pytest

# Before anything imports Lightning or torchmetrics: see ddm/_torchvision.py.
import ddm  # noqa: F401

BENCHMARKS = Path(__file__).resolve().parents[1] / "scripts" / "benchmarks"


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Make the folder of the benchmarks importable, as it is for each of them.

    Returns the folder that they write to meanwhile.
    """
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _report

    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    return tmp_path
