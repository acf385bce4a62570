"""The same as `fungi-seg segment`: `python tools/segment.py [configs/RECIPE.yaml] [options]`."""

import sys

from fungi_seg.cli import main

if __name__ == "__main__":
    sys.exit(main(["segment", *sys.argv[1:]]))
