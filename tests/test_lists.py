"""Coded lists: candidates, arrays from outside, tuning."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fungi_seg import BankError, FungiSegError
from fungi_seg.search import lists
from fungi_seg.search.exact import share_found
from fungi_seg.search.lists import (
    CodedLists,
    CodedRows,
    Coder,
    Effort,
    encoded,
    lists_for,
    lists_seconds,
    train_coder,
)

K = 10


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@cache
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """6000 keys of 96 numbers around 50 centres, and 200 queries near some of them."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(50, 96))
    keys = unit(centres[generator.integers(50, size=6000)] + 0.7 * generator.normal(size=(6000, 96)))
    return keys.astype(np.float16), unit(keys[:200] + 0.03 * generator.normal(size=(200, 96)))


@cache
def coded() -> tuple[Coder, CodedRows]:
    coder = train_coder(clustered()[0], 16)
    (part,) = encoded(coder, clustered()[0])
    return coder, part


def truth(k: int = K) -> np.ndarray:
    keys, queries = clustered()
    return np.argsort(-(queries @ keys.astype(np.float32).T), axis=1, kind="stable")[:, :k]


def slices(part: CodedRows, *bounds: int) -> list[CodedRows]:
    return [CodedRows(part.lists[a:b], part.codes[a:b], part.rows[a:b]) for a, b in pairwise(bounds)]


def test_lists_are_those_of_the_nearest_centroids() -> None:
    coder, part = coded()
    keys = clustered()[0].astype(np.float32)
    nearest = (keys @ coder.rotation @ coder.centroids.T).argmax(1)
    assert (part.lists == nearest).mean() > 0.97
    np.testing.assert_allclose(np.linalg.norm(coder.centroids, axis=1), 1, atol=1e-5)
    assert part.codes.shape == (6000, 96 // 8 + 8)


def test_centroids_gather_the_keys() -> None:
    """k-means leaves keys much nearer to their centroid than the rows it started from were."""
    coder, part = coded()
    turned = clustered()[0].astype(np.float32) @ coder.rotation
    started = turned[:16]
    fitted = np.einsum("nd,nd->n", turned, coder.centroids[part.lists]).mean()
    assert fitted > (turned @ started.T).max(1).mean() + 0.05


def test_all_lists_and_all_candidates_are_exact() -> None:
    keys, queries = clustered()
    coder, part = coded()
    similarities, rows = CodedLists(coder, [part]).search(queries, keys, K, Effort(16, 200))
    np.testing.assert_array_equal(rows, truth())
    products = np.take_along_axis(queries @ keys.astype(np.float32).T, rows, axis=1)
    np.testing.assert_allclose(similarities, products, atol=1e-5)


def test_more_lists_and_more_candidates_find_more() -> None:
    keys, queries = clustered()
    index = CodedLists(coded()[0], [coded()[1]])
    efforts = [Effort(1, 8), Effort(16, 1), Effort(16, 8)]
    narrow, shallow, both = (share_found(truth(), index.search(queries, keys, K, effort)[1]) for effort in efforts)
    assert max(narrow, shallow) + 0.02 < both
    assert both > 0.95


def test_parts_in_any_order_make_the_same_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    queries = clustered()[1]
    coder, part = coded()
    whole = CodedLists(coder, [part])
    monkeypatch.setattr(lists, "FILLED_ROWS", 700)
    pieces = slices(part, 0, 300, 1000, 1000, 4000, 6000)
    again = CodedLists(coder, pieces[::-1])
    assert again.rows == whole.rows == 6000
    first, second = (np.sort(index.candidates(queries, 50, 4), axis=1) for index in (whole, again))
    assert share_found(first, second) > 0.99  # equal codes may be cut in another order


def test_rows_keep_the_numbers_they_are_given() -> None:
    """Rows 1000 and on were removed from the bank's end; those before are numbered backwards."""
    keys, queries = clustered()
    coder, part = coded()
    some = CodedRows(part.lists[:1000], part.codes[:1000], np.arange(999, -1, -1))
    found = CodedLists(coder, [some]).search(queries, keys[:1000][::-1], 1, Effort(16, 8))[1]
    np.testing.assert_array_equal(found[:, 0], 999 - np.arange(200))


def test_codes_read_without_leave_to_write() -> None:
    coder, part = coded()
    frozen = CodedRows(*(array.copy() for array in (part.lists, part.codes, part.rows)))
    for array in (frozen.lists, frozen.codes, frozen.rows):
        array.flags.writeable = False
    queries = clustered()[1]
    np.testing.assert_array_equal(
        CodedLists(coder, [frozen]).candidates(queries, 20, 4), CodedLists(coder, [part]).candidates(queries, 20, 4)
    )


def test_lists_that_hold_too_few_are_not_the_last_searched() -> None:
    keys, queries = clustered()
    coder, part = coded()
    (few,) = slices(part, 0, 40)
    index = CodedLists(coder, [few])
    similarities, rows = index.search(queries, keys[:40], 40, Effort(1, 1))
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(40), (200, 1)))
    products = np.take_along_axis(queries @ keys[:40].astype(np.float32).T, rows, axis=1)
    np.testing.assert_allclose(similarities, products, atol=1e-5)


def test_two_codings_are_the_same() -> None:
    coder, part = coded()
    again = train_coder(clustered()[0], 16)
    np.testing.assert_array_equal(again.centroids, coder.centroids)
    np.testing.assert_array_equal(encoded(again, clustered()[0])[0].codes, part.codes)


def test_coders_are_plain_arrays() -> None:
    coder, part = coded()
    again = Coder.from_arrays({name: array.copy() for name, array in coder.arrays().items()})
    found, codes = again.encode(clustered()[0])
    np.testing.assert_array_equal(found, part.lists)
    np.testing.assert_array_equal(codes, part.codes)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("centroids", lambda a: a[:, :90], "16 centroids of width 90 don't go with a rotation"),
        ("rotation", lambda a: a[:90], r"don't go with a rotation \[90, 96\]"),
        ("rotation", lambda a: a.astype(np.float64), r"rotation must be .* float32 and finite; it is float64"),
        ("centroids", lambda a: a[0], r"centroids must be .*\[96\]"),
        ("centroids", lambda a: a[:0], "0 centroids"),
        ("centroids", lambda a: np.where(a == a[0, 0], np.float32(np.nan), a), "centroids must be .* finite"),
        ("centroids", lambda a: None, "centroids is missing"),
    ],
)
def test_damaged_coders(name: str, change: Any, message: str) -> None:
    arrays = coded()[0].arrays()
    arrays[name] = change(arrays[name])
    with pytest.raises(BankError, match=f"(?s)index is damaged.*{message}"):
        Coder.from_arrays({key: array for key, array in arrays.items() if array is not None})


def with_factor(codes: np.ndarray, value: float) -> np.ndarray:
    changed = codes.copy()
    changed[3, -4:] = np.array([value], np.float32).view(np.uint8)
    return changed


@pytest.mark.parametrize(
    ("field", "change", "message"),
    [
        ("lists", lambda a: np.where(np.arange(6000) == 7, 16, a).astype(np.uint16), "list 16 of 16"),
        ("lists", lambda a: a.astype(np.int64), r"lists must be \[6000\] uint16; it is int64"),
        ("lists", lambda a: a[:-1], r"lists must be \[6000\] uint16; it is uint16 \[5999\]"),
        ("codes", lambda a: a[:, 1:], r"codes must be \[6000, 20\] uint8; it is uint8 \[6000, 19\]"),
        ("codes", lambda a: with_factor(a, np.nan), "a factor that isn't finite"),
        ("codes", lambda a: with_factor(a, np.inf), "a factor that isn't finite"),
        ("rows", lambda a: a + 1, r"a row number outside 0\.\.5999"),
        ("rows", lambda a: a - 1, r"a row number outside 0\.\.5999"),
    ],
)
def test_damaged_codes(field: str, change: Any, message: str) -> None:
    coder, part = coded()
    damaged = replace(part, **{field: change(getattr(part, field))})
    with pytest.raises(BankError, match=f"(?s)index is damaged.*{message}"):
        CodedLists(coder, [damaged])


@pytest.mark.parametrize("count", [0, 101, 70_000])
def test_numbers_of_lists_that_cannot_be(count: int) -> None:
    with pytest.raises(FungiSegError, match=f"lists is {count} for a sample of 100 rows.*use fewer lists"):
        Coder.train(clustered()[0][:100], count)


def test_depth_for_few_neighbours_is_that_for_thirty() -> None:
    assert [Effort(1, 4).depth(k) for k in (1, 30, 50)] == [120, 120, 200]


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (25_000, 128), (1_024_000, 1024), (10_240_000, 4096)])
def test_number_of_lists(rows: int, expected: int) -> None:
    assert lists_for(rows) == expected


def test_more_rows_take_longer() -> None:
    assert 0 < lists_seconds(1000, 32) < lists_seconds(100_000_000, 32)


@pytest.mark.parametrize("weight", [0.0, 0.15])
def test_codes_of_weighted_similarities_find_their_neighbours_as_cheaply_as_others_do(weight: float) -> None:
    """Halves in clusters of their own: lists of the keys as they are hold what is near by the sum of both alone."""
    generator = np.random.default_rng(0)
    halves = [
        unit(generator.normal(size=(40, 48))[generator.integers(40, size=6200)] + generator.normal(size=(6200, 48)))
        for _ in range(2)
    ]
    rows = np.concatenate(halves, axis=1) / np.float32(np.sqrt(2))
    keys, queries = rows[:6000].astype(np.float16), rows[6000:]
    scale = np.repeat(np.float32([2 * (1 - weight), 2 * weight]), 48)
    wanted = np.argsort(-(queries * scale) @ keys.astype(np.float32).T, axis=1, kind="stable")[:, :K]
    found = {}
    for name, coder in {"as they are": coded_by(keys, None), "weighted": coded_by(keys, scale)}.items():
        index = CodedLists(coder, encoded(coder, keys))
        found[name] = share_found(wanted, index.search(queries * scale, keys, K, Effort(4, 2))[1])
        every = index.search(queries * scale, keys, K, Effort(16, 600))[1]
        assert share_found(wanted, every) == 1
    assert found["weighted"] > found["as they are"] + 0.2


def coded_by(keys: np.ndarray, scale: np.ndarray | None) -> Coder:
    return train_coder(keys, 16, scale=scale)


def test_a_scale_is_that_of_keys_times_its_root() -> None:
    keys, queries = clustered()
    scale = np.linspace(0.2, 1.8, 96, dtype=np.float32)
    lists, codes = replace(coded()[0], scale=scale).encode(keys)
    other = coded()[0].encode(keys * np.sqrt(scale))
    assert (lists == other[0]).all()
    assert (codes == other[1]).all()
    turned = replace(coded()[0], scale=scale).turned(queries * scale)
    np.testing.assert_allclose(turned, (queries * np.sqrt(scale)) @ coded()[0].rotation, atol=1e-5)
