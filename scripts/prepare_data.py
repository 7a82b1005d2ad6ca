"""`ddm data` in a checkout; the code is in ddm/commands/data.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["data", *sys.argv[1:]])
