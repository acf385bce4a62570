"""Label maps as run lengths, row by row: how the page and the server send them to each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fungi_seg.errors import FungiSegError

MOST_VALUES = 2**15  # class indices that a label map can hold


def to_runs(labels: np.ndarray) -> list[int]:
    """`[h, w]` integers to `value, count, value, count, …`, row by row."""
    flat = labels.ravel()
    starts = np.flatnonzero(np.diff(flat, prepend=flat[:1] - 1 if flat.size else 0))
    counts = np.diff(starts, append=flat.size)
    return np.stack([flat[starts].astype(np.int64), counts], axis=1).ravel().tolist()


def as_json(labels: np.ndarray) -> dict[str, Any]:
    """A label map with its size, `{"width", "height", "runs"}`."""
    return {"width": labels.shape[1], "height": labels.shape[0], "runs": to_runs(labels)}


def from_runs(runs: Sequence[int], size: tuple[int, int], classes: int) -> np.ndarray:
    """What `to_runs` gave as `[h, w]` int16, of `size` `(h, w)`.

    Raises:
        FungiSegError: counts that don't fill the size, or values beyond −1 (unlabelled) and `classes` indices.
    """
    pairs = np.asarray(runs, np.int64)
    if pairs.ndim != 1 or len(pairs) % 2:
        raise FungiSegError(f"runs are {len(runs)} numbers; they must be pairs of a value and a count")
    values, counts = pairs[::2], pairs[1::2]
    if (counts < 1).any() or counts.sum() != size[0] * size[1]:
        raise FungiSegError(
            f"runs count {int(counts.sum())} pixels; they must fill {size[1]}×{size[0]} (width×height), each with 1 or "
            f"more"
        )
    if len(values) and (values.min() < -1 or values.max() >= classes):
        wrong = values[(values < -1) | (values >= classes)][0]
        raise FungiSegError(f"runs hold {wrong}; values are −1 (unlabelled) or one of the {classes} class indices")
    return np.repeat(values.astype(np.int16), counts).reshape(size)
