"""Neighbours of a bank's own rows in its other images, and votes as if their own image weren't there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from fungi_seg.bank import MemoryBank
from fungi_seg.progress import pausing, track
from fungi_seg.search import EXACT, IndexConfig, NeighbourIndex, highest, merged, top_columns
from fungi_seg.segmentation import DecoderConfig, vote

CHUNK = 4096
OVERFETCH = 4  # of K; half of the nearest rows are often of the query's own image
WIDEST = 2048  # neighbours that FAISS finds on a GPU
SCANNED = 200_000  # rows of a bank that are all looked through faster than an index finds enough of other images
SCAN_ROWS, SCAN_QUERIES = 8192, 256  # whose products, 8 MB, stay near the processor

Usable = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


class OtherImages:
    """Neighbours of a bank's rows among the rows of other images.

    Args:
        bank: an open bank.
        index: how neighbours are searched; with `auto` all rows are looked through, up to 200 000 of them.

    Attributes:
        source: `[M]` image of each row.
        kind: of index, as `NeighbourIndex.kind`.
    """

    def __init__(self, bank: MemoryBank, index: IndexConfig | None = None):
        self._keys, self.source = bank.rows.keys, np.asarray(bank.rows.source)
        for part in bank.contents.parts:
            part.check()  # all keys are read, whatever the index
        index = index or IndexConfig()
        self._every = index.kind == "auto" and index.device != "cuda" and len(bank) <= SCANNED
        if self._every:
            index = IndexConfig(recall=1, device="cpu")
        self._index = NeighbourIndex(self._keys, index) if self._every else bank.neighbour_index(index)
        self.kind = EXACT if self._every else self._index.kind

    def search(self, queries: np.ndarray, k: int, usable: Usable | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of other images, nearest first.

        As many are asked of the index as it takes to find `k`; where that is more than `WIDEST`, or the index finds no
        more, all rows are looked through.

        Args:
            queries: `[Q]` rows of the bank.
            k: at least 1.
            usable: which rows may be neighbours: of `queries`, rows and similarities, each broadcast to `[Q, R]`, gives
                bool. By default those of other images.

        Returns:
            Cosine similarities `[Q, k]` float32 and rows `[Q, k]` int64. Where fewer are usable in the whole bank, the
            rest have similarity −inf and row 0, and so no weight in a vote.
        """
        if self._every:
            return self._scan(queries, k, usable) if usable else self._of_others(queries, k)
        usable = usable or self.foreign
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.zeros((len(queries), k), np.int64)
        waiting, fetch = np.arange(len(queries)), OVERFETCH * k
        while len(waiting):
            fetch = min(fetch, WIDEST, len(self._keys))
            asked = queries[waiting]
            found = self._index.search(self._keys[asked].astype(np.float32), fetch)
            allowed = np.isfinite(found[0]) & usable(asked[:, None], found[1], found[0])
            similarities[waiting], rows[waiting] = _first(np.where(allowed, found[0], -np.inf), found[1], k)
            waiting = waiting[allowed.sum(1) < k]
            if fetch in (WIDEST, len(self._keys)):
                break
            fetch *= 2
        if len(waiting):
            similarities[waiting], rows[waiting] = self._scan(queries[waiting], k, usable)
        return similarities, rows

    def foreign(self, queries: np.ndarray, rows: np.ndarray, similarities: np.ndarray) -> np.ndarray:
        """Whether `rows` come from other images than `queries`."""
        return self.source[rows] != self.source[queries]

    def _of_others(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, of an exact index, the queries of one image after another."""
        similarities = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.zeros((len(queries), k), np.int64)
        of = self.source[queries]
        for image in pausing(np.unique(of)):
            own, here = self.source == image, np.flatnonzero(of == image)
            asked = self._keys[queries[here]].astype(np.float32)
            found, places = self._index.search(asked, min(k, len(own)), own)
            similarities[here, : found.shape[1]] = found
            rows[here, : found.shape[1]] = np.where(np.isneginf(found), 0, places)
        return similarities, rows

    def _scan(self, queries: np.ndarray, k: int, usable: Usable) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by looking through all rows."""
        asked = torch.from_numpy(self._keys[queries].astype(np.float32))
        similarities, rows = torch.full((len(queries), k), -torch.inf), torch.zeros(len(queries), k, dtype=torch.int64)
        for start in pausing(range(0, len(self._keys), SCAN_ROWS)):
            part = torch.from_numpy(self._keys[start : start + SCAN_ROWS].astype(np.float32))
            numbers = np.arange(start, start + len(part))[None]
            for first in range(0, len(queries), SCAN_QUERIES):
                some = slice(first, first + SCAN_QUERIES)
                found = asked[some] @ part.T
                out = ~usable(queries[some, None], numbers, found.numpy())
                best, places = top_columns(found.masked_fill_(torch.from_numpy(out), -torch.inf), k)
                kept = similarities[some], rows[some]
                similarities[some], rows[some] = merged(kept, (best, places + start), k)
        return similarities.numpy(), rows.masked_fill_(similarities.isneginf(), 0).numpy()


def _first(similarities: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` most similar, the most similar first; similarity −inf and row 0 where there are fewer."""
    nearest, found = highest(similarities, rows, k)
    missing = ((0, 0), (0, k - nearest.shape[1]))
    nearest = np.pad(nearest, missing, constant_values=-np.inf)
    return nearest, np.where(np.isneginf(nearest), 0, np.pad(found, missing))


@dataclass(frozen=True)
class Lists:
    """Neighbours in other images that were looked for already.

    Attributes:
        queries: `[Q]` rows of the bank.
        similarities, rows: `[Q, P]`, as `OtherImages.search` gives them.
    """

    queries: np.ndarray
    similarities: np.ndarray
    rows: np.ndarray


def neighbour_lists(others: OtherImages, queries: np.ndarray, k: int, usable: Usable | None = None) -> Lists:
    """The `k` nearest rows of other images of any number of rows; arguments as of `OtherImages.search`."""
    starts = range(0, len(queries), CHUNK)
    told = track(starts, len(starts), "neighbours in other images", "blocks of rows", show=False)
    parts = [others.search(queries[start : start + CHUNK], k, usable) for start in told]
    similarities, rows = (np.concatenate(found) for found in zip(*parts, strict=True))
    return Lists(queries, similarities, rows)


def votes_of_others(
    bank: MemoryBank,
    others: OtherImages,
    decoder: DecoderConfig,
    progress: bool = False,
    known: Lists | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """What the other images say of each row: the class scores that it would get if its own image weren't there.

    Args:
        bank: an open bank.
        others: made of that bank.
        decoder: how neighbours vote.
        progress: report on standard error.
        known: lists of at least K neighbours of some rows, which needn't be looked for again.

    Returns:
        Class scores `[M, C]` float16, each row summing to 1, and the class with the highest, `[M]` int64.
    """
    classes, rows = len(bank.info.classes), bank.rows
    scores, winners = np.zeros((len(rows), classes), np.float16), np.zeros(len(rows), np.int64)

    def count(queries: np.ndarray, similarities: np.ndarray, found: np.ndarray) -> None:
        votes = vote(similarities, found, rows.labels, classes, decoder.temperature)
        scores[queries], winners[queries] = votes, votes.argmax(1)

    if known is not None:
        count(known.queries, known.similarities[:, : decoder.k], known.rows[:, : decoder.k])
    left = np.setdiff1d(np.arange(len(rows)), [] if known is None else known.queries)
    starts = range(0, len(left), CHUNK)
    for start in track(starts, len(starts), "votes of the other images", "blocks of rows", progress):
        queries = left[start : start + CHUNK]
        count(queries, *others.search(queries, decoder.k))
    return scores, winners
