"""Approximate neighbours among many rows: lists of binary codes in memory find candidates, the keys on disk rank them.

Codes are FAISS's RaBitQ, one bit a dimension and two factors. What is kept between runs are plain arrays: centroids,
and each row's list and code. No FAISS file is ever written or read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from fungi_seg.errors import BankError, FungiSegError, listing
from fungi_seg.search.exact import (
    CODED_ROWS,
    AnyKeys,
    exact_search,
    integer_products,
    rescore,
    rotated,
    rotation,
    rounded,
)

MAX_LISTS = 65_536
TRAIN_ROWS_PER_LIST = 40  # FAISS warns below 39
RUN = 16  # rows drawn together: a disk gives them in one read
ITERATIONS = 8
ASSIGNED_ROWS = 2048
FILLED_ROWS = 1 << 20
QUERY_BITS = 4
FACTOR_BYTES = 8
TUNED_FOR = 30
TUNING_QUERIES = 256


@dataclass(frozen=True)
class Coder:
    """Takes keys to lists and codes.

    Attributes:
        centroids: `[L, D]` float32, one for each list, of length 1, rotated.
        rotation: `[D, D]` float32, orthogonal; binary codes are truer where no dimension stands out.
        scale: `[D]` float32 that queries are multiplied by, if there is one: keys are coded times its root, and
            queries count as often, so that lists and codes are those of the similarity that is wanted.
    """

    centroids: np.ndarray
    rotation: np.ndarray
    scale: np.ndarray | None = None

    @classmethod
    def train(cls, sample: np.ndarray, lists: int, seed: int = 0, scale: np.ndarray | None = None) -> Coder:
        """Spherical k-means.

        Args:
            sample: `[n, D]` float16 or float32 keys; 40 rows a list are enough.
            lists: `L`, up to 65 536 and up to `n`.
            seed: of the rotation and of the first centroids.
            scale: as above.

        Raises:
            FungiSegError: no such number of lists.
        """
        if not 1 <= lists <= min(MAX_LISTS, len(sample)):
            raise FungiSegError(
                f"lists is {lists} for a sample of {len(sample)} rows; it must be between 1 and their number, "
                f"and at most {MAX_LISTS}; use fewer lists, or index.kind flat"
            )
        matrix = rotation(sample.shape[1], seed)
        rows = rotated(_by_root(sample, scale), matrix)
        generator = torch.Generator().manual_seed(seed)
        centroids = rows[torch.randperm(len(rows), generator=generator)[:lists]]
        for _ in range(ITERATIONS):
            centroids = _means(rows, _nearest(rows, centroids), centroids)
        return cls(torch.nn.functional.normalize(centroids, dim=1).numpy(), matrix.numpy(), scale)

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` takes."""
        return {"centroids": self.centroids, "rotation": self.rotation}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Coder:
        """A coder from what `arrays` gave.

        Raises:
            BankError: an array is missing, or of another type or shape, or holds values that aren't finite.
        """
        odd = [f"{name} is missing" for name in ("centroids", "rotation") if name not in arrays]
        for name in () if odd else ("centroids", "rotation"):
            values = arrays[name]
            if values.dtype != np.float32 or values.ndim != 2 or not np.isfinite(values).all():
                odd.append(f"{name} must be [·, D] float32 and finite; it is {values.dtype} {list(values.shape)}")
        if not odd:
            (lists, dim), square = arrays["centroids"].shape, arrays["rotation"].shape
            if square != (dim, dim) or not 1 <= lists <= MAX_LISTS:
                odd.append(f"{lists} centroids of width {dim} don't go with a rotation {list(square)}")
        if odd:
            raise BankError(f"the bank's index is damaged:\n{listing(odd)}\nMake it again: fungi-seg bank index")
        return cls(arrays["centroids"], arrays["rotation"])

    @property
    def lists(self) -> int:
        """`L`."""
        return len(self.centroids)

    @property
    def dim(self) -> int:
        """`D`."""
        return self.centroids.shape[1]

    @property
    def code_size(self) -> int:
        """Bytes of a code."""
        return code_bytes(self.dim)

    def assigned(self, keys: np.ndarray) -> tuple[Tensor, np.ndarray]:
        """Rotated keys, `[m, D]`, and the list of each, `[m]` int64: nearly always that of the nearest centroid."""
        rows = rotated(_by_root(keys, self.scale), torch.from_numpy(self.rotation))
        return rows, _nearest(rows, torch.from_numpy(self.centroids)).numpy()

    def encode(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The list and the code of each key.

        Args:
            keys: `[m, D]` float16 or float32, each of length 1.

        Returns:
            Lists `[m]` uint16 and codes `[m, code_size]` uint8.
        """
        rows, nearest = self.assigned(keys)
        codes = np.empty((len(rows), self.code_size), np.uint8)
        values = np.ascontiguousarray(rows.numpy())
        self._encoder.encode_vectors(len(rows), *(faiss.swig_ptr(array) for array in (values, nearest, codes)))
        return nearest.astype(np.uint16), codes

    def turned(self, queries: np.ndarray) -> np.ndarray:
        """Queries `[Q, D]` as they are compared with codes; they were multiplied by `scale` before."""
        if self.scale is not None:
            root = np.sqrt(self.scale)
            queries = queries * np.divide(1, root, out=np.zeros_like(root), where=root > 0)
        return (torch.from_numpy(np.require(queries, np.float32, ["C", "W"])) @ torch.from_numpy(self.rotation)).numpy()

    def empty_index(self) -> Any:
        """FAISS lists without rows."""
        index: Any = faiss.index_factory(self.dim, f"IVF{self.lists},RaBitQ", faiss.METRIC_INNER_PRODUCT)
        index.quantizer.add(np.ascontiguousarray(self.centroids))
        index.is_trained, index.qb = True, QUERY_BITS
        return index

    @cached_property
    def _encoder(self) -> Any:
        return self.empty_index()


@dataclass(frozen=True)
class CodedRows:
    """Rows of a bank as `Coder.encode` made them.

    Attributes:
        lists: `[m]` uint16.
        codes: `[m, code_size]` uint8.
        rows: `[m]` int64, their numbers in the bank.
    """

    lists: np.ndarray
    codes: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Effort:
    """How much of coded lists is searched.

    Attributes:
        nprobe: lists a query.
        refine: candidates rescored for each neighbour asked for (for 30 neighbours, where fewer are asked for).
    """

    nprobe: int
    refine: int

    def depth(self, k: int) -> int:
        """Candidates for `k` neighbours."""
        return self.refine * max(k, TUNED_FOR)


class ListSearch:
    """Neighbours by lists: candidates from the lists nearest a query are ranked by the keys.

    Args:
        coder: of the lists.
        rows: of the bank.
    """

    def __init__(self, coder: Coder, rows: int):
        self.coder, self.rows = coder, rows

    def candidates(
        self, queries: np.ndarray, depth: int, nprobe: int, left_out: np.ndarray | None = None
    ) -> np.ndarray:
        """The rows whose codes are nearest.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            depth: how many rows a query.
            nprobe: lists searched a query.
            left_out: `[M]` bool, rows that are no candidates.

        Returns:
            `[Q, depth]` int64, nearest first; −1 where the lists searched hold fewer.
        """
        raise NotImplementedError

    def search(self, queries: np.ndarray, keys: AnyKeys, k: int, effort: Effort) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest of the candidates by the keys, `k` ≤ M: see `rescore`.

        Where the lists searched hold fewer than `k` rows, twice as many lists are searched for that query, until they
        hold enough.
        """
        similarities, rows = rescore(queries, self.candidates(queries, effort.depth(k), effort.nprobe), keys, k)
        short, nprobe = np.flatnonzero(rows[:, -1] < 0), effort.nprobe
        while len(short) and nprobe < self.coder.lists:
            nprobe *= 2
            candidates = self.candidates(queries[short], effort.depth(k), nprobe)
            similarities[short], rows[short] = rescore(queries[short], candidates, keys, k)
            short = short[rows[short, -1] < 0]
        return similarities, rows


class CodedLists(ListSearch):
    """Candidates for the nearest rows of a bank, from codes in memory: `D / 8 + 16` bytes a row.

    Args:
        coder: what made the codes.
        parts: all rows of the bank, each once.

    Raises:
        BankError: lists, codes or row numbers that can't be.
    """

    def __init__(self, coder: Coder, parts: Sequence[CodedRows]):
        super().__init__(coder, sum(len(part.rows) for part in parts))
        for part in parts:
            _check(part, coder, self.rows)
        self._index = coder.empty_index()
        self._filled = np.zeros(coder.lists, np.int64)
        for size, number in zip(self._sizes(parts).tolist(), range(coder.lists), strict=True):
            self._index.invlists.resize(number, size)
        for batch in _batches(parts):
            self._fill(batch)
        self._index.ntotal = self.rows

    def candidates(
        self, queries: np.ndarray, depth: int, nprobe: int, left_out: np.ndarray | None = None
    ) -> np.ndarray:
        """See `ListSearch`."""
        effort = faiss.SearchParametersIVF()  # of this call: the index is that of all threads
        effort.nprobe = min(nprobe, self.coder.lists)
        if left_out is not None:
            bits = np.packbits(~left_out, bitorder="little")
            selector = faiss.IDSelectorBitmap(
                len(bits), faiss.swig_ptr(bits)
            )  # not every FAISS keeps what it points to
            effort.sel = selector
        turned = self.coder.turned(queries)
        nearness, lists = exact_search(self.coder.centroids, turned, effort.nprobe)  # by PyTorch: FAISS only scans
        depth = min(depth, self.rows)
        similarities, rows = np.empty((len(turned), depth), np.float32), np.empty((len(turned), depth), np.int64)
        given, results = (map(faiss.swig_ptr, arrays) for arrays in ((lists, nearness), (similarities, rows)))
        self._index.search_preassigned_c(len(turned), faiss.swig_ptr(turned), depth, *given, *results, False, effort)
        return rows

    def _sizes(self, parts: Sequence[CodedRows]) -> np.ndarray:
        sizes = np.zeros(self.coder.lists, np.int64)
        for part in parts:
            sizes += np.bincount(part.lists, minlength=self.coder.lists)
        return sizes

    def _fill(self, part: CodedRows) -> None:
        order = np.argsort(part.lists, kind="stable")
        rows, codes = part.rows[order].astype(np.int64), np.ascontiguousarray(part.codes[order])
        numbers, starts, counts = np.unique(part.lists[order], return_index=True, return_counts=True)
        for number, start, count in zip(numbers.tolist(), starts.tolist(), counts.tolist(), strict=True):
            pointers = faiss.swig_ptr(rows[start:]), faiss.swig_ptr(codes[start:])
            self._index.invlists.update_entries(number, int(self._filled[number]), count, *pointers)
            self._filled[number] += count


def lists_for(rows: int) -> int:
    """Lists for a bank of `rows` rows: about their square root."""
    return int(2 ** round(np.log2(max(1, rows)) / 2))


def code_bytes(dim: int) -> int:
    """Bytes of one row's code."""
    return -(-dim // 8) + FACTOR_BYTES


def train_coder(keys: AnyKeys, lists: int | None = None, seed: int = 0, scale: np.ndarray | None = None) -> Coder:
    """A coder from a random sample of `keys`, `[M, D]`; `lists_for(M)` lists by default. `scale`: see `Coder`."""
    lists = lists or lists_for(len(keys))
    runs = np.random.default_rng(seed).permutation(-(-len(keys) // RUN))[: -(-TRAIN_ROWS_PER_LIST * lists // RUN)]
    sample = (np.sort(runs)[:, None] * RUN + np.arange(RUN)).ravel()
    return Coder.train(keys[sample[sample < len(keys)]], lists, seed, scale)


def encoded(coder: Coder, keys: AnyKeys) -> list[CodedRows]:
    """All rows of `keys` as `coder` codes them, read in chunks."""
    parts = []
    for start in range(0, len(keys), CODED_ROWS):
        lists, codes = coder.encode(keys[start : start + CODED_ROWS])
        parts.append(CodedRows(lists, codes, np.arange(start, start + len(lists))))
    return parts


def lists_seconds(rows: int, dim: int, lists: int | None = None) -> float:
    """What `train_coder`, `encoded` and tuning take for `rows` keys of width `dim`, from a trial on random ones."""
    lists = lists or lists_for(rows)
    trial = np.random.default_rng(0).normal(size=(4 * ASSIGNED_ROWS, dim)).astype(np.float32)
    trial /= np.linalg.norm(trial, axis=1, keepdims=True)
    coder = Coder(np.resize(trial, (lists, dim)), rotation(dim).numpy())
    coder.encode(trial[:64])
    started = time.perf_counter()
    coder.encode(trial)
    encoding = (time.perf_counter() - started) / len(trial)
    started = time.perf_counter()
    exact_search(trial, trial[:TUNING_QUERIES], TUNED_FOR)
    comparing = (time.perf_counter() - started) / len(trial)
    return encoding * (rows + ITERATIONS * min(rows, TRAIN_ROWS_PER_LIST * lists)) + comparing * rows


def _by_root(keys: np.ndarray, scale: np.ndarray | None) -> np.ndarray:
    return keys if scale is None else keys * np.sqrt(scale)


def _nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """The centroid nearest to each row, `[R]` int64, by rounded products."""
    others = rounded(centroids)
    products = torch.empty(ASSIGNED_ROWS, len(centroids), dtype=torch.int32)
    parts = [
        integer_products(rounded(part), others, products[: len(part)]).argmax(1) for part in rows.split(ASSIGNED_ROWS)
    ]
    return torch.cat(parts)


def _means(rows: Tensor, nearest: Tensor, centroids: Tensor) -> Tensor:
    """The mean direction of each centroid's rows; a centroid without rows stays."""
    sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
    empty = torch.bincount(nearest, minlength=len(centroids)) == 0
    sums[empty] = centroids[empty]
    return torch.nn.functional.normalize(sums, dim=1)


def _check(part: CodedRows, coder: Coder, rows: int) -> None:
    """Nothing reaches FAISS that points outside its arrays."""
    count = len(part.rows)
    odd = []
    if part.lists.dtype != np.uint16 or part.lists.shape != (count,):
        odd.append(f"lists must be [{count}] uint16; it is {part.lists.dtype} {list(part.lists.shape)}")
    elif count and part.lists.max() >= coder.lists:
        odd.append(f"list {part.lists.max()} of {coder.lists}")
    if part.codes.dtype != np.uint8 or part.codes.shape != (count, coder.code_size):
        odd.append(
            f"codes must be [{count}, {coder.code_size}] uint8; it is {part.codes.dtype} {list(part.codes.shape)}"
        )
    elif not np.isfinite(np.ascontiguousarray(part.codes[:, -FACTOR_BYTES:]).view(np.float32)).all():
        odd.append("a code holds a factor that isn't finite")
    if count and not 0 <= part.rows.min() <= part.rows.max() < rows:
        odd.append(f"a row number outside 0..{rows - 1}")
    if odd:
        raise BankError(f"the bank's index is damaged:\n{listing(odd)}\nMake it again: fungi-seg bank index")


def _batches(parts: Sequence[CodedRows]) -> Iterator[CodedRows]:
    """The parts, joined to about a million rows each, so that a list is touched few times."""
    waiting: list[CodedRows] = []
    for number, part in enumerate(parts, 1):
        waiting.append(part)
        if sum(len(one.rows) for one in waiting) >= FILLED_ROWS or number == len(parts):
            yield CodedRows(
                np.concatenate([one.lists for one in waiting]),
                np.concatenate([one.codes for one in waiting]),
                np.concatenate([one.rows for one in waiting]),
            )
            waiting = []
