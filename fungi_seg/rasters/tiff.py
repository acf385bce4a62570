"""TIFF files of any size: stacks, channels, pyramids, of OME, ImageJ and others."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi_seg.errors import DataError
from fungi_seg.rasters.colours import brightness, printed, upright
from fungi_seg.rasters.planes import checked_plane
from fungi_seg.rasters.raster import RasterInfo, Window
from fungi_seg.rasters.reading import checked_window, damage_named, valid_samples
from fungi_seg.rasters.segments import PageSamples
from fungi_seg.rasters.shared_tiffs import SharedTiff, shared_tiff
from fungi_seg.rasters.tiff_contents import Picture, Placed
from fungi_seg.rasters.tiff_pages import (
    CMYK,
    PALETTE,
    RGB,
    WHITE_IS_ZERO,
    YCBCR,
    check_kind,
    check_page,
    check_segments,
    colours_of,
    keyframe,
    nodata_of,
    orientation_of,
    sample_type,
)

COLOURS = ("red", "green", "blue")


def tiff_axes(path: Path) -> dict[str, int]:
    """How many pictures lie along each axis of a TIFF, in the file's order.

    Raises:
        DataError: damaged, or of a kind that isn't read.
    """
    with damage_named(str(path), "an image"), shared_tiff(path) as shared:
        return dict(shared.contents.axes)


@dataclass(frozen=True)
class _Colours:
    """How stored samples become those that are given: nothing where they stay as they are."""

    table: np.ndarray | None = None
    inks: bool = False

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        if self.inks:
            return printed(samples[..., :4])
        if self.table is None:
            return samples
        shown = self.table[samples.astype(np.uint16, copy=False)]
        return shown[..., 0, :] if self.table.ndim == 2 else shown


class TiffRaster:
    """A plane of a TIFF, as a `Raster`.

    Args:
        path: of the file.
        plane: index by axis; all that have more than one index.
        name: what errors call it.

    Attributes:
        number: of its page in the file, from 0.
        orientation: how it is stored, as of `upright`.
    """

    indices = False  # of palette images, in place of colours

    def __init__(self, path: Path, plane: dict[str, int], name: str):
        self.name = name
        self._open = ExitStack()
        try:
            with damage_named(name, "an image"):
                shared = self._open.enter_context(shared_tiff(path))
                with shared.lock:
                    self._prepare(shared, shared.contents.picture(checked_plane(plane, shared.contents.axes)))
        except BaseException:
            self.close()
            raise

    def _prepare(self, shared: SharedTiff, picture: Picture) -> None:
        levels = [[(shared.own(page), offset) for page, offset in level] for level in picture.levels]
        first, count = keyframe(levels[0][0][0]), len(levels[0])
        page = levels[0][0][0]
        self.number = page.index if isinstance(page.index, int) else 0
        check_kind(first)
        if first.imagedepth > 1 and levels[0][0][1] is None:
            raise DataError("holds a volume in one page (ImageDepth), which isn't read; save its planes as pages")
        self.nodata = nodata_of(first)
        self.orientation = orientation_of(first)
        check_page(first.parent, first.aspage(), self.nodata is not None)
        self._parts = [[self._samples(shared, placed) for placed in level] for level in levels]
        stored = sample_type(first)
        deep = stored.kind not in "bu" or first.bitspersample > 8
        if first.photometric == WHITE_IS_ZERO and deep:
            raise DataError(
                f"zero is white, and its samples are {stored} of {first.bitspersample} bits, which is read as a "
                f"whole only; convert it to a TIFF whose zero is black"
            )
        self._colours, channels, dtype = _Colours(), first.samplesperpixel * count, str(stored)
        if first.photometric == PALETTE and not self.indices:
            self._colours, channels, dtype = _Colours(colours_of(first)), 3, "uint8"
        elif first.photometric == CMYK:
            self._colours, channels, dtype = _Colours(inks=True), 3, "uint8"
        elif not deep and (first.bitspersample < 8 or first.photometric == WHITE_IS_ZERO):
            self._colours, dtype = (
                _Colours(brightness(first.bitspersample, first.photometric == WHITE_IS_ZERO)),
                "uint8",
            )
        coloured = first.photometric in (RGB, PALETTE, CMYK, YCBCR) and 3 <= channels <= 4
        self.info = RasterInfo(
            picture.kind,
            self._turned(self._parts[0][0].shape[:2]),
            _names(picture.channels, channels, coloured),
            dtype,
            tuple(self._turned(level[0].shape[:2]) for level in self._parts),
            picture.pixel_size,
            "" if picture.pixel_size is None else "µm",
            None if dtype == "uint8" and stored != np.uint8 else self.nodata,
            None,
            coloured or channels == 1,
        )

    def _samples(self, shared: SharedTiff, placed: Placed) -> PageSamples:
        page, offset = placed
        path = page.parent.filehandle.path
        if offset is None:
            check_segments(page, Path(path).stat().st_size, self.nodata is not None)
        return PageSamples(shared.source(path), page, offset, self.nodata)

    def _turned(self, size: tuple[int, ...]) -> tuple[int, int]:
        """Height and width as displayed, of those stored, and the other way round."""
        return (size[1], size[0]) if self.orientation in (5, 6, 7, 8) else (size[0], size[1])

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """See `Raster.read`."""
        checked_window(self, window, level)
        stored = self._as_stored(window, self.info.levels[level])
        with damage_named(self.name, "an image"):
            parts = self._parts[level]
            if channels is None or len(parts) == 1:
                samples = self._colours(np.concatenate([part.read(stored) for part in parts], axis=2))
                samples = samples if channels is None else samples[..., list(channels)]
            else:
                each = parts[0].shape[2]
                wanted = {number: parts[number].read(stored) for number in sorted({c // each for c in channels})}
                samples = self._colours(np.stack([wanted[c // each][..., c % each] for c in channels], axis=2))
            return upright(samples, self.orientation)

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """See `Raster.valid`."""
        return valid_samples(self, window, level)

    def _as_stored(self, window: Window, size: tuple[int, int]) -> Window:
        """The part of the stored picture that becomes `window` of the displayed one of `size`."""
        top, left = window.top, window.left
        if self.orientation in (3, 4, 7, 8):
            top = size[0] - top - window.height
        if self.orientation in (2, 3, 6, 7):
            left = size[1] - left - window.width
        if self.orientation in (5, 6, 7, 8):
            return Window(left, top, window.width, window.height)
        return Window(top, left, window.height, window.width)

    def close(self) -> None:
        """End reading."""
        self._open.close()

    def __enter__(self) -> TiffRaster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class IndexRaster(TiffRaster):
    """The same, of a palette image by its indices."""

    indices = True


def _names(told: tuple[str, ...], count: int, coloured: bool) -> tuple[str, ...]:
    if len(told) == count:
        return told
    if coloured:
        return (*COLOURS, "4")[:count]
    return tuple(str(number) for number in range(1, count + 1))
