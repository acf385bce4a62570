"""The index that a bank carries: it follows every change, and is checked before it is used."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.numpy import save_file
from test_bank import DIM, some_info, some_rows, write

from fungi_seg import Backbone, BankError, IndexConfig, MemoryBank
from fungi_seg.bank import stored_index, writer as bank_writer
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.manifest import read_manifest
from fungi_seg.files import sha256
from fungi_seg.search import index as index_module
from fungi_seg.segmentation.decoder import vote

LISTS = IndexConfig("lists", device="cpu")
K = 10


@pytest.fixture
def bank(tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> MemoryBank:
    """900 rows in several files, with an index of 8 lists."""
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 250)
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(900))
    return MemoryBank.open(tmp_path / "bank").make_index(0.9, lists=8)


def share_of_exact(bank: MemoryBank) -> float:
    """Recall of the bank's own index on its own rows, by brute force, every list and row searched."""
    keys = np.asarray(bank.rows.keys, np.float32)
    queries = keys[:: max(1, len(keys) // 50)]
    exact = np.argsort(-(queries @ keys.T), axis=1, kind="stable")[:, :K]
    index = bank.neighbour_index(IndexConfig("lists", nprobe=8, refine=40, device="cpu"))
    found = index.search(queries, K)[1]
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(exact, found, strict=True)]))


def test_it_finds_the_neighbours(bank: MemoryBank) -> None:
    assert share_of_exact(bank) > 0.99
    assert bank.history[-1]["action"] == "index"
    assert bank.history[-1]["wanted"] == 0.9
    assert 0.9 <= bank.history[-1]["reached"] <= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda bank: bank.remove(images=["first"]),
        lambda bank: bank.remove(classes=["green"]),
        lambda bank: bank.relabel(drop=["background"]),
        lambda bank: bank.remove(images=["first"]).compact(),
        lambda bank: bank.compact("int8"),
        lambda bank: bank.relabel(rename={"red": "pink"}).remove(classes=["pink"]),
    ],
)
def test_it_follows_changes(bank: MemoryBank, change: Any) -> None:
    changed = change(bank)
    assert changed.manifest.index
    assert share_of_exact(changed) > 0.98
    assert not changed.verify()


def test_merged_rows_get_codes(bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path) -> None:
    write(tmp_path / "other", some_info(tiny_backbone, sources=("third", "fourth")), some_rows(300, seed=3))
    merged = bank.merge(tmp_path / "other")
    assert all(segment.codes for segment in merged.manifest.segments)
    assert share_of_exact(merged) > 0.99


def test_it_is_used_as_tuned_and_tuned_again_for_another_recall(
    bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("made again")

    for name in ("train_coder", "encoded"):
        monkeypatch.setattr(index_module, name, refuse)
    tuned: list[float] = []
    real = index_module.tune
    monkeypatch.setattr(index_module, "tune", lambda *given, **more: tuned.append(given[2]) or real(*given, **more))
    bank.neighbour_index(IndexConfig("lists", recall=0.9, device="cpu"))
    assert tuned == []
    bank.neighbour_index(IndexConfig("lists", recall=0.99, device="cpu"))
    assert tuned == [0.99]
    bank.remove(images=["first"]).neighbour_index(IndexConfig("lists", recall=0.9, device="cpu"))  # fitted then
    assert tuned == [0.99]
    write(tmp_path / "other", some_info(tiny_backbone, sources=("third", "fourth")), some_rows(900, seed=3))
    bank.merge(tmp_path / "other").neighbour_index(IndexConfig("lists", recall=0.9, device="cpu"))
    assert tuned == [0.99, 0.9]


def test_whatever_is_tuned_knows_which_image_each_row_comes_from(
    bank: MemoryBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the bank as it is then: when its index is made, when rows are gone, and when it is opened."""
    tuned: list[np.ndarray] = []
    for module in (index_module, stored_index):
        real = module.tune
        monkeypatch.setattr(
            module, "tune", lambda *given, real=real, **more: tuned.append(given[3]) or real(*given, **more)
        )
    fewer = bank.remove(images=["first"])
    made = fewer.make_index(0.9, lists=8)
    for weight in (None, 0.3):  # what is stored was tuned for other queries
        made.neighbour_index(replace(LISTS, recall=0.9), weight)
    made.neighbour_index(replace(LISTS, recall=0.5))
    for groups, of in zip(tuned, (fewer, made, made, made), strict=True):
        np.testing.assert_array_equal(groups, of.rows.source)
    assert 0 < len(made) < len(bank)


@settings(deadline=None, max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(20, 300),
    groups=st.integers(2, 9),
    removed=st.sets(st.integers(0, 8), min_size=1, max_size=6),
    by_class=st.booleans(),
    seed=st.integers(0, 100),
    data=st.data(),
)
def test_no_neighbour_is_missing_after_removals(
    tiny_backbone: Backbone,
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    groups: int,
    removed: set[int],
    by_class: bool,
    seed: int,
    data: st.DataObject,
) -> None:
    """Rows lie in tight groups, each an image and a class of its own; some are removed, and their places asked for."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(groups, DIM))
    source = np.arange(count) % groups
    keys = centres[source] + 0.1 * generator.normal(size=(count, DIM))
    rows = replace(
        some_rows(count),
        keys=(keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float16),
        labels=SparseLabels.from_histograms(np.eye(groups, dtype=np.int64)[source]),
        source=source.astype(np.int32),
    )
    names = tuple(f"image {i}" for i in range(groups))
    info = some_info(tiny_backbone, sources=names, classes=names, palette=((0, 0, 0),) * groups)
    path = tmp_path_factory.mktemp("banks") / "bank"
    write(path, info, rows)
    bank = MemoryBank.open(path).make_index(0.9, lists=min(groups, 8))
    gone = [names[i] for i in sorted(removed) if i < groups - 1]
    if gone:
        bank = bank.remove(classes=gone) if by_class else bank.remove(images=gone)
    k = data.draw(st.integers(1, len(bank)))
    for nprobe in (None, 1):
        index = bank.neighbour_index(IndexConfig("lists", recall=0.9, nprobe=nprobe, device="cpu"))
        similarities, found = index.search((centres / np.linalg.norm(centres, axis=1, keepdims=True)), k)
        assert all(len(set(line)) == k for line in found.tolist())
        assert 0 <= found.min() <= found.max() < len(bank)
        votes = vote(similarities, found, bank.rows.labels, groups, 0.02)
        np.testing.assert_allclose(votes.sum(1), 1, atol=1e-5)
        if not by_class:
            assert not votes[:, [names.index(name) for name in gone]].any()


def test_the_effort_is_fitted_again_when_rows_go(bank: MemoryBank) -> None:
    for changed in (bank.remove(images=["first"]), bank.remove(classes=["green"])):
        assert len(changed) < len(bank)
        figures = changed.contents.files[changed.manifest.index.file].arrays()["effort"]  # type: ignore[union-attr]
        assert figures[2] == len(changed)
    left = changed.relabel(rename={"red": "pink"})
    assert left.manifest.index == changed.manifest.index


def test_small_banks_are_searched_exactly_all_the_same(bank: MemoryBank) -> None:
    assert bank.neighbour_index(IndexConfig(device="cpu")).kind == "flat"


def test_an_open_bank_keeps_its_index(bank: MemoryBank) -> None:
    before = share_of_exact(MemoryBank.open(bank.path))
    opened = MemoryBank.open(bank.path)
    bank.compact("int4")
    assert share_of_exact(opened) == before
    bank.make_index(0.5, lists=4)
    assert share_of_exact(opened) == before


@pytest.mark.parametrize(
    ("name", "arrays", "message"),
    [
        ("codes", {"lists": np.full(250, 8, np.uint16)}, "index is damaged"),
        ("codes", {"lists": np.zeros(249, np.uint16)}, "isn't codes of 250 keys"),
        ("codes", {"lists": np.array(5, np.uint16)}, "isn't codes of 250 keys"),
        ("codes", {"codes": np.zeros((250, 3), np.uint8)}, "index is damaged"),
        ("index", {"effort": np.array([0, 1, 900])}, "isn't an index of this bank"),
        ("index", {"effort": np.array([1, 1])}, "isn't an index of this bank"),
        ("index", {"recall": np.array(0.5)}, "isn't an index of this bank"),
        ("index", {"centroids": np.full((8, 48), np.nan, np.float32)}, "index is damaged"),
        ("index", {"centroids": np.zeros((8, 47), np.float32)}, "index is damaged"),
    ],
)
def test_forged_indexes_are_refused(bank: MemoryBank, name: str, arrays: dict[str, np.ndarray], message: str) -> None:
    """The checksums are right, the contents aren't."""
    manifest = read_manifest(bank.path)
    old = manifest.segments[0].codes if name == "codes" else manifest.index
    assert old
    forged = bank.path / f"{name}-{'0' * 16}.safetensors"
    save_file(bank.contents.files[old.file].arrays() | arrays, forged)
    entry = replace(old, file=forged.name, sha256=sha256(forged), bytes=forged.stat().st_size)
    if name == "codes":
        first, *others = manifest.segments
        manifest = replace(manifest, segments=(replace(first, codes=entry), *others))
    else:
        manifest = replace(manifest, index=entry)
    (bank.path / "bank.json").write_bytes(manifest.text())
    opened = MemoryBank.open(bank.path)
    with pytest.raises(BankError, match=message):
        opened.neighbour_index(LISTS)
    assert message in opened.verify()[0]


@pytest.mark.parametrize("recall", [0.0, -1.0, 1.1])
def test_impossible_recall(bank: MemoryBank, recall: float) -> None:
    with pytest.raises(BankError, match=r"recall is .*above 0 and at most 1"):
        bank.make_index(recall)


def test_too_many_lists(bank: MemoryBank) -> None:
    with pytest.raises(Exception, match="lists is 901"):
        bank.make_index(lists=901)


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_an_open_bank_holds_no_file_open(bank: MemoryBank) -> None:
    before = len(os.listdir("/proc/self/fd"))
    opened = [MemoryBank.open(bank.path) for _ in range(5)]
    assert all(len(one.rows.keys[:3]) == 3 for one in opened)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_the_owner_is_not_written_through_a_link(bank: MemoryBank, tmp_path: Path) -> None:
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    (bank.path / ".writer.json").symlink_to(precious)
    bank.compact()
    assert precious.read_text() == "mine"
