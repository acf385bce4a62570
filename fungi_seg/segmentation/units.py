"""What is left out together when settings are tried on a bank's own rows: an image, or a block of a large one."""

from __future__ import annotations

import numpy as np

from fungi_seg.bank import MemoryBank

FEWEST = 5  # units that something can be learnt from
BLOCKS = 16  # that the images are cut into, about, where they are fewer
BLOCK_SIDE = 32  # patches along a block's side, at least: most of what lies in it has no neighbour outside
LARGE_SIDE = 128  # patches along a large image's longer side, at least


def units_of(bank: MemoryBank) -> tuple[np.ndarray, bool]:
    """Which unit each row is of, and whether they are blocks.

    An image is one, but of few large images each block is: rows of other blocks are no near-copies of its own.

    Returns:
        `[M]` integers that rise with the image, and whether an image is of several.
    """
    source = np.asarray(bank.rows.source).astype(np.int64)
    images = np.unique(source)
    if len(images) >= FEWEST:
        return source, False
    per_side = max(2, int(np.ceil(np.sqrt(BLOCKS / len(images)))))
    unit = source * per_side**2
    for image in images:
        rows = np.flatnonzero(source == image)
        box = np.asarray(bank.rows.box[rows], np.float64)
        side = np.median(box[:, 2:] - box[:, :2], axis=0)
        middle = (box[:, :2] + box[:, 2:]) / 2 - box[:, :2].min(0)
        extent = box[:, 2:].max(0) - box[:, :2].min(0)
        patches = extent / side
        if patches.max() < LARGE_SIDE:
            continue
        count = np.minimum(patches / BLOCK_SIDE, per_side).astype(np.int64).clip(1)
        column, row = np.minimum(middle * count / extent, count - 1).astype(np.int64).T
        unit[rows] += row * per_side + column
    return unit, len(np.unique(unit)) > len(images)
