"""Build a memory bank: `python tools/build_bank.py [configs/RECIPE.yaml] [options]`, as fungi-seg does."""

import sys

from fungi_seg.cli import build, tool

if __name__ == "__main__":
    sys.exit(tool(build))
