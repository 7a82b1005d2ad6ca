"""`ddm sample` in a checkout; the code is in ddm/commands/sample.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["sample", *sys.argv[1:]])
