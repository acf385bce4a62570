"""Image retrieval: rankings by cosine, and mean average precision by class or by a revisited ground truth."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, check_choice, listing
from fungi_seg.whole_images.classification import unit_length

CUTOFFS = (1, 5, 10)
PROTOCOLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("easy", "junk")),
}
CHUNK_VALUES = 16_000_000


def rankings(database: np.ndarray, queries: np.ndarray) -> Iterator[np.ndarray]:
    """For one query after another, all images of the database, most similar first; the lower row of equals.

    Args:
        database: `[M, D]` float32.
        queries: `[Q, D]` float32.

    Yields:
        `[M]` int64 rows of the database.
    """
    database, queries = unit_length(database), unit_length(queries)
    step = max(1, CHUNK_VALUES // max(1, len(database)))
    for start in range(0, len(queries), step):
        yield from np.argsort(-(queries[start : start + step] @ database.T), axis=1, kind="stable")


def rank(database: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """`rankings` as one array, `[Q, M]` int64."""
    return np.array(list(rankings(database, queries)), np.int64).reshape(len(queries), len(database))


def label_retrieval(
    database_labels: np.ndarray, query_labels: np.ndarray, ranking: Iterable[np.ndarray]
) -> dict[str, float]:
    """Retrieval of images of the query's class.

    The average precision of a query is the mean of the precisions at the rank of each relevant image. A query without
    any is left out.

    Args:
        database_labels: `[M]` int64.
        query_labels: `[Q]` int64.
        ranking: `[Q, M]` int64 rows of the database, best first, or an iterator over such rows.

    Returns:
        `map` and `mp@1`, `mp@5`, `mp@10` (precision among the first so many), 0..1, and `queries`, those that count.

    Raises:
        DataError: no query has a relevant image.
    """
    scores = []
    for label, rows in zip(query_labels, ranking, strict=True):
        relevant = database_labels[rows] == label
        ranks = np.flatnonzero(relevant) + 1
        if len(ranks):
            precisions = np.arange(1, len(ranks) + 1) / ranks
            scores.append([precisions.mean(), *(relevant[:k].mean() for k in CUTOFFS)])
    if not scores:
        raise DataError("no query has an image of its class in the database; check the labels of both")
    return _means(scores)


def revisited_retrieval(ranking: np.ndarray, ground_truth: Mapping[str, Any], protocol: str) -> dict[str, float]:
    """Retrieval as in the revisited Oxford and Paris benchmarks (Radenović et al., CVPR 2018, section 3).

    Junk is taken out of each ranking. The average precision is the area under the precision–recall curve by the
    trapezoidal rule; the precision among the first k looks no further than the last positive, as the published code
    does. A query without positives is left out.

    Args:
        ranking: `[Q, M]` int64 rows of the database, best first.
        ground_truth: `{"queries": [{"easy": [rows], "hard": [rows], "junk": [rows]}, …]}`, one for each query.
        protocol: `medium` (easy and hard ones are positives) or `hard` (hard ones are; easy ones are junk).

    Returns:
        `map`, `mp@1`, `mp@5`, `mp@10`, 0..1, and `queries`, those that count.

    Raises:
        DataError: the ground truth doesn't fit the ranking, or no query has a positive.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    check_ground_truth(ground_truth, *ranking.shape)
    positive_kinds, junk_kinds = PROTOCOLS[protocol]
    scores = []
    for rows, query in zip(ranking, ground_truth["queries"], strict=True):
        kept = rows[~np.isin(rows, [row for kind in junk_kinds for row in query[kind]])]
        ranks = np.flatnonzero(np.isin(kept, [row for kind in positive_kinds for row in query[kind]]))
        if len(ranks):
            scores.append([_trapezoidal_ap(ranks), *(_bounded_precision(ranks + 1, k) for k in CUTOFFS)])
    if not scores:
        raise DataError(f"no query has a positive under the protocol {protocol}; check {' and '.join(positive_kinds)}")
    return _means(scores)


def check_ground_truth(ground_truth: Mapping[str, Any], queries: int, images: int) -> None:
    """Raise unless the ground truth lists easy, hard and junk rows of `images` for each of `queries`."""
    queries_truth = ground_truth.get("queries")
    if not isinstance(queries_truth, list) or len(queries_truth) != queries:
        found = f"{len(queries_truth)} queries" if isinstance(queries_truth, list) else "no list of queries"
        raise DataError(f"the ground truth has {found}; it must have one for each of the {queries} query images")
    wrong = []
    for number, query in enumerate(queries_truth):
        for kind in ("easy", "hard", "junk"):
            rows = query.get(kind) if isinstance(query, Mapping) else None
            if not isinstance(rows, list):
                wrong.append(f"query {number}: no list {kind!r}")
            else:
                wrong += [f"query {number}: {kind} {row!r}" for row in rows if not _is_row(row, images)]
    if wrong:
        rule = f"by numbers from 0 to {images - 1}"
        raise DataError(f"the ground truth must list easy, hard and junk images {rule}:\n{listing(wrong)}")


def _is_row(value: Any, images: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < images


def _trapezoidal_ap(ranks: np.ndarray) -> float:
    """Mean of the precisions just before and just after each positive, at 0-based `ranks`."""
    found = np.arange(len(ranks))
    before = np.where(ranks > 0, found / np.maximum(ranks, 1), 1.0)
    after = (found + 1) / (ranks + 1)
    return float((before + after).mean() / 2)


def _bounded_precision(ranks: np.ndarray, k: int) -> float:
    """Precision among the first `k`, or up to the last positive if that comes sooner; 1-based `ranks`."""
    bound = min(int(ranks.max()), k)
    return float((ranks <= bound).sum() / bound)


def _means(scores: list[list[float]]) -> dict[str, float]:
    means = np.mean(scores, axis=0)
    return (
        {"map": float(means[0])}
        | {f"mp@{k}": float(m) for k, m in zip(CUTOFFS, means[1:], strict=True)}
        | {"queries": len(scores)}
    )
