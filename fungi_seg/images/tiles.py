"""Large images as overlapping tiles, and what was found in the tiles as one whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np

WHOLE = 4  # tiles' areas up to which an image enters whole
OVERLAP = 4  # a tile shares this part of its side, one by so many, with the next one


@dataclass(frozen=True)
class Tile:
    """One tile, in patches of the image's grid.

    Attributes:
        rows, columns: which patches it covers.
        weights: `[rows, columns]` float32, how much what is found in it counts; those of all tiles sum to 1.
    """

    rows: range
    columns: range
    weights: np.ndarray


@dataclass(frozen=True)
class Tiles:
    """How an image's patch grid is covered by tiles.

    Attributes:
        grid: `(h, w)` patches of the image.
        side: `(height, width)` of a tile in patches, at most; an image of few tiles' area is one tile.
    """

    grid: tuple[int, int]
    side: tuple[int, int]

    @cached_property
    def _axes(self) -> tuple[list[tuple[range, np.ndarray]], list[tuple[range, np.ndarray]]]:
        if self.grid[0] * self.grid[1] <= WHOLE * self.side[0] * self.side[1]:
            down, across = ([(range(n), np.ones(n, np.float32))] for n in self.grid)
        else:
            down, across = (_along(n, side) for n, side in zip(self.grid, self.side, strict=True))
        return down, across

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles below and beside each other."""
        return len(self._axes[0]), len(self._axes[1])

    def __len__(self) -> int:
        return self.shape[0] * self.shape[1]

    def row(self, number: int) -> list[Tile]:
        """The tiles of a row of tiles, from the left."""
        rows, down = self._axes[0][number]
        return [Tile(rows, columns, down[:, None] * across) for columns, across in self._axes[1]]

    def finished(self, number: int) -> range:
        """Rows of patches that no further tile covers once this row of tiles, and those before it, are done."""
        starts = [rows.start for rows, _ in self._axes[0]] + [self.grid[0]]
        return range(starts[number], starts[number + 1])

    def within(self, rows: range, columns: range) -> Tiles:
        """How a part of the grid is covered when it is worked on by itself."""
        return Tiles((len(rows), len(columns)), self.side)

    def covering(self, row: int, column: int) -> tuple[range, range]:
        """The part of the grid, rows and columns, of all tiles that cover a patch."""
        found = []
        for place, along in zip((row, column), self._axes, strict=True):
            over = [part for part, _ in along if place in part]
            found.append(range(over[0].start, over[-1].stop))
        return found[0], found[1]


class Blend:
    """Values of tiles put together, a row of tiles at a time.

    Args:
        tiles: of the image.
        carried: what `carried` was after the row of tiles before the next one, to go on from there.

    Attributes:
        carried: `[rows, w, D]` float32, weighted sums of the rows of patches that are begun and not finished.
    """

    def __init__(self, tiles: Tiles, carried: np.ndarray | None = None):
        self._tiles = tiles
        self.carried = np.empty((0, tiles.grid[1], 0), np.float32) if carried is None else carried

    def row(self, number: int, values: Iterable[np.ndarray]) -> np.ndarray:
        """`[rows, w, D]` float32, weighted sums for the rows of patches that are `finished` with this row of tiles.

        Args:
            number: of the row of tiles; one after the other.
            values: `[height, width, D]` float32 of each of its tiles, from the left.
        """
        each = iter(values)
        first = next(each)
        total = np.zeros((first.shape[0], self._tiles.grid[1], first.shape[2]), np.float32)
        if len(self.carried):
            total[: len(self.carried)] = self.carried
        for tile, found in zip(self._tiles.row(number), chain([first], each), strict=True):
            total[:, tile.columns.start : tile.columns.stop] += found * tile.weights[..., None]
        done = self._tiles.finished(number)
        self.carried = total[len(done) :].copy()
        return total[: len(done)]


def blended(tiles: Tiles, values: Iterator[np.ndarray]) -> np.ndarray:
    """`[h, w, D]` float32 weighted sums of all tiles' values, which come row by row from the left."""
    blend, across = Blend(tiles), tiles.shape[1]
    return np.concatenate([blend.row(row, [next(values) for _ in range(across)]) for row in range(tiles.shape[0])])


def _along(length: int, side: int) -> list[tuple[range, np.ndarray]]:
    """Parts of an axis, and the weights of their patches: smooth where parts overlap, and 1 in all at each place."""
    if length <= side:
        return [(range(length), np.ones(length, np.float32))]
    overlap = max(1, side // OVERLAP)
    starts = [*range(0, length - side, max(1, side - overlap)), length - side]
    distance = np.minimum(np.arange(side), np.arange(side)[::-1]) + 0.5
    window = np.sin(np.pi / 2 * np.minimum(distance / overlap, 1)) ** 2
    total = np.zeros(length)
    for start in starts:
        total[start : start + side] += window
    return [(range(start, start + side), (window / total[start : start + side]).astype(np.float32)) for start in starts]
