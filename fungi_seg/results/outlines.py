"""Regions of pixels as polygons along the edges of their pixels, which hold the same pixels when filled."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

Ring = np.ndarray
Polygon = list[Ring]


class _Edge(NamedTuple):
    """Of a pixel: where it ends, and the part that the pixel is of."""

    end: tuple[int, int]
    pixel: int
    part: int


def outlines(region: np.ndarray) -> list[Polygon]:
    """The polygons that hold exactly the pixels of a region; a pixel (x, y) reaches from x to x + 1 and y to y + 1.

    Pixels that touch at a corner only are of two polygons, so that no ring touches itself.

    Args:
        region: `[h, w]` bool.

    Returns:
        For each polygon its outer ring and then its holes, each `[n, 2]` int64 corners (x, y), not closed. Seen with y
        downwards, outer rings run clockwise and holes the other way.
    """
    padded = np.pad(region, 1)
    parts = cv2.connectedComponents(padded.astype(np.uint8), connectivity=4)[1]
    rings = _rings(padded, parts)
    found: dict[int, Polygon] = {}
    for part, ring in sorted(rings, key=lambda item: -_area(item[1])):  # outer rings first: holes have areas below 0
        found.setdefault(part, []).append(ring)
    return list(found.values())


def _rings(padded: np.ndarray, parts: np.ndarray) -> list[tuple[int, Ring]]:
    """Closed paths along the edges of pixels, each with the part (4 neighbours) that lies on its right."""
    follow: dict[tuple[int, int], list[_Edge]] = {}
    for (down, across), (start, end) in {
        (-1, 0): ((0, 0), (1, 0)),
        (0, 1): ((1, 0), (1, 1)),
        (1, 0): ((1, 1), (0, 1)),
        (0, -1): ((0, 1), (0, 0)),
    }.items():
        rows, columns = np.nonzero(padded & ~np.roll(padded, (-down, -across), (0, 1)))
        pixels = rows * padded.shape[1] + columns
        for x, y, pixel, part in zip(
            columns.tolist(), rows.tolist(), pixels.tolist(), parts[rows, columns].tolist(), strict=True
        ):
            edge = _Edge((x + end[0] - 1, y + end[1] - 1), pixel, part)
            follow.setdefault((x + start[0] - 1, y + start[1] - 1), []).append(edge)
    rings = []
    while follow:
        start = corner = next(iter(follow))
        pixel, part, path = -1, follow[start][0].part, []
        while ways := [edge for edge in follow.get(corner, ()) if edge.part == part]:
            path.append(corner)
            way = max(ways, key=lambda edge: edge.pixel != pixel)  # twice at a corner: holes, not the part, end there
            follow[corner].remove(way)
            if not follow[corner]:
                del follow[corner]
            corner, pixel = way.end, way.pixel
            if corner == start:
                break
        rings.append((part, _corners(np.array(path))))
    return rings


def _corners(path: np.ndarray) -> Ring:
    """Without the places where a path runs straight on."""
    before, after = path - np.roll(path, 1, 0), np.roll(path, -1, 0) - path
    found: Ring = path[(before != after).any(1)]
    return found


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
