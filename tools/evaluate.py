"""The same as `fungi-seg evaluate`: `python tools/evaluate.py [configs/RECIPE.yaml] [options]`."""

import sys

from fungi_seg.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
