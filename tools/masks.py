"""What fitting on a bank gains at pixels, as a table: `python tools/masks.py --data.root DIR [options]`."""

from __future__ import annotations

import sys
from pathlib import Path

from fungi_seg.cli import tool
from fungi_seg.commands.settings import Root
from fungi_seg.errors import UsageError
from fungi_seg.evaluation import NAMES, compare_masks
from fungi_seg.features import BackboneConfig


def masks(
    data: Root = Root(),
    backbone: BackboneConfig = BackboneConfig("embedded"),
    cases: tuple[str, ...] = NAMES,
    seeds: tuple[int, ...] = (0, 1, 2),
    rows: int = 60_000,
    size: tuple[int, int] | None = None,
    json: str = "outputs/masks.json",
) -> None:
    """Hold the protocol best against native, and FUNGI against plain features; prints a table as Markdown.

    Args:
        data: folder with camvid, nuclei and voc.
        backbone: the frozen vision transformer.
        cases: data sets, by their names in compare-backbones.
        seeds: of the banks.
        rows: of each bank, at most.
        size: input size [height, width], in place of the data set's.
        json: file that keeps what was measured, so that the work can be interrupted.
    """
    if not data.root:
        raise UsageError("data.root is empty; name the folder with camvid, nuclei and voc: --data.root DIR")
    print(compare_masks(Path(data.root).expanduser(), backbone, Path(json).expanduser(), cases, seeds, rows, size))


if __name__ == "__main__":
    sys.exit(tool(masks))
