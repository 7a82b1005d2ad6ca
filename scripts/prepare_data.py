"""`ddm data` in a checkout; the code is in ddm/commands/data.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.data import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["data", *sys.argv[1:]])
