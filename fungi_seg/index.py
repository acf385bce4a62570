"""Nearest neighbours over the rows of a bank, by FAISS.

An index is a cache built from the rows; none is ever read from a file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from fungi_seg.errors import FungiSegError, reason

EXACT = "Flat"
EXACT_UP_TO = 20_000
ADD_ROWS = 65_536
TRAIN_ROWS_PER_LIST = 64


@dataclass(frozen=True)
class IndexConfig:
    """How neighbours are searched.

    Args:
        kind: `auto` (exact up to 20 000 rows and on GPUs; above, lists of binary codes with rescoring), `flat` (exact),
            or any FAISS factory string, such as `IVF512,Flat`.
        nprobe: lists searched a query; `null` takes one in 20, at least 8.
        refine: candidates rescored exactly for each neighbour asked for, where the factory string has a refine stage.
        device: `auto` (a GPU if FAISS sees one and holds this kind of index there), `cpu` or `cuda`.
    """

    kind: str = "auto"
    nprobe: int | None = None
    refine: int = 4
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise FungiSegError(f"index.device is {self.device!r}; it must be auto, cpu or cuda")
        if (self.nprobe is not None and self.nprobe < 1) or self.refine < 1:
            raise FungiSegError(f"index.nprobe is {self.nprobe}, index.refine {self.refine}; both must be at least 1")


class NeighbourIndex:
    """Cosine neighbours among L2-normalised keys.

    Args:
        keys: `[M, D]` float16 or float32, each of length 1.
        config: how to search.

    Attributes:
        factory: the FAISS factory string that was built.
    """

    def __init__(self, keys: np.ndarray, config: IndexConfig | None = None):
        config = config or IndexConfig()
        if keys.ndim != 2 or not len(keys):
            raise FungiSegError(f"keys has shape {keys.shape}; an index needs [M, D] with at least one row")
        self.rows, dim = keys.shape
        on_gpu = _gpu_wanted(config)
        self.factory = factory_string(self.rows, config.kind, on_gpu)
        try:
            self._index = faiss.index_factory(dim, self.factory, faiss.METRIC_INNER_PRODUCT)
        except RuntimeError as error:
            raise FungiSegError(
                f"index.kind is {config.kind!r}, which FAISS can't make for {dim} dimensions: {reason(error)}"
            ) from error
        inverted = faiss.try_extract_index_ivf(self._index)
        lists = inverted.nlist if inverted else 0
        self._resources: Any = None
        if on_gpu:
            self._to_gpu(config)
        self._tune(config, lists)
        self._fill(keys, lists)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.

        Returns:
            Cosine similarities `[Q, k]` float32 and rows `[Q, k]` int64. Where an approximate index found fewer than
            `k`, the rest have similarity −inf and row 0, and so no weight in a vote.
        """
        if not 1 <= k <= self.rows:
            raise FungiSegError(
                f"k is {k}, the bank has {self.rows} rows; k must be between 1 and that; lower k, or use a larger bank"
            )
        if queries.ndim != 2 or queries.shape[1] != self._index.d:
            raise FungiSegError(f"queries has shape {queries.shape}; the bank's keys are {self._index.d} wide")
        similarities, rows = self._index.search(np.ascontiguousarray(queries, np.float32), k)
        missing = rows < 0
        if missing.any():
            similarities[missing], rows[missing] = -np.inf, 0
        return similarities, rows

    def recall(self, keys: np.ndarray, queries: np.ndarray, k: int) -> float:
        """Share of the exact `k` nearest rows that this index finds, over `queries`."""
        if self.factory == EXACT:
            return 1.0
        exact = NeighbourIndex(keys, IndexConfig("flat", device="cpu")).search(queries, k)[1]
        found = self.search(queries, k)[1]
        return float(np.mean([np.isin(e, f).mean() for e, f in zip(exact, found, strict=True)]))

    def _to_gpu(self, config: IndexConfig) -> None:
        try:
            resources = faiss.StandardGpuResources()
            self._index = faiss.index_cpu_to_gpu(resources, 0, self._index)
            self._resources = resources  # must live as long as the index
        except (AttributeError, RuntimeError) as error:
            if config.device == "cuda":
                raise FungiSegError(
                    f"index.device is cuda, but FAISS can't hold {self.factory!r} on a GPU "
                    f"({reason(error)}); use index.kind flat or index.device cpu"
                ) from error

    def _tune(self, config: IndexConfig, lists: int) -> None:
        space = faiss.ParameterSpace() if self._resources is None else faiss.GpuParameterSpace()
        if lists:
            space.set_index_parameter(self._index, "nprobe", min(lists, config.nprobe or max(8, lists // 20)))
        if "Refine" in self.factory or "RFlat" in self.factory:
            space.set_index_parameter(self._index, "k_factor_rf", config.refine)

    def _fill(self, keys: np.ndarray, lists: int) -> None:
        try:
            if not self._index.is_trained:
                size = max(TRAIN_ROWS_PER_LIST * lists, 4096)
                sample = np.random.default_rng(0).permutation(self.rows)[:size]
                self._index.train(keys[np.sort(sample)].astype(np.float32))
            for start in range(0, self.rows, ADD_ROWS):
                self._index.add(keys[start : start + ADD_ROWS].astype(np.float32))
        except RuntimeError as error:
            raise FungiSegError(
                f"index {self.factory!r} can't be built from {self.rows} rows ({reason(error)}); "
                f"use fewer lists, index.kind flat, or index.device cpu"
            ) from error


def factory_string(rows: int, kind: str = "auto", on_gpu: bool = False) -> str:
    """The FAISS factory string for `kind` and a bank of `rows` rows."""
    if kind == "flat" or (kind == "auto" and (rows <= EXACT_UP_TO or on_gpu)):
        return EXACT
    if kind != "auto":
        return kind
    lists = 2 ** round(np.log2(1.6 * rows**0.5))
    return f"IVF{lists},RaBitQ,Refine(SQfp16)"


def _gpu_wanted(config: IndexConfig) -> bool:
    count = getattr(faiss, "get_num_gpus", lambda: 0)()
    if config.device == "cuda" and not count:
        raise FungiSegError("index.device is cuda, but FAISS sees no GPU here; use auto or cpu")
    return config.device != "cpu" and count > 0
