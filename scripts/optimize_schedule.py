"""`ddm optimize` in a checkout; the code is in ddm/commands/optimize.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.optimize import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["optimize", *sys.argv[1:]])
