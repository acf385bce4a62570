"""Segment images with a memory bank: `python tools/segment.py [configs/RECIPE.yaml] [options]`, as fungi-seg does."""

import sys

from fungi_seg.cli import segment, tool

if __name__ == "__main__":
    sys.exit(tool(segment))
