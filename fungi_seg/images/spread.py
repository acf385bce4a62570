"""Which values of images become black and white, found part by part in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fungi_seg.errors import DataError
from fungi_seg.images.depth import BRIGHTEST, DARKEST, NOTHING, Ends, ends
from fungi_seg.rasters import Raster, Window, holds_something

MOST_KEPT = 2**24  # values of types that aren't counted one by one
SIDE = 1024  # of the windows that are read
EVERY = 64  # windows up to which all of an image is read


class Spread:
    """Values of one kind: whole numbers of up to 16 bits are counted, of others an even part is kept.

    Args:
        dtype: of the values.
    """

    def __init__(self, dtype: np.dtype):
        self._counted = dtype.kind in "ui" and dtype.itemsize <= 2
        self._lowest = int(np.iinfo(dtype).min) if self._counted else 0
        self._counts = np.zeros(2 ** (8 * dtype.itemsize) if self._counted else 0, np.int64)
        self._parts: list[np.ndarray] = []
        self._step, self._held = 1, 0

    def add(self, values: np.ndarray) -> None:
        """Take values into account."""
        if self._counted:
            self._counts += np.bincount(values.ravel().astype(np.int64) - self._lowest, minlength=len(self._counts))
            return
        self._parts.append(values.ravel()[:: self._step].copy())
        self._held += self._parts[-1].size
        while self._held > MOST_KEPT:
            self._step *= 2
            self._parts = [part[::2] for part in self._parts]
            self._held = sum(part.size for part in self._parts)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._held or self._counts.any())

    def ends(self) -> Ends:
        """As `depth.ends` of all values.

        Raises:
            DataError: there are none.
        """
        if not self._counted:
            return ends(np.concatenate([*self._parts, np.empty(0, self._parts[0].dtype if self._parts else float)]))
        values = np.flatnonzero(self._counts)
        if not values.size:
            raise DataError(NOTHING)
        counts = self._counts[values]
        values = values + self._lowest
        kept = _without_fill(values, self._lowest, self._lowest + len(self._counts) - 1)
        values, counts = values[kept], counts[kept]
        white = _percentile(values, counts, BRIGHTEST)
        return (min(0.0, _percentile(values, counts, DARKEST)) if values[0] < 0 else 0.0), white


def add_samples(spreads: Sequence[Spread], samples: np.ndarray, held: np.ndarray | None) -> None:
    """Put samples into one spread for all channels, or one for each.

    Args:
        spreads: as many as channels, or one.
        samples: `[h, w, c]`.
        held: bool of the same shape, which count; all where not given.
    """
    for number, spread in enumerate(spreads):
        part = samples if len(spreads) == 1 else samples[..., number]
        counted = held if held is None or len(spreads) == 1 else held[..., number]
        spread.add(part if counted is None else part[counted])


def held_samples(samples: np.ndarray, nodata: float | None, valid: np.ndarray | None) -> np.ndarray | None:
    """Which of `[h, w, c]` samples count; all where nothing is returned.

    Of 8 bits, where white may be the value of nodata, a sample doesn't count where all channels of its pixel have it.

    Args:
        samples: of the channels that are used.
        nodata: the value of samples that hold nothing.
        valid: `[h, w]` bool, pixels that hold something in any channel; found by the samples where not given.
    """
    held = holds_something(samples, nodata)
    if samples.dtype == np.uint8:
        valid = np.asarray(held.any(axis=2)) if valid is None and held is not None else valid
        held = None
    if valid is None:
        return held
    of_pixel = np.broadcast_to(valid[..., None], samples.shape)
    return of_pixel if held is None else held & of_pixel


def spread_windows(size: tuple[int, int], most: int = EVERY) -> Iterator[Window]:
    """Windows that cover a picture, or of a large one `most` of them, at even distances."""
    starts = [(top, left) for top in range(0, size[0], SIDE) for left in range(0, size[1], SIDE)]
    count = min(len(starts), most)
    for number in range(count):
        top, left = starts[int((number + 0.5) * len(starts) / count)]
        yield Window(top, left, min(SIDE, size[0] - top), min(SIDE, size[1] - left))


def collect(raster: Raster, channels: Sequence[int], spreads: Sequence[Spread], most: int = EVERY) -> None:
    """Put a picture's samples into spreads, window by window.

    Args:
        raster: the picture.
        channels: numbers from 0.
        spreads: as of `add_samples`.
        most: windows that are read.
    """
    for window in spread_windows(raster.info.size, most):
        samples = raster.read(window, 0, channels)
        add_samples(spreads, samples, held_samples(samples, raster.info.nodata, raster.valid(window)))


def _without_fill(values: np.ndarray, lowest: int, highest: int) -> slice:
    """As `depth` leaves out the ends of a type's range, of sorted values."""
    start, stop = 0, len(values)
    if values[-1] == highest and stop > 1 and values[-2] < highest / 2:
        stop -= 1
    if lowest < 0 and values[0] == lowest and stop > 1 and values[1] > lowest / 2:
        start = 1
    return slice(start, stop)


def _percentile(values: np.ndarray, counts: np.ndarray, percent: float) -> float:
    """As `np.percentile` of sorted values that are there so many times."""
    reached = np.cumsum(counts)
    place = percent / 100 * (int(reached[-1]) - 1)
    below = int(place)
    share = place - below
    low, high = (
        float(values[min(int(np.searchsorted(reached, at, side="right")), len(values) - 1)])
        for at in (below, below + 1)
    )
    return low + (high - low) * share if share < 0.5 else high - (high - low) * (1 - share)
