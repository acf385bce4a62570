"""Exact neighbours of a bank's rows in its other images, for several weights of the gradient at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from fungi_seg.bank import MemoryBank
from fungi_seg.progress import track

ASKED = 128
SCANNED = 65_536
GROUP = 16
NONE = -16.0  # below every similarity, and finite, so that it can be averaged

Weight = float | None


def foreign_neighbours(
    bank: MemoryBank, queries: np.ndarray, weights: Sequence[Weight], k: int, progress: bool = False
) -> dict[Weight, tuple[np.ndarray, np.ndarray]]:
    """The `k` nearest rows of other images, by each weight of the gradient.

    The products of tokens and of gradients are computed once for all weights.

    Args:
        bank: an open bank.
        queries: `[Q]` rows of it.
        weights: a in `(1 − a)·cos(token) + a·cos(gradient)`; none for keys as they are.
        k: at least 1.
        progress: report on standard error.

    Returns:
        By weight, similarities `[Q, k]` float32, highest first, and rows `[Q, k]` int64; −inf and 0 where there are
        fewer.
    """
    keys, source = bank.rows.keys, torch.from_numpy(np.asarray(bank.rows.source).astype(np.int64))
    asked = torch.from_numpy(np.asarray(keys[queries], np.float32))
    own, shape = source[torch.from_numpy(queries)], (len(queries), k)
    best = {a: (torch.full(shape, NONE), torch.zeros(shape, dtype=torch.int64)) for a in weights}
    starts = range(0, len(bank), SCANNED)
    for start in track(starts, len(starts), "neighbours in other images", "blocks of rows", show=progress):
        block = torch.from_numpy(np.asarray(keys[start : start + SCANNED], np.float32))
        of_block = source[start : start + len(block)]
        for first in range(0, len(queries), ASKED):
            part = slice(first, first + ASKED)
            same = own[part, None] == of_block[None]
            for a, products in _weighted(asked[part], block, bank.info.token_width, weights, same):
                found = _highest(products, k)
                values, order = torch.cat([best[a][0][part], found[0]], 1).topk(k, dim=1)
                best[a][1][part] = torch.cat([best[a][1][part], found[1] + start], 1).gather(1, order)
                best[a][0][part] = values
    return {a: _without_none(*found) for a, found in best.items()}


def _weighted(
    queries: Tensor, keys: Tensor, width: int, weights: Sequence[Weight], same: Tensor
) -> Iterator[tuple[Weight, Tensor]]:
    """By weight, the similarities `[Q, M]` of queries and keys, `NONE` where they are of the `same` image."""
    if list(weights) == [None]:
        yield None, (queries @ keys.T).masked_fill_(same, NONE)
        return
    halves = (slice(0, width), slice(width, None))
    tokens, gradients = (((2 * queries[:, h]) @ keys[:, h].T).masked_fill_(same, NONE) for h in halves)
    for a in weights:
        yield a, tokens if a == 0 else torch.lerp(tokens, gradients, a or 0.0)


def _highest(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` highest of each row (fewer where there are fewer): they lie in the `k` groups with the highest maxima."""
    rows, columns = products.shape
    if columns < 2 * k * GROUP or columns % GROUP:
        values, places = products.topk(min(k, columns), dim=1)
        return values, places
    groups = products.view(rows, -1, GROUP)
    chosen = groups.amax(2).topk(k, dim=1, sorted=False)[1]
    found = groups.gather(1, chosen[..., None].expand(-1, -1, GROUP)).flatten(1)
    places = (chosen[..., None] * GROUP + torch.arange(GROUP)).flatten(1)
    values, order = found.topk(k, dim=1)
    return values, places.gather(1, order)


def _without_none(values: Tensor, rows: Tensor) -> tuple[np.ndarray, np.ndarray]:
    there = values > NONE / 2
    return values.where(there, -torch.inf).numpy(), rows.where(there, 0).numpy()
