"""A round of `make soak`: kills and full disks at random, then a comparison."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "soak.py"


@pytest.mark.slow
def test_one_round():
    """A disturbed training ends as the undisturbed one, and two evaluations lose no cell."""
    done = subprocess.run([sys.executable, SCRIPT, "0"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 rounds, 0 broken" in done.stdout
