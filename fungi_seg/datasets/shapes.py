"""Outlines and run lengths to pixels, by the arithmetic of pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as coco_mask

BEYOND = 1.0  # pixels that an outline may reach over the image's border; it is clipped there
LEAST_POINTS = 3

RunLengths = dict[str, Any]  # {"size": [height, width], "counts": bytes}, as pycocotools has it


def outline_fault(points: np.ndarray, size: tuple[int, int]) -> str | None:
    """Why an outline can't be filled, or nothing.

    Args:
        points: `[P, 2]` float x and y in pixels, from the image's top left corner.
        size: `(height, width)` of the image.
    """
    if len(points) < LEAST_POINTS:
        return f"the outline has {len(points)} points; it must have {LEAST_POINTS} or more"
    if not np.isfinite(points).all():
        return "the outline has coordinates that are no numbers"
    beyond = max(float((points - (size[1], size[0])).max()), float(-points.min()))
    if beyond > BEYOND:
        return (
            f"the outline reaches {beyond:.1f} pixels outside the image, which is {size[0]}×{size[1]} (height×width); "
            f"it was drawn on an image of another size, or must be clipped"
        )
    return None


def crosses_itself(points: np.ndarray) -> bool:
    """Whether an outline, `[P, 2]` of three points or more, crosses or touches itself."""
    return not shapely.is_simple(shapely.linearrings(points))


def filled(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> RunLengths:
    """The pixels within any of the outlines, `[P, 2]` each, of an image of `size` `(height, width)`."""
    flat = [np.asarray(points, np.float64).ravel().tolist() for points in outlines]
    merged: RunLengths = coco_mask.merge(coco_mask.frPyObjects(flat, *size))
    return merged


def paint(canvas: np.ndarray, runs: RunLengths, value: int) -> None:
    """Set the pixels of `runs` on `[H, W]` to `value`, in place."""
    left, top, width, height = (int(v) for v in coco_mask.toBbox(runs))
    box = np.s_[top : top + height, left : left + width]
    canvas[box][coco_mask.decode(runs)[box] > 0] = value
