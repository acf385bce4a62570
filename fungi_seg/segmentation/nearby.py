"""A place in a large image, and what lies around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fungi_seg.errors import FungiSegError
from fungi_seg.features import PatchFeatures
from fungi_seg.images import Fitted, View
from fungi_seg.rasters import Window

AROUND = 8  # patches on each side that are shown
MOST = 128  # patches along a side that are explained together


@dataclass(frozen=True)
class Nearby:
    """An image, or of a large one the part about a place.

    Attributes:
        image: `[H, W, 3]` uint8 RGB, or `[H, W, n]` of joined channels.
        fitted: it, at the input size.
        features: `[N, D]` float32 of its patches.
        origin: column and row of its first pixel in the whole image.
    """

    image: np.ndarray
    fitted: Fitted
    features: np.ndarray
    origin: tuple[int, int] = (0, 0)


def nearby(features: PatchFeatures, view: View, box: tuple[int, int, int, int]) -> Nearby:
    """The part of a large image about `box`, with the features that its patches have in the whole.

    Args:
        features: of the bank's backbone.
        view: the image at its scale.
        box: `(left, top, right, bottom)` in pixels, within the image.

    Raises:
        FungiSegError: too large a part for one explanation.
        DataError: the image is damaged there.
    """
    patch = features.backbone.patch_size
    left, top, right, bottom = box
    rows, columns = (
        _about(first * scale / side, (last - 1) * scale / side, patches)
        for first, last, scale, side, patches in (
            (top, bottom, view.content[0] / view.size[0], patch[0], view.tiles.grid[0]),
            (left, right, view.content[1] / view.size[1], patch[1], view.tiles.grid[1]),
        )
    )
    if max(len(rows), len(columns)) > MOST + 2 * AROUND:
        raise FungiSegError(
            f"{view.raster.name}: the region {box} is {len(rows) - 2 * AROUND}×{len(columns) - 2 * AROUND} patches "
            f"(height×width); of a large image at most {MOST}×{MOST} are explained together: name a smaller region"
        )
    sides = [range(part.start * p, part.stop * p) for part, p in zip((rows, columns), patch, strict=True)]
    inner = [range(side.start, min(side.stop, n)) for side, n in zip(sides, view.content, strict=True)]
    y, x, height, width = view.window(*inner)
    y0, x0 = round(y), round(x)
    window = Window(y0, x0, min(round(y + height), view.size[0]) - y0, min(round(x + width), view.size[1]) - x0)
    image = torch.from_numpy(np.ascontiguousarray(view.part(*sides))).permute(2, 0, 1)
    fitted = Fitted(image, (len(inner[0]), len(inner[1])))
    return Nearby(view.pixels(window), fitted, _in_whole(features, view, rows, columns), (x0, y0))


def _about(first: float, last: float, patches: int) -> range:
    return range(max(0, int(first) - AROUND), min(patches, int(last) + 1 + AROUND))


def _in_whole(features: PatchFeatures, view: View, rows: range, columns: range) -> np.ndarray:
    """`[len(rows)·len(columns), D]` float32 features of patches, as they are when the whole image is worked on."""
    (ph, pw), total = features.backbone.patch_size, np.zeros((len(rows), len(columns), features.dim), np.float32)
    for number in range(view.tiles.shape[0]):
        for tile in view.tiles.row(number):
            down, across = (_common(one, other) for one, other in ((rows, tile.rows), (columns, tile.columns)))
            if not (down and across):
                continue
            part = view.part(
                range(tile.rows.start * ph, tile.rows.stop * ph), range(tile.columns.start * pw, tile.columns.stop * pw)
            )
            tensor = torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)
            found = next(features.of_tiles([tensor], view.raster.name)) * tile.weights[..., None]
            mine = np.ix_(_within(down, rows), _within(across, columns))
            total[mine] += found[np.ix_(_within(down, tile.rows), _within(across, tile.columns))]
    return features.normalised(total).reshape(-1, features.dim)


def _common(one: range, other: range) -> range:
    return range(max(one.start, other.start), min(one.stop, other.stop))


def _within(part: range, whole: range) -> range:
    return range(part.start - whole.start, part.stop - whole.start)
