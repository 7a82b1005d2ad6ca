"""Set-up of the test session."""

import random

import numpy as np
import pytest
import torch

# Before anything imports Lightning or torchmetrics: see ddm/_torchvision.py.
import ddm  # noqa: F401


def pytest_runtest_setup():
    """Start every test, its fixtures included, from the same seed, whatever ran before it.

    Which tests a process is given depends on how fast the others are, so on the machine's load.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


@pytest.fixture
def benchmarks(tmp_path, monkeypatch):
    """Return the folder that the benchmarks write to meanwhile."""
    import _report

    monkeypatch.setattr(_report, "RESULTS", tmp_path)
    return tmp_path
