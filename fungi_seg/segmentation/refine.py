"""Class scores that follow the edges of the image: a guided filter, in pieces that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

FINER = 4  # times the patch grid
RADIUS = 8  # cells of that finer grid
EPSILON = 3e-4  # variance of colours, in 0..1, that counts as none
PIECE_VALUES = 8_000_000
STRIP_VALUES = 250_000  # of a strip of pixels, so that the processor keeps them at hand
CHANNELS = 32  # arrays of a strip's size that the guide holds
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


class Guide:
    """The local statistics of an image, which every class shares (He et al., Guided Image Filtering, 2013).

    Args:
        image: `[h, w, 3]` float32 RGB in 0..1.
    """

    def __init__(self, image: np.ndarray):
        self._planes = cv2.split(image)
        self._means = boxes(*self._planes)
        products = [self._planes[i] * self._planes[j] for i, j in PAIRS]
        means = [*boxes(*products[:3]), *boxes(*products[3:])]
        cov = {(i, j): mean - self._means[i] * self._means[j] for (i, j), mean in zip(PAIRS, means, strict=True)}
        for i in range(3):
            cov[i, i] += np.float32(EPSILON)
        cofactors = (
            cov[1, 1] * cov[2, 2] - cov[1, 2] ** 2,
            cov[0, 2] * cov[1, 2] - cov[0, 1] * cov[2, 2],
            cov[0, 1] * cov[1, 2] - cov[0, 2] * cov[1, 1],
            cov[0, 0] * cov[2, 2] - cov[0, 2] ** 2,
            cov[0, 1] * cov[0, 2] - cov[0, 0] * cov[1, 2],
            cov[0, 0] * cov[1, 1] - cov[0, 1] ** 2,
        )
        determinant = cov[0, 0] * cofactors[0] + cov[0, 1] * cofactors[1] + cov[0, 2] * cofactors[2]
        c00, c01, c02, c11, c12, c22 = (part / determinant for part in cofactors)
        self._inverse = (c00, c01, c02), (c01, c11, c12), (c02, c12, c22)

    def filtered(self, scores: np.ndarray) -> np.ndarray:
        """`[h, w]` float32: at each place a linear function of the colours near it that fits `scores` best."""
        mean, *products = boxes(scores, *(plane * scores for plane in self._planes))
        along = [product - own * mean for product, own in zip(products, self._means, strict=True)]
        slopes = [row[0] * along[0] + row[1] * along[1] + row[2] * along[2] for row in self._inverse]
        for slope, own in zip(slopes, self._means, strict=True):
            mean -= slope * own
        found, *slopes = boxes(mean, *slopes)
        for slope, plane in zip(slopes, self._planes, strict=True):
            found += slope * plane
        return found


def boxes(*planes: np.ndarray) -> list[np.ndarray]:
    """The mean of each over a square of `2·RADIUS + 1` cells, the border mirrored; 4 at once take as long as 2."""
    side = 2 * RADIUS + 1
    return list(cv2.split(cv2.blur(cv2.merge(planes), (side, side), borderType=cv2.BORDER_REFLECT)))


@dataclass(frozen=True)
class Places:
    """How patches, the cells of the finer grid that is filtered, and pixels lie to each other.

    Attributes:
        down, across: from patches to cells.
        to_rows, to_columns: from cells to pixels.
    """

    down: Between
    across: Between
    to_rows: Between
    to_columns: Between


def guide_of(image: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """`[h·FINER, w·FINER, 3]` uint8 cells of an image `[H, W, 3]` at the input size, of `grid` patches `(h, w)`."""
    size = grid[1] * FINER, grid[0] * FINER
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


def places_of(size: tuple[int, int], covered: tuple[float, float], grid: tuple[int, int]) -> Places:
    """Where the cells of `guide_of` lie in an image of `size` `(H, W)`, of which `covered` patches are image."""
    (h, w), (down, across) = grid, covered
    return Places(
        Between(h * FINER, h, h),
        Between(w * FINER, w, w),
        Between(size[0], down * FINER, h * FINER),
        Between(size[1], across * FINER, w * FINER),
    )


def refined_strips(
    scores: Tensor,
    image: np.ndarray,
    covered: tuple[float, float],
    strength: float,
    guide: np.ndarray | None = None,
) -> Iterator[Tensor]:
    """Class scores per pixel, strip by strip from the top; what the strips are changes nothing.

    Args:
        scores: `[C, h, w]` float32 per patch.
        image: `[H, W, 3]` uint8 RGB, of the size that is wanted.
        covered: patches `(h', w')` that the image spans, from the top left; the rest was padding.
        strength: 0 to 1, the part of the filtered scores beside the bilinear ones.
        guide: cells of the image as it entered, from `guide_of`; made of `image` where not given.

    Yields:
        `[C, rows, W]` float32.
    """
    size = image.shape[0], image.shape[1]
    grid = scores.shape[1], scores.shape[2]
    if guide is None:
        fine = max(1, round(covered[0] * FINER)), max(1, round(covered[1] * FINER))
        guide = cv2.resize(image, fine[::-1], interpolation=cv2.INTER_AREA)
        from_patches = (Between(n, side, source) for n, side, source in zip(fine, covered, grid, strict=True))
        places = Places(*from_patches, *(Between(n, cells, cells) for n, cells in zip(size, fine, strict=True)))
    else:
        places = places_of(size, covered, grid)
    wide, rows_of_cells = places.across.apply(scores.numpy(), 2), len(guide)
    step = max(1, PIECE_VALUES // (max(len(scores), CHANNELS) * guide.shape[1]) * size[0] // rows_of_cells)
    for top in range(0, size[0], step):
        rows = range(top, min(top + step, size[0]))
        yield from refined_rows(wide, 0, guide, 0, places, rows, strength)


def refined_rows(
    wide: np.ndarray,
    patch_start: int,
    guide: np.ndarray,
    cell_start: int,
    places: Places,
    rows: range,
    strength: float,
) -> Iterator[Tensor]:
    """`refined_strips` for some rows of pixels, from a part of what they need.

    Args:
        wide: `[C, n, cells across]` float32 scores, from row `patch_start` of patches on, at least those that
            `cells_needed` lie in.
        patch_start: see there.
        guide: `[m, cells across, 3]` uint8 RGB of the cells, from row `cell_start` on.
        cell_start: see there.
        places: how they lie to each other.
        rows: of pixels.
        strength: as for `refined_strips`.
    """
    outer = cells_needed(places, rows, guide.shape[0] + cell_start)
    rough = places.down.apply(wide, 1, outer, patch_start)
    edges = Guide(guide[outer.start - cell_start : outer.stop - cell_start].astype(np.float32) / 255)
    for one in rough:
        one += np.float32(strength) * (edges.filtered(one) - one)
    for strip in _pixels(rough, outer.start, places, rows):
        yield torch.from_numpy(strip)


def cells_needed(places: Places, rows: range, cells: int) -> range:
    """Rows of cells, of so many, that some rows of pixels are made of: what the two box filters reach."""
    first, last = places.to_rows.span(rows)
    return range(max(0, first - 2 * RADIUS), min(cells, last + 2 * RADIUS))


def _pixels(cells: np.ndarray, start: int, places: Places, rows: range) -> Iterator[np.ndarray]:
    """`[C, …, width]` of pixel `rows`, strip by strip, from the rows of `cells` `[C, n, w]` that begin at `start`."""
    width = len(places.to_columns)
    step = max(1, STRIP_VALUES // (len(cells) * width))
    for top in rows[::step]:
        strip = range(top, min(top + step, rows.stop))
        first, last = places.to_rows.span(strip)
        part = np.ascontiguousarray(cells[:, first - start : last - start])
        yield places.to_rows.apply(_across(part, places.to_columns), 1, strip, first)


def _across(part: np.ndarray, to_columns: Between) -> np.ndarray:
    """`[C, n, w]` cells as `[C, n, width]`."""
    if not to_columns.whole:
        return to_columns.apply(part, 2)
    flat = part.reshape(-1, part.shape[2])
    wide = cv2.resize(flat, (len(to_columns), len(flat)), interpolation=cv2.INTER_LINEAR)  # row by row, as they were
    found: np.ndarray = wide.reshape(*part.shape[:2], len(to_columns))
    return found


class Between:
    """Linear interpolation along one axis, centres aligned, borders repeated.

    Args:
        out: length of the result.
        covered: how much of the source it spans.
        source: length of the source.

    Attributes:
        whole: all of the source is spanned.
    """

    def __init__(self, out: int, covered: float, source: int):
        self.whole = covered == source
        position = ((np.arange(out) + 0.5) * covered / out - 0.5).clip(0, source - 1)
        self._low = position.astype(np.int64)
        self._high = (self._low + 1).clip(max=source - 1)
        self._share = (position - self._low).astype(np.float32)

    def __len__(self) -> int:
        return len(self._low)

    def span(self, part: range) -> tuple[int, int]:
        """First place of the source that a part of the result needs, and the one after the last."""
        return int(self._low[part.start]), int(self._high[part.stop - 1]) + 1

    def weights(self, source: int) -> np.ndarray:
        """`[source]` float64, how much each place of the source counts in the mean over the result."""
        low = np.bincount(self._low, 1 - self._share, source)
        found: np.ndarray = (low + np.bincount(self._high, self._share, source)) / len(self)
        return found

    def apply(self, values: np.ndarray, axis: int, part: range | None = None, start: int = 0) -> np.ndarray:
        """A part of the result along `axis`, from `values` that begin at place `start` of the source."""
        chosen = slice(part.start, part.stop) if part else slice(None)
        low, high = (values.take(places[chosen] - start, axis) for places in (self._low, self._high))
        high -= low
        high *= self._share[chosen].reshape([-1 if axis == a else 1 for a in range(values.ndim)])
        high += low
        return high
