"""Which patches enter a memory bank of bounded size: Hummingbird's balanced sampling, as a stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungi_seg.labels import SparseLabels

SLACK = 1.25


def balanced_order(histograms: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Patches of one image that hold labelled pixels, those to keep first.

    A patch's score is the sum, over its classes, of how many patches of the image hold that class, times U(0, 1); the
    smallest win, so rare classes are kept (Hummingbird, Balažević et al. 2023, appendix on memory sampling).

    Args:
        histograms: `[N, C]` pixel counts.
        generator: source of the uniform numbers, one drawn for every patch.

    Returns:
        `[n]` patch indices, n ≤ N, by rising score.
    """
    holds = np.greater(histograms, 0)
    scores = (holds * holds.sum(0)).sum(1) * generator.random(len(holds))
    order = np.argsort(scores, kind="stable")
    return order[holds.any(1)[order]]


@dataclass
class Rows:
    """Rows of a memory bank, or candidates for one.

    Attributes:
        keys: `[M, D]` float16 L2-normalised features.
        labels: their class distributions.
        source: `[M]` int32 index of the image each row came from.
        epoch: `[M]` int16 augmentation epoch.
        box: `[M, 4]` float32 `x0, y0, x1, y1` of the patch in pixels of its image.
    """

    keys: np.ndarray
    labels: SparseLabels
    source: np.ndarray
    epoch: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, rows: np.ndarray) -> Rows:
        """These rows alone, in that order."""
        return Rows(self.keys[rows], self.labels.take(rows), self.source[rows], self.epoch[rows], self.box[rows])

    @classmethod
    def concatenate(cls, parts: list[Rows]) -> Rows:
        """The rows of several parts, one after another."""
        return cls(
            np.concatenate([part.keys for part in parts]),
            SparseLabels.concatenate([part.labels for part in parts]),
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.epoch for part in parts]),
            np.concatenate([part.box for part in parts]),
        )


class BalancedReservoir:
    """Keeps at most `size` rows of a stream of images, the same number of each as far as it has that many.

    A patch's priority is its rank within its own image plus a random fraction; the `size` smallest priorities over all
    images stay. That fills exactly `min(size, available)` rows in one pass, whatever the number of images, and gives
    what images with few labelled patches leave over to the others.
    """

    def __init__(self, size: int | None):
        self.size = size
        self.available = 0
        self._limit = np.inf
        self._parts: list[Rows] = []
        self._priorities: list[np.ndarray] = []

    def choose(self, histograms: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Patches of an image that can still be kept, and their priorities; pass both to `add`."""
        order = balanced_order(histograms, generator)
        priorities = np.arange(len(order)) + generator.random(len(order))
        self.available += len(order)
        kept = priorities <= self._limit
        return order[kept], priorities[kept]

    def add(self, rows: Rows, priorities: np.ndarray) -> None:
        """Take the rows of the patches that were chosen."""
        if not len(rows):
            return
        self._parts.append(rows)
        self._priorities.append(priorities)
        if self.size is not None and sum(map(len, self._parts)) > max(self.size * SLACK, self.size + 4096):
            self._prune()

    def finish(self) -> Rows | None:
        """The rows kept, in the order of the stream; nothing if there were none."""
        if not self._parts:
            return None
        self._prune()
        return self._parts[0]

    def _prune(self) -> None:
        rows, priorities = Rows.concatenate(self._parts), np.concatenate(self._priorities)
        if self.size is not None and len(rows) > self.size:
            kept = np.sort(np.argpartition(priorities, self.size - 1)[: self.size])
            rows, priorities = rows.take(kept), priorities[kept]
            self._limit = float(priorities.max())
        self._parts, self._priorities = [rows], [priorities]
