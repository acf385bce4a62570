"""Confusion matrix over a whole data set, and what is read off it."""

from __future__ import annotations

import numpy as np
import torch

from fungi_seg.images import VOID


class ConfusionMatrix:
    """Pixel counts over any number of images.

    Args:
        classes: `C`.
    """

    def __init__(self, classes: int):
        from torchmetrics.classification import MulticlassConfusionMatrix  # a second of imports

        self._metric = MulticlassConfusionMatrix(classes, ignore_index=VOID, validate_args=False)
        self._total = np.zeros((classes, classes), np.int64)

    def add(self, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image: `[H, W]` class indices each, void (−1) in the truth left out."""
        counts = self._metric(torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64)))
        self._metric.reset()
        self._total += counts.numpy()

    @property
    def counts(self) -> np.ndarray:
        """`[C, C]` int64, rows the truth, columns the prediction."""
        return self._total


def intersection_over_union(counts: np.ndarray) -> np.ndarray:
    """`[C]` IoU of each class in 0..1; NaN where neither truth nor prediction has a pixel of it."""
    hits = np.diag(counts).astype(np.float64)
    union = counts.sum(0) + counts.sum(1) - hits
    return np.divide(hits, union, out=np.full(len(counts), np.nan), where=union > 0)


def mean_iou(counts: np.ndarray, absent: str = "skip") -> float:
    """mIoU in 0..1.

    Args:
        counts: `[C, C]`, rows the truth.
        absent: classes without a pixel in the truth are left out (`skip`), or count as `zero`, as in some published
            code.
    """
    iou = np.nan_to_num(intersection_over_union(counts))
    present = counts.sum(1) > 0
    if absent == "zero":
        return float(iou.mean())
    return float(iou[present].mean()) if present.any() else float("nan")


def match_classes(counts: np.ndarray) -> np.ndarray:
    """Rename predicted classes, one to one, so that the sum of IoUs is largest (Hungarian matching).

    Args:
        counts: `[C, C]`, rows the truth.

    Returns:
        `[C, C]` with its columns rearranged.
    """
    from scipy.optimize import linear_sum_assignment

    hits = counts.astype(np.float64)
    union = counts.sum(1, keepdims=True) + counts.sum(0, keepdims=True) - hits
    iou = np.divide(hits, union, out=np.zeros_like(hits), where=union > 0)
    _, predicted = linear_sum_assignment(iou, maximize=True)
    return counts[:, predicted]
