"""Reads rasters in tests: all of a level, and windows of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fungi_seg.rasters import Raster, RasterInfo, Window, open_raster


def all_of(raster: Raster, level: int = 0) -> np.ndarray:
    """All samples of a level."""
    return raster.read(Window(0, 0, *raster.info.levels[level]), level)


def assert_windows(raster: Raster, whole: np.ndarray, level: int = 0, count: int = 12) -> None:
    """Windows anywhere are those of the whole, of some channels too."""
    generator = np.random.default_rng(level)
    height, width, channels = whole.shape
    corners = [(0, 0, 1, 1), (height - 1, width - 1, 1, 1), (0, 0, height, width)]
    for _ in range(count):
        top, left = (int(generator.integers(0, side)) for side in (height, width))
        corners.append(
            (top, left, int(generator.integers(1, height - top + 1)), int(generator.integers(1, width - left + 1)))
        )
    for number, (top, left, tall, wide) in enumerate(corners):
        window = Window(top, left, tall, wide)
        expected = whole[top : top + tall, left : left + wide]
        np.testing.assert_array_equal(raster.read(window, level), expected)
        chosen = [number % channels, 0]
        np.testing.assert_array_equal(raster.read(window, level, chosen), expected[..., chosen])


def checked(
    path: Path, expected: np.ndarray, level: int = 0, projection: str | None = None, count: int = 12
) -> RasterInfo:
    """What is known of a plane, whose samples, as a whole and in windows, are `expected`."""
    with open_raster(path, projection) as raster:
        found = all_of(raster, level)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)
        assert_windows(raster, expected, level, count)
        return raster.info
