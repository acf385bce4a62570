"""Images that don't fit into memory: scores a row of tiles at a time, and from them rows of the mask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch

from fungi_seg.images import Blend, Tile, View, viewable
from fungi_seg.progress import prefetch
from fungi_seg.segmentation.confidence import LEVELS
from fungi_seg.segmentation.decoder import NEAR, STRIP_VALUES, check_voices, highest
from fungi_seg.segmentation.refine import FINER, RADIUS, Between, cells_needed, guide_of, places_of, refined_rows
from fungi_seg.segmentation.segmenter import Segmenter

QUERIES = 16_384  # patches that are searched for together
CELLS = 96  # rows of the finer grid whose scores are filtered together
BEYOND = 1 + -(-2 * RADIUS // FINER)  # rows of patches below a row of pixels that edges reach, and interpolation


@dataclass(frozen=True)
class ScoredRows:
    """What was found in some rows of patches.

    Attributes:
        start: number of the first.
        scores: `[C, n, w]` float32 class scores.
        unlike: `[n, w]` bool, unlike anything in the bank.
        guide: `[n·FINER, w·FINER, 3]` uint8 RGB of the image.
        votes: `[S]` float64, weight of each annotated image's votes.
    """

    start: int
    scores: np.ndarray
    unlike: np.ndarray
    guide: np.ndarray
    votes: np.ndarray

    @property
    def stop(self) -> int:
        """Number of the row after the last."""
        return self.start + self.scores.shape[1]


class LargeImage:
    """An image that is segmented piece by piece, as `Segmenter.predict` does of a smaller one.

    Args:
        segmenter: bank, decoder and index.
        view: the image at its scale.
        name: what errors call it.
        workers: threads that read ahead.

    Attributes:
        rows_of_tiles: how many there are.
    """

    def __init__(self, segmenter: Segmenter, view: View, name: str, workers: int = 2):
        self._segmenter, self._view, self._name, self._workers = segmenter, view, name, workers
        self.tiles, self.rows_of_tiles = view.tiles, view.tiles.shape[0]
        h, w = self.tiles.grid
        covered = view.covered
        self._cells = h * FINER
        self._places = places_of(view.size, covered, (h, w))
        self._plain = Between(view.size[0], covered[0], h), Between(view.size[1], covered[1], w)

    def scored(self, number: int, blend: Blend) -> ScoredRows:
        """What is found with a row of tiles; they are asked for one after the other.

        Args:
            number: of the row of tiles.
            blend: what goes on from row to row.
        """
        patch, row = self._segmenter.features.backbone.patch_size, self.tiles.row(number)
        done = self.tiles.finished(number)
        guide = np.empty((len(done) * FINER, self.tiles.grid[1] * FINER, 3), np.uint8)

        def read(tile: Tile) -> np.ndarray:
            sides = zip((tile.rows, tile.columns), patch, strict=True)
            return self._view.part(*(range(part.start * p, part.stop * p) for part, p in sides))

        def shown() -> Iterator[torch.Tensor]:
            with closing(prefetch(read, row, self._workers)) as parts:
                for tile, part in zip(row, parts, strict=True):
                    cells = guide_of(viewable(part), (len(tile.rows), len(tile.columns)))[: len(guide)]
                    guide[:, tile.columns.start * FINER : tile.columns.stop * FINER] = cells
                    yield torch.from_numpy(np.ascontiguousarray(part)).permute(2, 0, 1)

        features = self._segmenter.features
        sums = blend.row(number, features.of_tiles(shown(), self._name))
        found = features.normalised(sums).reshape(-1, features.dim)
        return self._decoded(done, found, guide)

    def _decoded(self, done: range, features: np.ndarray, guide: np.ndarray) -> ScoredRows:
        parts = [
            self._segmenter.scored(features[start : start + QUERIES]) for start in range(0, len(features), QUERIES)
        ]
        scores = np.concatenate([part.scores for part in parts]).reshape(len(done), self.tiles.grid[1], -1)
        unlike = np.concatenate([part.unlike for part in parts]).reshape(scores.shape[:2])
        votes = np.sum([part.votes()[0] for part in parts], 0)
        return ScoredRows(done.start, np.ascontiguousarray(scores.transpose(2, 0, 1)), unlike, guide, votes)

    def ready(self, patches: int) -> int:
        """Rows of pixels, from the top, that can be made once so many rows of patches are scored."""
        h = self.tiles.grid[0]
        if patches >= h:
            return self._view.size[0]
        return max(0, int((patches - BEYOND - 1) / self._view.covered[0] * self._view.size[0]))

    def needed(self, row: int) -> int:
        """The first row of patches that rows of pixels from `row` on are made of."""
        if row >= self._view.size[0]:
            return self.tiles.grid[0]
        cells = cells_needed(self._places, range(row, row + 1), self._cells)
        return max(0, cells.start // FINER - 1)

    def mask(self, rows: range, parts: Sequence[ScoredRows]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows of pixels from the top, strip by strip: classes and their scores, as of `refined_label_map`.

        Args:
            rows: of pixels.
            parts: rows of patches one after another that they are made of.
        """
        refine = self._segmenter.decoder.refine
        scores = np.concatenate([part.scores for part in parts], 1)
        guide = np.concatenate([part.guide for part in parts]) if refine else np.empty(0)
        check_voices(torch.from_numpy(scores))
        step = max(1, int(CELLS / (self._view.covered[0] * FINER) * self._view.size[0]))
        for top in range(rows.start, rows.stop, step):
            piece = range(top, min(top + step, rows.stop))
            found, strips = self._strips(piece, scores, guide, parts[0].start, refine)
            kind = np.uint8 if len(scores) <= 256 else np.uint16
            for strip in strips:
                winners, best = highest(strip)
                yield found[winners].astype(kind), np.rint(best.clip(0, 1) * np.float32(LEVELS)).astype(np.uint16)

    def _strips(
        self, rows: range, scores: np.ndarray, guide: np.ndarray, start: int, refine: float
    ) -> tuple[np.ndarray, Iterator[np.ndarray]]:
        """Classes that may win a pixel, and their scores `[classes, …, W]` strip by strip."""
        if refine:
            cells = cells_needed(self._places, rows, self._cells)
            first, last = self._places.down.span(cells)
        else:
            first, last = self._plain[0].span(rows)
        part = scores[:, first - start : last - start]
        found = np.flatnonzero(((part > 0) & (part >= NEAR * part.max(0))).any((1, 2)))
        if not refine or len(found) < 2:
            first, last = self._plain[0].span(rows)
            found = np.flatnonzero((part > 0).any((1, 2)))
            return found, self._bilinear(rows, scores[found][:, first - start : last - start], first)
        wide = self._places.across.apply(np.ascontiguousarray(part[found]), 2)
        edges = guide[cells.start - start * FINER : cells.stop - start * FINER]
        strips = refined_rows(wide, first, edges, cells.start, self._places, rows, refine)
        return found, (strip.numpy() for strip in strips)

    def _bilinear(self, rows: range, scores: np.ndarray, first: int) -> Iterator[np.ndarray]:
        wide = self._plain[1].apply(scores, 2)
        step = max(1, STRIP_VALUES // (len(scores) * self._view.size[1]))
        for top in rows[::step]:
            yield self._plain[0].apply(wide, 1, range(top, min(top + step, rows.stop)), first)

    def mean(self, values: np.ndarray) -> float:
        """The mean over the image's pixels of `[h, w]` values per patch, interpolated."""
        down, across = (b.weights(n) for b, n in zip(self._plain, self.tiles.grid, strict=True))
        return float(down @ values.astype(np.float64) @ across)
