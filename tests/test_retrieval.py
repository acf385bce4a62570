"""Rankings and mean average precision: against plain loops and examples by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.whole_images import retrieval
from fungi_seg.whole_images.retrieval import label_retrieval, rank, rankings, revisited_retrieval


def truth(**rows: list[int]) -> dict[str, Any]:
    return {"queries": [{"easy": [], "hard": [], "junk": []} | rows]}


def one(ranking: list[int], ground_truth: dict[str, Any], protocol: str) -> dict[str, float]:
    return revisited_retrieval(np.array([ranking]), ground_truth, protocol)


@pytest.mark.parametrize("values", [1, 60, 16_000_000])
def test_ranking_is_by_cosine_whatever_the_chunks(monkeypatch: pytest.MonkeyPatch, values: int) -> None:
    monkeypatch.setattr(retrieval, "CHUNK_VALUES", values)
    generator = np.random.default_rng(0)
    database, queries = generator.normal(size=(20, 6)), generator.normal(size=(7, 6))
    found = rank(database * generator.uniform(0.1, 9, (20, 1)), queries)
    assert found.dtype == np.int64
    for row, query in zip(found, queries, strict=True):
        cosine = {i: v @ query / np.linalg.norm(v) for i, v in enumerate(database)}
        assert row.tolist() == sorted(cosine, key=lambda i: -cosine[i])


def test_equals_keep_their_order() -> None:
    database = np.array([[0, 1], [1, 0], [2, 0]] * 50, np.float32)
    expected = sorted(range(150), key=lambda i: i % 3 == 0)
    assert rank(database, np.array([[1, 0]], np.float32)).tolist() == [expected]


def test_label_retrieval_by_plain_loops() -> None:
    generator = np.random.default_rng(1)
    labels, asked = generator.integers(4, size=30), generator.integers(5, size=12)  # nothing has class 4
    ranking = np.array([generator.permutation(30) for _ in asked])
    scores: dict[str, list[float]] = {"map": [], "mp@1": [], "mp@5": [], "mp@10": []}
    for query, order in zip(asked, ranking, strict=True):
        precisions, hits = [], 0
        for place, row in enumerate(order, 1):
            if labels[row] == query:
                hits += 1
                precisions.append(hits / place)
        if precisions:
            scores["map"].append(sum(precisions) / len(precisions))
            for k in (1, 5, 10):
                scores[f"mp@{k}"].append(sum(labels[row] == query for row in order[:k]) / k)
    assert 0 < len(scores["map"]) < 12
    expected = {name: sum(values) / len(values) for name, values in scores.items()} | {"queries": len(scores["map"])}
    assert label_retrieval(labels, asked, ranking) == pytest.approx(expected)


def test_rankings_one_after_another_score_the_same() -> None:
    generator = np.random.default_rng(2)
    database, queries = generator.normal(size=(20, 4)), generator.normal(size=(6, 4))
    labels, asked = np.arange(20) % 3, np.arange(6) % 3
    expected = label_retrieval(labels, asked, rank(database, queries))
    assert label_retrieval(labels, asked, rankings(database, queries)) == expected


def test_no_relevant_image_at_all() -> None:
    with pytest.raises(DataError, match="no query has an image of its class in the database; check the labels"):
        label_retrieval(np.array([0, 0]), np.array([1]), np.array([[0, 1]]))


def test_revisited_medium_by_hand() -> None:
    """Junk 5 and 6 leave 0 1 2 3 4: positives 1 and 3, at ranks 1 and 3 from 0.

    AP = ((0/1 + 1/2) / 2 + (1/3 + 2/4) / 2) / 2.
    """
    found = one([5, 0, 6, 1, 2, 3, 4], truth(easy=[3], hard=[1], junk=[5, 6]), "medium")
    ap = ((0 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert found == pytest.approx({"map": ap, "mp@1": 0, "mp@5": 2 / 4, "mp@10": 2 / 4, "queries": 1})


def test_revisited_hard_counts_easy_ones_as_junk() -> None:
    """Without 5, 6 and 3 there are 0 1 2 4: one positive at rank 1 from 0."""
    found = one([5, 0, 6, 3, 1, 2, 4], truth(easy=[3], hard=[1], junk=[5, 6]), "hard")
    assert found == pytest.approx({"map": 1 / 4, "mp@1": 0, "mp@5": 1 / 2, "mp@10": 1 / 2, "queries": 1})


def test_precision_looks_no_further_than_the_last_positive() -> None:
    """Two positives first: precision among five or ten is that among two."""
    found = one([1, 0, 2, 3, 4, 5, 6, 7, 8, 9, 10], truth(easy=[0, 1]), "medium")
    assert found == {"map": 1.0, "mp@1": 1.0, "mp@5": 1.0, "mp@10": 1.0, "queries": 1}


def test_a_positive_first_has_precision_one_before_it() -> None:
    found = one([2, 0, 1], truth(hard=[2, 1]), "hard")
    assert found["map"] == pytest.approx(((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2) / 2)


def test_queries_without_positives_are_left_out() -> None:
    queries = truth(easy=[0])["queries"] + truth(hard=[1])["queries"] + truth(junk=[0])["queries"]
    ranking, ground_truth = np.array([[0, 1], [0, 1], [0, 1]]), {"queries": queries}
    assert revisited_retrieval(ranking, ground_truth, "medium")["queries"] == 2
    assert revisited_retrieval(ranking, ground_truth, "medium")["map"] == pytest.approx((1 + 1 / 4) / 2)
    assert revisited_retrieval(ranking, ground_truth, "hard")["map"] == pytest.approx(1 / 4)


def test_revisited_by_the_published_procedure() -> None:
    """Ranks shifted by the junk before each positive, and recall steps, as the authors' code computes them."""
    generator = np.random.default_rng(3)
    ranking = np.array([generator.permutation(40) for _ in range(8)])
    kinds = [generator.permutation(40) for _ in range(8)]
    queries = [{"easy": k[:4].tolist(), "hard": k[4:9].tolist(), "junk": k[9:20].tolist()} for k in kinds]
    for protocol in ("medium", "hard"):
        areas, precisions = [], []
        for order, query in zip(ranking.tolist(), queries, strict=True):
            good = query["hard"] + (query["easy"] if protocol == "medium" else [])
            junk = query["junk"] + ([] if protocol == "medium" else query["easy"])
            places = []
            for place, row in enumerate(order):
                if row in good:
                    places.append(place - sum(r in junk for r in order[:place]))
            area = 0.0
            for i, place in enumerate(places):
                before = 1.0 if place == 0 else i / place
                area += (before + (i + 1) / (place + 1)) / (2 * len(good))
            areas.append(area)
            bound = min(max(places) + 1, 5)
            precisions.append(sum(p + 1 <= bound for p in places) / bound)
        found = revisited_retrieval(ranking, {"queries": queries}, protocol)
        assert found["map"] == pytest.approx(np.mean(areas))
        assert found["mp@5"] == pytest.approx(np.mean(precisions))


@pytest.mark.parametrize(
    ("ground_truth", "message"),
    [
        ({}, "the ground truth has no list of queries; it must have one for each of the 1 query images"),
        ({"queries": []}, "the ground truth has 0 queries; .* each of the 1 query images"),
        ({"queries": [[]]}, r"numbers from 0 to 2:\n  query 0: no list 'easy'"),
        ({"queries": [{"easy": [], "junk": []}]}, "query 0: no list 'hard'"),
        (truth(easy=[3]), r"numbers from 0 to 2:\n  query 0: easy 3"),
        (truth(junk=[-1]), "query 0: junk -1"),
        (truth(hard=[True]), "query 0: hard True"),
        (truth(junk=[0]), "no query has a positive under the protocol medium; check easy and hard"),
    ],
)
def test_ground_truth_that_does_not_fit(ground_truth: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        one([0, 1, 2], ground_truth, "medium")


def test_unknown_protocol() -> None:
    with pytest.raises(FungiSegError, match="protocol is 'easy'; it must be one of medium, hard"):
        one([0], truth(easy=[0]), "easy")
