"""Wrong calls of the Python API."""

import subprocess
import sys
from pathlib import Path


def test_wrong_calls():
    """Wrong calls of the Python API are refused by name: none is accepted, none fails elsewhere.

    In a process of its own, for the suite enforces types by itself.
    """
    script = Path(__file__).with_name("wrong_calls.py")
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *wrong, last = done.stdout.splitlines()
    assert not wrong, "\n".join(wrong)
    assert int(last.split()[0]) > 400
