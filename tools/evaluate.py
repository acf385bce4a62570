"""Evaluate a memory bank: `python tools/evaluate.py [configs/RECIPE.yaml] [options]`, as fungi-seg does."""

import sys

from fungi_seg.cli import evaluate, tool

if __name__ == "__main__":
    sys.exit(tool(evaluate))
