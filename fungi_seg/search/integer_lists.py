"""Approximate neighbours among some hundred thousand rows: 8-bit products with those in the lists nearest a query."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fungi_seg.search.exact import (
    CODED_ROWS,
    GROUP,
    SMALLEST,
    AnyKeys,
    exact_search,
    integer_products,
    rotated,
    rounded,
)
from fungi_seg.search.lists import Coder, ListSearch

MEAN_ROWS = 4096
PRODUCTS = 1 << 23  # that are held at a time, 4 bytes each
LOWEST = torch.iinfo(torch.int32).min


class IntegerLists(ListSearch):
    """Candidates for the nearest rows of a bank, from 8-bit codes in memory: `D + 8` bytes a row.

    What a row has beyond the mean row is rotated and rounded to 8 bits. Rows of a list lie together, each list filled
    up to a multiple of 16 rows. A list is multiplied by all queries that search it at once.

    Args:
        coder: centroids and rotation.
        keys: `[M, D]`, read in chunks.
    """

    def __init__(self, coder: Coder, keys: AnyKeys):
        super().__init__(coder, len(keys))
        self._rotation = torch.from_numpy(coder.rotation)
        sample = rotated(keys[np.arange(0, self.rows, -(-self.rows // MEAN_ROWS))], self._rotation)
        mean = sample.mean(0)
        limit = float((sample - mean).abs().max())
        codes, lists = torch.empty(self.rows, coder.dim, dtype=torch.int8), np.empty(self.rows, np.int64)
        for start in range(0, self.rows, CODED_ROWS):
            part = keys[start : start + CODED_ROWS]
            turned, lists[start : start + len(part)] = coder.assigned(part)
            if coder.scale is not None:  # lists are of other numbers then
                turned = rotated(part, self._rotation)
            codes[start : start + len(part)] = rounded(turned - mean, limit)
        self._sizes = np.bincount(lists, minlength=coder.lists)
        self._groups = -(-self._sizes // GROUP)
        self._first = np.cumsum(self._groups) - self._groups
        order = np.argsort(lists, kind="stable")
        starts = np.cumsum(self._sizes) - self._sizes
        places = np.arange(self.rows) + np.repeat(self._first * GROUP - starts, self._sizes)
        self._rows = torch.full((int(self._groups.sum()) * GROUP,), -1)
        self._rows[places] = torch.from_numpy(order)
        self._codes = torch.zeros(len(self._rows), coder.dim, dtype=torch.int8)
        self._codes[places] = codes[order]

    def candidates(
        self, queries: np.ndarray, depth: int, nprobe: int, left_out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `ListSearch`."""
        found = np.full((len(queries), min(depth, self.rows)), -1, np.int64)
        turned = self.coder.turned(queries)
        lists = exact_search(self.coder.centroids, turned, min(nprobe, self.coder.lists))[1]
        plain = torch.from_numpy(turned)
        if self.coder.scale is not None:
            plain = torch.from_numpy(np.require(queries, np.float32, ["C", "W"])) @ self._rotation
        codes = rounded(plain / plain.abs().amax(1, keepdim=True).clamp_min(SMALLEST), 1.0)
        for part in _parts(self._groups[lists].sum(1) * GROUP):
            rows = self._nearest(codes[part], lists[part], found.shape[1], left_out)
            found[part, : rows.shape[1]] = rows.numpy()
        return found

    def _nearest(self, codes: Tensor, lists: np.ndarray, depth: int, left_out: np.ndarray | None) -> Tensor:
        """The rows of the highest products of each query with the rows of its lists, `[Q, P]`; −1 where there are none.

        Products lie by list, then by query. The highest of each group is written into a line of its query, so that only
        the groups with the highest are looked into.
        """
        order = np.argsort(lists, axis=None, kind="stable")
        asked, searched = order // lists.shape[1], lists.ravel()[order]
        products = self._products(codes, asked, searched, left_out)
        if not len(products):
            return torch.empty(len(codes), 0, dtype=torch.int64)
        widths = self._groups[lists]
        begins, longest = np.cumsum(widths, axis=1) - widths, int(widths.sum(1).max())
        width = widths.ravel()[order]
        within = np.arange(len(products)) - np.repeat(np.cumsum(width) - width, width)
        places = torch.from_numpy(np.repeat(asked * longest + begins.ravel()[order], width) + within)
        stored = torch.from_numpy(np.repeat(self._first[searched], width) + within)
        highest = torch.full((len(codes) * longest,), LOWEST, dtype=torch.int32)
        highest[places] = products.amax(1)
        group = torch.zeros(len(highest), dtype=torch.int64)
        group[places] = torch.arange(len(products))
        best, chosen = highest.view(-1, longest).topk(min(depth, longest), dim=1, sorted=False)
        group = group.view(-1, longest).gather(1, chosen)
        scores = products[group].masked_fill_((best == LOWEST)[..., None], LOWEST).flatten(1)
        rows = self._rows.view(-1, GROUP)[stored[group]].flatten(1).masked_fill_(scores == LOWEST, -1)
        return rows.gather(1, scores.topk(min(depth, rows.shape[1]), dim=1)[1])

    def _products(self, codes: Tensor, asked: np.ndarray, searched: np.ndarray, left_out: np.ndarray | None) -> Tensor:
        """`[G, 16]` of each query in `asked` with the rows of the list beside it in `searched`, which is sorted."""
        lists, starts, counts = np.unique(searched, return_index=True, return_counts=True)
        products, done = torch.empty(int(self._groups[searched].sum()), GROUP, dtype=torch.int32), 0
        for number, start, count in zip(lists.tolist(), starts.tolist(), counts.tolist(), strict=True):
            first, groups, size = (int(of[number]) for of in (self._first, self._groups, self._sizes))
            if size:
                rows = self._codes[first * GROUP : (first + groups) * GROUP]
                out = products[done : done + count * groups].view(count, groups * GROUP)
                integer_products(codes[asked[start : start + count]], rows, out)[:, size:] = LOWEST
                if left_out is not None:
                    numbers = self._rows[first * GROUP : first * GROUP + size].numpy()
                    out[:, :size].masked_fill_(torch.from_numpy(left_out[numbers]), LOWEST)
                done += count * groups
        return products


def _parts(widths: np.ndarray) -> Iterator[slice]:
    """Queries in parts whose products, `widths` of each, are held together."""
    start, held = 0, 0
    for number, width in enumerate(widths.tolist()):
        if held + width > PRODUCTS and number > start:
            yield slice(start, number)
            start, held = number, 0
        held += width
    if len(widths):
        yield slice(start, len(widths))
