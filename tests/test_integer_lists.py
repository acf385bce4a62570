"""Lists of 8-bit codes, and how much of any lists is searched."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fungi_seg.search import integer_lists, tuning
from fungi_seg.search.exact import share_found
from fungi_seg.search.integer_lists import IntegerLists
from fungi_seg.search.lists import CodedLists, Effort, encoded, train_coder
from fungi_seg.search.tuning import tune

K = 10


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@cache
def images() -> tuple[np.ndarray, np.ndarray]:
    """6000 keys of 96 numbers, of 120 images with 50 rows each, and 200 queries of other images.

    Rows lie around 50 centres, those of an image apart from those of others.
    """
    generator = np.random.default_rng(0)
    centres, looks = generator.normal(size=(50, 96)), 0.5 * generator.normal(size=(140, 96))
    of_image = np.repeat(np.arange(140), 50)
    rows = centres[generator.integers(50, size=7000)] + looks[of_image] + 0.5 * generator.normal(size=(7000, 96))
    return unit(rows[:6000]).astype(np.float16), unit(rows[6000::5])


@cache
def integers() -> IntegerLists:
    return IntegerLists(train_coder(images()[0], 16), images()[0])


def nearest(keys: np.ndarray, queries: np.ndarray, k: int = K) -> np.ndarray:
    return np.argsort(-(queries @ keys.astype(np.float32).T), axis=1, kind="stable")[:, :k]


def test_all_lists_and_all_candidates_are_exact() -> None:
    keys, queries = images()
    similarities, rows = integers().search(queries, keys, K, Effort(16, 200))
    np.testing.assert_array_equal(rows, nearest(keys, queries))
    np.testing.assert_allclose(similarities, np.einsum("qd,qkd->qk", queries, keys[rows].astype(np.float32)), atol=1e-5)


def test_candidates_are_those_of_the_highest_products_in_the_lists() -> None:
    """Of the lists searched, by a plain loop, in 8 bits or not: few places change."""
    keys, queries = images()
    index, coder = integers(), integers().coder
    lists = coder.assigned(keys)[1]
    searched = np.argsort(-(coder.turned(queries) @ coder.centroids.T), axis=1)[:, :3]
    products = queries @ keys.astype(np.float32).T
    products[~(lists[None, :, None] == searched[:, None]).any(2)] = -np.inf
    expected = np.argsort(-products, axis=1)[:, :60]
    assert share_found(expected[:, :K], index.candidates(queries, 20, 3)) > 0.999
    assert share_found(expected, index.candidates(queries, 60, 3)) > 0.97


def test_a_query_finds_the_same_in_any_company(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, queries = images()
    together = integers().search(queries, keys, K, Effort(4, 2))[1]
    np.testing.assert_array_equal(integers().search(queries[5:6], keys, K, Effort(4, 2))[1], together[5:6])
    monkeypatch.setattr(integer_lists, "PRODUCTS", 20_000)
    np.testing.assert_array_equal(integers().search(queries, keys, K, Effort(4, 2))[1], together)


def test_no_queries() -> None:
    assert integers().candidates(np.empty((0, 96), np.float32), 5, 2).shape == (0, 5)


@settings(deadline=None, max_examples=40)
@given(
    rows=st.integers(1, 300),
    lists=st.integers(1, 9),
    groups=st.integers(1, 5),
    nprobe=st.integers(1, 9),
    scaled=st.booleans(),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_rows_are_different_and_there(
    rows: int, lists: int, groups: int, nprobe: int, scaled: bool, seed: int, data: st.DataObject
) -> None:
    """However rows lie in lists, empty ones among them; queries that lie opposite to all rows too."""
    generator = np.random.default_rng(seed)
    centres = unit(generator.normal(size=(groups, 12)))
    keys = unit(centres[generator.integers(groups, size=rows)] + 0.05 * generator.normal(size=(rows, 12)))
    scale = generator.uniform(0.1, 2, 12).astype(np.float32) if scaled else None
    index = IntegerLists(train_coder(keys, min(lists, rows), scale=scale), keys)
    queries = unit(np.concatenate([centres, -centres, generator.normal(size=(3, 12))]))
    depth = data.draw(st.integers(1, rows))
    found = index.candidates(queries, depth, nprobe)
    assert found.shape == (len(queries), depth)
    for line in found.tolist():
        there = [row for row in line if row >= 0]
        assert len(set(there)) == len(there)
        assert all(row < rows for row in there)
        assert line[len(there) :] == [-1] * (depth - len(there))
    whole = index.search(queries, keys, depth, Effort(index.coder.lists, rows))[1]
    products = queries.astype(np.float64) @ keys.astype(np.float64).T
    best = np.sort(products, axis=1)[:, ::-1][:, :depth]
    np.testing.assert_allclose(np.take_along_axis(products, whole, axis=1), best, atol=1e-5)


# How much is searched


@pytest.mark.parametrize("kind", ["codes", "integers"])
def test_tuning_finds_the_cheapest_effort_that_new_images_reach_too(kind: str) -> None:
    keys, queries = images()
    coder = integers().coder
    index = integers() if kind == "integers" else CodedLists(coder, encoded(coder, keys))
    cheap, dear = (tune(index, keys, recall) for recall in (0.8, 0.98))
    for (effort, reached), wanted in ((cheap, 0.8), (dear, 0.98)):
        assert reached >= 1 - (1 - wanted) * tuning.MISSES
        assert share_found(nearest(keys, queries, 30), index.search(queries, keys, 30, effort)[1]) >= wanted
    assert cheap[0].nprobe < dear[0].nprobe or cheap[0].refine < dear[0].refine


@pytest.mark.parametrize("kind", ["codes", "integers"])
@pytest.mark.parametrize(("known", "size"), [(True, 25), (False, 31)])
def test_tuning_counts_what_it_says(kind: str, known: bool, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recall that it gives is that of all rows among those of other images: by a plain loop, in any order of rows.

    Where images aren't known, runs of rows stand for them. Of 40 images, two on either side are left out as well.
    """
    for name, number in (("IMAGES", 99), ("MOST_IMAGES", 99), ("TUNING_QUERIES", 9999)):
        monkeypatch.setattr(tuning, name, number)  # all rows are tried
    order = np.random.default_rng(1).permutation(1000) if known else np.arange(1000)
    keys, groups = images()[0][:2000:2][order], order // size
    coder = train_coder(keys, 8)
    index = IntegerLists(coder, keys) if kind == "integers" else CodedLists(coder, encoded(coder, keys))
    effort, reached = tune(index, keys, 0.8, 7 * groups + 5 if known else None)
    queries = unit(keys.astype(np.float32))
    truth, found = nearest(keys, queries, 1000), index.candidates(queries, 1000, effort.nprobe)
    shares = []
    for own, one, other in zip(groups, truth, found, strict=True):
        there = other[other >= 0]
        best, kept = (rows[np.abs(groups[rows] - own) > 2] for rows in (one, there))
        shares.append(np.isin(best[:30], kept[: effort.depth(30)]).mean())
    assert np.mean(shares) == pytest.approx(reached, abs=0.0005)


def test_rows_of_the_own_image_do_not_make_it_look_easy() -> None:
    """A row's nearest are in its own image; searching one list finds those, and not those of other images."""
    keys, queries = images()
    honest = tune(integers(), keys, 0.9, np.repeat(np.arange(120), 50))[0]
    blind = tune(integers(), keys, 0.9, np.arange(6000))[0]
    honest_share, blind_share = (
        share_found(nearest(keys, queries, 30), integers().search(queries, keys, 30, effort)[1])
        for effort in (honest, blind)
    )
    assert honest_share >= 0.9
    assert honest_share >= blind_share


def test_rows_that_are_all_of_one_image() -> None:
    """Nothing is left where all near rows lie beside each other: they count then, but for the row itself."""
    generator = np.random.default_rng(0)
    centres = np.repeat(np.eye(4, 24), 500, axis=0)
    keys = unit(centres + 0.01 * generator.normal(size=(2000, 24)))
    index = IntegerLists(train_coder(keys, 8), keys)
    assert tune(index, keys, 0.9)[1] >= 0.9


def test_a_recall_out_of_reach_gives_the_best_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning, "NPROBES", (1, 2))
    monkeypatch.setattr(tuning, "DEPTHS", (1, 2))
    effort, reached = tune(integers(), images()[0], 1.0)
    assert effort == Effort(2, 2)
    assert 0.1 < reached < 1


@pytest.mark.parametrize("kind", [IntegerLists, lambda coder, keys: CodedLists(coder, encoded(coder, keys))])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_tiny_banks(rows: int, kind: type) -> None:
    keys, queries = images()
    index = kind(train_coder(keys[:rows], 1), keys[:rows])
    effort, _ = tune(index, keys[:rows], 0.9)
    found = index.search(queries, keys[:rows], rows, effort)[1]
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(rows), (200, 1)))
