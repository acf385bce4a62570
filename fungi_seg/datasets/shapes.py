"""Outlines and run lengths to pixels, by the arithmetic of pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from pycocotools import mask as coco_mask

from fungi_seg.errors import DataError
from fungi_seg.images import unpack

BEYOND = 1.0  # pixels that an outline may reach over the image's border; it is clipped there
LEAST_POINTS = 3
LARGEST = 2**32  # no run is that long

RunLengths = dict[str, Any]  # {"size": [height, width], "counts": bytes}, as pycocotools has it


def whole(value: Any) -> int | None:
    """A whole number of a JSON file that can be an id, `3.0` too, which pandas writes; nothing for all else."""
    number = int(value) if type(value) is float and value.is_integer() else value
    return number if type(number) is int and abs(number) < 2**63 else None


def outline_fault(points: np.ndarray, size: tuple[int, int] | None, reach: float = BEYOND) -> str | None:
    """Why an outline can't be filled, or nothing.

    Args:
        points: `[P, 2]` float x and y in pixels, from the image's top left corner.
        size: `(height, width)` of the image; none where it isn't known.
        reach: pixels that it may lie over the image's border.
    """
    if len(points) < LEAST_POINTS:
        return f"the outline has {len(points)} points; it must have {LEAST_POINTS} or more"
    if not np.isfinite(points).all():
        return "the outline has coordinates that are no numbers"
    if size is None:
        return None
    beyond = max(float((points - (size[1], size[0])).max()), float(-points.min()))
    if beyond > reach:
        return (
            f"the outline reaches {beyond:.1f} pixels outside the image, which is {size[0]}×{size[1]} (height×width); "
            f"it was drawn on an image of another size, or must be clipped"
        )
    return None


def crosses_itself(points: np.ndarray) -> bool:
    """Whether an outline, `[P, 2]` of three points or more, crosses or touches itself."""
    return bool(crossing(points, np.zeros(len(points), np.int64))[0])


def crossing(points: np.ndarray, outline: np.ndarray) -> np.ndarray:
    """Which of many outlines cross or touch themselves, `[O]` bool.

    Args:
        points: `[P, 2]` float, outline after outline, three or more each.
        outline: `[P]` the outline that each point belongs to: 0, 0, 0, 1, ….
    """
    found: np.ndarray = ~shapely.is_simple(shapely.linearrings(points, indices=outline))
    return found


def filled(outlines: Sequence[np.ndarray], size: tuple[int, int]) -> RunLengths:
    """The pixels within any of the outlines, `[P, 2]` each, of an image of `size` `(height, width)`."""
    flat = [np.asarray(points, np.float64).ravel().tolist() for points in outlines]
    merged: RunLengths = coco_mask.merge(coco_mask.frPyObjects(flat, *size))
    return merged


def run_counts(counts: bytes | str | Sequence[int]) -> np.ndarray:
    """Lengths of the runs of zeros and ones in turn, column by column: `[R]` int64, zeros first.

    Args:
        counts: a list of lengths, or the text that COCO's tools make of it.

    Raises:
        DataError: not a list of whole numbers, or a broken text.
    """
    if isinstance(counts, bytes | str):
        try:
            return unpack(counts)
        except ValueError as error:
            raise DataError(str(error)) from error
    numbers = [whole(count) for count in counts] if isinstance(counts, Sequence) else [None]
    if not all(number is not None and 0 <= number < LARGEST for number in numbers):
        raise DataError("the run lengths (counts) must be a text, or a list of whole numbers from 0")
    return np.array(numbers, np.int64)


def runs_fault(runs: Any, size: tuple[int, int] | None) -> str | None:
    """Why run lengths, COCO's `{"size": [height, width], "counts": list or text}`, can't be read, or nothing.

    Args:
        runs: as it stands in a JSON file.
        size: `(height, width)` of the image; none where it isn't known.
    """
    written = runs.get("size") if isinstance(runs, dict) else None
    own = [whole(side) or 0 for side in written] if isinstance(written, list | tuple) else []
    if len(own) != 2 or min(own) <= 0:
        return "the run lengths must have a size, [height, width], and counts"
    if size is not None and tuple(own) != tuple(size):
        return f"the run lengths are of {own[0]}×{own[1]} pixels (height×width), the image is {size[0]}×{size[1]}"
    try:
        counts = run_counts(runs.get("counts"))
    except DataError as error:
        return str(error)
    if len(counts) and counts.min() < 0:
        return "the run lengths (counts) hold a negative one"
    if int(counts.sum()) != own[0] * own[1]:
        return f"the run lengths add up to {int(counts.sum())}, not to {own[0]}×{own[1]} pixels (height×width)"
    return None


def area(runs: RunLengths) -> int:
    """How many pixels `runs` holds."""
    return int(run_counts(runs["counts"])[1::2].sum())


def paint(canvas: np.ndarray, runs: RunLengths, value: int) -> None:
    """Set the pixels of `runs` on `[H, W]` to `value`, in place; only the columns that have some are touched."""
    ends = run_counts(runs["counts"]).cumsum()
    if len(ends) < 2:
        return
    height = canvas.shape[0]
    left, right = int(ends[0]) // height, -(-int(ends[1::2][-1]) // height)
    lengths = np.diff(ends.clip(left * height, right * height), prepend=left * height)
    inside = np.repeat(np.arange(len(ends)) % 2 == 1, lengths)
    np.copyto(canvas[:, left:right], value, where=inside.reshape(right - left, height).T)
