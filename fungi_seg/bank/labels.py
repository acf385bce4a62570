"""Masks to class histograms per patch, and their sparse encoding."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungi_seg.images import VOID

FULL = 255
CHUNK_ROWS = 4096


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
        missing = FULL - weights.sum(1, keepdims=True)
        order = np.argsort(weights - shares, axis=1, kind="stable")  # largest remainders first
        ranks = np.empty_like(order)
        np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
        weights += ranks < missing
        rows, ids = np.nonzero(weights)
        offsets = np.concatenate([[0], np.bincount(rows, minlength=len(weights)).cumsum()])
        kind = _id_type(histograms.shape[1])
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
        out[self._owners(), self.ids] = self.weights / FULL
        return out

    def mapped(self, places: np.ndarray, classes: int) -> SparseLabels:
        """The rows with other classes: those that fall together are added up, what is left of a row fills it again.

        Args:
            places: `[C]` new index of each class, −1 for none.
            classes: how many there are then.

        Returns:
            As many rows; those of which nothing is left have no entries.
        """
        if np.array_equal(places, np.arange(len(places))):
            return SparseLabels(self.offsets, self.ids.astype(_id_type(classes), copy=False), self.weights)
        chunks = (np.arange(i, min(i + CHUNK_ROWS, len(self))) for i in range(0, max(1, len(self)), CHUNK_ROWS))
        return SparseLabels.concatenate([self.take(rows)._mapped(places, classes) for rows in chunks])

    def _mapped(self, places: np.ndarray, classes: int) -> SparseLabels:
        to, kept = places[self.ids], places[self.ids] >= 0
        histograms = np.zeros((len(self), classes), np.int64)
        np.add.at(histograms, (self._owners()[kept], to[kept]), self.weights[kept])
        some = histograms.any(1)
        filled = SparseLabels.from_histograms(histograms[some])
        counts = np.zeros(len(self), np.int64)
        counts[some] = np.diff(filled.offsets)
        return SparseLabels(np.concatenate([[0], counts.cumsum()]), filled.ids, filled.weights)

    def _owners(self) -> np.ndarray:
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))


def _id_type(classes: int) -> type[np.unsignedinteger]:
    return np.uint8 if classes <= 256 else np.uint16
