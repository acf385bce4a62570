"""Masks to class histograms per patch, and their sparse encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungi_seg.images import VOID

FULL = 255


def patch_histograms(mask: np.ndarray, patch: tuple[int, int], classes: int) -> np.ndarray:
    """How many pixels of each class every patch holds; void pixels count for none.

    Args:
        mask: `[H, W]` integer class indices, void −1, sides multiples of the patch.
        patch: `(height, width)` in pixels.
        classes: `C`.

    Returns:
        `[N, C]` int64, patches row-major.
    """
    height, width = mask.shape[0] // patch[0], mask.shape[1] // patch[1]
    index = np.arange(height).repeat(patch[0])[:, None] * width + np.arange(width).repeat(patch[1])[None]
    seen = mask != VOID
    cells = index[seen] * classes + mask[seen]
    return np.bincount(cells, minlength=height * width * classes).reshape(-1, classes)


@dataclass(frozen=True)
class SparseLabels:
    """A class distribution for each of `M` rows, in compressed sparse rows.

    Attributes:
        offsets: `[M + 1]` int64; entries of row `i` are `offsets[i]:offsets[i + 1]`.
        ids: `[E]` uint8 or uint16 class indices.
        weights: `[E]` uint8 above 0; those of a row sum to 255.
    """

    offsets: np.ndarray
    ids: np.ndarray
    weights: np.ndarray

    @classmethod
    def from_histograms(cls, histograms: np.ndarray) -> SparseLabels:
        """Encode `[M, C]` counts, each row with at least one pixel."""
        shares = histograms * (FULL / histograms.sum(1, keepdims=True))
        weights = np.floor(shares).astype(np.int64)
        lacking = FULL - weights.sum(1, keepdims=True)
        order = np.argsort(weights - shares, axis=1, kind="stable")  # largest remainders first
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
        weights += ranks < lacking
        rows, ids = np.nonzero(weights)
        offsets = np.concatenate([[0], np.bincount(rows, minlength=len(weights)).cumsum()])
        kind = np.uint8 if histograms.shape[1] <= 256 else np.uint16
        return cls(offsets.astype(np.int64), ids.astype(kind), weights[rows, ids].astype(np.uint8))

    @classmethod
    def concatenate(cls, parts: list[SparseLabels]) -> SparseLabels:
        """The rows of several encodings, one after another."""
        starts = np.cumsum([0] + [len(part.ids) for part in parts])
        offsets = [part.offsets[:-1] + start for part, start in zip(parts, starts[:-1], strict=True)]
        return cls(
            np.concatenate([*offsets, starts[-1:]]).astype(np.int64),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For `rows` `[R]`: which of them each entry belongs to (`0..R−1`), and the entry's index."""
        counts = self.offsets[rows + 1] - self.offsets[rows]
        owner = np.repeat(np.arange(len(rows)), counts)
        within = np.arange(len(owner)) - np.repeat(counts.cumsum() - counts, counts)
        return owner, self.offsets[rows][owner] + within

    def take(self, rows: np.ndarray) -> SparseLabels:
        """The encoding of `rows` alone, in that order."""
        _, entries = self.entries(rows)
        counts = self.offsets[rows + 1] - self.offsets[rows]
        offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int64)
        return SparseLabels(offsets, self.ids[entries], self.weights[entries])

    def dense(self, classes: int) -> np.ndarray:
        """`[M, C]` float32 distributions, each summing to 1."""
        out = np.zeros((len(self), classes), np.float32)
        owner, entries = self.entries(np.arange(len(self)))
        out[owner, self.ids[entries]] = self.weights[entries] / FULL
        return out
