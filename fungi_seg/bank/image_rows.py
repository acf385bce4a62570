"""The rows that one annotated image gives, and a bank as it would be with some images added or changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fungi_seg.bank import shares
from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.boxes import patch_boxes
from fungi_seg.bank.labels import SparseLabels, patch_histograms
from fungi_seg.bank.ridge import Equations, Lift, class_weights
from fungi_seg.images import Fitted, fit_mask


@dataclass(frozen=True)
class ImageRows:
    """The rows of one image.

    Attributes:
        keys: `[m, D]` float16.
        labels: of these rows.
        box: `[m, 4]` float32 of each patch, in pixels of the image.
        pixels: `[C]` labelled pixels by class, at the input size.
    """

    keys: np.ndarray
    labels: SparseLabels
    box: np.ndarray
    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)


def rows_of_image(
    mask: np.ndarray, fitted: Fitted, features: np.ndarray, patch: tuple[int, int], classes: int
) -> ImageRows:
    """The rows that an image gives to a bank that keeps all patches.

    Args:
        mask: `[H, W]` integer class indices, void −1.
        fitted: the image at the input size.
        features: `[N, D]` of its patches.
        patch: `(height, width)` in pixels.
        classes: `C`.
    """
    histograms = patch_histograms(fit_mask(mask.astype(np.int16, copy=False), fitted.input, patch), patch, classes)
    chosen = np.flatnonzero(histograms.any(1))
    return ImageRows(
        features[chosen].astype(np.float16),
        SparseLabels.from_histograms(histograms[chosen]),
        patch_boxes(chosen, fitted, patch, (0, 0, *mask.shape)),
        histograms.sum(0),
    )


@dataclass(frozen=True)
class ChangedBank:
    """A bank as it would be with the rows of some images added, or in the place of those that it has of them.

    Args:
        bank: as it is on disk; none where there is none yet.
        images: rows by the ids of their images.
        classes: how many there are; the bank's come first.
    """

    bank: MemoryBank | None
    images: Mapping[str, ImageRows]
    classes: int

    @cached_property
    def base(self) -> int:
        """Rows of the bank on disk, those that are left out among them; the rows of `images` are numbered from here."""
        return 0 if self.bank is None else len(self.bank)

    @cached_property
    def left_out(self) -> np.ndarray | None:
        """`[M]` bool: rows of the bank whose images have others here; none where there are none."""
        if self.bank is None:
            return None
        gone = np.array([source in self.images for source in self.bank.info.sources])
        return gone[self.bank.rows.source] if gone.any() else None

    def __len__(self) -> int:
        hidden = 0 if self.left_out is None else int(self.left_out.sum())
        return self.base - hidden + sum(map(len, self.images.values()))

    @cached_property
    def labels(self) -> SparseLabels:
        """Of all rows: those of the bank, then those of `images`, one image after another."""
        own = [] if self.bank is None else [self.bank.rows.labels.mapped(self._places, self.classes)]
        return SparseLabels.concatenate([*own, *(rows.labels for rows in self.images.values())])

    def classes_there(self) -> np.ndarray:
        """`[C]` bool: classes that some row holds."""
        if not len(self):
            return np.zeros(self.classes, bool)
        labels = self.labels
        if self.left_out is not None:
            hidden = np.append(self.left_out, np.zeros(len(labels) - self.base, bool))
            labels = labels.take(np.flatnonzero(~hidden))
        return np.bincount(labels.ids, minlength=self.classes) > 0

    def origin(self, row: int) -> tuple[str, np.ndarray]:
        """The image that a row is of, and its patch's box `[4]` there."""
        if row < self.base:
            assert self.bank is not None
            return self.bank.info.sources[int(self.bank.rows.source[row])], self.bank.rows.box[row]
        row -= self.base
        for name, rows in self.images.items():
            if row < len(rows):
                return name, rows.box[row]
            row -= len(rows)
        raise IndexError(row)

    def class_share(self) -> np.ndarray:
        """`[C]` float64 share of each class, as `MemoryBank.class_share`."""
        pixels: shares.Pixels | None = (0,) * self.classes
        if self.bank is not None:
            pixels = self.bank.manifest.class_pixels
            if self.left_out is not None:
                labels = self.bank.rows.labels
                pixels = shares.without(pixels, labels, labels.take(np.flatnonzero(~self.left_out)))
            pixels = shares.mapped(pixels, self._places.tolist(), self.classes)
        for rows in self.images.values():
            pixels = shares.added(pixels, rows.pixels.tolist())
        return shares.class_share(pixels, self.labels, self.classes)

    def equations(self, known: Equations) -> Equations:
        """The regression of these rows.

        Args:
            known: of the bank on disk without the rows left out, from `base_equations`.
        """
        return known.with_rows((rows.keys, rows.labels) for rows in self.images.values())

    def base_equations(self, lift: Lift, stored: Equations | None) -> Equations:
        """The regression of the bank on disk without what is left out; classes that it doesn't have count as they would
        if only the rows of `images` held them.

        Args:
            lift: what a regression sees of a row.
            stored: that of the whole bank on disk, if there is one.
        """
        mass = shares.row_mass(self.labels, self.classes)
        if stored is None:
            return Equations.empty(lift, class_weights(mass))
        new = self.classes - len(stored.class_weights)
        known = replace(
            stored,
            class_weights=np.concatenate([stored.class_weights, class_weights(mass[len(mass) - new :])]),
            targets=np.pad(stored.targets, ((0, 0), (0, new))),
        )
        return known if self.left_out is None else known.with_rows(self._hidden(), -1)

    def _hidden(self) -> Iterator[tuple[np.ndarray, SparseLabels]]:
        assert self.bank is not None
        assert self.left_out is not None
        rows = self.bank.rows.take(np.flatnonzero(self.left_out))
        yield np.asarray(rows.keys), rows.labels.mapped(self._places, self.classes)

    @property
    def _places(self) -> np.ndarray:
        assert self.bank is not None
        return np.arange(len(self.bank.info.classes))
