"""Stored values as colours: turned upright, and of palettes, inks and few bits."""

from __future__ import annotations

import numpy as np
from PIL import Image

STRIP_PIXELS = 2**18


def upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """`[H, W, …]` as displayed; `orientation` is that of EXIF and TIFF, 1 to 8, and others leave it as it is."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    across = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(values[::down, ::across])


def brightness(bits: int, white_is_zero: bool = False) -> np.ndarray:
    """What each unsigned value of 1 to 8 bits becomes in 8 bits: the highest that fits becomes 255."""
    highest = 2**bits - 1
    table = (np.arange(highest + 1) * 255 / highest).round().astype(np.uint8)
    return table[::-1] if white_is_zero else table


def palette_colours(palette: np.ndarray) -> np.ndarray:
    """`[colours, 3]` uint8 of a TIFF's `[3, colours]`, which are 16-bit, but for writers that put 8-bit ones there."""
    table = palette if palette.max() < 256 else palette >> 8
    return np.asarray(table.T.astype(np.uint8))


def printed(inks: np.ndarray) -> np.ndarray:
    """`[H, W, 4]` CMYK of 8 or 16 bits as RGB."""
    eight = inks if inks.dtype == np.uint8 else (inks >> 8).astype(np.uint8)
    size = (inks.shape[1], inks.shape[0])
    return np.array(Image.frombytes("CMYK", size, np.ascontiguousarray(eight).tobytes()).convert("RGB"))


def strips(values: np.ndarray) -> list[slice]:
    """Rows of `[H, W, …]` to work on at a time, so that what is made on the way stays small."""
    rows = max(1, STRIP_PIXELS // max(1, values.shape[1]))
    return [slice(top, top + rows) for top in range(0, values.shape[0], rows)]
