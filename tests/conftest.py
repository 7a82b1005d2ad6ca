"""Set-up of the test session."""

import pytest

# Before anything imports Lightning or torchmetrics: see ddm/_torchvision.py.
import ddm  # noqa: F401


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Return the folder that the benchmarks write to meanwhile."""
    import _report

    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    return tmp_path
