"""Masks to class histograms, and their sparse encoding."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as arrays

from fungi_seg.bank.labels import FULL, SparseLabels, patch_histograms
from fungi_seg.images.settings import VOID


@st.composite
def histograms(draw: st.DrawFn, classes: int | None = None) -> np.ndarray:
    """`[M, C]` counts, at least one pixel in every row."""
    shape = (draw(st.integers(1, 12)), classes or draw(st.integers(1, 8)))
    counts = draw(arrays.arrays(np.int64, shape, elements=st.one_of(st.just(0), st.integers(0, 300))))
    counts[counts.sum(1) == 0, -1] = 1
    return counts


def naive_histograms(mask: np.ndarray, patch: tuple[int, int], classes: int) -> np.ndarray:
    rows = []
    for top in range(0, mask.shape[0], patch[0]):
        for left in range(0, mask.shape[1], patch[1]):
            square = mask[top : top + patch[0], left : left + patch[1]]
            rows.append([int((square == c).sum()) for c in range(classes)])
    return np.array(rows)


def naive_rows(labels: SparseLabels) -> list[list[tuple[int, int]]]:
    return [
        [(int(labels.ids[e]), int(labels.weights[e])) for e in range(labels.offsets[i], labels.offsets[i + 1])]
        for i in range(len(labels))
    ]


def test_published_soft_labels(reference: dict[str, np.ndarray]) -> None:
    """With void counted as class 0, shares are those of the published code."""
    expected = reference["soft_labels/void_as_background"]
    for mask, shares in zip(reference["soft_labels/masks"], expected, strict=True):
        counts = patch_histograms(np.where(mask == 255, 0, mask).astype(np.int16), (8, 8), shares.shape[-1])
        np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), shares.reshape(counts.shape), atol=1e-6)


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), st.data())
def test_histograms_count_pixels(h: int, w: int, ph: int, pw: int, classes: int, data: st.DataObject) -> None:
    mask = data.draw(arrays.arrays(np.int16, (h * ph, w * pw), elements=st.integers(VOID, classes - 1)))
    found = patch_histograms(mask, (ph, pw), classes)
    assert found.shape == (h * w, classes)
    np.testing.assert_array_equal(found, naive_histograms(mask, (ph, pw), classes))


def test_void_patches_are_empty() -> None:
    assert not patch_histograms(np.full((8, 8), VOID, np.int16), (4, 4), 3).any()


@settings(deadline=None)
@given(histograms())
def test_rows_sum_to_255_and_stay_near_the_shares(counts: np.ndarray) -> None:
    labels = SparseLabels.from_histograms(counts)
    assert len(labels) == len(counts)
    assert labels.ids.dtype == labels.weights.dtype == np.uint8
    assert (labels.weights > 0).all()
    assert [sum(weight for _, weight in row) for row in naive_rows(labels)] == [255] * len(counts)
    dense = labels.dense(counts.shape[1])
    assert dense.dtype == np.float32
    np.testing.assert_allclose(dense.sum(1), 1, atol=1e-5)
    assert np.abs(dense - counts / counts.sum(1, keepdims=True)).max() < 1 / 255 + 1e-6
    assert not dense[counts == 0].any()


def test_single_class_and_fair_remainders() -> None:
    labels = SparseLabels.from_histograms(np.array([[0, 64, 0], [1, 1, 0], [1, 1, 1]]))
    assert naive_rows(labels) == [[(1, 255)], [(0, 128), (1, 127)], [(0, 85), (1, 85), (2, 85)]]


def test_many_classes() -> None:
    counts = np.zeros((2, 1000), np.int64)
    counts[0, [0, 300, 999]] = 1, 2, 1
    counts[1] = 1  # more classes than weights to give away
    labels = SparseLabels.from_histograms(counts)
    assert labels.ids.dtype == np.uint16
    assert [i for i, _ in naive_rows(labels)[0]] == [0, 300, 999]
    np.testing.assert_array_equal(np.add.reduceat(labels.weights.astype(int), labels.offsets[:-1]), [255, 255])
    assert np.abs(labels.dense(1000) - counts / counts.sum(1, keepdims=True)).max() < 1 / 255


@settings(deadline=None)
@given(st.lists(histograms(5), min_size=1, max_size=4))
def test_concatenate(parts: list[np.ndarray]) -> None:
    joined = SparseLabels.concatenate([SparseLabels.from_histograms(part) for part in parts])
    whole = SparseLabels.from_histograms(np.concatenate(parts))
    assert naive_rows(joined) == naive_rows(whole)
    assert joined.offsets.dtype == np.int64
    assert joined.ids.dtype == joined.weights.dtype == np.uint8


@settings(deadline=None)
@given(histograms(), st.data())
def test_take_and_entries(counts: np.ndarray, data: st.DataObject) -> None:
    labels = SparseLabels.from_histograms(counts)
    rows = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=20)), np.int64)
    every = naive_rows(labels)
    owner, entries = labels.entries(rows)
    expected = [(i, e) for i, row in enumerate(rows) for e in range(labels.offsets[row], labels.offsets[row + 1])]
    assert list(zip(owner.tolist(), entries.tolist(), strict=True)) == expected
    taken = labels.take(rows)
    assert naive_rows(taken) == [every[row] for row in rows]
    np.testing.assert_array_equal(taken.dense(counts.shape[1]), labels.dense(counts.shape[1])[rows])


def labels_and_places(seed: int, rows: int, classes: int, target: int) -> tuple[SparseLabels, np.ndarray]:
    generator = np.random.default_rng(seed)
    histograms = generator.integers(0, 30, (rows, classes)) * (generator.random((rows, classes)) < 0.5)
    histograms[:, 0] += ~histograms.any(1)
    return SparseLabels.from_histograms(histograms), generator.integers(-1, target, classes)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 12), st.integers(1, 6), st.integers(1, 300))
def test_mapped_is_dense_arithmetic(seed: int, rows: int, classes: int, target: int) -> None:
    """Columns that fall together are added, those without a place left out, and the rest of a row made whole."""
    labels, places = labels_and_places(seed, rows, classes, target)
    found = labels.mapped(places, target)
    expected = np.zeros((rows, target))
    for old, new in enumerate(places):
        if new >= 0:
            expected[:, new] += labels.dense(classes)[:, old]
    left = expected.sum(1)
    expected[left > 0] /= left[left > 0, None]
    np.testing.assert_allclose(found.dense(target), expected, atol=1 / FULL)
    sums = np.array([found.weights[a:b].sum(dtype=int) for a, b in zip(found.offsets, found.offsets[1:], strict=False)])
    np.testing.assert_array_equal(sums, FULL * (left > 0))
    assert found.ids.dtype == (np.uint8 if target <= 256 else np.uint16)
    assert (found.weights > 0).all()


def test_mapped_to_the_same_classes_is_the_same() -> None:
    labels, _ = labels_and_places(1, 50, 5, 5)
    same = labels.mapped(np.arange(5), 5)
    for name in ("offsets", "ids", "weights"):
        np.testing.assert_array_equal(getattr(same, name), getattr(labels, name))


def test_mapped_there_and_back_is_the_same() -> None:
    labels, _ = labels_and_places(1, 50, 5, 5)
    order = np.array([3, 0, 4, 1, 2])
    back = labels.mapped(order, 5).mapped(np.argsort(order), 5)
    np.testing.assert_array_equal(back.dense(5), labels.dense(5))


def test_mapped_in_chunks_is_mapped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, places = labels_and_places(3, 50, 6, 4)
    whole = labels.mapped(places, 4)
    monkeypatch.setattr("fungi_seg.bank.labels.CHUNK_ROWS", 7)
    chunked = labels.mapped(places, 4)
    for name in ("offsets", "ids", "weights"):
        np.testing.assert_array_equal(getattr(chunked, name), getattr(whole, name))


def test_mapped_holds_no_more_than_a_chunk_at_once() -> None:
    """Dense, the counts of these rows would take 400 MB."""
    ids = np.arange(50_000, dtype=np.uint16) % 1000
    labels = SparseLabels(np.arange(50_001), ids, np.full(50_000, FULL, np.uint8))
    tracemalloc.start()
    found = labels.mapped(np.arange(1000)[::-1], 1000)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(found.ids, 999 - ids)
    assert most < 250e6


def test_labels_that_stay_are_not_made_again() -> None:
    """Only their type changes where there are more classes than it counts."""
    labels, _ = labels_and_places(1, 50, 5, 5)
    for classes, kind in ((5, np.uint8), (256, np.uint8), (257, np.uint16)):
        same = labels.mapped(np.arange(5), classes)
        assert same.offsets is labels.offsets
        assert same.weights is labels.weights
        assert (same.ids is labels.ids) == (kind is np.uint8)
        assert same.ids.dtype == kind
        np.testing.assert_array_equal(same.ids, labels.ids)
