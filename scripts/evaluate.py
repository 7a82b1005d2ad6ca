"""`ddm evaluate` in a checkout; the code is in ddm/commands/evaluate.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.evaluate import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["evaluate", *sys.argv[1:]])
