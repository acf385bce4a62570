"""Large annotated images, a piece at a time."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import torch

from fungi_seg.bank.settings import BankRecipe
from fungi_seg.datasets import Dataset
from fungi_seg.errors import DataError
from fungi_seg.images import LARGE_PIXELS, VOID, Fitted, View, is_large, opened_view, tiles_for
from fungi_seg.rasters import Window, open_raster

OPEN = 4  # images whose pieces are read
SIDE = 4  # tiles along a piece's side


@dataclass(frozen=True)
class Piece:
    """A part of a large image's patch grid.

    Attributes:
        number: of the piece.
        rows, columns: of patches.
    """

    number: int
    rows: range
    columns: range


class Pieces:
    """The annotated images that are too large to be worked on as a whole.

    Args:
        dataset: of the images.
        recipe: how they enter.
        patch: `(height, width)` in pixels.
    """

    def __init__(self, dataset: Dataset, recipe: BankRecipe, patch: tuple[int, int]):
        self._dataset, self._recipe, self._patch = dataset, recipe, patch
        self._lock = threading.Lock()
        self._views: dict[int, View] = {}

    @property
    def tile_side(self) -> tuple[int, int]:
        """`(height, width)` of a tile in patches."""
        return tiles_for(self._patch, self._recipe.input, self._patch).side

    def of(self, index: int) -> tuple[Piece, ...]:
        """The pieces of an image; none where it enters as a whole, or can't be read (which is told when it is)."""
        path, input = self._dataset.items[index].image, self._recipe.input
        try:
            if not is_large(path, input):
                return ()
            with opened_view(path, input, self._patch) as view:
                h, w = view.tiles.grid
                down, across = (SIDE * side for side in view.tiles.side)
        except DataError:
            return ()
        if self._recipe.bank.augment:
            raise DataError(
                f"{path}: is worked on in pieces, which bank.augment doesn't cut copies out of; leave it out, or cut "
                f"the image into parts"
            )
        places = [(top, left) for top in range(0, h, down) for left in range(0, w, across)]
        return tuple(
            Piece(number, range(top, min(top + down, h)), range(left, min(left + across, w)))
            for number, (top, left) in enumerate(places)
        )

    def read(self, index: int, piece: Piece) -> tuple[Fitted, np.ndarray, tuple[float, float, float, float]]:
        """A piece at the scale at which the image enters.

        Returns:
            The piece; its mask `[H', W']` int16 of the data set's class indices, void −1; and where it lies in the
            image: top, left, height and width in pixels.

        Raises:
            DataError: it can't be read.
        """
        view = self._view(index)
        parts = zip((piece.rows, piece.columns), self._patch, strict=True)
        sides = [range(part.start * p, part.stop * p) for part, p in parts]
        image = torch.from_numpy(np.ascontiguousarray(view.part(*sides))).permute(2, 0, 1)
        inner = [range(side.start, min(side.stop, n)) for side, n in zip(sides, view.content, strict=True)]
        fitted = Fitted(image, (len(inner[0]), len(inner[1])), view.tiles.within(piece.rows, piece.columns))
        return fitted, self._mask(index, view, sides, inner), view.window(*inner)

    def _view(self, index: int) -> View:
        """An image, whose limits were found when it was opened: the last ones stay open."""
        with self._lock:
            if index not in self._views:
                input = self._recipe.input
                path = self._dataset.items[index].image
                self._views[index] = View(open_raster(path, input.projection), input, self._patch, path)
                if len(self._views) > OPEN:
                    del self._views[min(self._views)]  # not closed here: a thread may be reading from it
            return self._views[index]

    def _mask(self, index: int, view: View, sides: list[range], inner: list[range]) -> np.ndarray:
        rows, columns = view.nearest(*inner)
        left, width = int(columns[0]), int(columns[-1] - columns[0]) + 1
        parts = []
        for some in np.array_split(rows, max(1, int(rows[-1] - rows[0]) * width // LARGE_PIXELS)):
            window = Window(int(some[0]), left, int(some[-1] - some[0]) + 1, width)
            part = self._dataset.mask_window(index, window, view.size)[some - window.top][:, columns - left]
            valid = view.raster.valid(window)
            if valid is not None:
                part = np.where(valid[some - window.top][:, columns - left], part, VOID).astype(part.dtype)
            parts.append(part)
        found = np.concatenate(parts)
        below, right = (len(side) - len(part) for side, part in zip(sides, inner, strict=True))
        return np.pad(found, ((0, below), (0, right)), constant_values=VOID)
