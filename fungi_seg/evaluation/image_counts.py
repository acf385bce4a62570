"""Confusion matrices of single images, of which only what isn't 0 is kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class ImageCounts:
    """Pixels of each image by truth and prediction.

    Attributes:
        ids: of the images.
        cells: of each image `[n, 3]` int64: class of the truth, class predicted (`C` for none), pixels, where there are
            any.
        classes: `C`.
    """

    ids: tuple[str, ...]
    cells: tuple[np.ndarray, ...]
    classes: int

    def __len__(self) -> int:
        return len(self.ids)

    def matrix(self, number: int) -> np.ndarray:
        """`[C, C + 1]` int64 pixels of an image, rows the truth, the last column pixels without a class."""
        found = np.zeros((self.classes, self.classes + 1), np.int64)
        truth, predicted, pixels = self.cells[number].T
        found[truth, predicted] = pixels
        return found

    def total(self) -> np.ndarray:
        """`[C, C + 1]` int64 pixels of all images, as `matrix` gives those of one."""
        found = np.zeros((self.classes, self.classes + 1), np.int64)
        truth, predicted, pixels = np.concatenate([np.zeros((0, 3), np.int64), *self.cells]).T
        np.add.at(found, (truth, predicted), pixels)
        return found

    def by_class(self, order: np.ndarray | None = None) -> np.ndarray:
        """`[images, 3, C]` int64 pixels of each class: those that are right, of the truth, of the prediction.

        Args:
            order: `[C]` for each class, which of the predicted ones counts as it, where they were matched.
        """
        named = np.arange(self.classes + 1)
        if order is not None:
            named[order] = np.arange(self.classes)
        found = np.zeros((len(self), 3, self.classes + 1), np.int64)
        for counts, cells in zip(found, self.cells, strict=True):
            truth, predicted, pixels = cells[:, 0], named[cells[:, 1]], cells[:, 2]
            hits = truth == predicted
            np.add.at(counts[0], truth[hits], pixels[hits])
            np.add.at(counts[1], truth, pixels)
            np.add.at(counts[2], predicted, pixels)
        return found[..., :-1]

    def record(self) -> list[dict[str, Any]]:
        """For a report: of each image its `id`, and `counts` as truth, prediction, pixels, truth, prediction, …"""
        return [{"id": i, "counts": cells.ravel().tolist()} for i, cells in zip(self.ids, self.cells, strict=True)]

    @classmethod
    def of_record(cls, record: Sequence[Mapping[str, Any]], classes: int) -> ImageCounts:
        """The same again from a report.

        Raises:
            ValueError, KeyError, TypeError: it holds something else.
        """
        ids = tuple(image["id"] for image in record)
        cells = tuple(np.array(image["counts"], np.int64).reshape(-1, 3) for image in record)
        together = np.concatenate([np.zeros((1, 3), np.int64), *cells])
        limits = (classes, classes + 1, np.inf)
        if len(set(ids)) < len(ids) or (together < 0).any() or (together.max(0) >= limits).any():
            raise ValueError("images that are named twice, or classes that there aren't")
        return cls(ids, cells, classes)


def cells_of(counts: np.ndarray) -> np.ndarray:
    """`[n, 3]` int64 row, column and value of what isn't 0 in a matrix of counts."""
    rows, columns = np.nonzero(counts)
    return np.stack([rows, columns, counts[rows, columns]], axis=1)
