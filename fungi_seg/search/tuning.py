"""How much of lists is searched, fitted on rows of the bank that stand for a new image's patches."""

from __future__ import annotations

import numpy as np

from fungi_seg.search.exact import AnyKeys, exact_search
from fungi_seg.search.lists import TUNED_FOR, TUNING_QUERIES, Effort, ListSearch
from fungi_seg.search.scaling import scaled

NPROBES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 64, 96, 128, 192, 256)
DEPTHS = (2, 3, 4, 6, 8, 12, 16, 24)
OWN_ROWS = 3000  # before and after a row of the bank: most rows of its image are there, and of frames beside it
OWN_SHARE = 16  # of a small bank, so many parts of its rows
APART = 0.3  # of the difference of two other rows is added to a row
TRUTH = 8  # times as many neighbours are searched for, since those of the own image don't count
MISSES = 0.5  # of those that are allowed: new images differ more from the bank than its rows do
RESCORE_COST = 50  # of one candidate, in codes that could be scanned in that time


def tune(
    index: ListSearch,
    keys: AnyKeys,
    recall: float,
    k: int = TUNED_FOR,
    seed: int = 0,
    scale: np.ndarray | None = None,
) -> tuple[Effort, float]:
    """The cheapest effort that finds a share `recall` of the exact `k` nearest rows of a new image's patches.

    It is tried on rows of the bank, each moved a little off, towards one other row and away from another. A row's
    nearest are mostly of its own image, which is nowhere near as alike as a new one's: rows that lie beside it in the
    bank don't count.

    Args:
        index: over all rows of `keys`.
        keys: `[M, D]`.
        recall: wanted, 0..1.
        k: neighbours, less than M.
        seed: of the rows that are tried.
        scale: `[D]` that queries will be multiplied by, see `scaled`.

    Returns:
        The effort and its recall on such rows; where none reaches what was wanted, that of the highest recall.
    """
    if len(keys) == 1:
        return Effort(1, DEPTHS[0]), 1.0
    own, queries = _moved_rows(keys, seed, scale)
    window, k = min(OWN_ROWS, len(keys) // OWN_SHARE), min(k, len(keys) - 1)
    truth = exact_search(keys, queries, min(len(keys), TRUTH * k + 1))[1]
    left_out = np.where(_beside(truth, own, window).all(1), 0, window)  # nothing but its image would be left: itself
    truth = _without(truth, own, left_out)[:, :k]
    wanted = 1 - (1 - recall) * MISSES
    tried: list[tuple[float, float, Effort]] = []
    for nprobe in (n for n in NPROBES if n <= index.coder.lists):
        scanned = index.rows * nprobe / index.coder.lists
        if scanned >= min((cost for share, cost, _ in tried if share >= wanted), default=np.inf):
            break
        depth = Effort(nprobe, DEPTHS[-1]).depth(k) + TRUTH * k
        found = _without(index.candidates(queries, depth, nprobe), own, left_out)
        hits = ((found[..., None] == truth[:, None]) & (truth[:, None] >= 0)).any(2).sum(0).cumsum()
        shares = hits / (truth >= 0).sum()
        for effort in (Effort(nprobe, refine) for refine in DEPTHS):
            depth = min(effort.depth(k), len(shares))
            tried.append((float(shares[depth - 1]), scanned + RESCORE_COST * depth, effort))
    reached = [one for one in tried if one[0] >= wanted]
    best = min(reached, key=lambda one: one[1]) if reached else max(tried, key=lambda one: (one[0], -one[1]))
    return best[2], best[0]


def _moved_rows(keys: AnyKeys, seed: int, scale: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of some rows, and queries beside them."""
    generator = np.random.default_rng(seed)
    count = min(TUNING_QUERIES, len(keys))
    own, one, other = (np.sort(generator.permutation(len(keys))[:count]) for _ in range(3))
    towards, away = (keys[rows].astype(np.float32)[generator.permutation(count)] for rows in (one, other))
    queries = keys[own].astype(np.float32) + APART * (towards - away)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return own, scaled(queries, scale)[0]


def _beside(rows: np.ndarray, own: np.ndarray, window: int | np.ndarray) -> np.ndarray:
    """Which of each query's rows, `[Q, P]`, lie no more than `window` rows from its own in the bank."""
    return np.abs(rows - own[:, None]) <= np.reshape(window, (-1, 1))


def _without(rows: np.ndarray, own: np.ndarray, window: np.ndarray) -> np.ndarray:
    """Each query's rows `[Q, P]` that don't lie beside its own, in their order; then −1."""
    rows = np.where(_beside(rows, own, window), -1, rows)
    return np.take_along_axis(rows, np.argsort(rows < 0, axis=1, kind="stable"), axis=1)
