"""Confusion matrix over a whole data set, and what is read off it."""

from __future__ import annotations

import numpy as np

from fungi_seg.errors import FungiSegError
from fungi_seg.images import VOID


class ConfusionMatrix:
    """Pixel counts over any number of images.

    Args:
        classes: `C`.
    """

    def __init__(self, classes: int):
        self._total = np.zeros((classes, classes + 1), np.int64)  # the last column stands for no class

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        """Count one image, as `confusion` does, and give its counts."""
        counts = confusion(truth, prediction, len(self._total))
        self._total += counts
        return counts

    @property
    def counts(self) -> np.ndarray:
        """`[C, C]` int64, rows the truth, columns the prediction; void in predictions makes one column more."""
        return named_alone(self._total)


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """`[C, C + 1]` int64 pixels of an image, rows the truth, the last column pixels without a class.

    Args:
        truth, prediction: `[H, W]` class indices; void (−1) in the truth is left out, in the prediction wrong.
        classes: `C`.

    Raises:
        FungiSegError: indices of no class.
    """
    columns = classes + 1
    labelled = truth != VOID
    wanted, named = truth[labelled].astype(np.int64), prediction[labelled].astype(np.int64)
    for what, found in (("truth", wanted), ("prediction", named)):
        if len(found) and not VOID <= found.min() <= found.max() < classes:
            raise FungiSegError(
                f"the {what} holds class indices from {found.min()} to {found.max()}; there are {classes} classes, "
                f"from 0 on, and {VOID} for none"
            )
    named[named == VOID] = classes
    return np.bincount(wanted * columns + named, minlength=classes * columns).reshape(classes, columns)


def named_alone(counts: np.ndarray) -> np.ndarray:
    """`[C, C + 1]` counts without the last column where every pixel has a class."""
    return counts if counts[:, -1].any() else counts[:, :-1]


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """`[C]` IoU of each class in 0..1; NaN where neither truth nor prediction has a pixel of it.

    Args:
        counts: `[C, C]` or `[C, C + 1]`, rows the truth.
    """
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(0)[: len(counts)] + counts.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(counts), np.nan), where=union > 0)


def counted_classes(counts: np.ndarray, absent: str = "skip") -> np.ndarray:
    """`[C]` bool which classes the mean is taken of.

    Args:
        counts: `[C, C]` or `[C, C + 1]`, rows the truth.
        absent: classes without a pixel in the truth are left out (`skip`), count as `zero`, as in some published code,
            or as zero where they were `predicted` anywhere, as in MMSegmentation.
    """
    there = {
        "skip": counts.sum(1) > 0,
        "predicted": ~np.isnan(intersection_over_union(counts)),
        "zero": np.ones(len(counts), bool),
    }
    return there[absent]


def mean_iou(counts: np.ndarray, absent: str = "skip") -> float:
    """mIoU in 0..1 of `[C, C]` or `[C, C + 1]` counts, rows the truth, over `counted_classes`."""
    iou, counted = intersection_over_union(counts), counted_classes(counts, absent)
    return float(np.nan_to_num(iou[counted]).mean()) if counted.any() else float("nan")


def matched_order(counts: np.ndarray) -> np.ndarray:
    """`[C]` which predicted class counts as each, so that the sum of IoUs is largest (Hungarian matching).

    Args:
        counts: `[C, C]` or `[C, C + 1]`, rows the truth.
    """
    from scipy.optimize import linear_sum_assignment

    named = counts[:, : len(counts)]
    hits = named.astype(np.float64)
    union = counts.sum(1, keepdims=True) + named.sum(0, keepdims=True) - hits
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    found: np.ndarray = linear_sum_assignment(iou, maximize=True)[1]
    return found


def reordered(counts: np.ndarray, order: np.ndarray) -> np.ndarray:
    """`[C, C]` or `[C, C + 1]` counts with their first `C` columns in another order, as `matched_order` finds it."""
    return np.hstack([counts[:, order], counts[:, len(counts) :]])


def pixel_counts(truth: np.ndarray, prediction: np.ndarray, classes: int) -> np.ndarray:
    """`[3, C]` int64 labelled pixels of each class: those that are right, of the truth, of the prediction."""
    matrix = ConfusionMatrix(classes)
    matrix.add(truth, prediction)
    return np.stack([np.diag(matrix.counts), matrix.counts.sum(1), matrix.counts.sum(0)])
