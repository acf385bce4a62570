"""Integer shortlists and float32 ranking against brute force."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from fungi_seg import PatchFeatures, load_backbone
from fungi_seg.commands.demo import NUCLEI
from fungi_seg.images.reading import read_image
from fungi_seg.search import exact, rounded as rounding
from fungi_seg.search.exact import FlatIndex, exact_search, integer_products, rescore, rotation, rounded, share_found
from fungi_seg.search.rounded import RoundedIndex


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
    similarities, found = RoundedIndex(keys.astype(dtype)).search(queries, k)
    expected, expected_rows = brute_force(keys.astype(dtype), queries, k)
    assert share_found(expected_rows, found) > 0.999
    np.testing.assert_allclose(similarities, expected, atol=1e-5 if dtype == np.float32 else 1e-4)
    assert similarities.dtype == np.float32
    assert found.dtype == np.int64


def assert_exact(keys: np.ndarray, queries: np.ndarray, k: int, index: type = RoundedIndex, **options: str) -> None:
    """The `k` highest similarities of all, and each that of another row; which of equals are taken is left open."""
    similarities, rows = index(keys, **options).search(queries, k)
    expected = brute_force(keys, queries, k)[0]
    np.testing.assert_allclose(similarities, expected, atol=2e-6)
    own = np.einsum("qd,qkd->qk", queries.astype(np.float64), keys[rows].astype(np.float64))
    np.testing.assert_allclose(similarities, own, atol=2e-6)
    assert all(len(set(line)) == k for line in rows.tolist())


def tight_clusters(rows: int, dim: int, noise: float, groups: int = 8) -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(groups, dim))
    return unit(centres[generator.integers(groups, size=rows)] + noise * generator.normal(size=(rows, dim)))


def sparse(rows: int, dim: int) -> np.ndarray:
    """Few numbers of each row aren't 0; a row in 50 is another's opposite."""
    generator = np.random.default_rng(0)
    keys = generator.normal(size=(rows, dim)) * (generator.random((rows, dim)) < 0.03)
    keys[:, 0] += 0.01
    keys[::50] = -keys[7]
    return unit(keys)


HARD = {
    "tight clusters": lambda: tight_clusters(9000, 96, 0.02),
    "tighter clusters": lambda: tight_clusters(9000, 96, 0.0005),
    "one cluster": lambda: tight_clusters(9000, 96, 0.02, 1),
    "duplicates": lambda: np.repeat(tight_clusters(90, 96, 0.5), 100, 0),
    "duplicates in turn": lambda: np.tile(tight_clusters(90, 96, 0.5), (100, 1)),
    "all the same": lambda: np.repeat(tight_clusters(1, 96, 0.5), 9000, 0),
    "uniform": lambda: tight_clusters(9000, 96, 1.0, 9000),
    "sorted": lambda: np.sort(tight_clusters(9000, 96, 1.0, 3), axis=0)[np.arange(9000)],
    "sparse": lambda: sparse(9000, 96),
    "one far from all others": lambda: np.concatenate([tight_clusters(8999, 96, 0.01, 1), -np.eye(1, 96)]),
    "axes": lambda: unit(np.repeat(np.eye(96), 90, 0) + 0.001),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 30, 700])
@pytest.mark.parametrize("numbers", ["float32", "bfloat16", "int8"])
def test_exact_where_rounding_tells_nothing_apart(case: str, dtype: type, k: int, numbers: str) -> None:
    generator = np.random.default_rng(1)
    keys = unit(HARD[case]()).astype(dtype)
    near = keys[generator.integers(len(keys), size=20)] + 0.02 * unit(generator.normal(size=(20, 96)))
    queries = unit(np.concatenate([near, keys[:5], generator.normal(size=(5, 96)), -keys[:2]]))
    assert_exact(keys, queries, k, **({"index": FlatIndex} if numbers == "float32" else {"numbers": numbers}))


@pytest.mark.parametrize("case", ["tight clusters", "duplicates in turn", "uniform", "one far from all others"])
@pytest.mark.parametrize("numbers", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("left", [20, 8000])
def test_rows_that_are_left_out(case: str, numbers: str, left: int) -> None:
    """What is found is what is found among the others, −∞ where they are fewer than `k`."""
    generator = np.random.default_rng(2)
    keys = unit(HARD[case]())
    queries = unit(np.concatenate([keys[:7], generator.normal(size=(5, 96))]))
    out = np.ones(len(keys), bool)
    out[generator.choice(len(keys), left, replace=False)] = False
    index = FlatIndex(keys) if numbers == "float32" else RoundedIndex(keys, numbers)
    similarities, rows = index.search(queries, 30, out)
    count = min(30, left)
    others = keys[~out].astype(np.float64)
    expected = np.sort(queries.astype(np.float64) @ others.T, axis=1)[:, ::-1][:, :count]
    np.testing.assert_allclose(similarities[:, :count], expected, atol=1e-6)
    assert not out[rows[:, :count]].any()
    assert all(len(set(line)) == count for line in rows[:, :count].tolist())
    assert np.isneginf(similarities[:, count:]).all()


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(1, 700),
    dim=st.integers(1, 40),
    groups=st.integers(1, 9),
    noise=st.sampled_from([0.0, 1e-4, 0.01, 0.3, 2.0]),
    offset=st.sampled_from([0.0, 0.5, 30.0]),
    numbers=st.sampled_from(["bfloat16", "int8"]),
    seed=st.integers(0, 10**6),
    data=st.data(),
)
def test_exact_whatever_the_keys(
    rows: int, dim: int, groups: int, noise: float, offset: float, numbers: str, seed: int, data: st.DataObject
) -> None:
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(groups, dim)) + 1e-3
    keys = centres[generator.integers(groups, size=rows)] + noise * generator.normal(size=(rows, dim))
    keys[:, 0] += offset
    queries = np.concatenate([keys[: min(rows, 4)], generator.normal(size=(3, dim)) + 1e-3])
    assert_exact(unit(keys), unit(queries), data.draw(st.integers(1, rows)), numbers=numbers)


@pytest.mark.parametrize("numbers", ["bfloat16", "int8"])
def test_exact_on_features_of_photographs(numbers: str) -> None:
    """Patches of the annotated images that come with the package, as the backbone that comes with it sees them."""
    features = PatchFeatures(load_backbone("embedded", device="cpu", dtype="float32"))
    images = [read_image(path) for path in sorted(NUCLEI.glob("*/images/*"))[:4]]
    side = 96
    pixels = [cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA) for image in images]
    found = features(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255).numpy()
    keys = found[:3].reshape(-1, found.shape[2])
    generator = np.random.default_rng(0)
    copies = np.concatenate([unit(keys + 0.2 * unit(generator.normal(size=keys.shape))) for _ in range(4)])
    for bank in (keys, copies, np.concatenate([copies, copies])):
        assert_exact(bank.astype(np.float16), found[3], 30, numbers=numbers)


def test_int8_compares_few_rows_of_ordinary_keys_and_no_more_than_it_may_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What it takes to be exact: some candidates a query, or all keys in float32, in blocks."""
    wholly: list[int] = []
    real = rounding.exact_search
    monkeypatch.setattr(
        rounding, "exact_search", lambda keys, asked, *more: wholly.append(len(asked)) or real(keys, asked, *more)
    )
    compared: list[int] = []
    counted = rounding.rescore
    monkeypatch.setattr(
        rounding, "rescore", lambda q, found, *more: compared.append((found >= 0).sum()) or counted(q, found, *more)
    )
    keys, queries = near_clusters(20_000, 256)
    for some in (keys, tight_clusters(20_000, 256, 0.02), tight_clusters(20_000, 256, 0.02, 3)):
        RoundedIndex(some).search(queries if some is keys else some[:70], 10)
        assert not wholly
        assert sum(compared) < 200 * len(queries)
        compared.clear()
    on_disk = OnDisk(tight_clusters(20_000, 256, 0.001, 25))
    RoundedIndex(on_disk).search(queries, 10)
    assert sum(wholly) == len(queries)
    assert sum(compared) <= 20_000 / rounding.WORTH * len(queries)
    assert on_disk.largest <= exact.SCANNED


@pytest.mark.parametrize("numbers", ["bfloat16", "int8"])
def test_exact_where_the_guess_fails(numbers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products taken for better than they are: what isn't proven is searched for in float32."""
    monkeypatch.setattr(rounding, "TRUSTED", -1.0)
    assert_exact(*near_clusters(5000, 64), 30, numbers=numbers)


def test_int8_all_rows_of_a_bank() -> None:
    keys, queries = near_clusters(101, 16)
    similarities, rows = RoundedIndex(keys).search(queries, 101)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(101), (70, 1)))
    np.testing.assert_allclose(similarities, brute_force(keys, queries, 101)[0], atol=1e-5)


@pytest.mark.parametrize("index", [RoundedIndex, FlatIndex])
def test_no_queries(index: type) -> None:
    similarities, rows = index(near_clusters(100, 16)[0]).search(np.empty((0, 16), np.float32), 5)
    assert similarities.shape == rows.shape == (0, 5)


def test_int8_without_the_instructions_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "has_int8", lambda: False)
    monkeypatch.setattr(exact, "has_bfloat16", lambda: False)
    keys, queries = near_clusters(3000, 64)
    np.testing.assert_array_equal(RoundedIndex(keys).search(queries, 10)[1], brute_force(keys, queries, 10)[1])


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
    assert share_found(truth, RoundedIndex(keys).search(queries, 10)[1]) > 0.999
    plain = queries @ rounded(torch.from_numpy(keys)).numpy().astype(np.float64).T
    assert share_found(truth, np.argsort(-plain, axis=1)[:, :26]) < 0.9


def test_keys_that_are_all_the_same() -> None:
    similarities, rows = RoundedIndex(np.eye(1, 16, dtype=np.float32).repeat(50, 0)).search(np.eye(2, 16), 20)
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
    monkeypatch.setattr(exact, "SCANNED", 64)
    monkeypatch.setattr(exact, "ASKED", 32)
    keys, queries = near_clusters(1000, 24)
    on_disk = OnDisk(keys)
    np.testing.assert_array_equal(exact_search(on_disk, queries, 90)[1], brute_force(keys, queries, 90)[1])
    assert on_disk.largest == 64


def test_share_found() -> None:
    assert share_found(np.array([[1, 2], [3, 4]]), np.array([[2, 9, 1], [9, 4, 8]])) == 0.75
