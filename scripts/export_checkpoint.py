"""`ddm export` in a checkout; the code is in ddm/commands/export.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.export import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["export", *sys.argv[1:]])
