"""The same as `fungi-seg build`: `python tools/build_bank.py [configs/RECIPE.yaml] [options]`."""

import sys

from fungi_seg.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
