"""Annotated images that a bank can do without."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from fungi_seg.audit.other_images import Lists, OtherImages, neighbour_lists
from fungi_seg.bank import MemoryBank
from fungi_seg.progress import track
from fungi_seg.segmentation import DecoderConfig, vote

QUERIES = 16_384
LISTED = 2  # neighbours kept for each query, in multiples of K
COPY = 0.99
CHANGED = 0.005
WORST = 0.25
LEAST_IMAGES = 3
NOBODY = -1


@dataclass(frozen=True)
class Redundancy:
    """Images whose removal, all together, changes next to nothing.

    Attributes:
        images: indices into the bank's sources, in the order in which they were chosen.
        alone: the share of votes that the removal of each of them alone would change, 0..1.
        changed: the share of votes that change if all of them are removed, 0..1, from a new search.
        queries: rows whose votes were compared.
        images_before: with rows in the bank.
    """

    images: tuple[int, ...]
    alone: tuple[float, ...]
    changed: float
    queries: int
    images_before: int


def sample_lists(bank: MemoryBank, others: OtherImages, decoder: DecoderConfig) -> Lists:
    """The 2K nearest rows of other images, of at most `QUERIES` rows of the bank drawn with a fixed seed, in order."""
    drawn = np.random.default_rng(0).permutation(len(bank))[:QUERIES]
    return neighbour_lists(others, np.sort(drawn), LISTED * decoder.k)


def redundant_images(
    bank: MemoryBank,
    others: OtherImages,
    decoder: DecoderConfig,
    agreement: np.ndarray,
    progress: bool = False,
    lists: Lists | None = None,
) -> Redundancy:
    """Choose images one after another, always the one whose removal changes the fewest further votes.

    Rows of the bank stand for new images: each is voted on by the other images, with and without those removed, and
    the class that wins is compared. It ends before more than `CHANGED` of the votes differ from those of the whole
    bank. Effort is bounded: at most `QUERIES` rows, drawn at random with a fixed seed, and for each its 2K nearest
    rows of other images. Where more than K of those have been removed, those that are left vote; where none is, the
    vote counts as changed. `changed` is measured anew at the end, by a search among all rows that stay.

    By votes alone, an image that others stand in for looks like one that nobody is like. So no image is chosen

    - of the quarter that the others segment worst (`agreement`),
    - or that holds a class which fewer than `LEAST_IMAGES` images would be left with.

    A row whose image stays is in the bank itself: in place of a removed row that is its copy (cosine at least `COPY`)
    it votes itself. Otherwise of two equal images neither could go, since each is the other's nearest.

    Args:
        bank: an open bank.
        others: made of that bank.
        decoder: how neighbours vote.
        agreement: `[S]` of each image with the others, NaN without rows.
        progress: report on standard error.
        lists: from `sample_lists`, if there are some already.
    """
    trial = Trial(bank, others, decoder, lists)
    holds = _holds(bank)
    able = agreement >= np.nanquantile(agreement, WORST)
    alone = {}
    candidates = np.flatnonzero(able)
    for image in track(candidates.tolist(), len(candidates), "redundant images", show=progress):
        alone[image] = trial.changes(image)
    chosen = _greedy(trial, alone, holds)
    changed = trial.verified(chosen)
    shares = tuple(alone[image] / len(trial.queries) for image in chosen)
    return Redundancy(tuple(chosen), shares, changed, len(trial.queries), int(np.isfinite(agreement).sum()))


def _greedy(trial: Trial, alone: dict[int, int], holds: np.ndarray) -> list[int]:
    """Images in the order of their removal. What a removal changes is counted again when its turn comes."""
    left, chosen = holds.sum(0), []
    queue = [(changes, image) for image, changes in alone.items()]
    heapq.heapify(queue)
    while queue:
        _, image = heapq.heappop(queue)
        if (left[holds[image]] <= LEAST_IMAGES).any():
            continue
        changes = trial.changes(image)
        if queue and (changes, image) > queue[0]:
            heapq.heappush(queue, (changes, image))
            continue
        if trial.changed + changes > CHANGED * len(trial.queries):
            break
        trial.remove(image)
        left -= holds[image]
        chosen.append(image)
    return chosen


def _holds(bank: MemoryBank) -> np.ndarray:
    """`[S, C]` whether an image has rows that hold a class."""
    labels = bank.rows.labels
    holds = np.zeros((len(bank.info.sources), len(bank.info.classes)), bool)
    owner, entries = labels.entries(np.arange(len(labels)))
    holds[np.asarray(bank.rows.source)[owner], labels.ids[entries]] = True
    return holds


class Trial:
    """Votes of a sample of a bank's rows while images are removed.

    Attributes:
        queries: `[Q]` rows of the bank.
        changed: how many of them have another winner than in the whole bank.
    """

    def __init__(self, bank: MemoryBank, others: OtherImages, decoder: DecoderConfig, lists: Lists | None = None):
        self._bank, self._others, self._decoder = bank, others, decoder
        lists = lists or sample_lists(bank, others, decoder)
        self.queries, self.changed = lists.queries, 0
        self._similarities, self._rows = lists.similarities, lists.rows
        self._source = others.source.astype(np.int64)  # multiplied by the number of queries below
        self._removed = np.zeros(len(bank.info.sources), bool)
        self._whole = self._winners(np.arange(len(self.queries)), self._removed)
        self._now = self._whole.copy()
        self._touching = self._queries_by_image()

    def changes(self, image: int) -> int:
        """How many more queries have another winner than in the whole bank if `image` is removed too."""
        touched, winners = self._without(image)
        return int((winners != self._whole[touched]).sum() - (self._now[touched] != self._whole[touched]).sum())

    def remove(self, image: int) -> None:
        """Remove `image` for the votes to come."""
        touched, winners = self._without(image)
        self._removed[image] = True
        self._now[touched] = winners
        self.changed = int((self._now != self._whole).sum())

    def verified(self, images: list[int]) -> float:
        """The share of queries that have another winner without `images`, by a search among all rows that stay.

        Queries that none of them votes for are what they were.
        """
        removed = np.zeros_like(self._removed)
        removed[images] = True

        def usable(queries: np.ndarray, rows: np.ndarray, similarities: np.ndarray) -> np.ndarray:
            copies = (similarities >= COPY) & ~removed[self._source[queries]]
            return self._others.foreign(queries, rows, similarities) & (~removed[self._source[rows]] | copies)

        voters = slice(None), slice(self._decoder.k)
        losing = np.flatnonzero((removed[self._source[self._rows]] & np.isfinite(self._similarities))[voters].any(1))
        if not len(losing):
            return 0.0
        found = neighbour_lists(self._others, self.queries[losing], self._decoder.k, usable)
        rows = np.where(removed[self._source[found.rows]], found.queries[:, None], found.rows)
        return float((self._vote(found.similarities, rows) != self._whole[losing]).sum() / len(self.queries))

    def _without(self, image: int) -> tuple[np.ndarray, np.ndarray]:
        """The queries that `image` may matter to, and their winners without it and those removed so far."""
        removed = self._removed.copy()
        removed[image] = True
        touched = self._touching[image]
        return touched, self._winners(touched, removed)

    def _winners(self, chosen: np.ndarray, removed: np.ndarray) -> np.ndarray:
        similarities, rows = self._similarities[chosen], self._rows[chosen]
        gone = removed[self._source[rows]]
        copies = gone & (similarities >= COPY) & ~removed[self._source[self.queries[chosen]]][:, None]
        rows = np.where(copies, self.queries[chosen][:, None], rows)
        absent = gone & ~copies
        order = np.argsort(absent, axis=1, kind="stable")[:, : self._decoder.k]
        similarities = np.where(absent, -np.inf, similarities)
        return self._vote(np.take_along_axis(similarities, order, 1), np.take_along_axis(rows, order, 1))

    def _vote(self, similarities: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """The class that wins each vote, `NOBODY` without voters."""
        voted, winners = ~np.isneginf(similarities).all(1), np.full(len(rows), NOBODY, np.int64)
        if voted.any():
            labels, classes = self._bank.rows.labels, len(self._bank.info.classes)
            scores = vote(similarities[voted], rows[voted], labels, classes, self._decoder.temperature)
            winners[voted] = scores.argmax(1)
        return winners

    def _queries_by_image(self) -> list[np.ndarray]:
        """For each image: the queries that have it in their list, and its own, whose copies it takes along."""
        count, images = len(self.queries), len(self._removed)
        owner = np.repeat(np.arange(count), self._rows.shape[1])[np.isfinite(self._similarities).ravel()]
        listed = self._source[self._rows[np.isfinite(self._similarities)]]
        pairs = np.concatenate([listed * count + owner, self._source[self.queries] * count + np.arange(count)])
        image, query = np.divmod(np.unique(pairs), count)
        return np.split(query, np.searchsorted(image, np.arange(1, images)))
