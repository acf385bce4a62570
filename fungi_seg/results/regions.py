"""The regions of a mask that may be too large for memory, as polygons along the edges of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from fungi_seg.errors import MissingExtra
from fungi_seg.rasters import ReadMask, Window

STRIP = 2**24  # pixels that are looked at together
NONE = -1


@dataclass
class _Region:
    """A connected region (4 neighbours), or what of it is known.

    Attributes:
        value: of its pixels.
        pieces: polygons, one of each strip.
    """

    value: int
    pieces: list[Any] = field(default_factory=list)


def regions(read: ReadMask, size: tuple[int, int], void: int, strip: int | None = None) -> Iterator[tuple[int, Any]]:
    """Values, and polygons that hold exactly the pixels of a region: connected (4 neighbours) and of that value.

    Pixel (x, y) reaches from x to x + 1 and y to y + 1. A region is given as soon as it has ended, so that no more is
    held than a strip of the mask and the regions that reach its lower border.

    Args:
        read: gives `[h, w]` values of any window.
        size: `(H, W)` of the mask.
        void: the value of pixels of no region.
        strip: rows that are looked at together.

    Raises:
        MissingExtra: without the extra `geo`.
    """
    rows = strip or max(1, STRIP // size[1])
    begun: list[_Region] = []
    above = np.full(size[1], NONE)  # of each pixel in the last row of the strip before, its number in `begun`
    for top in range(0, size[0], rows):
        block = read(Window(top, 0, min(rows, size[0] - top), size[1]))
        found = _in_strip(block, void, top)
        joined, number = _joined(begun, found, above, _row_of(found, block[:1], top))
        below = number[_row_of(found, block[-1:], top + len(block) - 1)]
        lasting = np.unique(below[below != NONE]) if top + len(block) < size[0] else np.empty(0, int)
        for ended in set(range(len(joined))).difference(lasting.tolist()):
            yield joined[ended].value, _whole(joined[ended].pieces)
        begun = [joined[one] for one in lasting]
        above = np.where(below == NONE, NONE, np.searchsorted(lasting, below))


def _in_strip(block: np.ndarray, void: int, top: int) -> list[_Region]:
    try:
        from rasterio import Affine
        from rasterio.features import shapes
    except ImportError as error:
        raise MissingExtra("geo", error) from error

    found = shapes(block, block != void, connectivity=4, transform=Affine.translation(0, top))
    return [_Region(int(value), [shapely.geometry.shape(outline)]) for outline, value in found]


def _row_of(found: list[_Region], row: np.ndarray, top: int) -> np.ndarray:
    """`[W]` of each pixel in a row of the strip the number of the region it is of."""
    from rasterio import Affine
    from rasterio.features import rasterize

    boxes = shapely.bounds([region.pieces[0] for region in found]).reshape(-1, 4)
    there = np.flatnonzero((boxes[:, 1] <= top) & (boxes[:, 3] >= top + 1))
    if not len(there):
        return np.full(row.shape[1], NONE)
    drawn = [(found[one].pieces[0], int(one)) for one in there]
    where = Affine.translation(0, top)
    return np.asarray(rasterize(drawn, row.shape, fill=NONE, transform=where, dtype="int32")[0])


def _joined(
    begun: list[_Region], found: list[_Region], above: np.ndarray, below: np.ndarray
) -> tuple[list[_Region], np.ndarray]:
    """Regions of the strips before and those of the next one as one where they are, and the numbers of the latter.

    The numbers end with `NONE`, so that it stands for itself.

    Args:
        begun, found: those before, those of the strip.
        above, below: `[W]` which of them each pixel is of, in the rows where they meet.
    """
    values = np.array([region.value for region in (*begun, *found)], int)
    over, under = above[(above != NONE) & (below != NONE)], below[(above != NONE) & (below != NONE)] + len(begun)
    meets = values[over] == values[under]
    links = coo_array((np.ones(meets.sum()), (over[meets], under[meets])), shape=(len(values),) * 2)
    count, number = connected_components(links, directed=False)
    joined = [_Region(0) for _ in range(count)]
    for one, region in zip(number, (*begun, *found), strict=True):
        joined[one].value = region.value
        joined[one].pieces += region.pieces
    return joined, np.append(number[len(begun) :], NONE)


def _whole(pieces: list[Any]) -> Any:
    """One polygon; corners that joining has left within straight edges are gone."""
    if len(pieces) == 1:
        return pieces[0]
    polygon = shapely.union_all(pieces)
    return shapely.Polygon(_corners(polygon.exterior), [_corners(hole) for hole in polygon.interiors])


def _corners(ring: Any) -> np.ndarray:
    points = shapely.get_coordinates(ring)[:-1]
    (x, y), (next_x, next_y) = (points - np.roll(points, 1, 0)).T, (np.roll(points, -1, 0) - points).T
    return points[x * next_y != y * next_x]
