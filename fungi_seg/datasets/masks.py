"""Mask images: their values to class indices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi_seg.datasets.common import Item
from fungi_seg.errors import DataError
from fungi_seg.images import VOID, read_image, read_mask

UNKNOWN = -2

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class IndexMasks:
    """Reads masks of one channel whose values stand for classes.

    Attributes:
        values: the value of each class, in the order of the classes.
        void: values that stand for unlabelled; they come before `values`.
        way_out: what an unknown value's error advises.
    """

    values: Sequence[int]
    void: tuple[int, ...]
    way_out: str = "Add the class to classes.txt, or name the void value with data.void"

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of the item's mask file."""
        return self.class_indices(read_mask(item.mask), item.mask)

    def class_indices(self, found: np.ndarray, path: Path) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of mask values `[H, W]`.

        Raises:
            DataError: a value that is neither a class nor void.
        """
        table = np.full(max([*self.values, *self.void]) + 3, UNKNOWN, np.int16)  # one more at both ends
        table[np.array(self.values) + 1] = np.arange(len(self.values))
        table[np.array(self.void, int) + 1] = VOID
        mask = table[np.clip(found, -1, len(table) - 2) + 1]
        bad = mask == UNKNOWN
        if bad.any():
            wrong, counts = np.unique(found[bad], return_counts=True)
            shown = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:8], counts[:8], strict=True))
            raise DataError(
                f"{path}: class ids outside the {len(self.values)} known classes: {shown}; ids must be "
                f"{_told(self.values)}, or the void value ({_told(self.void) or 'none'}). {self.way_out}"
            )
        return mask


@dataclass(frozen=True)
class ColourMasks:
    """Reads masks whose colours stand for classes: RGB, RGBA or grey images, or palette images by their palette.

    Attributes:
        colours: the colour of each class, in the order of the classes.
        void: colours that stand for unlabelled.
    """

    colours: tuple[Colour, ...]
    void: tuple[Colour, ...]

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of the item's mask file.

        Raises:
            DataError: unreadable, or a colour that is neither a class nor void.
        """
        known = _codes(np.array([*self.colours, *self.void]))
        order = np.argsort(known)
        found = _codes(read_image(item.mask))
        places = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
        bad = known[places] != found
        if bad.any():
            wrong, counts = np.unique(found[bad], return_counts=True)
            shown = ", ".join(f"{_shown(c)} ({n} pixels)" for c, n in zip(wrong[:8], counts[:8], strict=True))
            raise DataError(
                f"{item.mask}: {len(wrong)} colours (r,g,b) that are neither a class nor void: {shown}. "
                f"Add a line like name:r,g,b:: to labelmap.txt; one named ignored stands for unlabelled"
            )
        return np.where(places < len(self.colours), places, VOID).astype(np.int16)


def _codes(colours: np.ndarray) -> np.ndarray:
    """`[…, 3]` as one number each."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _shown(code: int) -> str:
    return f"{code >> 16},{code >> 8 & 255},{code & 255}"


def _told(values: Sequence[int]) -> str:
    """Numbers in a row as `a..b`, others one by one."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(map(str, values))
