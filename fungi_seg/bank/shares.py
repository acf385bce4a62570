"""How much of the annotated images each class covers, kept because a balanced bank doesn't show it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fungi_seg.bank.labels import FULL, SparseLabels

Pixels = tuple[int, ...]


def row_mass(labels: SparseLabels, classes: int) -> np.ndarray:
    """`[C]` float64: rows of each class, a row that holds several counting in parts."""
    return np.bincount(labels.ids, labels.weights, classes) / FULL


def class_share(pixels: Pixels | None, labels: SparseLabels, classes: int) -> np.ndarray:
    """`[C]` float64, summing to 1: share of the annotated pixels, or of the rows where those weren't counted."""
    found = np.array(pixels, np.float64) if pixels and sum(pixels) else row_mass(labels, classes)
    share: np.ndarray = found / found.sum()
    return share


def mapped(pixels: Pixels | None, places: Sequence[int], classes: int) -> Pixels | None:
    """The same pixels under other class indices, −1 for none."""
    if pixels is None:
        return None
    found = [0] * classes
    for count, place in zip(pixels, places, strict=True):
        if place >= 0:
            found[place] += count
    return tuple(found)


def added(one: Pixels | None, other: Sequence[int] | None) -> Pixels | None:
    """Pixels of two sets of images; none where those of one aren't known."""
    if one is None or other is None:
        return None
    return tuple(int(a) + int(b) for a, b in zip(one, other, strict=True))


def without(pixels: Pixels | None, before: SparseLabels, after: SparseLabels) -> Pixels | None:
    """What is left once rows went: of each class as large a part as of its rows, since images aren't counted singly.

    A class that has rows keeps a pixel: votes are divided by shares, and one of 0 would outvote all others.
    """
    if pixels is None:
        return None
    had, has = (row_mass(labels, len(pixels)) for labels in (before, after))
    parts = has / np.maximum(had, 1e-9)
    return tuple(max(round(count * part), int(part > 0)) for count, part in zip(pixels, parts, strict=True))
