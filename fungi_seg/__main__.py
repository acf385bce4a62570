"""`python -m fungi_seg COMMAND`: the same as `fungi-seg COMMAND`."""

import sys

from fungi_seg.cli import main

if __name__ == "__main__":
    sys.exit(main())
