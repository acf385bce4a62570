"""Mask images: their values to class indices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fungi_seg.datasets.common import Item, check_size
from fungi_seg.errors import DataError
from fungi_seg.images import VOID, read_image, read_mask, read_mask_part
from fungi_seg.rasters import Window

UNKNOWN = -2
SHOWN = 8
WORDS = "say what values stand for with --data.values, such as 255=NAME, or 1..=NAME for all from 1"

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Span:
    """Mask values that stand for one class.

    Attributes:
        low, high: the first and the last of them; without a last one all from the first.
        index: of the class, or void.
    """

    low: int
    high: int | None
    index: int

    def holds(self, value: int) -> bool:
        """Whether `value` is one of them."""
        return self.low <= value and (self.high is None or value <= self.high)


@dataclass(frozen=True)
class IndexMasks:
    """Reads masks of one channel whose values stand for classes.

    Attributes:
        values: the value of each class, in the order of the classes.
        void: values that stand for unlabelled; they come before `values`.
        way_out: what an unknown value's error advises.
        assumed: the one of `void` that the layout takes for it and nobody named; none where there is no such.
        spans: what the user says that values stand for; it comes before all else, single values before spans of many.
    """

    values: Sequence[int]
    void: tuple[int, ...]
    way_out: str = f"Add the class to classes.txt, name the void value with data.void, or {WORDS}"
    assumed: int | None = None
    spans: tuple[Span, ...] = ()

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of the item's mask file.

        Raises:
            DataError: unreadable, of colours, or a value that is neither a class nor void.
        """
        return self.class_indices(values_in(item.mask), item.mask)

    def window(self, item: Item, window: Window, size: tuple[int, int]) -> np.ndarray:
        """The same of a window of a mask, which may be too large to be read as a whole.

        Raises:
            DataError: as above, or the mask has another size than its image.
        """
        values, whole = read_mask_part(item.mask, window)
        check_size(item, whole, size)
        return self.class_indices(values, item.mask)

    def class_indices(self, found: np.ndarray, path: Path) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of mask values `[H, W]`.

        Raises:
            DataError: a value that is neither a class nor void.
        """
        bounds = [bound for span in self.spans for bound in (span.low, span.high) if bound is not None]
        table = np.full(max([*self.values, *self.void, *bounds]) + 3, UNKNOWN, np.int16)  # one more at both ends
        table[np.array(self.values) + 1] = np.arange(len(self.values))
        table[np.array(self.void, int) + 1] = VOID
        for span in sorted(self.spans, key=lambda span: span.low == span.high):
            table[span.low + 1 : None if span.high is None else span.high + 2] = span.index
        mask = table[np.clip(found, -1, len(table) - 2) + 1]
        unknown = mask == UNKNOWN
        if unknown.any():
            wrong, counts = np.unique(found[unknown], return_counts=True)
            shown = ", ".join(f"{v} ({n} pixels)" for v, n in zip(wrong[:SHOWN], counts[:SHOWN], strict=True))
            more = ", or one that data.values names" if self.spans else ""
            raise DataError(
                f"{path}: class ids outside the {len(self.values)} known classes: {shown}; ids must be "
                f"{_listed(self.values)}, or the void value ({_listed(self.void) or 'none'}){more}. {self.way_out}"
            )
        return mask


def values_in(path: Path) -> np.ndarray:
    """`[H, W]` values as they stand in a mask file.

    Raises:
        DataError: unreadable, or of colours; the message names them.
    """
    try:
        return read_mask(path)
    except DataError as error:
        colours = _colours_in(path)
        if not colours:
            raise
        raise DataError(
            f"{error}, or say what they stand for with --data.values, such as {colours[-1]}=NAME; the mask has "
            f"{', '.join(colours[:SHOWN])}{', …' if len(colours) > SHOWN else ''} (red/green/blue)"
        ) from error


@dataclass(frozen=True)
class ColourMasks:
    """Reads masks whose colours stand for classes: RGB, RGBA or grey images, or palette images by their palette.

    Attributes:
        colours: the class index, or void, that each colour stands for.
        way_out: what an unknown colour's error advises.
    """

    colours: Mapping[Colour, int]
    way_out: str = "Add a line like name:r,g,b:: to labelmap.txt; one named ignored stands for unlabelled"

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1, of the item's mask file.

        Raises:
            DataError: unreadable, of 16 bits, or a colour that is neither a class nor void.
        """
        if _is_deep(item.mask):
            raise DataError(f"{item.mask}: the mask is grey, of 16 bits or more, so it has values and no colours")
        known, indices = _codes(np.array([*self.colours])), np.array([*self.colours.values()], np.int16)
        order = np.argsort(known)
        found = _codes(read_image(item.mask))
        places = order[np.searchsorted(known, found, sorter=order).clip(max=len(known) - 1)]
        unknown = known[places] != found
        if unknown.any():
            wrong, counts = np.unique(found[unknown], return_counts=True)
            shown = ", ".join(f"{_shown(c)} ({n} pixels)" for c, n in zip(wrong[:SHOWN], counts[:SHOWN], strict=True))
            raise DataError(
                f"{item.mask}: {len(wrong)} colours (r,g,b) that are neither a class nor void: {shown}. {self.way_out}"
            )
        mask: np.ndarray = indices[places]
        return mask


def _colours_in(path: Path) -> list[str]:
    """The colours of a mask that has three or more channels, as data.values names them; none of another file."""
    try:
        with Image.open(path) as mask:
            coloured = len(mask.getbands()) > 1
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return []
    return [_shown(code, "/") for code in np.unique(_codes(read_image(path)))] if coloured else []


def _is_deep(path: Path) -> bool:
    """Whether an image is grey of more than 8 bits, which is scaled where it is read as colours."""
    try:
        with Image.open(path) as mask:
            return mask.mode.startswith(("I", "F"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # an error when it is read
        return False


def _codes(colours: np.ndarray) -> np.ndarray:
    """`[…, 3]` as one number each."""
    wide = colours.astype(np.int32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]


def _shown(code: int, between: str = ",") -> str:
    return between.join(map(str, (code >> 16, code >> 8 & 255, code & 255)))


def _listed(values: Sequence[int]) -> str:
    """Numbers in a row as `a..b`, others one by one."""
    if len(values) > 2 and list(values) == list(range(values[0], values[-1] + 1)):
        return f"{values[0]}..{values[-1]}"
    return ", ".join(map(str, values))
