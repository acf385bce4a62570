"""Exact products: the nearest of all rows, or of candidates; and the rotations and integers that find candidates."""

from __future__ import annotations

from typing import Protocol

import faiss
import numpy as np
import torch
from torch import Tensor

from fungi_seg.hardware import has_bfloat16, has_int8

LEVELS = 127
SMALLEST = 1e-12
CODED_ROWS = 65_536
ASKED, SCANNED = 512, 8192  # queries and rows whose products stay in the processor's cache
GROUP = 16  # columns of which only the highest is looked at first
RESCORED_PAIRS = 16_384  # whose rows fit a buffer that the allocator keeps: fresh pages cost more than the products


class AnyKeys(Protocol):
    """L2-normalised rows, `[M, D]` float16 or float32: an array, or one that lies on disk."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | np.ndarray, /) -> np.ndarray: ...


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
    none = int(named[0] < 0) if len(named) else 0
    places = np.ascontiguousarray(places.reshape(candidates.shape) - none, np.int64)  # FAISS skips −1
    read = torch.from_numpy(np.require(keys[named[none:]], requirements=["C", "W"])).float().numpy()
    queries = np.ascontiguousarray(queries, np.float32)
    products = np.empty(candidates.shape, np.float32)
    faiss.fvec_inner_products_by_idx(  # type: ignore[attr-defined]
        *(faiss.swig_ptr(array) for array in (products, queries, read, places)), queries.shape[1], *candidates.shape
    )
    products[candidates < 0] = -np.inf
    return products


def exact_search(
    keys: AnyKeys, queries: np.ndarray, k: int, left_out: np.ndarray | None = None, groups: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The `k` nearest of all rows in float32 arithmetic, by products of blocks of rows and queries.

    Args:
        keys: `[M, D]`; read in blocks.
        queries: `[Q, D]` float32.
        k: 1 ≤ k ≤ M.
        left_out: `[M]` bool, rows that are no neighbours; `[Q, G]` groups of rows that are none of each query with
            `groups`.
        groups: `[M]` int, of each row.

    Returns:
        Inner products `[Q, k]` float32, highest first, and rows `[Q, k]` int64; −∞ where there are fewer.
    """
    parts = torch.from_numpy(np.require(queries, np.float32, ["C", "W"])).split(ASKED)
    best = [(torch.empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64)) for part in parts]
    products = torch.empty(min(ASKED, len(queries)) * min(SCANNED, len(keys)))
    for start in range(0, len(keys), SCANNED):
        block = torch.from_numpy(np.require(keys[start : start + SCANNED], np.float32, ["C", "W"]))
        for number, part in enumerate(parts):
            out = products[: len(part) * len(block)].view(len(part), len(block))
            torch.mm(part, block.T, out=out)
            if left_out is not None and groups is None:
                out[:, torch.from_numpy(left_out[start : start + SCANNED])] = -torch.inf
            elif left_out is not None and groups is not None:
                asked = left_out[number * ASKED : number * ASKED + len(part)]
                out.masked_fill_(torch.from_numpy(asked[:, groups[start : start + SCANNED]]), -torch.inf)
            found, places = top_columns(out, k)
            best[number] = merged(best[number], (found, places + start), k)
    similarities, rows = zip(*best, strict=True)
    return torch.cat(similarities).numpy(), torch.cat(rows).numpy()


def merged(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The `k` highest of two lists a line, `[Q, P]` similarities and rows, or all where there are fewer."""
    found, order = torch.cat([one[0], other[0]], 1).topk(min(k, one[0].shape[1] + other[0].shape[1]), dim=1)
    return found, torch.cat([one[1], other[1]], 1).gather(1, order)


def top_columns(products: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The `k` highest of each line of `[Q, P]`, or all where there are fewer, highest first; and their columns.

    They lie in the `k` groups of columns with the highest maxima, so that few numbers are sorted.
    """
    lines, columns = products.shape
    if columns < 2 * k * GROUP or columns % GROUP:
        return products.topk(min(k, columns), dim=1)
    groups = products.view(lines, GROUP, -1)
    chosen = groups.amax(1).topk(k, dim=1, sorted=False)[1][:, None].expand(-1, GROUP, -1)
    places = (chosen + torch.arange(GROUP)[:, None] * groups.shape[2]).flatten(1)
    found, order = groups.gather(2, chosen).flatten(1).topk(k, dim=1)
    return found, places.gather(1, order)


class FlatIndex:
    """Exact inner products in float32.

    Args:
        keys: `[M, D]` float16 or float32; copied into memory in chunks.
    """

    def __init__(self, keys: AnyKeys):
        self._keys = np.empty(keys.shape, np.float32)
        for start in range(0, len(keys), CODED_ROWS):
            self._keys[start : start + CODED_ROWS] = keys[start : start + CODED_ROWS]

    def search(self, queries: np.ndarray, k: int, left_out: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See `exact_search`."""
        return exact_search(self._keys, queries, k, left_out)


def highest(similarities: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` highest of each line of `[Q, P]`, or all where there are fewer, highest first; of equals the first."""
    order = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, order, axis=1), np.take_along_axis(rows, order, axis=1)


def share_found(truth: np.ndarray, found: np.ndarray) -> float:
    """Recall: the share of the rows in `truth`, `[Q, k]`, that are in the same line of `found`, `[Q, P]`."""
    return float(np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)]))


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
