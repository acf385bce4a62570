"""Exact neighbours on the CPU: integer products shortlist rows, float32 products rank them."""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import torch
from torch import Tensor

from fungi_seg.hardware import has_bfloat16, has_int8

LEVELS = 127
SMALLEST = 1e-12
SPREAD = (
    4.5  # rotated coordinates of unit vectors spread like a normal distribution of variance 1/D; the rest is clipped
)
SCALE_ROWS = 4096
GROUP = 16
SEGMENT_ROWS = 32_768
PRODUCT_ROWS = 4096
QUERY_ROWS = 1024
CODED_ROWS = 65_536
RESCORED_PAIRS = 16_384  # whose rows fit a buffer that the allocator keeps: fresh pages cost more than the products
LOWEST = torch.iinfo(torch.int32).min


class AnyKeys(Protocol):
    """L2-normalised rows, `[M, D]` float16 or float32: an array, or one that lies on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


class Int8Index:
    """Exact inner products of unit vectors, at about three times the speed of float32.

    What a row has beyond the mean row is spread evenly over its coordinates by a random rotation and rounded to 8 bits.
    Rows whose rounded product is among the `2 k` highest are compared again by the keys themselves: rounding moves a
    product much less than what lies between the `k`-th and the `2 k`-th neighbour.

    Args:
        keys: `[M, D]` float16 or float32, each of length 1; read in chunks, and again for the rows that are rescored.
    """

    def __init__(self, keys: AnyKeys):
        self.keys = keys
        self.rows, self.dim = keys.shape
        self._rotation = rotation(self.dim)
        sample = keys[np.arange(0, self.rows, -(-self.rows // SCALE_ROWS))].astype(np.float32)
        mean = sample.mean(0)
        limit = float(rotated(sample - mean, self._rotation).abs().max())
        self._codes = torch.zeros(-(-self.rows // GROUP) * GROUP, self.dim, dtype=torch.int8)
        for start in range(0, self.rows, CODED_ROWS):
            part = keys[start : start + CODED_ROWS].astype(np.float32) - mean
            self._codes[start : start + len(part)] = rounded(rotated(part, self._rotation), limit)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The `k` nearest rows of each query, nearest first.

        Args:
            queries: `[Q, D]` float32, each of length 1.
            k: 1 ≤ k ≤ M.

        Returns:
            Cosine similarities `[Q, k]` float32 and rows `[Q, k]` int64.
        """
        keep = min(self.rows, k + max(k, GROUP))
        parts = [
            self._shortlist(rounded(rotated(queries[start : start + QUERY_ROWS], self._rotation)), keep).numpy()
            for start in range(0, len(queries), QUERY_ROWS)
        ]
        return rescore(queries, np.concatenate(parts or [np.empty((0, keep), np.int64)]), self.keys, k)

    def _shortlist(self, queries: Tensor, keep: int) -> Tensor:
        """Rows `[Q, keep]` whose integer products with `queries` (`[Q, D]` int8) are highest."""
        count = len(queries)
        best = torch.empty(count, 0, dtype=torch.int32)
        rows = torch.empty(count, 0, dtype=torch.int64)
        scores = torch.empty(min(SEGMENT_ROWS, len(self._codes)), count, dtype=torch.int32)
        for start in range(0, len(self._codes), SEGMENT_ROWS):
            codes = self._codes[start : start + SEGMENT_ROWS]
            for part, out in zip(codes.split(PRODUCT_ROWS), scores.split(PRODUCT_ROWS), strict=False):
                integer_products(part, queries, out[: len(part)])
            scores[max(0, self.rows - start) : len(codes)] = LOWEST
            found, places = _highest(scores[: len(codes)], keep)
            best, rows = torch.cat([best, found], 1), torch.cat([rows, places + start], 1)
            best, order = best.topk(min(keep, best.shape[1]), dim=1, sorted=False)
            rows = rows.gather(1, order)
        return rows


def rescore(queries: np.ndarray, candidates: np.ndarray, keys: AnyKeys, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` candidates of each query that are nearest by the keys themselves.

    Args:
        queries: `[Q, D]` float32.
        candidates: `[Q, P]` int64 rows of `keys`, different ones for each query; −1 stands for none.
        keys: `[M, D]`; each row is read once for every 16 384 candidates that name it.
        k: how many to return.

    Returns:
        Inner products `[Q, k]` float32, highest first, and rows `[Q, k]` int64; −∞ and −1 where there were fewer.
    """
    similarities = np.full((len(queries), k), -np.inf, np.float32)
    rows = np.full((len(queries), k), -1, np.int64)
    step = max(1, RESCORED_PAIRS // max(1, candidates.shape[1]))
    for start in range(0, len(queries), step):
        part = candidates[start : start + step]
        products = torch.from_numpy(_sampled_products(queries[start : start + step], part, keys))
        best, order = products.topk(min(k, part.shape[1]), dim=1)
        similarities[start : start + step, : best.shape[1]] = best.numpy()
        rows[start : start + step, : best.shape[1]] = np.take_along_axis(part, order.numpy(), axis=1)
    return similarities, rows


def _sampled_products(queries: np.ndarray, candidates: np.ndarray, keys: AnyKeys) -> np.ndarray:
    """Inner products `[Q, P]` float32 of each query with its candidates; −∞ for candidate −1."""
    named, places = np.unique(candidates, return_inverse=True)
    places = np.ascontiguousarray(places.reshape(candidates.shape), np.int64)
    read = torch.from_numpy(np.require(keys[np.maximum(named, 0)], requirements=["C", "W"])).float().numpy()
    queries = np.ascontiguousarray(queries, np.float32)
    products = np.empty(candidates.shape, np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
        *(faiss.swig_ptr(array) for array in (products, queries, read, places)), queries.shape[1], *candidates.shape
    )
    products[candidates < 0] = -np.inf
    return products


def nearest_rows(keys: AnyKeys, queries: np.ndarray, k: int) -> np.ndarray:
    """The `k` nearest rows of each query in float32 arithmetic, nearest first, `[Q, k]` int64; keys read in chunks."""
    similarities = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for start in range(0, len(keys), CODED_ROWS):
        part = keys[start : start + CODED_ROWS].astype(np.float32)
        found, places = faiss.knn(queries, part, min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
        similarities, rows = np.hstack([similarities, found]), np.hstack([rows, places + start])
        order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        similarities = np.take_along_axis(similarities, order, axis=1)
        rows = np.take_along_axis(rows, order, axis=1)
    return rows


def share_found(truth: np.ndarray, found: np.ndarray) -> float:
    """Recall: the share of the rows in `truth`, `[Q, k]`, that are in the same line of `found`, `[Q, P]`."""
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)]))


def _highest(scores: Tensor, keep: int) -> tuple[Tensor, Tensor]:
    """Among `[R, Q]` scores: the `keep` highest of each column, as `[Q, keep]` scores and rows, in no order.

    They lie in the `keep` groups of rows with the highest maxima, so that only those groups are sorted.
    """
    groups = scores.view(-1, GROUP, scores.shape[1])
    highest = groups.amax(1).T.contiguous()
    chosen = highest.topk(min(keep, len(groups)), dim=1, sorted=False)[1]
    found = groups.permute(2, 0, 1)[torch.arange(scores.shape[1])[:, None], chosen].flatten(1)
    rows = (chosen[..., None] * GROUP + torch.arange(GROUP)).flatten(1)
    best, order = found.topk(min(keep, found.shape[1]), dim=1, sorted=False)
    return best, rows.gather(1, order)


def rotation(dim: int, seed: int = 0) -> Tensor:
    """A random orthogonal matrix, `[D, D]` float32."""
    matrix, triangle = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, dim)))
    return torch.from_numpy((matrix * np.sign(np.diag(triangle))).astype(np.float32))


def rotated(rows: np.ndarray, matrix: Tensor) -> Tensor:
    """`rows @ matrix` as `[R, D]` float32, in bfloat16 arithmetic where the hardware has it."""
    given = torch.from_numpy(np.require(rows, requirements=["C", "W"]))
    if has_bfloat16():
        return (given.to(torch.bfloat16) @ matrix.to(torch.bfloat16)).float()
    return given.float() @ matrix


def rounded(rows: Tensor, limit: float | None = None) -> Tensor:
    """`[R, D]` float32 as int8; `limit`, by default the largest magnitude, becomes 127; what is beyond is clipped."""
    limit = limit or float(rows.abs().max()) if rows.numel() else 1.0
    return (rows * (LEVELS / max(limit, SMALLEST))).round_().clamp_(-LEVELS, LEVELS).to(torch.int8)


def integer_products(rows: Tensor, others: Tensor, out: Tensor) -> Tensor:
    """`rows @ others.T` of `[R, D]` and `[O, D]` int8, written to `out` (`[R, O]` int32) and returned."""
    if has_int8():
        return torch._int_mm(rows, others.T, out=out)
    return out.copy_(rows.float() @ others.float().T)
