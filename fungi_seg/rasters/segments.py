"""Windows of TIFF pages: only the strips and tiles that a window touches are read and decoded."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tifffile import TiffFrame, TiffPage

from fungi_seg.errors import DataError
from fungi_seg.rasters.limits import check_pixels
from fungi_seg.rasters.raster import Window
from fungi_seg.rasters.tiff_pages import SEPARATE, keyframe, sample_type

CACHE_BYTES = 2**28  # of decoded strips and tiles: neighbouring windows share them
JPEG_KINDS = (6, 7, 34892, 33007)  # whose tables stand in the page


class Source:
    """A file that threads read bytes of, and what of it is decoded.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path):
        self._file: BinaryIO = path.open("rb")
        self._reading, self._keeping = threading.Lock(), threading.Lock()
        self._kept: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._bytes = 0

    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from `offset`."""
        with self._reading:
            self._file.seek(offset)
            data = self._file.read(count)
        if len(data) < count:
            raise DataError(f"is cut off: bytes {offset} to {offset + count} aren't all there; copy it again")
        return data

    def decoded(self, key: tuple[int, int], decode: Callable[[], np.ndarray]) -> np.ndarray:
        """What `decode` gives, kept for a while under `key`."""
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        values = decode()
        with self._keeping:
            if key not in self._kept:
                self._kept[key] = values
                self._bytes += values.nbytes
            while self._bytes > CACHE_BYTES and len(self._kept) > 1:
                self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return values

    def forget(self) -> None:
        """Keep nothing that is decoded."""
        with self._keeping:
            self._kept.clear()
            self._bytes = 0

    def close(self) -> None:
        """End reading."""
        self._file.close()


class PageSamples:
    """Stored samples of one page.

    Args:
        source: the file that it is in.
        page: of it.
        offset: where its samples begin, where they lie one after another, and elsewhere than the page says.
        fill: what strips and tiles that hold nothing are full of; they are errors where there is none.

    Attributes:
        shape: `(height, width, channels)`.
    """

    def __init__(
        self, source: Source, page: TiffPage | TiffFrame, offset: int | None = None, fill: float | None = None
    ):
        key = keyframe(page)
        self._source, self._key, self._fill = source, key, fill
        self._name = page.offset
        self.shape = (key.imagelength, key.imagewidth, key.samplesperpixel)
        self._dtype = sample_type(key)
        self._separate = key.planarconfig == SEPARATE
        self._start = offset
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        if offset is None and key.is_final and not key.is_tiled and _one_after_another(self._offsets, self._counts):
            self._start = self._offsets[0]
        self._tile = (key.tilelength, key.tilewidth) if key.is_tiled else (key.rowsperstrip, key.imagewidth)
        self._tables = {}
        if key.compression in JPEG_KINDS:
            self._tables = {"jpegtables": page.jpegtables, "jpegheader": key.jpegheader}
        self._decode = key.decode
        if self._start is None:
            check_pixels(min(self._tile[0], self.shape[0]), min(self._tile[1], self.shape[1]))

    def read(self, window: Window) -> np.ndarray:
        """`[height, width, channels]` of a window."""
        return self._lying(window, self._start) if self._start is not None else self._cut(window)

    def _lying(self, window: Window, start: int) -> np.ndarray:
        """Of samples that lie row by row, as they stand."""
        height, width, channels = self.shape
        stored = np.dtype(self._key.parent.byteorder + self._dtype.char)
        together, planes = (1, channels) if self._separate else (channels, 1)
        size = together * stored.itemsize
        result = np.empty((planes, window.height, window.width * together), stored)
        for plane in range(planes):
            first = start + (plane * height + window.top) * width * size
            if window.width == width:
                data = self._source.read(first, window.height * width * size)
                result[plane] = np.frombuffer(data, stored).reshape(window.height, -1)
                continue
            for row in range(window.height):
                at = first + (row * width + window.left) * size
                result[plane, row] = np.frombuffer(self._source.read(at, window.width * size), stored)
        values = result.reshape(planes, window.height, window.width, together)
        values = np.moveaxis(values[..., 0], 0, -1) if self._separate else values[0]
        return values.astype(stored.newbyteorder("="), copy=False)

    def _cut(self, window: Window) -> np.ndarray:
        """Of strips or tiles, decoded."""
        height, width, channels = self.shape
        down, across = (math.ceil(whole / part) for whole, part in zip((height, width), self._tile, strict=True))
        rows = range(window.top // self._tile[0], (window.top + window.height - 1) // self._tile[0] + 1)
        columns = range(window.left // self._tile[1], (window.left + window.width - 1) // self._tile[1] + 1)
        result = np.empty((window.height, window.width, channels), self._dtype)
        for plane in range(channels if self._separate else 1):
            held = result[..., plane : plane + 1] if self._separate else result
            for row in rows:
                for column in columns:
                    part = self._segment((plane * down + row) * across + column)
                    _place(part, row * self._tile[0] - window.top, column * self._tile[1] - window.left, held)
        return result

    def _segment(self, index: int) -> np.ndarray:
        """`[rows, columns, channels]` of a strip or tile."""
        if not (index < len(self._offsets) and self._offsets[index] and self._counts[index]):
            if self._fill is None:
                raise DataError(f"its strip or tile {index} holds nothing: write it again")
            channels = 1 if self._separate else self.shape[2]
            return np.full((*self._tile, channels), self._fill, self._dtype)

        def decode() -> np.ndarray:
            data = self._source.read(self._offsets[index], self._counts[index])
            return np.asarray(self._decode(data, index, **self._tables)[0])[0]

        return self._source.decoded((self._name, index), decode)


def _one_after_another(offsets: Sequence[int], counts: Sequence[int]) -> bool:
    """Whether strips lie so; a page's own, for pages of a stack needn't be alike in it."""
    ends = (offset + count for offset, count in zip(offsets, counts, strict=True))
    return all(count > 0 for count in counts) and all(
        end == after for end, after in zip(ends, offsets[1:], strict=False)
    )


def _place(part: np.ndarray, top: int, left: int, result: np.ndarray) -> None:
    """Put what of `part` falls into `result`, at `(top, left)` of it, which may lie outside."""
    rows = slice(max(0, top), min(result.shape[0], top + part.shape[0]))
    columns = slice(max(0, left), min(result.shape[1], left + part.shape[1]))
    result[rows, columns] = part[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
