"""Planes along an axis put together to one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np

from fungi_seg.errors import DataError
from fungi_seg.rasters.raster import Raster, Window


class Projected:
    """The highest sample or the mean of several planes, as a `Raster`. Means of whole numbers are rounded.

    Args:
        planes: of one size and type.
        how: `max` or `mean`.
        name: what errors call it.
    """

    def __init__(self, planes: Sequence[Raster], how: str, name: str):
        self._planes, self._how, self.name = planes, how, name
        self._open = ExitStack()
        for plane in planes:
            self._open.enter_context(plane)
        self.info = planes[0].info
        for plane in planes:
            if replace(plane.info, channels=()) != replace(self.info, channels=()):
                self._open.close()
                raise DataError(f"{name}: its planes differ in size or type, and can't be put together")

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """See `Raster.read`."""
        first = self._planes[0].read(window, level, channels)
        total = first.astype(np.float64) if self._how == "mean" else first
        for plane in self._planes[1:]:
            part = plane.read(window, level, channels)
            total = total + part if self._how == "mean" else np.maximum(total, part)
        if self._how == "max":
            return np.asarray(total)
        total = total / len(self._planes)
        return (total if first.dtype.kind == "f" else np.rint(total)).astype(first.dtype)

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """See `Raster.valid`: pixels that hold something in every plane."""
        masks = [mask for mask in (plane.valid(window, level) for plane in self._planes) if mask is not None]
        return np.logical_and.reduce(masks) if masks else None

    def __enter__(self) -> Projected:
        return self

    def __exit__(self, *error: object) -> None:
        self._open.close()
