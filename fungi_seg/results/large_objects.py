"""The objects of a mask that isn't held as a whole, window by window."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from fungi_seg.rasters import Window
from fungi_seg.segmentation import Object, ObjectConfig, objects_of

CORE = 4096  # pixels along a window's side, in which objects begin that are counted there
MARGIN = 1024  # pixels that are seen around it: objects up to that size are seen whole

Read = Callable[[Window], np.ndarray]


def objects_in_windows(
    size: tuple[int, int], mask: Read, sure: Read | None, classes: Sequence[str], config: ObjectConfig
) -> tuple[list[Object], int]:
    """Count and measure the objects of a large mask, each in the window that the top left of its box lies in.

    Args:
        size: `(H, W)` of the mask.
        mask: gives `[h, w]` class indices of a window.
        sure: likewise the probability that each pixel has its class, if that is known.
        classes: names.
        config: which regions count.

    Returns:
        The objects, and how many of them reach beyond what is seen around their window, where they are cut off.
    """
    found: list[Object] = []
    cut = 0
    for core in _windows(size):
        top, left = max(0, core.top - MARGIN), max(0, core.left - MARGIN)
        bottom, right = min(size[0], core.top + CORE + MARGIN), min(size[1], core.left + CORE + MARGIN)
        window = Window(top, left, bottom - top, right - left)
        for one in objects_of(mask(window), classes, config, None if sure is None else sure(window)).found:
            box = one.box[0] + left, one.box[1] + top, one.box[2] + left, one.box[3] + top
            if not (0 <= box[0] - core.left < core.width and 0 <= box[1] - core.top < core.height):
                continue
            cut += (box[2] == right < size[1]) or (box[3] == bottom < size[0])
            centroid = one.centroid[0] + left, one.centroid[1] + top
            found.append(replace(one, number=len(found) + 1, centroid=centroid, box=box))
    return found, cut


def _windows(size: tuple[int, int]) -> Iterator[Window]:
    for top in range(0, size[0], CORE):
        for left in range(0, size[1], CORE):
            yield Window(top, left, min(CORE, size[0] - top), min(CORE, size[1] - left))
