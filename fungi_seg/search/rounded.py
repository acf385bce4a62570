"""Exact neighbours by rounded products: bounds on what rounding did say which rows the keys themselves must compare."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
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
from fungi_seg.search.settings import BFLOAT16, INT8

MEAN_ROWS = 4096
CODED_ROWS = 8192
SEGMENT_ROWS = 16_384
PRODUCT_ROWS = 4096
QUERY_ROWS = 512
ABREAST = 2  # parts of the queries at once: what picks candidates, on one core, goes on beside products
WORTH_PARTING = 256  # queries
OPENED_GROUPS = 65_536
RESCORED_QUERIES = 128
WORTH = 32  # rows that are compared in float32 in the time that it takes to compare one candidate
MOST_CANDIDATES = 4_000_000
FOLDS = 4
TRUSTED = 0.08  # of the bound: the share that products are seldom off by
FLOAT32 = 1e-5  # products in float32 arithmetic are off by less, for vectors of length 1
ULPS = 5e-7  # sums of some numbers below 1 are off by less
CENTRES, REFITTED, TIGHT = 16, 2, 0.1  # rows lie in clusters if their squared distances shrink to that share
# share of both lengths that rounding a product takes at most, sums in float32 included
PRODUCT = {INT8: 0.0, BFLOAT16: 2.0**-8}
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
    lie closer together than rounded numbers can tell, the query is compared with all keys in float32. Where rows lie
    in few tight clusters, their centres take the place of the mean, and are taken from queries as well.

    Args:
        keys: `[M, D]` float16 or float32, each of length 1; read in chunks, and again for the rows that are rescored.
        numbers: `int8` or `bfloat16`.
    """

    def __init__(self, keys: AnyKeys, numbers: str = INT8):
        self.keys, self._numbers = keys, numbers
        self.rows, self.dim = keys.shape
        self._rotation = rotation(self.dim)
        centres = _centres(keys[np.arange(0, self.rows, -(-self.rows // MEAN_ROWS))].astype(np.float32))
        self._blocks = [
            _Block.of(keys, rows, centre, levels, self._rotation, numbers)
            for centre, rows, levels in _by_centre(keys, centres)
        ]

    def search(self, queries: np.ndarray, k: int, left_out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.
            left_out: `[M]` bool, rows that are no neighbours.

        Returns:
            Cosine similarities `[Q, k]` float32 and rows `[Q, k]` int64; −∞ where there are fewer.
        """
        queries = np.require(queries, np.float32, ["C", "W"])
        similarities, rows = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
        abreast = ABREAST if torch.get_num_threads() > 1 and len(queries) >= WORTH_PARTING else 1
        step = max(1, min(QUERY_ROWS, -(-len(queries) // abreast)))

        def search(start: int) -> None:
            found = slice(start, start + step)
            similarities[found], rows[found] = self._search(queries[found], k, left_out)

        with ThreadPoolExecutor(abreast) as pool:
            list(pool.map(search, range(0, len(queries), step)))
        return similarities, rows

    def _search(self, queries: np.ndarray, k: int, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        similarities, rows, floors = self._by_candidates(queries, k, left_out)
        again = np.flatnonzero((similarities[:, -1] <= floors) & np.isfinite(floors))
        if len(again):
            known = np.array([self._least(*one) for one in zip(queries[again], rows[again], strict=True)], np.float32)
            similarities[again], rows[again], floors[again] = self._by_candidates(queries[again], k, left_out, known)
        rest = np.flatnonzero(similarities[:, -1] <= floors)
        if len(rest):
            similarities[rest], rows[rest] = exact_search(self.keys, queries[rest], k, left_out)
        return similarities, rows

    def _least(self, query: np.ndarray, rows: np.ndarray) -> float:
        """The least similarity of some rows; −∞ where one is missing."""
        if rows[-1] < 0:
            return -np.inf
        return float((self.keys[rows].astype(np.float64) @ query.astype(np.float64)).min())

    def _by_candidates(
        self, queries: np.ndarray, k: int, left_out: np.ndarray | None, known: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The `k` nearest candidates, and `[Q]` what no other row's similarity exceeds; +∞ where they are too many.

        Args:
            queries: `[Q, D]`.
            k: how many are looked for.
            left_out: `[M]` bool, rows that are no candidates.
            known: `[Q]`; `k` rows are at least so similar. Without it, that is guessed.
        """
        pool = _Pool(len(queries), k, self.rows)
        if known is not None:
            pool.know(torch.from_numpy(known - ULPS))
        turned = torch.from_numpy(queries) @ self._rotation
        longest = min(SEGMENT_ROWS, max(len(block.codes) for block in self._blocks))
        buffer = torch.empty(longest, len(queries), dtype=torch.int32 if self._numbers == INT8 else torch.bfloat16)
        for block in self._blocks:
            self._offer(block, queries, turned, buffer, pool, left_out)
        candidates, counts = pool.candidates()
        similarities, rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        order = np.argsort(counts, kind="stable")
        for start in range(int((counts == 0).sum()), len(order), RESCORED_QUERIES):
            some = order[start : start + RESCORED_QUERIES]
            width = max(k, counts[some[-1]])
            similarities[some], rows[some] = rescore(queries[some], candidates[some, :width], self.keys, k)
        return similarities, rows, pool.floor

    def _offer(
        self,
        block: _Block,
        queries: np.ndarray,
        turned: Tensor,
        buffer: Tensor,
        pool: _Pool,
        left_out: np.ndarray | None,
    ) -> None:
        """Offer the products of a block's rows with queries, which are `turned` too; `buffer` holds some of them."""
        turned = turned - block.shift
        offset = torch.from_numpy((queries.astype(np.float64) @ block.centre).astype(np.float32))
        asked, along = Rounded.of(turned, block.direction, self._numbers), turned @ block.direction
        beside = (turned - along[:, None] * block.direction).norm(dim=1)
        # row · query − codes · codes = what the row lost · query + codes of the row · what the query lost
        lost = torch.hypot(asked.along, asked.across) + PRODUCT[self._numbers] * asked.length + FLOAT32
        weights = torch.stack([beside, along.abs(), lost, torch.ones_like(lost)])
        multiply = integer_products if self._numbers == INT8 else _bfloat16_products
        for start in range(0, len(block.codes), SEGMENT_ROWS):
            codes = block.codes[start : start + SEGMENT_ROWS]
            scores = buffer[: len(codes)]
            for part, out in zip(codes.split(PRODUCT_ROWS), scores.split(PRODUCT_ROWS), strict=True):
                multiply(part, asked.codes, out)
            scores[max(0, len(block.rows) - start) :] = LOWEST  # what fills the last group
            groups = slice(start // GROUP, (start + len(codes)) // GROUP)
            steps, levels = block.steps[groups, None] * asked.steps, block.levels[groups, None] + offset
            rows = block.rows[start : start + len(codes)]
            if left_out is not None:
                scores[np.flatnonzero(left_out[rows])] = LOWEST
            pool.offer(rows, scores, steps, levels, block.lost[groups] @ weights)


@dataclass(frozen=True)
class _Block:
    """Rows around a centre, rounded.

    `row · query = (row − centre) · (query − shift) + level of the row + centre · query`.

    Attributes:
        rows: `[n]` their numbers.
        centre: `[D]`.
        shift: `[D]` 0, or the centre, rotated, where rows lie close to it.
        direction: `[D]` that of the centre, rotated.
        codes: `[G · 16, D]` of rotated rows without the centre, filled up with 0.
        steps: `[G]` what a code of 1 stands for.
        levels: `[G]` the middle of the levels, `(row − centre) · shift`, of a group's rows.
        lost: `[G, 4]` the most that rounding took from a row across the direction and along it, the largest length, and
            how far levels are from their middle.
    """

    rows: np.ndarray
    centre: np.ndarray
    shift: Tensor
    direction: Tensor
    codes: Tensor
    steps: Tensor
    levels: Tensor
    lost: Tensor

    @classmethod
    def of(
        cls, keys: AnyKeys, rows: np.ndarray, centre: np.ndarray, levels: np.ndarray | None, turn: Tensor, numbers: str
    ) -> _Block:
        """Those of `keys` with the numbers `rows`; `levels`, ascending, if their centre is taken from queries too."""
        rotated = torch.from_numpy(centre) @ turn
        direction = rotated / rotated.norm().clamp_min(SMALLEST)
        groups = -(-len(rows) // GROUP)
        codes = torch.zeros(groups * GROUP, len(centre), dtype=getattr(torch, numbers))
        steps, lost = torch.empty(groups), torch.empty(groups, 4)
        for start in range(0, len(rows), CODED_ROWS):
            part = torch.from_numpy(_read(keys, rows[start : start + CODED_ROWS]).astype(np.float32) - centre)
            turned = torch.nn.functional.pad(part @ turn, (0, 0, 0, -len(part) % GROUP))
            found = Rounded.of(turned, direction, numbers, GROUP)
            some = slice(start // GROUP, start // GROUP + len(turned) // GROUP)
            codes[start : start + len(turned)] = found.codes
            steps[some] = found.steps[::GROUP]
            taken = torch.stack([found.across, found.along, found.length, torch.full_like(found.across, ULPS)], 1)
            lost[some] = taken.view(-1, GROUP, 4).amax(1)
        middle, shift = torch.zeros(groups), torch.zeros_like(rotated)
        if levels is not None:
            filled = np.pad(levels, (0, -len(rows) % GROUP), mode="edge").reshape(-1, GROUP)
            middle = torch.from_numpy((filled[:, 0] + filled[:, -1]) / 2).float()
            lost[:, 3] += torch.from_numpy((filled[:, -1] - filled[:, 0]) / 2).float()
            shift = rotated
        return cls(rows, centre, shift, direction, codes, steps, middle, lost)


def _centres(rows: np.ndarray) -> np.ndarray:
    """Centres of rows `[n, D]`: their mean, or those of clusters if they lie in few tight ones."""
    mean = rows.mean(0, keepdims=True)
    spread = ((rows - mean) ** 2).sum(1).mean()
    centres = rows[:1]
    distances = ((rows - centres[0]) ** 2).sum(1)
    while len(centres) < CENTRES and distances.max() > TIGHT * spread:  # from each to the row farthest from all before
        centres = np.concatenate([centres, rows[distances.argmax()][None]])
        distances = np.minimum(distances, ((rows - centres[-1]) ** 2).sum(1))
    for _ in range(REFITTED):
        nearest = _nearest_centre(rows, centres)
        centres = np.stack([rows[nearest == number].mean(0) for number in np.unique(nearest)])
    left = ((rows - centres[_nearest_centre(rows, centres)]) ** 2).sum(1).mean()
    return centres if left < TIGHT * spread else mean


def _nearest_centre(rows: np.ndarray, centres: np.ndarray) -> np.ndarray:
    found: np.ndarray = (rows @ centres.T - (centres**2).sum(1) / 2).argmax(1)
    return found


def _by_centre(keys: AnyKeys, centres: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Each centre, the numbers of the rows nearest to it, and their levels, ascending; none if it is the only one."""
    if len(centres) == 1:
        yield centres[0], np.arange(len(keys)), None
        return
    nearest, levels = np.empty(len(keys), np.int64), np.empty(len(keys))
    for start in range(0, len(keys), CODED_ROWS):
        part = keys[start : start + CODED_ROWS].astype(np.float32)
        own = nearest[start : start + len(part)] = _nearest_centre(part, centres)
        of_own = centres[own].astype(np.float64)
        levels[start : start + len(part)] = np.einsum("nd,nd->n", part - of_own, of_own)
    order = np.lexsort((levels, nearest))
    bounds = np.searchsorted(nearest[order], np.arange(len(centres) + 1))
    for centre, first, end in zip(centres, bounds[:-1], bounds[1:], strict=True):
        if end > first:
            yield centre, order[first:end], levels[order[first:end]]


def _read(keys: AnyKeys, rows: np.ndarray) -> np.ndarray:
    """Keys by their numbers, at one go where those follow each other."""
    if rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return keys[int(rows[0]) : int(rows[-1]) + 1]
    return keys[rows]


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
        """That `k` products of each query are at least `floor`, `[Q]`; nothing is guessed from here on."""
        self._best[:] = floor[:, None]
        self._trusted = 1.0

    @property
    def floor(self) -> np.ndarray:
        """`[Q]` float32; all rows of higher products are candidates; +∞ where those are too many."""
        return torch.where(self._counts > self._most, torch.inf, self._best.amin(1)).numpy()

    def offer(self, rows: np.ndarray, scores: Tensor, steps: Tensor, levels: Tensor, margins: Tensor) -> None:
        """Products `scores · steps + levels` of some rows.

        Args:
            rows: `[R]` their numbers, fewer than scores where the last group is filled up.
            scores: `[R, Q]` int32 or bfloat16.
            steps, levels: `[R / GROUP, Q]`.
            margins: `[R / GROUP, Q]` most that a product may be off.
        """
        groups = scores.view(-1, GROUP, self._queries)
        highest = torch.addcmul(levels, groups.amax(1), steps)
        self._raise_floor(torch.add(highest, margins, alpha=-self._trusted))
        group, query = (highest.add_(margins) >= self._best.amin(1)).nonzero(as_tuple=True)
        opened = torch.bincount(query, minlength=self._queries)
        self._counts += torch.where(self._counts + opened > self._most, self._most + 1, 0)
        few = self._counts[query] <= self._most
        for some in few.nonzero().flatten().split(OPENED_GROUPS):
            self._open(rows, groups, (steps, levels, margins), group[some], query[some])

    def _raise_floor(self, good: Tensor) -> None:
        """Take note of products `[G, Q]`, each of another row; of groups far apart, since neighbours lie together."""
        folds = max(1, min(FOLDS, len(good) // (FOLDS * self._k)))
        good = good[: len(good) // folds * folds].view(folds, -1, self._queries).amax(0).T.contiguous()
        good = torch.cat([self._best, good.topk(min(self._k, good.shape[1]), dim=1, sorted=False)[0]], 1)
        self._best = good.topk(self._k, dim=1, sorted=False)[0]

    def _open(
        self, rows: np.ndarray, groups: Tensor, scale: tuple[Tensor, Tensor, Tensor], group: Tensor, query: Tensor
    ) -> None:
        """Collect the rows of a `group` that could be among the highest of a `query`; otherwise as `offer`."""
        scores, (step, level, margin) = groups[group, :, query], (values[group, query] for values in scale)
        least = ((self._best.amin(1)[query] - margin - level) / step).clamp_min_(LOWEST / 2)
        pair, place = (scores >= least[:, None]).nonzero(as_tuple=True)
        self._counts += torch.bincount(query[pair], minlength=self._queries)
        kept = self._counts[query[pair]] <= self._most
        pair, place = pair[kept], place[kept]
        bounds = scores[pair, place] * step[pair] + level[pair] + margin[pair]
        self._found.append((query[pair], torch.from_numpy(rows)[group[pair] * GROUP + place], bounds))

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
