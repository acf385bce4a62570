"""Labelled pixels as polygons along the edges of the pixels, which hold the same pixels when filled."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Ring = np.ndarray
Polygon = list[Ring]
# by the neighbour beyond an edge, (down, across): where the edge of pixel (0, 0) starts and ends, (y, x), clockwise
SIDES = {
    (-1, 0): ((0, 0), (0, 1)),
    (0, 1): ((0, 1), (1, 1)),
    (1, 0): ((1, 1), (1, 0)),
    (0, -1): ((1, 0), (0, 0)),
}


@dataclass(frozen=True)
class _Edges:
    """Edges of pixels with another object, or none, beyond; corners are numbered line by line.

    Attributes:
        start, end: `[E]` corners, clockwise around the pixel with y downwards.
        side: `[E]` which of `SIDES`.
        pixel: `[E]` of which pixel.
        part: `[E]` the connected part (4 neighbours) that the pixel is of.
    """

    start: np.ndarray
    end: np.ndarray
    side: np.ndarray
    pixel: np.ndarray
    part: np.ndarray


def outlines(labels: np.ndarray) -> dict[int, list[Polygon]]:
    """The polygons that hold exactly the pixels of each object; a pixel (x, y) reaches from x to x + 1 and y to y + 1.

    Pixels that touch at a corner only are of two polygons, so that no ring touches itself.

    Args:
        labels: `[H, W]` int32, the number of each pixel's object, 0 for none.

    Returns:
        By number, for each polygon its outer ring and then its holes, each `[n, 2]` int64 corners (x, y), not closed.
        Seen with y downwards, outer rings run clockwise and holes the other way.
    """
    from skimage.measure import label

    edges = _edges(label(labels, background=0, connectivity=1))
    rings: dict[int, list[tuple[int, Ring]]] = {}
    flat, width = labels.ravel(), labels.shape[1] + 1
    for path in _closed(_following(edges)):
        turns = path[edges.side[path] != np.roll(edges.side[path], 1)]
        y, x = np.divmod(edges.start[turns], width)
        first = path[0]
        ring = (int(edges.part[first]), np.column_stack([x, y]))
        rings.setdefault(int(flat[edges.pixel[first]]), []).append(ring)
    return {number: _polygons(rings[number]) for number in sorted(rings)}


def _edges(parts: np.ndarray) -> _Edges:
    height, width = parts.shape
    padded = np.pad(parts, 1)
    found = []
    for side, ((down, across), (start, end)) in enumerate(SIDES.items()):
        beyond = padded[1 + down : 1 + down + height, 1 + across : 1 + across + width]
        y, x = np.nonzero((parts > 0) & (parts != beyond))
        corners = [(y + dy) * (width + 1) + x + dx for dy, dx in (start, end)]
        found.append((*corners, np.full(len(y), side), y * width + x, parts[y, x]))
    return _Edges(*(np.concatenate(values) for values in zip(*found, strict=True)))


def _following(edges: _Edges) -> np.ndarray:
    """`[E]` the edge of the same part that begins where each edge ends.

    There are two where pixels of the part touch at a corner: that of the other pixel, so that holes, and not the part,
    end there.
    """
    parts = int(edges.part.max(initial=0)) + 1
    begins = edges.start * parts + edges.part
    order = np.argsort(begins, kind="stable")
    place = np.searchsorted(begins[order], edges.end * parts + edges.part)
    one, other = order[place], order[np.minimum(place + 1, len(order) - 1)]
    two = begins[other] == begins[one]
    found: np.ndarray = np.where(two & (edges.pixel[one] == edges.pixel), other, one)
    return found


def _closed(following: np.ndarray) -> list[np.ndarray]:
    """The rings that edges make: each a path of edges, in which the first follows the last."""
    after, seen, found = following.tolist(), bytearray(len(following)), []
    for first in range(len(after)):
        if seen[first]:
            continue
        path, edge = [], first
        while not seen[edge]:
            seen[edge] = 1
            path.append(edge)
            edge = after[edge]
        found.append(np.array(path))
    return found


def _polygons(rings: list[tuple[int, Ring]]) -> list[Polygon]:
    found: dict[int, Polygon] = {}
    for part, ring in sorted(rings, key=lambda item: -_area(item[1])):  # outer rings first: holes have areas below 0
        found.setdefault(part, []).append(ring)
    return list(found.values())


def _area(ring: Ring) -> float:
    x, y = ring.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()) / 2
