"""`ddm train` in a checkout; the code is in ddm/commands/train.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
