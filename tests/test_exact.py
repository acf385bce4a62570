"""Integer shortlists and float32 ranking against brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fungi_seg.search import exact
from fungi_seg.search.exact import exact_search, integer_products, rescore, rotation, rounded, share_found
from fungi_seg.search.int8 import Int8Index


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def near_clusters(rows: int, dim: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Keys around 40 centres, and 70 queries near some of them."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(40, dim))
    keys = unit(centres[generator.integers(40, size=rows)] + 0.8 * generator.normal(size=(rows, dim)))
    return keys, unit(keys[np.arange(70) % rows] + 0.5 * unit(generator.normal(size=(70, dim))))


def brute_force(keys: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    similarities = queries.astype(np.float64) @ keys.astype(np.float64).T
    rows = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, rows, axis=1), rows


class OnDisk:
    """Keys that can only be read, by slices and by rows; counts the rows read."""

    def __init__(self, keys: np.ndarray):
        self._keys, self.shape, self.largest, self.named = keys, keys.shape, 0, 0

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        found = self._keys[rows]
        self.largest = max(self.largest, len(found))
        self.named += 0 if isinstance(rows, slice) else len(rows)
        found.flags.writeable = False
        return found


@pytest.mark.parametrize(("rows", "dim"), [(1, 8), (15, 64), (1000, 7), (5000, 100), (40_001, 64)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_int8_is_brute_force(rows: int, dim: int, dtype: type) -> None:
    keys, queries = near_clusters(rows, dim)
    k = min(rows, 30)
    similarities, found = Int8Index(keys.astype(dtype)).search(queries, k)
    expected, expected_rows = brute_force(keys.astype(dtype), queries, k)
    assert share_found(expected_rows, found) > 0.999
    np.testing.assert_allclose(similarities, expected, atol=1e-5 if dtype == np.float32 else 1e-4)
    assert similarities.dtype == np.float32
    assert found.dtype == np.int64


def test_int8_all_rows_of_a_bank() -> None:
    keys, queries = near_clusters(101, 16)
    similarities, rows = Int8Index(keys).search(queries, 101)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(101), (70, 1)))
    np.testing.assert_allclose(similarities, brute_force(keys, queries, 101)[0], atol=1e-5)


def test_no_queries() -> None:
    similarities, rows = Int8Index(near_clusters(100, 16)[0]).search(np.empty((0, 16), np.float32), 5)
    assert similarities.shape == rows.shape == (0, 5)


def test_int8_without_the_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "has_int8", lambda: False)
    monkeypatch.setattr(exact, "has_bfloat16", lambda: False)
    keys, queries = near_clusters(3000, 64)
    np.testing.assert_array_equal(Int8Index(keys).search(queries, 10)[1], brute_force(keys, queries, 10)[1])


def test_integer_products_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    a, b = (torch.from_numpy(generator.integers(-127, 128, size=(n, 1025)).astype(np.int8)) for n in (33, 21))
    expected = a.numpy().astype(np.int64) @ b.numpy().astype(np.int64).T
    for fast in (exact.has_int8(), False):
        monkeypatch.setattr(exact, "has_int8", lambda fast=fast: fast)
        found = integer_products(a, b, torch.empty(33, 21, dtype=torch.int32))
        np.testing.assert_array_equal(found.numpy(), expected)


def test_keys_that_are_all_much_alike() -> None:
    """One dimension holds nearly all of each row's length; 8 bits for that alone could not tell rows apart."""
    generator = np.random.default_rng(0)
    keys = generator.normal(size=(4000, 256))
    keys[:, 3] += 60
    keys, queries = unit(keys), unit(keys[:50] + 0.5 * generator.normal(size=(50, 256)))
    truth = brute_force(keys, queries, 10)[1]
    assert share_found(truth, Int8Index(keys).search(queries, 10)[1]) > 0.999
    plain = queries @ rounded(torch.from_numpy(keys)).numpy().astype(np.float64).T
    assert share_found(truth, np.argsort(-plain, axis=1)[:, :26]) < 0.9


def test_keys_that_are_all_the_same() -> None:
    similarities, rows = Int8Index(np.eye(1, 16, dtype=np.float32).repeat(50, 0)).search(np.eye(2, 16), 20)
    np.testing.assert_allclose(similarities, np.array([[1.0], [0.0]]).repeat(20, 1))
    assert all(len(set(line)) == 20 for line in rows.tolist())


def test_rotation_is_orthogonal_and_repeats() -> None:
    matrix = rotation(50, seed=3).numpy()
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(50), atol=1e-5)
    np.testing.assert_array_equal(matrix, rotation(50, seed=3).numpy())
    assert not np.allclose(matrix, rotation(50, seed=4).numpy(), atol=0.01)


def test_rescore_ranks_candidates_by_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, queries = near_clusters(500, 24)
    candidates = np.stack([np.random.default_rng(i).permutation(500)[:40] for i in range(70)])
    on_disk = OnDisk(keys)
    similarities, rows = rescore(queries, candidates, on_disk, 7)
    products = np.take_along_axis(queries @ keys.T, candidates, axis=1)
    order = np.argsort(-products, axis=1)[:, :7]
    np.testing.assert_array_equal(rows, np.take_along_axis(candidates, order, axis=1))
    np.testing.assert_allclose(similarities, np.take_along_axis(products, order, axis=1), atol=1e-6)
    assert on_disk.named <= 500  # each row is read once, however many candidates name it
    monkeypatch.setattr(exact, "RESCORED_PAIRS", 100)
    for first, second in zip((similarities, rows), rescore(queries, candidates, keys, 7), strict=True):
        np.testing.assert_array_equal(first, second)


def test_rescore_of_fewer_candidates_than_wanted() -> None:
    keys, queries = near_clusters(100, 24)
    candidates = np.tile(np.array([[3, -1, 8, -1]]), (70, 1))
    similarities, rows = rescore(queries, candidates, keys, 6)
    np.testing.assert_array_equal(np.sort(rows[:, :2], axis=1), np.tile([3, 8], (70, 1)))
    assert (rows[:, 2:] == -1).all()
    assert (similarities[:, 2:] == -np.inf).all()
    np.testing.assert_allclose(np.sort(similarities[:, :2]), np.sort((queries @ keys.T)[:, [3, 8]]), atol=1e-6)


def test_exact_search_reads_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "CODED_ROWS", 64)
    keys, queries = near_clusters(1000, 24)
    on_disk = OnDisk(keys)
    np.testing.assert_array_equal(exact_search(on_disk, queries, 90)[1], brute_force(keys, queries, 90)[1])
    assert on_disk.largest == 64


def test_share_found() -> None:
    assert share_found(np.array([[1, 2], [3, 4]]), np.array([[2, 9, 1], [9, 4, 8]])) == 0.75
