"""Whole slides by tiffslide, or by openslide where that can't, with the extra `slides`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, MissingExtra, reason
from fungi_seg.rasters.planes import checked_plane
from fungi_seg.rasters.raster import RasterInfo, Window
from fungi_seg.rasters.reading import checked_window, damage_named, valid_samples
from fungi_seg.rasters.tiff import COLOURS
from fungi_seg.rasters.tiff_metadata import square
from fungi_seg.rasters.tiff_pages import check_segments

VENDORS = ("svs", "ndpi", "scn", "bif", "philips")  # of TIFFs, as tifffile knows them
SPARSE = ("philips", "bif", "scn")  # vendors that leave out tiles without tissue


class SlideRaster:
    """A whole slide, as a `Raster`.

    Args:
        path: of the file.
        plane: index by axis; slides have none.
        name: what errors call it.
    """

    def __init__(self, path: Path, plane: Mapping[str, int], name: str):
        self.name = name
        with damage_named(name, "an image"):
            checked_plane(plane, {})
            if not path.is_file():
                raise FileNotFoundError(path)
            self._slide, self._cut, self._tiles = _opened(path)
            sizes = tuple((int(height), int(width)) for width, height in self._slide.level_dimensions)
            first = self._cut(self._slide, (0, 0), 0, (1, 1))
            count = first.shape[2]
            coloured = first.dtype == np.uint8 and count in (3, 4)
            names = COLOURS if coloured else tuple(str(number) for number in range(1, count + 1))
            self._channels = len(names)
            properties = self._slide.properties
            sides = [
                _number(properties.get(f"{maker}.mpp-{axis}")) for maker in ("tiffslide", "openslide") for axis in "xy"
            ]
            told = [side for side in sides if side is not None]
            pixel = square(told[0], told[1]) if len(told) > 1 else None
            self.info = RasterInfo(
                "slide",
                sizes[0],
                names,
                str(first.dtype),
                sizes,
                pixel,
                "" if pixel is None else "µm",
                None,
                None,
                coloured or count == 1,
            )

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """See `Raster.read`."""
        checked_window(self, window, level)
        with damage_named(self.name, "an image"):
            values = self._cut(self._slide, (window.left, window.top), level, (window.width, window.height))
        values = values[..., : self._channels] if channels is None else values[..., list(channels)]
        return np.ascontiguousarray(values)

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """See `Raster.valid`: tiles that scanners leave out hold nothing."""
        held = valid_samples(self, window, level)
        tiles = self._tiles.get(level)
        if tiles is None:
            return held
        checked_window(self, window, level)
        there, (tall, wide) = tiles
        rows = np.arange(window.top, window.top + window.height) // tall
        columns = np.arange(window.left, window.left + window.width) // wide
        shown = there[rows][:, columns]
        shown = shown if held is None else shown & held
        return None if shown.all() else shown

    def __enter__(self) -> SlideRaster:
        return self

    def __exit__(self, *error: object) -> None:
        self._slide.close()


Cut = Callable[[Any, tuple[int, int], int, tuple[int, int]], np.ndarray]
Tiles = Mapping[int, tuple[np.ndarray, tuple[int, int]]]  # of levels with some left out: which are there, their size


def _opened(path: Path) -> tuple[Any, Cut, Tiles]:
    """The slide, what cuts `(width, height)` from `(left, top)` of a level of it, and tiles that are left out."""
    try:
        import tiffslide
    except ImportError as error:
        raise MissingExtra("slides", error) from error
    try:
        slide = _by_level(tiffslide)(path)
        slide.level_dimensions  # noqa: B018  # what it can't read it tells when asked
    except Exception as error:  # of other formats, and of damaged files
        return _by_openslide(path, error)
    tiles = _tiles_of(slide)
    return slide, lambda one, at, level, size: np.asarray(one.read_region(at, level, size, as_array=True)), tiles


def _by_level(tiffslide: Any) -> Any:
    """tiffslide's reader, which is asked for places in the pixels of the level."""

    class ByLevel(tiffslide.TiffSlide):
        def _read_region_loc_transform(self, location: tuple[int, int], level: int) -> tuple[int, int]:
            return location

    return ByLevel


def _tiles_of(slide: Any) -> Tiles:
    """Which tiles are left out; refused where a vendor's scanners don't, for they'd be black without a word."""
    tiff, properties, found = slide.ts_tifffile, slide.properties, {}
    if tiff.is_ndpi:  # one long JPEG, whose tiles tifffile makes up
        return {}
    sparse = any(getattr(tiff, f"is_{vendor}") for vendor in SPARSE)
    series = tiff.series[int(properties.get("tiffslide.series-index", 0))]
    for number, level in enumerate(series.levels):
        for page in level:
            check_segments(page, tiff.filehandle.size, sparse)
            there = np.array([bool(offset and count) for offset, count in zip(*_segments(page), strict=True)])
            if sparse and not there.all() and page.is_tiled:
                across = math.ceil(page.imagewidth / page.tilewidth)
                found[number] = there.reshape(-1, across), (page.tilelength, page.tilewidth)
    return found


def _segments(page: Any) -> tuple[Sequence[int], Sequence[int]]:
    return page.dataoffsets, page.databytecounts


def _by_openslide(path: Path, refusal: Exception) -> tuple[Any, Cut, Tiles]:
    try:
        import openslide
    except ImportError as error:
        raise DataError(
            f"tiffslide doesn't read it ({reason(refusal)}); if it is a slide of another format, install openslide: "
            f"pip install openslide-python openslide-bin"
        ) from error
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise DataError(
            f"neither tiffslide ({reason(refusal)}) nor openslide ({reason(error)}) reads it; copy it again, with all "
            f"files that belong to it, or export it as OME-TIFF"
        ) from error

    def cut(one: Any, at: tuple[int, int], level: int, size: tuple[int, int]) -> np.ndarray:
        down = one.level_downsamples[level]
        values = np.asarray(one.read_region((round(at[0] * down), round(at[1] * down)), level, size))
        alpha = values[..., 3:].astype(np.float32) / 255
        return (values[..., :3] * alpha + 255 * (1 - alpha)).round().astype(np.uint8)  # white where nothing was scanned

    return slide, cut, {}


def _number(value: object) -> float | None:
    try:
        return float(str(value)) if value is not None else None
    except ValueError:
        return None
