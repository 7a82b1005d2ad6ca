"""`ddm export` in a checkout; the code is in ddm/commands/export.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["export", *sys.argv[1:]])
