"""Polygons to the pixels of the rasters they lie on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import shapely

from fungi_seg.datasets.common import Item
from fungi_seg.errors import DataError
from fungi_seg.rasters import Window

MOST_LOOKED_AT = 2048  # pixels along a side


@dataclass(frozen=True)
class PlacedPolygons:
    """Those that lie on one raster, the later ones on top.

    Attributes:
        size: `(H, W)` of the raster.
        shapes: `[n]` in its pixels, from the upper left corner of the first one.
        values: `[n]` class indices, or void.
    """

    size: tuple[int, int]
    shapes: np.ndarray
    values: np.ndarray

    @cached_property
    def tree(self) -> shapely.STRtree:
        """Finds those in a window."""
        return shapely.STRtree(self.shapes)


@dataclass(frozen=True)
class PolygonMasks:
    """Paints polygons: the pixels whose middles lie within one.

    Attributes:
        classes: names.
        rest: class index, or void, of pixels in no polygon.
        placed: by the id of their raster.
        named: the property that gave the classes, where one was asked for.
    """

    classes: tuple[str, ...]
    rest: int
    placed: Mapping[str, PlacedPolygons] = field(repr=False)
    named: str | None = None

    def __call__(self, item: Item, size: tuple[int, int]) -> np.ndarray:
        """`[H, W]` int16 class indices, void −1.

        Raises:
            DataError: the raster has another size than it had when the data set was opened.
        """
        return self.window(item, Window(0, 0, *size), size)

    def window(self, item: Item, window: Window, size: tuple[int, int]) -> np.ndarray:
        """The same of a window.

        Raises:
            DataError: as above.
        """
        from rasterio import Affine
        from rasterio.features import rasterize

        polygons = self.placed[item.id]
        if size != polygons.size:
            raise DataError(
                f"{item.image}: is {size[0]}×{size[1]} (height×width), but was {polygons.size[0]}×{polygons.size[1]} "
                f"when its polygons were placed; open the data set again"
            )
        right, bottom = window.left + window.width, window.top + window.height
        there = np.sort(polygons.tree.query(shapely.box(window.left, window.top, right, bottom)))
        shape = (window.height, window.width)
        if not len(there):
            return np.full(shape, self.rest, np.int16)
        drawn = zip(polygons.shapes[there], polygons.values[there].tolist(), strict=True)
        where = Affine.translation(window.left, window.top)
        return np.asarray(rasterize(drawn, shape, fill=self.rest, transform=where, dtype=np.int16))


def share_covered(placed: PlacedPolygons) -> float:
    """Share of a raster's pixels that lie in polygons; of a large raster's those of a regular grid are looked at."""
    from rasterio import Affine
    from rasterio.features import rasterize

    step = -(-max(placed.size) // MOST_LOOKED_AT)
    shape = (-(-placed.size[0] // step), -(-placed.size[1] // step))
    drawn = ((polygon, 1) for polygon in placed.shapes)
    return float(rasterize(drawn, shape, transform=Affine.scale(step), dtype=np.uint8).mean())
