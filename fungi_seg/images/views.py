"""A raster as the backbone sees it: any part of it, at the scale at which it enters."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from fungi_seg.errors import DataError
from fungi_seg.images.channels import known_limits, read_part, viewable
from fungi_seg.images.resampling import Resampling
from fungi_seg.images.settings import InputConfig
from fungi_seg.images.sizes import content_size, input_size, tiles_for
from fungi_seg.images.tiles import Tiles
from fungi_seg.rasters import MOST_PIXELS, Raster, Window, open_raster

LARGE_PIXELS = 2**26  # of an image; beyond it none is held as a whole
LARGE_INPUT = 2**24  # pixels of the input, likewise: their features would take a gigabyte


class View:
    """An open raster at the scale at which it enters.

    Args:
        raster: open; not larger than it may be.
        input: how it enters.
        patch: `(height, width)` in pixels of the input.
        path: of it.

    Attributes:
        size: `(H, W)` of the image.
        content: `(height, width)` of the input that is image; the rest, right and below, repeats its border.
        covered: patches that the image spans, `(height, width)`.
        tiles: that it goes through the backbone in.

    Raises:
        DataError: smaller than a patch, or of unknown resolution.
    """

    def __init__(self, raster: Raster, input: InputConfig, patch: tuple[int, int], path: Path):
        self.raster, self.size, self._input = raster, raster.info.size, input
        try:
            input = input.at(pixel_size_of(raster, input))
            self.content, padded = input_size(self.size, input, patch)
            grid = padded[0] // patch[0], padded[1] // patch[1]
            self.covered = self.content[0] / patch[0], self.content[1] / patch[1]
            self.tiles = tiles_for(padded, input, patch) if input.scaled else Tiles(grid, grid)
        except DataError as error:
            raise error if raster.name in str(error) else DataError(f"{raster.name}: {error}") from error
        levels = raster.info.levels
        fine = [all(a >= b for a, b in zip(level, self.content, strict=True)) for level in levels]
        self._level = max(number for number, enough in enumerate(fine) if enough or not number)
        self._resampling = Resampling(levels[self._level], self.content)
        self._limits = known_limits(path, raster, self._input)

    def part(self, rows: range, columns: range) -> np.ndarray:
        """`[len(rows), len(columns), 3]` uint8 RGB of the input, `[…, n]` of joined channels.

        Beyond the image its border is repeated.
        """
        inner = [range(min(r.start, n - 1), min(r.stop, n)) for r, n in zip((rows, columns), self.content, strict=True)]
        found = self._read(*inner)
        places = [
            np.arange(asked.start, asked.stop).clip(kept.start, kept.stop - 1) - kept.start
            for asked, kept in zip((rows, columns), inner, strict=True)
        ]
        return found if found.shape[:2] == (len(rows), len(columns)) else found[places[0]][:, places[1]]

    def _read(self, rows: range, columns: range) -> np.ndarray:
        """A part of the image at its scale, of which no more than `LARGE_PIXELS` are read at a time."""
        down, across = self._resampling.source(rows, columns)
        if len(down) * len(across) > LARGE_PIXELS and len(rows) > 1:
            middle = (rows.start + rows.stop) // 2
            halves = range(rows.start, middle), range(middle, rows.stop)
            return np.concatenate([self._read(half, columns) for half in halves])
        window = Window(down.start, across.start, len(down), len(across))
        samples = read_part(self.raster, window, self._input, self._level, self._limits)
        return self._resampling.apply(samples, rows, columns)

    def nearest(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the image at the centre of each pixel of a part of the input, which lies in the image."""
        return Resampling(self.size, self.content).nearest(rows, columns)

    def window(self, rows: range, columns: range) -> tuple[float, float, float, float]:
        """Top, left, height and width, in pixels of the image, of a part of the input."""
        down, across = (n / m for n, m in zip(self.size, self.content, strict=True))
        return rows.start * down, columns.start * across, len(rows) * down, len(columns) * across

    def pixels(self, window: Window) -> np.ndarray:
        """`[height, width, 3]` uint8 RGB of the image itself, to be looked at."""
        return viewable(read_part(self.raster, window, self._input, 0, self._limits))


def pixel_size_of(raster: Raster, input: InputConfig) -> float | None:
    """Width of a raster's pixels in the unit of `input.resolution`, where that is asked for.

    Raises:
        DataError: they are degrees wide.
    """
    info = raster.info
    if input.resolution is not None and info.pixel_size is None:
        raise DataError(
            f"{raster.name}: input.resolution is {input.resolution}, but the file doesn't say how wide its pixels are; "
            f"give input.scale in its place, or images whose files say so"
        )
    if input.resolution is not None and info.unit == "degree":
        raise DataError(
            f"{raster.name}: input.resolution is {input.resolution} metres, but its pixels are {info.pixel_size} "
            f"degrees wide; give input.scale, or bring the raster to a system in metres (gdalwarp -t_srs)"
        )
    return info.pixel_size


def pixel_size_in(path: str | Path, input: InputConfig) -> float | None:
    """Width of an image's pixels by its file, where images enter at a resolution; none elsewhere.

    Raises:
        DataError: the file doesn't say, or they are degrees wide.
    """
    if input.resolution is None:
        return None
    with open_raster(Path(path), input.projection) as raster:
        return pixel_size_of(raster, input)


def is_large(path: Path, input: InputConfig) -> bool:
    """Whether an image is worked on piece by piece, by its header alone.

    Raises:
        DataError: it can't be read.
    """
    with open_raster(path, input.projection) as raster:
        pixels = math.prod(raster.info.size)
        if not input.scaled:
            return pixels > MOST_PIXELS
        content = content_size(raster.info.size, input.at(pixel_size_of(raster, input)))
        return pixels > LARGE_PIXELS or math.prod(content) > LARGE_INPUT


@contextmanager
def opened_view(path: Path, input: InputConfig, patch: tuple[int, int]) -> Iterator[View]:
    """An image at the scale at which it enters.

    Args:
        path: of the file, or the address of a plane.
        input: how it enters.
        patch: `(height, width)` in pixels of the input.

    Raises:
        DataError: it can't be read, is smaller than a patch, or is of unknown resolution.
    """
    with open_raster(path, input.projection) as raster:
        yield View(raster, input, patch, path)
