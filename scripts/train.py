"""`ddm train` in a checkout; the code is in ddm/commands/train.py."""

import sys

from ddm.__main__ import main as ddm
from ddm.commands.train import main

__all__ = ["main"]

if __name__ == "__main__":
    ddm(["train", *sys.argv[1:]])
