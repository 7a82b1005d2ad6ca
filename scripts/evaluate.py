"""`ddm evaluate` in a checkout; the code is in ddm/commands/evaluate.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
