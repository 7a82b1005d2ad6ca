"""`ddm sample` in a checkout; the code is in ddm/commands/sample.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.sample import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["sample", *sys.argv[1:]])
