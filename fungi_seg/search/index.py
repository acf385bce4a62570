"""Nearest neighbours over the rows of a bank: exact, by coded lists, or by any FAISS index.

An index is a cache built from the rows; no FAISS file is ever read.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from fungi_seg.errors import FungiSegError, reason
from fungi_seg.hardware import free_memory
from fungi_seg.search.choice import chosen, gpu_wanted, integers_in_lists
from fungi_seg.search.exact import AnyKeys, FlatIndex, exact_search, share_found
from fungi_seg.search.integer_lists import IntegerLists
from fungi_seg.search.lists import (
    TRAIN_ROWS_PER_LIST,
    CodedLists,
    CodedRows,
    Coder,
    Effort,
    ListSearch,
    code_bytes,
    encoded,
    lists_for,
    lists_seconds,
    train_coder,
)
from fungi_seg.search.rounded import RoundedIndex
from fungi_seg.search.scaling import scaled
from fungi_seg.search.settings import BFLOAT16, EXACT, EXACT_KINDS, INT8, LISTS, REFINED, IndexConfig
from fungi_seg.search.tuning import tune

ROUNDED_BYTES = {BFLOAT16: 2, INT8: 1}
ADD_ROWS = 65_536
FACTORY_REFINE = 4
ROW_NUMBER_BYTES = 8
TRIAL_ROWS = 8192


@dataclass(frozen=True)
class StoredIndex:
    """Coded lists that a bank carries, so that they need not be made when it is opened.

    Attributes:
        coder: what made the codes.
        parts: all rows of the bank, each once.
        effort: what tuning found; `None` where it was for another recall or for many more or fewer rows.
    """

    coder: Coder
    parts: Sequence[CodedRows]
    effort: Effort | None = None


class NeighbourIndex:
    """Cosine neighbours among L2-normalised keys. Threads may search at the same time.

    Args:
        keys: `[M, D]` float16 or float32, each of length 1: an array, or one that lies on disk; read in chunks. `lists`
            and `int8` read rows of it at every search.
        config: how to search.
        stored: coded lists of these keys, used where `config` wants lists.
        scale: `[D]` float32 that queries are multiplied by: the similarity is that of `query · scale` and a key. None
            leaves them as they are, bit by bit.
        groups: `[M]` int ≥ 0, the image that each row comes from, which tells how hard new images are to search for:
            see `tune`.

    Attributes:
        kind: what was built: `flat` (exact, in float32), `bfloat16`, `int8`, `lists`, or a FAISS factory string.
        choice: the same, and why.
        effort: how much of the lists is searched; `None` for other kinds.
    """

    def __init__(
        self,
        keys: AnyKeys,
        config: IndexConfig | None = None,
        stored: StoredIndex | None = None,
        scale: np.ndarray | None = None,
        groups: np.ndarray | None = None,
    ):
        config = config or IndexConfig()
        if len(keys.shape) != 2 or not len(keys):
            raise FungiSegError(f"keys has shape {keys.shape}; an index needs [M, D] with at least one row")
        self._keys = keys
        self.rows, self.dim = keys.shape
        self._scale = scale
        self.choice = chosen(self.rows, self.dim, config)
        self.kind = self.choice.kind
        on_gpu = gpu_wanted(config) and self.kind not in (BFLOAT16, INT8, LISTS)
        self.effort: Effort | None = None
        _check_memory(self.rows, self.dim, self.kind, on_gpu)
        self._index: Any
        if self.kind in EXACT_KINDS and not on_gpu:
            self._index = _exact(keys, self.kind)
        elif self.kind == LISTS:
            self._index, self.effort = _lists(keys, config, stored, scale, groups)
        else:
            self._index = _FaissIndex(keys, self.kind, config, on_gpu)

    def search(self, queries: np.ndarray, k: int, left_out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.
            left_out: `[M]` bool, rows that are no neighbours; for exact kinds on the CPU.

        Returns:
            Cosine similarities `[Q, k]` float32, weighted by `scale` if there is one, and rows `[Q, k]` int64: `k`
            different rows, for any kind of index; −∞ where `left_out` leaves fewer. Where a FAISS index finds fewer, as
            its lists searched hold too few, that query is compared with all keys.
        """
        queries = usable_queries(queries, k, (self.rows, self.dim))
        if left_out is not None and not isinstance(self._index, FlatIndex | RoundedIndex):
            raise FungiSegError(f"left_out is given, but an index of kind {self.kind} can't leave rows out; use flat")
        queries, lengths = scaled(queries, self._scale)
        if self.effort:
            similarities, rows = self._index.search(queries, self._keys, k, self.effort)
        else:
            similarities, rows = self._index.search(queries, k, *(() if left_out is None else (left_out,)))
        short = np.flatnonzero((rows < 0).any(1))
        if len(short):
            similarities[short], rows[short] = exact_search(self._keys, queries[short], k, left_out)
        if lengths is not None:
            similarities = similarities * lengths
        return similarities, rows

    def exact(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """As `search`, by comparing each query with all keys, whatever the kind of index."""
        queries, lengths = scaled(usable_queries(queries, k, (self.rows, self.dim)), self._scale)
        similarities, rows = exact_search(self._keys, queries, k)
        return similarities if lengths is None else similarities * lengths, rows

    def recall(self, keys: AnyKeys, queries: np.ndarray, k: int) -> float:
        """Share of the exact `k` nearest rows that this index finds, over `queries`."""
        if self.kind == EXACT:
            return 1.0
        wanted = scaled(np.ascontiguousarray(queries, np.float32), self._scale)[0]
        return share_found(exact_search(keys, wanted, k)[1], self.search(queries, k)[1])


def usable_queries(queries: np.ndarray, k: int, shape: tuple[int, int]) -> np.ndarray:
    """`queries` as `[Q, D]` float32 in one piece, if their `k` nearest can be searched among keys of a shape.

    Raises:
        FungiSegError: more neighbours than rows, another width, or numbers that aren't finite.
    """
    rows, dim = shape
    if not 1 <= k <= rows:
        raise FungiSegError(
            f"k is {k}, the bank has {rows} rows; k must be between 1 and that; lower k, or use a larger bank"
        )
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise FungiSegError(f"queries has shape {queries.shape}; the bank's keys are {dim} wide")
    queries = np.ascontiguousarray(queries, np.float32)
    if not np.isfinite(queries).all():
        raise FungiSegError("queries holds numbers that aren't finite, which have no neighbours; check the features")
    return queries


def _lists(
    keys: AnyKeys,
    config: IndexConfig,
    stored: StoredIndex | None,
    scale: np.ndarray | None,
    groups: np.ndarray | None,
) -> tuple[ListSearch, Effort]:
    """Lists over `keys`, and how much of them to search; what `config` leaves open is stored or tuned."""
    coder = stored.coder if stored else train_coder(keys, scale=scale)
    index: ListSearch
    if stored is None and integers_in_lists(len(keys)):
        index = IntegerLists(coder, keys)
    else:
        index = CodedLists(coder, stored.parts if stored else encoded(coder, keys))
    effort = stored.effort if stored and scale is None else None  # what is stored was tuned for queries as they are
    if config.nprobe is None or config.refine is None:
        effort = effort or tune(index, keys, config.recall, groups, scale=scale)[0]
    return index, Effort(config.nprobe or effort.nprobe, config.refine or effort.refine)  # type: ignore[union-attr]


def _exact(keys: AnyKeys, kind: str) -> FlatIndex | RoundedIndex:
    return FlatIndex(keys) if kind == EXACT else RoundedIndex(keys, kind)


class _FaissIndex:
    """A FAISS index over `keys`, made from a factory string."""

    def __init__(self, keys: AnyKeys, kind: str, config: IndexConfig, on_gpu: bool):
        self.rows, dim = keys.shape
        self.kind = kind
        try:
            self._index = faiss.index_factory(dim, "Flat" if kind == EXACT else kind, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise FungiSegError(
                f"index.kind is {config.kind!r}, which FAISS can't make for {dim} dimensions: {reason(error)}"
            ) from error
        inverted = faiss.try_extract_index_ivf(self._index)
        lists = inverted.nlist if inverted else 0
        self._resources: Any = None
        if on_gpu:
            self._to_gpu(config)
        # FAISS lets many threads search an index in memory, but only one at a time an index on a GPU
        self._turn: AbstractContextManager[Any] = nullcontext() if self._resources is None else threading.Lock()
        self._tune(config, lists)
        self._fill(keys, lists)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Similarities and rows `[Q, k]`; row −1 where fewer were found."""
        with self._turn:
            similarities, rows = self._index.search(queries, k)
        return similarities, rows

    def _to_gpu(self, config: IndexConfig) -> None:
        try:
            resources = faiss.StandardGpuResources()
            self._index = faiss.index_cpu_to_gpu(resources, 0, self._index)
            self._resources = resources  # must live as long as the index
        except (AttributeError, RuntimeError) as error:
            if config.device == "cuda":
                raise FungiSegError(
                    f"index.device is cuda, but FAISS can't hold {self.kind!r} on a GPU "
                    f"({reason(error)}); use index.kind flat or index.device cpu"
                ) from error

    def _tune(self, config: IndexConfig, lists: int) -> None:
        space = faiss.ParameterSpace() if self._resources is None else faiss.GpuParameterSpace()
        if lists:
            space.set_index_parameter(self._index, "nprobe", min(lists, config.nprobe or max(8, lists // 20)))
        if any(name in self.kind for name in REFINED):
            space.set_index_parameter(self._index, "k_factor_rf", config.refine or FACTORY_REFINE)

    def _fill(self, keys: AnyKeys, lists: int) -> None:
        try:
            if not self._index.is_trained:
                size = max(TRAIN_ROWS_PER_LIST * lists, 4096)
                sample = np.random.default_rng(0).permutation(self.rows)[:size]
                self._index.train(keys[np.sort(sample)].astype(np.float32))
            for start in range(0, self.rows, ADD_ROWS):
                self._index.add(keys[start : start + ADD_ROWS].astype(np.float32))
        except RuntimeError as error:
            raise FungiSegError(
                f"index {self.kind!r} can't be built from {self.rows} rows ({reason(error)}); "
                f"use fewer lists, index.kind flat, or index.device cpu"
            ) from error


def memory_bytes(rows: int, dim: int, kind: str) -> int:
    """Memory that an index of `rows` keys of width `dim` holds between searches.

    Args:
        rows, dim: of the keys.
        kind: as `Choice.kind`; factory strings count as float32 keys.
    """
    if kind in ROUNDED_BYTES:
        return ROUNDED_BYTES[kind] * rows * dim + 4 * dim**2
    if kind == LISTS and integers_in_lists(rows):
        return rows * (dim + ROW_NUMBER_BYTES) + 4 * dim * (lists_for(rows) + dim)
    if kind == LISTS:
        return rows * (code_bytes(dim) + ROW_NUMBER_BYTES) + 4 * dim * (2 * lists_for(rows) + dim)
    return 4 * rows * dim


def build_seconds(rows: int, dim: int, kind: str) -> float:
    """What an index of `rows` keys of width `dim` takes to make on the CPU, from a trial on random keys.

    Args:
        rows, dim: of the keys.
        kind: `flat`, `bfloat16`, `int8` or `lists`.
    """
    if kind == LISTS:
        return lists_seconds(rows, dim)
    keys = np.random.default_rng(0).standard_normal((TRIAL_ROWS, dim), np.float32)
    started = time.perf_counter()
    _exact(keys, kind)
    return (time.perf_counter() - started) * rows / TRIAL_ROWS


def _check_memory(rows: int, dim: int, kind: str, on_gpu: bool) -> None:
    free = free_memory()
    needed = memory_bytes(rows, dim, kind)
    if kind in (*EXACT_KINDS, LISTS) and not on_gpu and free is not None and needed > free:
        raise FungiSegError(
            f"an index of kind {kind} over {rows} rows × {dim} takes {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB "
            f"of memory are free; use index.kind lists, a smaller bank, or a machine with more memory"
        )
