"""Neighbour search against brute force."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import cache

import faiss
import numpy as np
import pytest
from conftest import SPEEDS
from hypothesis import given, settings, strategies as st

from fungi_seg import FungiSegError, IndexConfig, NeighbourIndex
from fungi_seg.search import choice, index as index_module
from fungi_seg.search.choice import FLAT_UP_TO
from fungi_seg.search.index import (
    StoredIndex,
    build_seconds,
    memory_bytes,
)
from fungi_seg.search.integer_lists import IntegerLists
from fungi_seg.search.lists import CodedLists, Effort, encoded, train_coder
from fungi_seg.search.tuning import tune

CPU, LISTS = IndexConfig(device="cpu"), IndexConfig("lists", device="cpu")


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def random_keys(rows: int = 500, dim: int = 24, seed: int = 0) -> np.ndarray:
    return unit(np.random.default_rng(seed).normal(size=(rows, dim)))


@cache
def clustered() -> tuple[np.ndarray, np.ndarray]:
    """25 000 keys of 384 numbers around 300 centres, and 150 queries near some of them."""
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(300, 384))
    keys = unit(centres[generator.integers(300, size=25_000)] + 0.6 * generator.normal(size=(25_000, 384)))
    return keys, unit(keys[:150] + 0.01 * generator.normal(size=(150, 384)))


def stored_index(keys: np.ndarray, recall: float) -> StoredIndex:
    coder = train_coder(keys)
    parts = encoded(coder, keys)
    return StoredIndex(coder, parts, tune(CodedLists(coder, parts), keys, recall)[0])


@cache
def large_index() -> NeighbourIndex:
    return NeighbourIndex(clustered()[0], LISTS)


def brute_force(keys: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    similarities = queries.astype(np.float64) @ keys.astype(np.float64).T
    rows = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(similarities, rows, axis=1), rows


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_flat_is_brute_force(dtype: type, k: int) -> None:
    keys, queries = random_keys().astype(dtype), random_keys(20, seed=1)
    similarities, rows = NeighbourIndex(keys, IndexConfig("flat", device="cpu")).search(queries, k)
    expected, expected_rows = brute_force(keys, queries, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_allclose(similarities, expected, atol=1e-5)
    assert similarities.dtype == np.float32
    assert rows.dtype == np.int64


def test_small_banks_are_searched_exactly() -> None:
    keys = random_keys()
    index = NeighbourIndex(keys, CPU)
    assert index.kind == "flat"
    assert index.recall(keys, keys[:5], 3) == 1.0


def test_keys_find_themselves() -> None:
    keys = random_keys()
    similarities, rows = NeighbourIndex(keys, CPU).search(keys, 1)
    np.testing.assert_array_equal(rows[:, 0], np.arange(len(keys)))
    np.testing.assert_allclose(similarities, 1, atol=1e-5)


def test_lists_hold_integers_up_to_some_size_where_the_processor_multiplies_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a larger bank, or without the instructions, binary codes; and the bank's own where it carries them."""
    keys = clustered()[0][:3000]
    stored = stored_index(keys, 0.9)

    def kind(stored: StoredIndex | None = None) -> type:
        return type(NeighbourIndex(keys, IndexConfig("lists", nprobe=1, refine=2, device="cpu"), stored)._index)

    assert (kind(), kind(stored)) == (IntegerLists, CodedLists)
    assert memory_bytes(100_000, 768, "lists") > 100_000 * 768
    monkeypatch.setattr(choice, "has_int8", lambda: False)
    assert kind() is CodedLists
    assert memory_bytes(100_000, 768, "lists") < 100_000 * 200
    monkeypatch.setattr(choice, "has_int8", lambda: True)
    monkeypatch.setattr(choice, "INDEXED_FROM", 3000)
    assert kind() is CodedLists


def test_large_banks_are_searched_by_lists_with_high_recall() -> None:
    keys, queries = clustered()
    index = large_index()
    assert index.kind == "lists"
    assert index.recall(keys, queries, 30) > 0.98


def test_int8_is_exact() -> None:
    keys, queries = clustered()
    index = NeighbourIndex(keys[:6000], IndexConfig("int8", device="cpu"))
    assert index.kind == "int8"
    assert index.recall(keys[:6000], queries, 30) > 0.9999


def test_banks_of_middle_size_are_searched_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    for int8, expected in ((SPEEDS.int8, "int8"), (0.0, "bfloat16")):
        monkeypatch.setattr(choice, "speeds", lambda int8=int8: replace(SPEEDS, int8=int8))
        index = NeighbourIndex(clustered()[0][: FLAT_UP_TO + 1], CPU)
        assert (index.kind, index.choice.kind) == (expected, expected)


def test_options_take_the_place_of_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = clustered()[0][:3000]
    assert NeighbourIndex(keys, IndexConfig("lists", nprobe=3, device="cpu")).effort.nprobe == 3  # type: ignore[union-attr]
    assert NeighbourIndex(keys, IndexConfig("lists", refine=7, device="cpu")).effort.refine == 7  # type: ignore[union-attr]
    monkeypatch.setattr(index_module, "tune", None)  # neither is tuned when both are given
    assert NeighbourIndex(keys, IndexConfig("lists", nprobe=3, refine=7, device="cpu")).effort == Effort(3, 7)


def test_stored_lists_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, queries = clustered()
    stored = stored_index(keys, 0.9)
    assert stored.effort is not None
    made = NeighbourIndex(keys, IndexConfig("lists", **asdict(stored.effort), device="cpu"), stored)
    for name in ("train_coder", "encoded", "tune"):
        monkeypatch.setattr(index_module, name, None)
    opened = NeighbourIndex(keys, IndexConfig("lists", recall=0.9, device="cpu"), stored)
    assert opened.effort == stored.effort
    for first, second in zip(made.search(queries, 10), opened.search(queries, 10), strict=True):
        np.testing.assert_array_equal(first, second)


def test_stored_lists_without_effort_are_tuned() -> None:
    keys = clustered()[0][:3000]
    stored = stored_index(keys, 0.9)
    opened = NeighbourIndex(
        keys, IndexConfig("lists", recall=0.9, device="cpu"), StoredIndex(stored.coder, stored.parts)
    )
    assert opened.effort == stored.effort


def test_a_higher_recall_is_searched_for_harder() -> None:
    keys, queries = random_keys(6000), random_keys(100, seed=1)
    indices = [NeighbourIndex(keys, IndexConfig("lists", recall=recall, device="cpu")) for recall in (0.5, 0.98)]
    low, high = (index.recall(keys, queries, 30) for index in indices)
    assert 0.5 <= low < high - 0.1
    assert high >= 0.98


def test_more_memory_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "free_memory", lambda: 40_000)
    with pytest.raises(FungiSegError, match=r"(?s)kind flat over 500 rows × 24 takes 0\.0 GB.*use index.kind lists"):
        NeighbourIndex(random_keys(), CPU)
    monkeypatch.setattr(index_module, "free_memory", lambda: None)
    assert NeighbourIndex(random_keys(), CPU).kind == "flat"


@pytest.mark.parametrize(("kind", "bytes_a_row"), [("flat", 3072), ("int8", 768), ("lists", 112), ("IVF64,Flat", 3072)])
def test_memory_of_a_row(kind: str, bytes_a_row: int) -> None:
    found = (memory_bytes(10_000_000, 768, kind) - memory_bytes(9_000_000, 768, kind)) / 1_000_000
    assert found == bytes_a_row


@pytest.mark.parametrize("kind", ["flat", "int8", "lists"])
def test_more_rows_take_longer_to_index(kind: str) -> None:
    assert 0 < build_seconds(1000, 32, kind) < build_seconds(100_000_000, 32, kind)


@pytest.mark.parametrize("kind", ["int8", "lists"])
def test_kinds_that_need_the_cpu(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1, raising=False)
    with pytest.raises(FungiSegError, match=f"(?s)index.device is cuda, but an index of kind {kind} works on the CPU"):
        NeighbourIndex(random_keys(), IndexConfig(kind, device="cuda"))
    assert NeighbourIndex(random_keys(), IndexConfig(kind)).kind == kind


def test_recall_is_the_share_of_exact_neighbours_found() -> None:
    keys, queries = clustered()
    index = NeighbourIndex(keys, IndexConfig("IVF64,RaBitQ", nprobe=1, device="cpu"))
    exact, found = brute_force(keys, queries, 10)[1], index.search(queries, 10)[1]
    shared = [len(set(e) & set(f)) / 10 for e, f in zip(exact.tolist(), found.tolist(), strict=True)]
    recall = index.recall(keys, queries, 10)
    assert recall == pytest.approx(np.mean(shared), abs=0.002)  # near ties may fall either way
    assert recall < 0.9


def test_refined_similarities_are_exact() -> None:
    keys, queries = clustered()
    similarities, rows = large_index().search(queries, 10)
    exact = np.einsum("qd,qkd->qk", queries, keys[rows])
    np.testing.assert_allclose(similarities, exact, atol=2e-3)
    assert (np.diff(similarities, axis=1) <= 0).all()


def test_two_builds_find_the_same() -> None:
    keys, queries = clustered()
    again = NeighbourIndex(keys, LISTS).search(queries, 10)
    for first, second in zip(large_index().search(queries, 10), again, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(
    ("kind", "lower", "higher"),
    [
        ("IVF64,Flat", {"nprobe": 1}, {"nprobe": 64}),
        ("IVF16,RaBitQ,RFlat", {"refine": 1, "nprobe": 16}, {"refine": 8, "nprobe": 16}),
        ("IVF16,RaBitQ,Refine(SQfp16)", {"refine": 1, "nprobe": 16}, {"refine": 8, "nprobe": 16}),
    ],
)
def test_more_work_finds_more(kind: str, lower: dict[str, int], higher: dict[str, int]) -> None:
    keys, queries = random_keys(6000), random_keys(100, seed=1)
    few, many = (
        NeighbourIndex(keys, IndexConfig(kind, device="cpu", **options)).recall(keys, queries, 10)
        for options in (lower, higher)
    )
    assert many > few + 0.05


def test_float16_keys_in_a_list_index() -> None:
    keys, queries = clustered()
    index = NeighbourIndex(keys[:6000].astype(np.float16), IndexConfig("IVF32,Flat", nprobe=32, device="cpu"))
    np.testing.assert_array_equal(index.search(queries, 1)[1][:, 0], np.arange(150))


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(
        ["flat", "bfloat16", "int8", "lists", "IVF2,Flat", "IVF7,Flat", "IVF5,RaBitQ,RFlat", "HNSW4,Flat"]
    ),
    rows=st.integers(8, 400),
    groups=st.integers(1, 6),
    nprobe=st.integers(1, 3),
    seed=st.integers(0, 1000),
    data=st.data(),
)
def test_every_kind_gives_k_different_rows(
    kind: str, rows: int, groups: int, nprobe: int, seed: int, data: st.DataObject
) -> None:
    """However few lists are searched, and however unevenly rows lie in them; similarities are those of the rows."""
    generator = np.random.default_rng(seed)
    centres = unit(generator.normal(size=(groups, 16)))
    keys = unit(
        centres[generator.integers(groups, size=rows) ** 2 // groups] + 0.05 * generator.normal(size=(rows, 16))
    )
    queries = unit(np.concatenate([centres, generator.normal(size=(4, 16))]))
    k = data.draw(st.integers(1, rows))
    config = IndexConfig(kind, nprobe=nprobe if "IVF" in kind or kind == "lists" else None, device="cpu")
    similarities, found = NeighbourIndex(keys, config).search(queries, k)
    assert found.shape == (len(queries), k)
    assert all(len(set(line)) == k for line in found.tolist())
    assert found.min() >= 0
    assert found.max() < rows
    exact = np.einsum("qd,qkd->qk", queries, keys[found])
    np.testing.assert_allclose(similarities, exact, atol=1e-5)


def test_queries_that_are_not_finite() -> None:
    for value in (np.nan, np.inf):
        queries = random_keys(2)
        queries[1, 3] = value
        with pytest.raises(FungiSegError, match="queries holds numbers that aren't finite"):
            NeighbourIndex(random_keys(), CPU).search(queries, 3)


@pytest.mark.parametrize("k", [0, -1, 501])
def test_k_outside_the_bank(k: int) -> None:
    with pytest.raises(FungiSegError, match=rf"(?s)k is {k}, the bank has 500 rows.*between 1 and"):
        NeighbourIndex(random_keys(), CPU).search(random_keys(2), k)


@pytest.mark.parametrize("shape", [(0, 8), (8,)])
def test_keys_of_a_wrong_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(FungiSegError, match=r"(?s)keys has shape .*\[M, D\]"):
        NeighbourIndex(np.zeros(shape, np.float32), CPU)


@pytest.mark.parametrize("kind", ["falt", "PQ7", ""])
def test_kind_that_faiss_does_not_make(kind: str) -> None:
    with pytest.raises(FungiSegError, match=f"index.kind is '{kind}', which FAISS can't make for 24 dimensions"):
        NeighbourIndex(random_keys(), IndexConfig(kind, device="cpu"))


def test_more_lists_than_rows() -> None:
    with pytest.raises(FungiSegError, match=r"(?s)'IVF4096,Flat' can't be built from 500 rows.*fewer lists"):
        NeighbourIndex(random_keys(), IndexConfig("IVF4096,Flat", device="cpu"))


def test_cuda_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(FungiSegError, match=r"(?s)index.device is cuda, but FAISS sees no GPU.*auto or cpu"):
        NeighbourIndex(random_keys(), IndexConfig(device="cuda"))
    assert NeighbourIndex(random_keys(), IndexConfig(device="auto")).kind == "flat"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "index.device is 'gpu'; it must be auto, cpu or cuda"),
        ({"nprobe": 0}, "index.nprobe is 0.*at least 1"),
        ({"refine": 0}, "index.refine 0.*at least 1"),
        ({"recall": 0.0}, "index.recall is 0.0; it must be above 0"),
        ({"recall": 1.01}, "index.recall is 1.01; it must be .*at most 1"),
        ({"kind": "flat", "nprobe": 8}, "index.nprobe is 8, but index.kind flat is exact, so that it changes nothing"),
        ({"kind": "flat", "recall": 0.9}, "index.recall is 0.9, but index.kind flat is exact.*leave it out, or use"),
        ({"kind": "int8", "refine": 8}, "index.refine is 8, but index.kind int8 is exact"),
        ({"kind": "PQ8", "nprobe": 8}, "index.nprobe is 8, but index.kind 'PQ8' has no lists"),
        ({"kind": "IVF8,Flat", "refine": 2}, "index.refine is 2, but index.kind 'IVF8,Flat' has no refine stage"),
        ({"kind": "IVF8,Flat", "recall": 0.5}, "index.recall is 0.5, but index.kind 'IVF8,Flat' isn't tuned"),
        (
            {"kind": "lists", "nprobe": 8, "refine": 2, "recall": 0.5},
            "index.recall is 0.5, but index.nprobe and index.refine are set, and nothing is left to tune",
        ),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        IndexConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"nprobe": 8, "refine": 2},
        {"recall": 0.9},
        {"kind": "lists", "recall": 0.9, "nprobe": 4},
        {"kind": "IVF8,PQ4", "nprobe": 4},
        {"kind": "IMI2x4,Flat", "nprobe": 4},
        {"kind": "IVF8,RaBitQ,RFlat", "refine": 4, "nprobe": 2},
        {"kind": "SQ8,Refine(SQfp16)", "refine": 4},
    ],
)
def test_options_that_have_an_effect(options: dict[str, object]) -> None:
    assert vars(IndexConfig(**options)).items() >= options.items()  # type: ignore[arg-type]


def test_queries_of_another_width() -> None:
    keys = np.eye(4, dtype=np.float32)
    with pytest.raises(FungiSegError, match=r"queries has shape \(2, 3\); the bank's keys are 4 wide"):
        NeighbourIndex(keys).search(np.ones((2, 3), np.float32), 1)
