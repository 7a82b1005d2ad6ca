"""`ddm demo` in a checkout; the code is in ddm/commands/demo.py."""

import sys

from ddm.__main__ import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])
