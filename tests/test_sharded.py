"""A bank that actors of Ray search: as one index, also while actors are lost, or not at all."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bank import DIM, some_info, some_rows, write

from fungi_seg import Backbone, BankError, FungiSegError, IndexConfig, MemoryBank, Segmenter
from fungi_seg.cli import main
from fungi_seg.cluster import connected
from fungi_seg.segmentation import searching
from fungi_seg.served import ShardedIndex, sharded as sharded_module

pytestmark = pytest.mark.ray
FLAT = IndexConfig("flat", device="cpu")
ROWS, K, SOON = 3000, 9, 120.0


@pytest.fixture(scope="module", autouse=True)
def one_ray() -> Iterator[None]:
    """Started once, and joined by each index."""
    with connected("local"):
        yield


@pytest.fixture(scope="module")
def large(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    path = tmp_path_factory.mktemp("sharded") / "bank"
    write(path, some_info(tiny_backbone), some_rows(ROWS))
    return MemoryBank.open(path)


@pytest.fixture(scope="module")
def index(large: MemoryBank) -> Iterator[ShardedIndex]:
    """Three parts, of which tests may kill actors: they come back."""
    made = ShardedIndex(large, IndexConfig("sharded", parts=3, within="flat"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    found = np.random.default_rng(9).normal(size=(100, 8, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=2, keepdims=True)


@pytest.fixture(scope="module")
def expected(large: MemoryBank, queries: np.ndarray) -> np.ndarray:
    """`[100, 8, K]` by brute force."""
    products = queries.reshape(-1, DIM) @ np.asarray(large.rows.keys, np.float32).T
    return np.argsort(-products, axis=1, kind="stable")[:, :K].reshape(100, 8, K)


def process_of(actor: Any) -> int:
    import ray

    return int(ray.get(actor.__ray_call__.remote(lambda self: os.getpid())))


def wait_until(done: Callable[[], bool]) -> None:
    until = time.monotonic() + SOON
    while not done():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.05)


def is_gone(process: int) -> bool:
    with suppress(FileNotFoundError):
        return Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] == "Z"
    return True


def test_it_answers_as_one_index(index: ShardedIndex, queries: np.ndarray, expected: np.ndarray) -> None:
    assert index.kind in ("sharded (3 × flat)", "sharded (3 × int8)", "sharded (3 × bfloat16)")
    for asked, rows in zip(queries[:5], expected[:5], strict=True):
        np.testing.assert_array_equal(index.search(asked, K)[1], rows)
    assert index.recall(np.empty((0, DIM)), queries[0], K) == 1.0
    every = index.search(queries[0], ROWS)  # more neighbours than a part has rows
    assert (np.sort(every[1], axis=1) == np.arange(ROWS)).all()
    assert (np.diff(every[0], axis=1) <= 0).all()


def test_no_answer_is_wrong_or_partial_while_an_actor_is_killed(
    index: ShardedIndex, queries: np.ndarray, expected: np.ndarray
) -> None:
    """100 questions from 8 clients; the process of an actor is killed when some are answered."""
    killed = []

    def ask(number: int) -> np.ndarray:
        if number == 30:
            killed.append(process_of(index._actors[1][0]))
            os.kill(killed[0], signal.SIGKILL)
        return index.search(queries[number], K)[1]

    with ThreadPoolExecutor(8) as clients:
        found = np.stack(list(clients.map(ask, range(100))))
    np.testing.assert_array_equal(found, expected)
    assert is_gone(killed[0])
    assert process_of(index._actors[1][0]) != killed[0]


def test_an_actor_that_does_not_come_back(
    large: MemoryBank, queries: np.ndarray, expected: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another replica nobody notices; without one there is no answer, and it is said why."""
    import ray

    monkeypatch.setattr(sharded_module, "PATIENCE", 1.0)
    index = ShardedIndex(large, IndexConfig("sharded", parts=2, replicas=2, within="flat"))
    ray.kill(index._actors[0][0])
    for asked, rows in zip(queries[:6], expected[:6], strict=True):
        np.testing.assert_array_equal(index.search(asked, K)[1], rows)
    ray.kill(index._actors[0][1])
    with pytest.raises(FungiSegError, match=r"part 1 of 2 \(rows 0 to 1500\) .* was lost and isn't back after 1 s"):
        index.search(queries[0], K)
    index.close()


def test_an_actor_that_comes_back_to_a_changed_bank(
    tiny_backbone: Backbone, tmp_path: Path, queries: np.ndarray
) -> None:
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(400))
    bank = MemoryBank.open(tmp_path / "bank")
    index = ShardedIndex(bank, IndexConfig("sharded", parts=1, within="flat"), 0.3)
    before = bank.neighbour_index(FLAT, 0.3).search(queries[0], K)
    np.testing.assert_allclose(index.search(queries[0], K)[0], before[0], atol=2e-6)
    bank.remove(images=["first"])
    np.testing.assert_array_equal(index.search(queries[0], K)[1], before[1])  # as it was opened
    process = process_of(index._actors[0][0])
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: is_gone(process))
    with pytest.raises(BankError, match="was changed since it was opened; open it again"):
        index.search(queries[0], K)
    with pytest.raises(BankError, match="was changed since it was opened; open it again"):
        ShardedIndex(bank, IndexConfig("sharded", parts=1))
    other = process_of(index._actors[0][0])
    index.close()
    wait_until(lambda: is_gone(other))
    with pytest.raises(FungiSegError, match="was closed"):
        index.search(queries[0], K)


def test_masks_are_those_of_one_index(bank: MemoryBank, photo: Path) -> None:
    one = Segmenter(bank, index=FLAT)
    parts = Segmenter(bank, one.features, index=IndexConfig("sharded", parts=2))
    assert isinstance(parts.index, ShardedIndex)
    np.testing.assert_array_equal(parts.predict(photo).mask, one.predict(photo).mask)
    assert parts.recall(np.zeros((32, 32, 3), np.uint8)) == 1.0
    with pytest.raises(FungiSegError, match="k is"):
        parts.index.search(np.zeros((1, bank.info.dim), np.float32), len(bank) + 1)


def test_the_command(bank: MemoryBank, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["segment", str(photo), "--bank", str(bank.path), "--report", "false"]
    assert main([*given, "--out", str(tmp_path / "one"), "--index.kind", "flat"]) == 0
    assert main([*given, "--out", str(tmp_path / "parts"), "--index.kind", "sharded", "--index.parts", "2"]) == 0
    one, parts = ((tmp_path / name / "masks" / "photo.png").read_bytes() for name in ("one", "parts"))
    assert parts == one
    assert main([*given, "--out", str(tmp_path / "no"), "--index.kind", "sharded", "--index.parts", "99999"]) != 0
    assert "lower index.parts" in capsys.readouterr().err


def test_the_index_that_a_segmenter_gets(bank: MemoryBank) -> None:
    assert searching.searcher_for(bank, FLAT, None).kind == "flat"
