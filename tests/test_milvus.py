"""A bank in Milvus: it is searched there as here, and never in another state than that of the open bank."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from milvus_server import environment, serving
from test_bank import DIM, some_info, some_rows, write

from fungi_seg import Backbone, BankError, FungiSegError, IndexConfig, MemoryBank, Segmenter
from fungi_seg.bank import writer as bank_writer
from fungi_seg.errors import MissingExtra
from fungi_seg.served import MilvusIndex, addresses, push_to_milvus, pushing
from fungi_seg.served.addresses import Address, Pushed, client_of
from fungi_seg.served.milvus import neighbours

FLAT = IndexConfig("flat", device="cpu")
SEAL, K = "0123456789abcdef" * 4, 7
HERE = Address.of("milvus://127.0.0.1:1/rows")
ray = pytest.mark.ray


@pytest.fixture(scope="module")
def server(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cache = pytestconfig.cache
    assert cache
    with serving(environment(cache.mkdir("milvus-lite")), tmp_path_factory.mktemp("milvus") / "data") as address:
        yield address


@pytest.fixture
def bank_there(
    server: str,
    tmp_path: Path,
    tiny_backbone: Backbone,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> tuple[MemoryBank, str]:
    """500 rows that were pushed, in several messages, and the address of them."""
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 120)
    monkeypatch.setattr(pushing, "BATCH_BYTES", 4 * DIM * 130)
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(500))
    bank, url = MemoryBank.open(tmp_path / "bank"), f"{server}/{request.node.originalname}"
    push_to_milvus(bank, url)
    return bank, url


@pytest.fixture
def queries() -> np.ndarray:
    found = np.random.default_rng(9).normal(size=(20, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def index_of(bank: MemoryBank, url: str, weight: float | None = None) -> MilvusIndex:
    return MilvusIndex(bank, IndexConfig("milvus", address=url), weight)


def collections(url: str) -> list[str]:
    """Those that were made for the rows at an address."""
    address = Address.of(url)
    client = client_of(address)
    try:
        return [name for name in client.list_collections() if name.startswith(address.name)]
    finally:
        client.close()


@ray
def test_the_neighbours_are_those_of_one_index(bank_there: tuple[MemoryBank, str], queries: np.ndarray) -> None:
    bank, url = bank_there
    for weight in (None, 0.3):
        index = index_of(bank, url, weight)
        expected = bank.neighbour_index(FLAT, weight).search(queries, K)
        similarities, rows = index.search(queries, K)
        np.testing.assert_array_equal(rows, expected[1])
        np.testing.assert_allclose(similarities, expected[0], atol=2e-6)
        assert index.kind == "milvus (FLAT)"
        assert index.recall(bank.rows.keys, queries, K) == 1.0
    assert (np.sort(index.search(queries, len(bank))[1], axis=1) == np.arange(len(bank))).all()
    with pytest.raises(FungiSegError, match="k is 501"):
        index.search(queries, 501)
    index.close()


@ray
def test_a_changed_bank_must_be_pushed_again(bank_there: tuple[MemoryBank, str], queries: np.ndarray) -> None:
    bank, url = bank_there
    opened, before = index_of(bank, url), collections(url)
    assert push_to_milvus(bank, url).collection == before[0]  # there already
    changed = bank.remove(images=["first"])
    with pytest.raises(BankError, match=r"holds something else than the bank .* fungi-seg bank push"):
        index_of(changed, url)
    push_to_milvus(changed, url)
    expected = changed.neighbour_index(FLAT).search(queries, K)
    np.testing.assert_array_equal(index_of(changed, url).search(queries, K)[1], expected[1])
    assert len(collections(url)) == 1
    assert collections(url) != before
    with pytest.raises(FungiSegError, match="Milvus doesn't do what is asked"):
        opened.search(queries, K)  # of the state that is gone


@ray
def test_a_push_that_fails_changes_nothing(
    bank_there: tuple[MemoryBank, str], queries: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank, url = bank_there
    before = collections(url)
    changed = bank.remove(images=["first"])
    real = pushing.client_of
    counted = iter(range(99))

    def failing(address: Address) -> Any:
        client = real(address)
        insert = client.insert
        client.insert = lambda *given: pytest.fail("the line is cut") if next(counted) else insert(*given)
        return client

    monkeypatch.setattr(pushing, "client_of", failing)
    with pytest.raises(pytest.fail.Exception, match="the line is cut"):
        push_to_milvus(changed, url)
    assert next(counted) > 1
    assert collections(url) == before
    monkeypatch.undo()
    client = client_of(Address.of(url))  # as a push that was killed leaves it
    client.create_collection(f"{Address.of(url).name}_{changed.manifest.seal}_draft", dimension=DIM)
    client.close()
    push_to_milvus(changed, url)
    assert len(collections(url)) == 1
    assert index_of(changed, url).search(queries, K)[1].max() < len(changed)


@ray
def test_a_graph_finds_what_was_asked_for(bank_there: tuple[MemoryBank, str], queries: np.ndarray) -> None:
    bank, url = bank_there
    push_to_milvus(bank, url, recall=0.9)
    index = index_of(bank, url)
    assert index.kind.startswith("milvus (HNSW, ef ")
    assert index.recall(bank.rows.keys, queries, K) >= 0.9
    assert len(collections(url)) == 1
    assert push_to_milvus(bank, url, recall=0.9).collection == collections(url)[0]


@ray
def test_what_is_not_of_this_package(server: str, bank: MemoryBank) -> None:
    with pytest.raises(BankError, match="aren't there; push it: fungi-seg bank push"):
        index_of(bank, f"{server}/nothing")
    client = client_of(Address.of(f"{server}/others"))
    client.create_collection("others", dimension=4)
    client.close()
    with pytest.raises(BankError, match="holds something else"):
        index_of(bank, f"{server}/others")
    with pytest.raises(FungiSegError, match="a collection that isn't of this package; give another name"):
        push_to_milvus(bank, f"{server}/others")
    assert collections(f"{server}/others") == ["others"]


@ray
def test_masks_are_those_of_one_index(server: str, bank: MemoryBank, photo: Path) -> None:
    url = f"{server}/masks"
    push_to_milvus(bank, url)
    one = Segmenter(bank, index=FLAT)
    there = Segmenter(bank, one.features, index=IndexConfig("milvus", address=url))
    np.testing.assert_array_equal(there.predict(photo).mask, one.predict(photo).mask)


def test_nobody_answers(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "SECONDS", 1.0)
    with pytest.raises(FungiSegError, match=r"milvus://127.0.0.1:1/rows: Milvus doesn't do what is asked") as caught:
        index_of(bank, "milvus://me:secret@127.0.0.1:1/rows")
    assert "secret" not in str(caught.value)


def test_without_the_extra(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(MissingExtra, match=r'pip install "fungi-seg\[milvus\]"'):
        push_to_milvus(bank, str(HERE))


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Address.of("milvus://me:p%40ss@host:19530/rows_2")
    assert (found.uri, found.token, found.name) == ("http://host:19530", "me:p@ss", "rows_2")
    assert str(found) == "milvus://host:19530/rows_2"
    assert Address.of("milvus://[::1]:5/a").uri == "http://[::1]:5"
    monkeypatch.setenv("MILVUS_TOKEN", "abc")
    assert Address.of("milvus://host:1/rows").token == "abc"


@pytest.mark.parametrize(
    "url", ["http://a:1/b", "milvus://a/b", "milvus://a:1", "milvus://a:1/1b", "milvus://a:x/b", "milvus://a:1/b?c=d",
            "milvus://a:1/b/c", f"milvus://a:1/{'b' * 200}", "milvus://u:secret@a:1/b-c"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(FungiSegError, match="isn't an address of rows in Milvus") as caught:
        Address.of(url)
    assert "secret" not in str(caught.value)


def test_names_say_what_is_there() -> None:
    for one in (Pushed("rows", SEAL), Pushed("rows", SEAL, 128)):
        assert Pushed.read("rows", one.collection) == one
    for name in ("rows", f"rows_{SEAL}", f"rows_{SEAL}_draft", f"other_{SEAL}_flat", f"rows_{SEAL}_hnsw0"):
        assert Pushed.read("rows", name) is None


@pytest.mark.parametrize("recall", [0.0, 1.5])
def test_impossible_recall(bank: MemoryBank, recall: float) -> None:
    with pytest.raises(FungiSegError, match=r"recall is .*above 0 and at most 1"):
        push_to_milvus(bank, str(HERE), recall)


def hits(rows: list[int], similarity: float = 0.5) -> list[dict[str, float]]:
    return [{"row": row, "distance": similarity} for row in rows]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ([hits([0, 1])], "gave 2 neighbours for one of 2 queries, not 2"),
        ([hits([0, 1]), hits([3])], "gave 1 neighbours for one of 2 queries"),
        ([hits([0, 1]), hits([3, 3])], "or one of them twice"),
        ([hits([0, 1]), hits([3, 10])], "rows that the bank hasn't"),
        ([hits([0, 1]), hits([-1, 2])], "rows that the bank hasn't"),
        ([hits([0, 1]), hits([1, 2], float("nan"))], "similarities that aren't finite"),
    ],
)
def test_answers_that_can_not_be(found: list[list[dict[str, float]]], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        neighbours(found, (2, 2), 10, HERE)
    assert neighbours([hits([0, 1]), hits([2, 3])], (2, 2), 10, HERE)[1].tolist() == [[0, 1], [2, 3]]
