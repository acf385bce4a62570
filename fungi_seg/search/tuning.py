"""How much of lists is searched, fitted on patches of images whose rows are left out, as if those images were new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fungi_seg.search.exact import AnyKeys, exact_search
from fungi_seg.search.lists import TUNED_FOR, TUNING_QUERIES, Effort, ListSearch
from fungi_seg.search.scaling import scaled

NPROBES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256)
DEPTHS = (2, 3, 4, 6, 8, 12, 16, 24)
IMAGES, MOST_IMAGES = 32, 64  # that are tried; more than the former where they have few rows
BESIDE = 20  # images on either side of one that is tried are left out too: frames of a video lie beside each other
BESIDE_SHARE = 16  # of few images, so many parts: the bank must stay about as dense as it is
RUN_ROWS, RUNS = 3000, 32  # rows that stand for an image where images aren't known; so many runs at least
MISSES = 0.5  # of those that are allowed: new images differ more from the bank than its own do
RESCORE_COST = 50  # of one candidate, in codes that could be scanned in that time


@dataclass(frozen=True)
class _Tried:
    """Rows of the bank that stand for patches of new images.

    Attributes:
        rows: `[Q]` int64.
        of: `[Q]` which of the tried images each row comes from, rising.
        left_out: `[I, G]` bool, groups whose rows are no neighbours of each of the tried images.
        groups: `[M]` int, of all rows.
    """

    rows: np.ndarray
    of: np.ndarray
    left_out: np.ndarray
    groups: np.ndarray


def tune(
    index: ListSearch,
    keys: AnyKeys,
    recall: float,
    groups: np.ndarray | None = None,
    k: int = TUNED_FOR,
    seed: int = 0,
    scale: np.ndarray | None = None,
) -> tuple[Effort, float]:
    """The cheapest effort that finds a share `recall` of the exact `k` nearest rows of a new image's patches.

    It is tried on rows of some images, and no row of such an image counts as a neighbour, wherever it lies in the bank.
    A row's nearest are mostly of its own image, the more so where the bank holds that several times, changed a little;
    they are much easier to find than those of a new image.

    Args:
        index: over all rows of `keys`.
        keys: `[M, D]`.
        recall: wanted, 0..1.
        groups: `[M]` int ≥ 0, the image that each row comes from; numbers beside each other may be frames of a video.
            Without it, or where no image leaves half of the rows, rows that lie together in the bank stand for images.
        k: neighbours, less than M.
        seed: of the images and rows that are tried.
        scale: `[D]` that queries will be multiplied by, see `scaled`.

    Returns:
        The effort and its recall on such rows; where none reaches what was wanted, that of the highest recall.
    """
    if len(keys) == 1:
        return Effort(1, DEPTHS[0]), 1.0
    tried = _tried(groups, seed) if groups is not None else None
    tried = tried or _tried(_runs(len(keys)), seed)
    assert tried
    k = min(k, len(keys) - 1)
    shares_of = _Shares(index, keys, tried, k, scale)
    wanted = 1 - (1 - recall) * MISSES
    found: list[tuple[float, float, Effort]] = []
    for nprobe in (n for n in NPROBES if n <= index.coder.lists):
        scanned = index.rows * nprobe / index.coder.lists
        if scanned >= min((cost for share, cost, _ in found if share >= wanted), default=np.inf):
            break
        shares = shares_of(nprobe)
        for effort in (Effort(nprobe, refine) for refine in DEPTHS):
            depth = min(effort.depth(k), len(shares))
            found.append((float(shares[depth - 1]), scanned + RESCORE_COST * depth, effort))
    reached = [one for one in found if one[0] >= wanted]
    best = min(reached, key=lambda one: one[1]) if reached else max(found, key=lambda one: (one[0], -one[1]))
    return best[2], best[0]


class _Shares:
    """Recall of a search among other images, by how many candidates are compared."""

    def __init__(self, index: ListSearch, keys: AnyKeys, tried: _Tried, k: int, scale: np.ndarray | None):
        self._index, self._of = index, tried.of
        queries = keys[tried.rows].astype(np.float32)
        self._queries = scaled(queries / np.linalg.norm(queries, axis=1, keepdims=True), scale)[0]
        found = exact_search(keys, self._queries, k, tried.left_out[tried.of], tried.groups)
        self._truth = np.where(np.isneginf(found[0]), -1, found[1])[:, None]
        self._left_out = [groups[tried.groups] for groups in tried.left_out]
        self._depth = Effort(1, DEPTHS[-1]).depth(k)

    def __call__(self, nprobe: int) -> np.ndarray:
        """Shares found with 1, 2, … candidates of so many lists."""
        parts = [
            self._index.candidates(self._queries[self._of == image], self._depth, nprobe, left_out)
            for image, left_out in enumerate(self._left_out)
        ]
        found, there = np.concatenate(parts), self._truth >= 0
        return ((found[..., None] == self._truth) & there).any(2).sum(0).cumsum() / there.sum()


def _runs(rows: int) -> np.ndarray:
    """Groups of rows that lie together."""
    return np.arange(rows) // max(1, min(RUN_ROWS, rows // RUNS))


def _tried(groups: np.ndarray, seed: int) -> _Tried | None:
    """Some rows of some images; none where no image leaves half of the bank."""
    generator, sizes = np.random.default_rng(seed), np.bincount(groups)
    images = np.flatnonzero(sizes)
    beside = min(BESIDE, len(images) // BESIDE_SHARE)
    each = -(-TUNING_QUERIES // min(IMAGES, len(images)))
    rows: list[np.ndarray] = []
    left_out: list[np.ndarray] = []
    for place in generator.permutation(len(images)).tolist():
        near = np.zeros(len(sizes), bool)
        near[images[max(0, place - beside) : place + beside + 1]] = True
        if 2 * sizes[near].sum() <= len(groups):
            own = np.flatnonzero(groups == images[place])
            rows.append(np.sort(generator.permutation(own)[:each]))
            left_out.append(near)
        if len(rows) == MOST_IMAGES or sum(map(len, rows)) >= TUNING_QUERIES:
            break
    if not rows:
        return None
    of = np.repeat(np.arange(len(rows)), list(map(len, rows)))
    return _Tried(np.concatenate(rows), of, np.stack(left_out), groups)
