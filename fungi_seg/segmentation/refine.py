"""Class scores that follow the edges of the image: a guided filter, in pieces that fit the memory."""

from __future__ import annotations

from collections.abc import Iterator

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


def refined_strips(
    scores: Tensor, image: np.ndarray, covered: tuple[float, float], strength: float
) -> Iterator[Tensor]:
    """Class scores per pixel, strip by strip from the top; what the strips are changes nothing.

    Args:
        scores: `[C, h, w]` float32 per patch.
        image: `[H, W, 3]` uint8 RGB, of the size that is wanted.
        covered: patches `(h', w')` that the image spans, from the top left; the rest was padding.
        strength: 0 to 1, the part of the filtered scores beside the bilinear ones.

    Yields:
        `[C, rows, W]` float32.
    """
    height, width = image.shape[:2]
    fine = max(1, round(covered[0] * FINER)), max(1, round(covered[1] * FINER))
    guide = cv2.resize(image, fine[::-1], interpolation=cv2.INTER_AREA)
    down, across = Between(fine[0], covered[0], scores.shape[1]), Between(fine[1], covered[1], scores.shape[2])
    wide = across.apply(scores.numpy(), 2)
    to_pixels = Between(height, fine[0], fine[0])
    step = max(1, PIECE_VALUES // (max(len(scores), CHANNELS) * fine[1]) * height // fine[0])
    for top in range(0, height, step):
        rows = range(top, min(top + step, height))
        first, last = to_pixels.span(rows)
        outer = range(max(0, first - 2 * RADIUS), min(fine[0], last + 2 * RADIUS))  # what the two box filters reach
        rough = down.apply(wide, 1, outer)
        edges = Guide(guide[outer.start : outer.stop].astype(np.float32) / 255)
        for one in rough:
            one += np.float32(strength) * (edges.filtered(one) - one)
        for strip in _pixels(rough, outer.start, to_pixels, rows, width):
            yield torch.from_numpy(strip)


def _pixels(cells: np.ndarray, start: int, down: Between, rows: range, width: int) -> Iterator[np.ndarray]:
    """`[C, …, width]` of pixel `rows`, strip by strip, from the rows of `cells` `[C, n, w]` that begin at `start`."""
    step = max(1, STRIP_VALUES // (len(cells) * width))
    for top in rows[::step]:
        strip = range(top, min(top + step, rows.stop))
        first, last = down.span(strip)
        part = np.ascontiguousarray(cells[:, first - start : last - start])
        flat = part.reshape(-1, part.shape[2])
        wide = cv2.resize(flat, (width, len(flat)), interpolation=cv2.INTER_LINEAR)  # row by row, as many as there were
        yield down.apply(wide.reshape(*part.shape[:2], width), 1, strip, first)


class Between:
    """Linear interpolation along one axis, centres aligned, borders repeated.

    Args:
        out: length of the result.
        covered: how much of the source it spans.
        source: length of the source.
    """

    def __init__(self, out: int, covered: float, source: int):
        position = ((np.arange(out) + 0.5) * covered / out - 0.5).clip(0, source - 1)
        self._low = position.astype(np.int64)
        self._high = (self._low + 1).clip(max=source - 1)
        self._share = (position - self._low).astype(np.float32)

    def span(self, part: range) -> tuple[int, int]:
        """First place of the source that a part of the result needs, and the one after the last."""
        return int(self._low[part.start]), int(self._high[part.stop - 1]) + 1

    def apply(self, values: np.ndarray, axis: int, part: range | None = None, start: int = 0) -> np.ndarray:
        """A part of the result along `axis`, from `values` that begin at place `start` of the source."""
        chosen = slice(part.start, part.stop) if part else slice(None)
        low, high = (values.take(places[chosen] - start, axis) for places in (self._low, self._high))
        high -= low
        high *= self._share[chosen].reshape([-1 if axis == a else 1 for a in range(values.ndim)])
        high += low
        return high
