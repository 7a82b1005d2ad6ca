"""`ddm demo` in a checkout; the code is in ddm/commands/demo.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.demo import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["demo", *sys.argv[1:]])
