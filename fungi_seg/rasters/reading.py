"""What all kinds of rasters share: windows within the plane, damage by name, and samples that hold nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from fungi_seg.errors import DataError, FungiSegError, MissingExtra, reason
from fungi_seg.rasters.raster import Raster, Window

TOGETHER = 4  # channels that are looked at together, of the many that a picture may have


@contextmanager
def damage_named(name: str, what: str) -> Iterator[None]:
    """Errors get the name of the file; whatever a decoder raises is an error of the file's.

    Args:
        name: what errors call the file.
        what: it is to be, with its article.
    """
    try:
        yield
    except MissingExtra:
        raise
    except DataError as error:
        raise (error if str(error).startswith(name) else DataError(f"{name}: {error}")) from error
    except FungiSegError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such {what.split()[-1]} file") from error
    except Exception as error:  # decoders raise anything of a damaged file
        raise DataError(
            f"{name}: can't be read as {what} ({reason(error)}); replace the file or leave it out"
        ) from error


def checked_window(raster: Raster, window: Window, level: int) -> None:
    """Refuse a window that isn't within the level.

    Raises:
        FungiSegError: no such level, or beyond its borders, or of no pixel.
    """
    if not 0 <= level < len(raster.info.levels):
        raise FungiSegError(f"{raster.name}: level is {level}; it must be 0 to {len(raster.info.levels) - 1}")
    height, width = raster.info.levels[level]
    inside = window.top >= 0 and window.left >= 0
    inside = inside and window.top + window.height <= height and window.left + window.width <= width
    if not inside or window.height < 1 or window.width < 1:
        raise FungiSegError(f"{raster.name}: {window} isn't within level {level}, {height}×{width} (height×width)")


def holds_something(samples: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """Which samples are finite and other than `nodata`, of the same shape; none where all are."""
    held = np.isfinite(samples) if samples.dtype.kind == "f" else None
    if nodata is not None:
        other = samples != nodata
        held = other if held is None else held & other
    return None if held is None or held.all() else np.asarray(held)


def valid_samples(raster: Raster, window: Window, level: int) -> np.ndarray | None:
    """`[height, width]` pixels of which a channel holds something; none where all do."""
    if raster.info.nodata is None and not raster.info.dtype.startswith("float"):
        return None
    found, count = np.zeros((window.height, window.width), bool), len(raster.info.channels)
    for start in range(0, count, TOGETHER):
        held = holds_something(
            raster.read(window, level, range(start, min(start + TOGETHER, count))), raster.info.nodata
        )
        if held is None:
            return None
        found |= held.any(axis=2)
        if found.all():
            return None
    return found
