"""`ddm optimize` in a checkout; the code is in ddm/commands/optimize.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["optimize", *sys.argv[1:]])
