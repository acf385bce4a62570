"""What every kind of file is read as: one plane of samples, window by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np


@dataclass(frozen=True)
class Window:
    """A part of a plane.

    Attributes:
        top, left, height, width: in pixels of the level that is read.
    """

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class GeoReference:
    """Where a plane lies on the earth.

    Attributes:
        crs: coordinate reference system, as well-known text; empty where the file names none.
        transform: `(a, b, c, d, e, f)`: pixel `(column, row)` lies at `(a·column + b·row + c, d·column + e·row + f)`,
            the corner of the first pixel being `(0, 0)`.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class RasterInfo:
    """What is known of a plane by its header.

    Attributes:
        kind: `picture`, `tiff`, `ome-tiff`, `geotiff`, `zarr`, `slide` or `video`.
        size: `(H, W)` in pixels, as displayed.
        channels: names, those of the file where it has any, or `1`, `2`, …
        dtype: of its samples, as numpy calls it.
        levels: `(height, width)` of the plane and of its smaller copies, the largest first.
        pixel_size: width of a pixel in `unit`; none where the file doesn't say.
        unit: `µm`, `m` or `degree`; empty where `pixel_size` is none.
        nodata: the value of pixels that hold nothing, where one is named.
        geo: its place on the earth, if it has one.
        colours: its channels are red, green and blue (and may be transparency besides), or grey, to be looked at.
        zarr_format: of a Zarr, 2 or 3.
    """

    kind: str
    size: tuple[int, int]
    channels: tuple[str, ...]
    dtype: str
    levels: tuple[tuple[int, int], ...]
    pixel_size: float | None = None
    unit: str = ""
    nodata: float | None = None
    geo: GeoReference | None = None
    colours: bool = True
    zarr_format: int = 3


class Raster(Protocol):
    """One plane of a file, open; a context manager. Threads may read from one at the same time.

    Attributes:
        name: what errors call it: the file, and the plane.
        info: what is known by the header.
    """

    name: str
    info: RasterInfo

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """`[height, width, channels]` samples as stored.

        Args:
            window: within the level.
            level: number of the smaller copy, 0 for the plane itself.
            channels: their numbers from 0, in the order that is wanted; all where not given.

        Raises:
            DataError: cut off or damaged there.
        """
        ...

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """`[height, width]` bool, pixels that hold something; none where all of the plane's do."""
        ...

    def __enter__(self) -> Raster: ...

    def __exit__(self, *error: object) -> None: ...
