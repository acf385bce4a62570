"""A mask that is read window by window, and what belongs to it: size, names and colours of classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fungi_seg.rasters.raster import RasterInfo, Window

GREY = 128  # of void
TILE, LEAST = 512, 512  # side of tiles; the smallest copy of a pyramid fits in a square of that side

ReadMask = Callable[[Window], np.ndarray]


@dataclass(frozen=True)
class MaskSource:
    """A mask to be written.

    Attributes:
        read: gives `[h, w]` class indices of any window.
        size: `(H, W)`.
        dtype: of its values.
        info: of the image that it is of.
        classes: names.
        palette: `[C, 3]` uint8 RGB.
        void: the value of pixels without a class.
    """

    read: ReadMask
    size: tuple[int, int]
    dtype: np.dtype
    info: RasterInfo
    classes: Sequence[str]
    palette: np.ndarray
    void: int

    def steps(self) -> list[int]:
        """How many pixels apart those of each level lie, 1 of the mask itself; each level halves the one before."""
        found = [1]
        while max(self.size) > LEAST * found[-1]:
            found.append(2 * found[-1])
        return found

    def level_size(self, step: int) -> tuple[int, int]:
        """`(height, width)` of a level: as many whole or begun squares of `step` pixels as the mask has."""
        return -(-self.size[0] // step), -(-self.size[1] // step)

    def part(self, step: int, window: Window) -> np.ndarray:
        """A window of a level, cut at its border: of each square of `step` pixels the one in its middle.

        Rows of the mask that a level leaves out aren't read, so that all levels together cost what the mask does.
        """
        rows, columns = self.level_size(step)
        height, width = min(window.height, rows - window.top), min(window.width, columns - window.left)
        if step == 1:
            return self._read(Window(window.top, window.left, height, width))
        down = self._middles(step, 0, window.top, height)
        across = self._middles(step, 1, window.left, width)
        first, last = int(across[0]), int(across[-1])
        lines = (self._read(Window(int(row), first, 1, last + 1 - first)) for row in down)
        return np.concatenate([line[:, across - first] for line in lines])

    def tiles(self, step: int) -> Iterator[np.ndarray]:
        """A level in squares of `TILE` pixels, row by row; those at its border are cut."""
        rows, columns = self.level_size(step)
        for top in range(0, rows, TILE):
            band = self.part(step, Window(top, 0, TILE, columns))
            for left in range(0, columns, TILE):
                yield np.ascontiguousarray(band[:, left : left + TILE])

    def colours(self) -> np.ndarray:
        """`[n, 3]` uint8: the colour of every value that `dtype` can have; grey where it is no class."""
        table = np.full((np.iinfo(self.dtype).max + 1, 3), GREY, np.uint8)
        table[: len(self.palette)] = self.palette
        table[self.void] = GREY
        return table

    def _read(self, window: Window) -> np.ndarray:
        return self.read(window).astype(self.dtype, copy=False)

    def _middles(self, step: int, axis: int, first: int, count: int) -> np.ndarray:
        return np.minimum((first + np.arange(count)) * step + step // 2, self.size[axis] - 1)
