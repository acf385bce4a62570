"""Exact neighbours of patches outside their own group, for several weights of the gradient at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fungi_seg.bank import MemoryBank
from fungi_seg.progress import pausing, track
from fungi_seg.search import merged, top_columns

ASKED = 512
SCANNED = 8192  # of so many rows: what is held is small, and multiplied at nearly full speed
NONE = -16.0  # below every similarity, and finite, so that it can be averaged

Weight = float | None


def foreign_neighbours(
    bank: MemoryBank,
    queries: np.ndarray,
    own: np.ndarray,
    groups: np.ndarray,
    weights: Sequence[Weight],
    k: int,
    progress: bool = False,
) -> dict[Weight, tuple[np.ndarray, np.ndarray]]:
    """The `k` nearest rows of other groups, by each weight of the gradient.

    The products of tokens and of gradients are computed once for all weights.

    Args:
        bank: an open bank.
        queries: `[Q, D]` features.
        own: `[Q]` the group of each query.
        groups: `[M]` that of each row, 0 and up, as the image that it is of.
        weights: a in `(1 − a)·cos(token) + a·cos(gradient)`; none for keys as they are.
        k: at least 1.
        progress: report on standard error.

    Returns:
        By weight, similarities `[Q, k]` float32, highest first, and rows `[Q, k]` int64; −inf and 0 where there are
        fewer.
    """
    keys, width, shape = bank.rows.keys, bank.info.token_width, (len(queries), k)
    best = {a: (torch.full(shape, NONE), torch.zeros(shape, dtype=torch.int64)) for a in weights}
    asked = [np.flatnonzero(own == group) for group in range(int(groups.max()) + 1)]
    parts = [part for own in asked for part in np.array_split(own, -(-len(own) // ASKED) or 1) if len(part)]
    rows = [torch.from_numpy(np.asarray(queries[part], np.float32)) for part in parts]
    starts = range(0, len(bank), SCANNED)
    for start in track(starts, len(starts), "neighbours in other images", "blocks of rows", show=progress):
        block = torch.from_numpy(np.asarray(keys[start : start + SCANNED], np.float32))
        of_block = groups[start : start + len(block)]
        for part, features in pausing(zip(parts, rows, strict=True)):
            barred = torch.from_numpy(np.where(of_block == own[part[0]], np.float32(NONE), np.float32(0)))
            for a, products in _weighted(features, block, width, weights, barred):
                found, places = top_columns(products, k)
                values, numbers = best[a]
                values[part], numbers[part] = merged((values[part], numbers[part]), (found, places + start), k)
    return {a: _without_none(*found) for a, found in best.items()}


def _weighted(
    queries: Tensor, keys: Tensor, width: int, weights: Sequence[Weight], barred: Tensor
) -> Iterator[tuple[Weight, Tensor]]:
    """By weight, the similarities `[Q, M]` of queries and keys, `barred` `[M]` added to them."""
    if list(weights) == [None]:
        yield None, torch.addmm(barred, queries, keys.T)
        return
    halves = (slice(0, width), slice(width, None))
    tokens, gradients = (torch.addmm(barred, queries[:, h], keys[:, h].T, alpha=2) for h in halves)
    for a in weights:
        yield a, tokens if a == 0 else torch.lerp(tokens, gradients, a or 0.0)


def _without_none(values: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    there = values > NONE / 2
    return values.where(there, -torch.inf).numpy(), rows.where(there, 0).numpy()
