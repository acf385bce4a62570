"""Exact neighbours by rounded products: bounds on what rounding did say which rows the keys themselves must compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fungi_seg.search.exact import (
    GROUP,
    LEVELS,
    SMALLEST,
    AnyKeys,
    exact_search,
    integer_products,
    rescore,
    rotation,
)
from fungi_seg.search.settings import INT8

MEAN_ROWS = 4096
CODED_ROWS = 8192
SEGMENT_ROWS = 16_384
PRODUCT_ROWS = 4096
QUERY_ROWS = 1024
OPENED_GROUPS = 65_536
RESCORED_QUERIES = 32
WORTH = 32  # rows that are compared in float32 in the time that it takes to compare one candidate
MOST_CANDIDATES = 4_000_000
FOLDS = 4
TRUSTED = 0.08  # of the bound: the share that products are seldom off by
FLOAT32 = 1e-5  # float32 arithmetic is off by less, for vectors of length 1
SLACK = 4 * FLOAT32
PRODUCT = 2.0**-8  # share that rounding a product to bfloat16 takes from it at most, sums in float32 included
LOWEST = -(2.0**31)  # of int32, and below every product in bfloat16


@dataclass(frozen=True)
class Rounded:
    """Vectors in 8 bits or bfloat16, and what that took from them.

    Attributes:
        codes: `[n, D]` int8 or bfloat16.
        steps: `[n]` what a code of 1 stands for.
        along, across: `[n]` length of what was lost along one direction, and across it.
        length: `[n]` of what the codes stand for.
    """

    codes: Tensor
    steps: Tensor
    along: Tensor
    across: Tensor
    length: Tensor

    @classmethod
    def of(cls, vectors: Tensor, direction: Tensor, numbers: str, group: int = 1) -> Rounded:
        """`[n, D]` float32 rounded; `int8` without clipping: a step is the largest number of `group` vectors / 127."""
        if numbers == INT8:
            largest = vectors.view(-1, group * vectors.shape[1]).abs().amax(1).clamp_min(SMALLEST)
            steps = (largest / LEVELS).repeat_interleave(group)
            codes = (vectors / steps[:, None]).round_().to(torch.int8)
        else:
            steps, codes = torch.ones(len(vectors)), vectors.bfloat16()
        kept = codes * steps[:, None]
        lost = vectors - kept
        along = lost @ direction
        across = (lost - along[:, None] * direction).norm(dim=1)
        return cls(codes, steps, along.abs(), across, kept.norm(dim=1))


class RoundedIndex:
    """Exact inner products of unit vectors, faster than in float32 where the processor multiplies rounded numbers.

    What a row has beyond the mean row is spread evenly over its coordinates by a random rotation and rounded. What
    rounding took from rows and queries is known, and with it a bound on each product's error (Cauchy–Schwarz). Rows
    that could be among the `k` nearest are compared again by the keys themselves. Where those are too many, since keys
    lie closer together than rounded numbers can tell, the query is compared with all keys in float32.

    Args:
        keys: `[M, D]` float16 or float32, each of length 1; read in chunks, and again for the rows that are rescored.
        numbers: `int8` or `bfloat16`.
    """

    def __init__(self, keys: AnyKeys, numbers: str = INT8):
        self._numbers = numbers
        self.keys = keys
        self.rows, self.dim = keys.shape
        self._rotation = rotation(self.dim)
        self._mean = keys[np.arange(0, self.rows, -(-self.rows // MEAN_ROWS))].astype(np.float32).mean(0)
        turned = torch.from_numpy(self._mean) @ self._rotation
        self._direction = turned / turned.norm().clamp_min(SMALLEST)
        groups = -(-self.rows // GROUP)
        self._codes = torch.zeros(groups * GROUP, self.dim, dtype=getattr(torch, numbers))
        self._steps, self._lost = torch.empty(groups), torch.empty(groups, 4)
        for start in range(0, self.rows, CODED_ROWS):
            self._encode(start, torch.from_numpy(keys[start : start + CODED_ROWS].astype(np.float32) - self._mean))

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.

        Returns:
            Cosine similarities `[Q, k]` float32 and rows `[Q, k]` int64.
        """
        queries = np.require(queries, np.float32, ["C", "W"])
        similarities, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        for start in range(0, len(queries), QUERY_ROWS):
            part = queries[start : start + QUERY_ROWS]
            found = slice(start, start + len(part))
            similarities[found], rows[found] = self._search(part, k)
        return similarities, rows

    def _search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        similarities, rows, floors = self._by_candidates(queries, k)
        again = np.flatnonzero((similarities[:, -1] <= floors) & np.isfinite(floors))
        if len(again):
            part, known = queries[again], similarities[again, -1]
            similarities[again], rows[again], floors[again] = self._by_candidates(part, k, known)
        rest = np.flatnonzero(similarities[:, -1] <= floors)
        if len(rest):
            similarities[rest], rows[rest] = exact_search(self.keys, queries[rest], k)
        return similarities, rows

    def _encode(self, start: int, rows: Tensor) -> None:
        """Codes of `rows` (`[n, D]` beyond the mean, from row `start` on), and the most that a group of them lost."""
        turned = torch.nn.functional.pad(rows @ self._rotation, (0, 0, 0, -len(rows) % GROUP))
        found = Rounded.of(turned, self._direction, self._numbers, GROUP)
        groups = slice(start // GROUP, start // GROUP + len(turned) // GROUP)
        self._codes[start : start + len(turned)] = found.codes
        self._steps[groups] = found.steps[::GROUP]
        lost = torch.stack([found.across, found.along, found.length, torch.ones(len(turned))], 1)
        self._lost[groups] = lost.view(-1, GROUP, 4).amax(1)

    def _by_candidates(
        self, queries: np.ndarray, k: int, known: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The `k` nearest candidates, and `[Q]` what no other row's similarity exceeds; +∞ where they are too many.

        Args:
            queries: `[Q, D]`.
            k: how many are looked for.
            known: `[Q]`; `k` rows are at least so similar. Without it, that is guessed.
        """
        beyond = (torch.from_numpy(queries) @ torch.from_numpy(self._mean)).numpy()
        pool, steps = self._candidates(queries, k, known if known is None else known - beyond)
        candidates, counts = pool.candidates()
        similarities, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        order = np.argsort(counts, kind="stable")
        for start in range(0, len(order), RESCORED_QUERIES):
            some = order[start : start + RESCORED_QUERIES]
            width = max(k, counts[some[-1]])
            similarities[some], rows[some] = rescore(queries[some], candidates[some, :width], self.keys, k)
        return similarities, rows, pool.floor * steps + beyond

    def _candidates(self, queries: np.ndarray, k: int, known: np.ndarray | None) -> tuple[_Pool, np.ndarray]:
        """Rows that could be among the `k` nearest.

        Their products are those with what a row has beyond the mean, in steps of the query's codes, which come second.
        """
        turned = torch.from_numpy(queries) @ self._rotation
        asked, along = Rounded.of(turned, self._direction, self._numbers), turned @ self._direction
        beside = (turned - along[:, None] * self._direction).norm(dim=1)
        # row · query − codes · codes = what the row lost · query + codes of the row · what the query lost
        lost = torch.hypot(asked.along, asked.across)
        if self._numbers != INT8:
            lost += PRODUCT * asked.length
        weights = torch.stack([beside, along.abs(), lost, torch.full_like(lost, FLOAT32)]) / asked.steps
        pool = _Pool(len(queries), k, self.rows)
        if known is not None:
            pool.know(torch.from_numpy(known - SLACK) / asked.steps)
        exactly = torch.int32 if self._numbers == INT8 else torch.bfloat16
        scores = torch.empty(min(SEGMENT_ROWS, len(self._codes)), len(queries), dtype=exactly)
        multiply = integer_products if self._numbers == INT8 else _bfloat16_products
        for start in range(0, len(self._codes), SEGMENT_ROWS):
            codes = self._codes[start : start + SEGMENT_ROWS]
            for part, out in zip(codes.split(PRODUCT_ROWS), scores.split(PRODUCT_ROWS), strict=False):
                multiply(part, asked.codes, out[: len(part)])
            scores[max(0, self.rows - start) : len(codes)] = LOWEST  # what fills the last group
            groups = slice(start // GROUP, (start + len(codes)) // GROUP)
            pool.offer(start, scores[: len(codes)], self._steps[groups], self._lost[groups] @ weights)
        return pool, asked.steps.numpy()


def _bfloat16_products(rows: Tensor, others: Tensor, out: Tensor) -> Tensor:
    return torch.mm(rows, others.T, out=out)


class _Pool:
    """Rows whose products could be among the `k` highest, collected while products are offered.

    The bounds hold for the worst case, and products are off by far less. So a product is taken for good where it would
    stay among the highest if it were off by a share of the bound. That is a guess: the `k` nearest candidates are
    proven to be the nearest rows where they exceed `floor`.

    Args:
        queries: `Q`.
        k: how many are looked for.
        rows: among so many.
    """

    def __init__(self, queries: int, k: int, rows: int):
        self._queries, self._k = queries, k
        self._most = max(2 * k, min(rows // WORTH, MOST_CANDIDATES // max(1, queries)))
        self._best = torch.full((queries, k), -torch.inf)
        self._trusted = TRUSTED
        self._counts = torch.zeros(queries, dtype=torch.int64)
        none = torch.empty(0, dtype=torch.int64)
        self._found = [(none, none, torch.empty(0))]

    def know(self, floor: Tensor) -> None:
        """That `k` products of each query are above `floor`, `[Q]`; nothing is guessed from here on."""
        self._best[:] = floor[:, None]
        self._trusted = 1.0

    @property
    def floor(self) -> np.ndarray:
        """`[Q]` float32; all rows of higher products are candidates; +∞ where those are too many."""
        return torch.where(self._counts > self._most, torch.inf, self._best.amin(1)).numpy()

    def offer(self, start: int, scores: Tensor, steps: Tensor, margins: Tensor) -> None:
        """Products of rows `start`, `start + 1`, … .

        Args:
            start: a multiple of `GROUP`.
            scores: `[R, Q]` int32 or bfloat16.
            steps: `[R / GROUP]` what scores of a group are to be multiplied by.
            margins: `[R / GROUP, Q]` most that a product may be off then.
        """
        groups = scores.view(-1, GROUP, self._queries)
        highest = groups.amax(1) * steps[:, None]
        self._raise_floor(torch.add(highest, margins, alpha=-self._trusted))
        group, query = (highest.add_(margins) >= self._best.amin(1)).nonzero(as_tuple=True)
        opened = torch.bincount(query, minlength=self._queries)
        self._counts += torch.where(self._counts + opened > self._most, self._most + 1, 0)
        few = self._counts[query] <= self._most
        for some in few.nonzero().flatten().split(OPENED_GROUPS):
            self._open(start, groups, steps, margins, group[some], query[some])

    def _raise_floor(self, good: Tensor) -> None:
        """Take note of products `[G, Q]`, each of another row; of groups far apart, since neighbours lie together."""
        folds = max(1, min(FOLDS, len(good) // (FOLDS * self._k)))
        good = good[: len(good) // folds * folds].view(folds, -1, self._queries).amax(0).T.contiguous()
        good = torch.cat([self._best, good.topk(min(self._k, good.shape[1]), dim=1, sorted=False)[0]], 1)
        self._best = good.topk(self._k, dim=1, sorted=False)[0]

    def _open(self, start: int, groups: Tensor, steps: Tensor, margins: Tensor, group: Tensor, query: Tensor) -> None:
        """Collect the rows of a `group` that could be among the highest of a `query`; otherwise as `offer`."""
        scores, margin, step = groups[group, :, query], margins[group, query], steps[group]
        least = ((self._best.amin(1)[query] - margin) / step).clamp_min_(LOWEST / 2)
        pair, place = (scores >= least[:, None]).nonzero(as_tuple=True)
        self._counts += torch.bincount(query[pair], minlength=self._queries)
        kept = self._counts[query[pair]] <= self._most
        pair, place = pair[kept], place[kept]
        bounds = scores[pair, place] * step[pair] + margin[pair]
        self._found.append((query[pair], start + group[pair] * GROUP + place, bounds))

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows, `[Q, P]` int64, −1 in places that stay empty; and how many rows each query has."""
        query, row, bound = (torch.cat(parts).numpy() for parts in zip(*self._found, strict=True))
        kept = bound >= self.floor[query]
        query, row = query[kept], row[kept]
        order = np.argsort(query.astype(np.uint16), kind="stable")
        counts = np.bincount(query, minlength=self._queries)
        place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.full((self._queries, max(self._k, counts.max(initial=0))), -1, np.int64)
        rows[query[order], place] = row[order]
        return rows, counts
