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
CHANNELS = 32  # arrays of a strip's size that the guide holds
PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


class Guide:
    """The local statistics of an image, which every class shares (He et al., Guided Image Filtering, 2013).

    Args:
        image: `[h, w, 3]` float32 RGB in 0..1.
    """

    def __init__(self, image: np.ndarray):
        self._planes = cv2.split(image)
        self._means = [box(plane) for plane in self._planes]
        cov = {(i, j): box(self._planes[i] * self._planes[j]) - self._means[i] * self._means[j] for i, j in PAIRS}
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
        found = mean = box(scores)
        along = [box(plane * scores) - own * mean for plane, own in zip(self._planes, self._means, strict=True)]
        slopes = [row[0] * along[0] + row[1] * along[1] + row[2] * along[2] for row in self._inverse]
        for slope, own in zip(slopes, self._means, strict=True):
            found = found - slope * own
        found = box(found)
        for slope, plane in zip(slopes, self._planes, strict=True):
            found += box(slope) * plane
        return found


def box(values: np.ndarray) -> np.ndarray:
    """The mean over a square of `2·RADIUS + 1` cells, the border mirrored."""
    side = 2 * RADIUS + 1
    return cv2.boxFilter(values, -1, (side, side), borderType=cv2.BORDER_REFLECT)


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
    to_fine = _Between(fine[0], covered[0], scores.shape[1]), _Between(fine[1], covered[1], scores.shape[2])
    to_pixels = _Between(height, fine[0], fine[0]), _Between(width, fine[1], fine[1])
    step = max(1, PIECE_VALUES // (max(len(scores), CHANNELS) * max(width, fine[1])))
    for top in range(0, height, step):
        wanted = to_pixels[0].part(top, min(top + step, height))
        first, last = wanted.span
        outer = max(0, first - 2 * RADIUS), min(fine[0], last + 2 * RADIUS)  # what the two box filters reach
        rough = to_fine[1].apply(to_fine[0].part(*outer).apply(scores, 1), 2)
        edges = Guide(guide[outer[0] : outer[1]].astype(np.float32) / 255)
        filtered = torch.stack([torch.from_numpy(edges.filtered(one.numpy())) for one in rough])
        piece = torch.lerp(rough, filtered, strength)[:, first - outer[0] : last - outer[0]]
        yield to_pixels[1].apply(wanted.shifted(-first).apply(piece, 1), 2)


class _Between:
    """Linear interpolation along one axis, centres aligned, borders repeated.

    Args:
        out: length of the result.
        covered: how much of the source it spans.
        source: length of the source.
    """

    def __init__(self, out: int, covered: float, source: int):
        position = ((torch.arange(out, dtype=torch.float64) + 0.5) * covered / out - 0.5).clamp(0, source - 1)
        self.low = position.floor().long()
        self.high = (self.low + 1).clamp(max=source - 1)
        self.share = (position - self.low).float()

    @property
    def span(self) -> tuple[int, int]:
        """First index of the source that is used, and the one after the last."""
        return int(self.low[0]), int(self.high[-1]) + 1

    def part(self, start: int, stop: int) -> _Between:
        """A part of the result alone."""
        return self._like(self.low[start:stop], self.high[start:stop], self.share[start:stop])

    def shifted(self, by: int) -> _Between:
        """From a source without its first `-by` places."""
        return self._like(self.low + by, self.high + by, self.share)

    def apply(self, values: Tensor, dim: int) -> Tensor:
        """`values` with `dim` interpolated; only the part of it that is used is read."""
        share = self.share.view([-1 if axis == dim else 1 for axis in range(values.ndim)])
        return torch.lerp(values.index_select(dim, self.low), values.index_select(dim, self.high), share)

    @classmethod
    def _like(cls, low: Tensor, high: Tensor, share: Tensor) -> _Between:
        made = cls.__new__(cls)
        made.low, made.high, made.share = low, high, share
        return made
