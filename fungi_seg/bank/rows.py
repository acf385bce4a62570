"""Rows of a memory bank: keys, labels and origins, and the latter two as a file's arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fungi_seg.bank.keys import Keys
from fungi_seg.bank.labels import FULL, SparseLabels
from fungi_seg.errors import BankError, listing

COLUMNS = {
    "label_counts": ("u1",),
    "label_ids": ("u1", "u2"),
    "label_weights": ("u1",),
    "source": ("i4",),
    "epoch": ("i2",),
    "box": ("f4",),
}
PLACES = "stored_row"
PRIORITIES = "priorities"  # of candidates for a bank: float64, the smallest stay


@dataclass(frozen=True)
class Table:
    """What is known of `M` rows beside their keys.

    Attributes:
        labels: their class distributions.
        source: `[M]` int32 index of the image each row came from.
        epoch: `[M]` int16 augmentation epoch.
        box: `[M, 4]` float32 `x0, y0, x1, y1` of the patch in pixels of its image.
    """

    labels: SparseLabels
    source: np.ndarray
    epoch: np.ndarray
    box: np.ndarray

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Table:
        """These rows alone, in that order."""
        return Table(self.labels.take(rows), self.source[rows], self.epoch[rows], self.box[rows])

    @classmethod
    def concatenate(cls, parts: Sequence[Table]) -> Table:
        """The rows of several tables, one after another."""
        return cls(
            SparseLabels.concatenate([part.labels for part in parts]),
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.epoch for part in parts]),
            np.concatenate([part.box for part in parts]),
        )


@dataclass(frozen=True)
class Rows:
    """Rows of a memory bank, or candidates for one.

    Attributes:
        keys: `[M, D]` float16 L2-normalised features, in memory or on disk.
        labels, source, epoch, box: as in `Table`.
    """

    keys: np.ndarray | Keys
    labels: SparseLabels
    source: np.ndarray
    epoch: np.ndarray
    box: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray | Keys, table: Table) -> Rows:
        """Keys and what is known of them."""
        return cls(keys, table.labels, table.source, table.epoch, table.box)

    @property
    def table(self) -> Table:
        """All but the keys."""
        return Table(self.labels, self.source, self.epoch, self.box)

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> Rows:
        """These rows alone, in that order, in memory."""
        return Rows.of(self.keys[rows], self.table.take(rows))


def to_arrays(table: Table, places: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """A table as a file's arrays.

    Args:
        table: of `M` rows.
        places: `[M]` which of the stored keys they belong to; the first `M` where not given.
    """
    arrays = {
        "label_counts": np.diff(table.labels.offsets).astype(np.uint8),
        "label_ids": table.labels.ids,
        "label_weights": table.labels.weights,
        "source": table.source,
        "epoch": table.epoch,
        "box": table.box,
    }
    return arrays if places is None else arrays | {PLACES: places.astype(np.int32)}


def from_arrays(
    arrays: Mapping[str, np.ndarray], rows: int, stored: int, classes: int, sources: int, file: str
) -> tuple[Table, np.ndarray | None]:
    """The table in a file's arrays, and which of the stored keys its rows belong to (none: all of them, in order).

    Args:
        arrays: from `to_arrays`.
        rows: how many there must be.
        stored: keys that there are.
        classes, sources: how many classes and images the bank has.
        file: for errors.

    Raises:
        BankError: a column is missing, has another type or shape, or holds something that can't be.
    """
    for name, kinds in COLUMNS.items():
        if name not in arrays or arrays[name].dtype.str[1:] not in kinds:
            raise BankError(f"{file}: has no column {name!r} or holds it in another type; build the bank again")
    entries = arrays["label_counts"].sum(dtype=np.int64)
    shapes = {"label_counts": (rows,), "label_ids": (entries,), "label_weights": (entries,),
              "source": (rows,), "epoch": (rows,), "box": (rows, 4)}  # fmt: skip
    odd = [
        f"{name} is {list(arrays[name].shape)}, not {list(s)}" for name, s in shapes.items() if arrays[name].shape != s
    ]
    places = arrays.get(PLACES)
    if places is None and rows != stored:
        odd.append(f"{rows} rows for {stored} stored keys")
    elif places is not None and not _are_places(places, rows, stored):
        odd.append(f"{PLACES} must be {rows} rising numbers below {stored}")
    if odd:
        raise BankError(f"{file}: the columns don't fit each other:\n{listing(odd)}\nBuild the bank again")
    offsets = np.concatenate([[0], arrays["label_counts"].cumsum(dtype=np.int64)])
    labels = SparseLabels(offsets, arrays["label_ids"], arrays["label_weights"])
    table = Table(labels, arrays["source"], arrays["epoch"], arrays["box"])
    odd = problems(table, classes, sources)
    if odd:
        raise BankError(f"{file}: holds what can't be:\n{listing(odd)}\nBuild the bank again")
    return table, places


def problems(table: Table, classes: int, sources: int) -> list[str]:
    """What can't be in a table of a bank with so many classes and images, a line each."""
    labels, found = table.labels, []
    if len(labels.ids) and labels.ids.max() >= classes:
        found.append(f"class id {labels.ids.max()} of {classes} classes")
    if len(table) and (table.source.min() < 0 or table.source.max() >= sources):
        found.append("a row names an image that isn't listed")
    if not np.diff(labels.offsets).all():
        found.append("a row has no label")
    elif len(table) and (np.add.reduceat(labels.weights.astype(np.int64), labels.offsets[:-1]) != FULL).any():
        found.append(f"the label weights of a row don't sum to {FULL}")
    if not np.isfinite(table.box).all() or (table.box[:, 2:] < table.box[:, :2]).any():
        found.append("a box isn't one")
    return found


def _are_places(places: np.ndarray, rows: int, stored: int) -> bool:
    fits = places.dtype == np.int32 and places.shape == (rows,)
    return fits and (not rows or bool(places[0] >= 0 and places[-1] < stored and (np.diff(places) > 0).all()))
