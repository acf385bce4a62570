"""Parts of a bank: each opens its own rows only, and together they answer as one index, or not at all."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from test_bank import DIM, some_info, some_rows, write

from fungi_seg import Backbone, BankError, FungiSegError, IndexConfig, MemoryBank
from fungi_seg.audit import audit_bank
from fungi_seg.bank import RowRange, contents as contents_module, writer as bank_writer
from fungi_seg.search.exact import SCANNED
from fungi_seg.served import parts as parts_module, searcher as searcher_module, sharded as sharded_module
from fungi_seg.served.parts import Answer, part_edges, whole_answer
from fungi_seg.served.searcher import Facts, PartSearcher, PartTask
from fungi_seg.sweep import sweeping

FLAT = IndexConfig("flat", device="cpu")
K = 7


@pytest.fixture
def bank(tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> MemoryBank:
    """900 rows in several files, from which some were removed, so that files hold keys that don't count."""
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 250)
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(900))
    return MemoryBank.open(tmp_path / "bank").relabel(drop=["background"]).remove(classes=["green"])


@pytest.fixture
def queries() -> np.ndarray:
    found = np.random.default_rng(9).normal(size=(20, DIM)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def threads_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are searched in this process here, which keeps its threads."""
    monkeypatch.setattr(searcher_module, "use_threads", lambda count: None)


def searchers(
    bank: MemoryBank, count: int, config: IndexConfig = FLAT, weight: float | None = None
) -> list[PartSearcher]:
    edges = part_edges(len(bank), count)
    scale = bank.query_scale(weight)
    common = (bank.manifest.seal, bank.info.dim, config, scale)
    return [
        PartSearcher(PartTask(f"part {number}", bank.path, *edges[number : number + 2], *common), 1)
        for number in range(count)
    ]


def asked(parts: list[PartSearcher], bank: MemoryBank, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return whole_answer([part.search(queries, k) for part in parts], len(bank), bank.manifest.seal, k)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("kind", ["flat", "bfloat16", "int8"])
@pytest.mark.parametrize("weight", [None, 0.3])
def test_parts_answer_as_one_index(
    bank: MemoryBank, queries: np.ndarray, count: int, kind: str, weight: float | None
) -> None:
    config = IndexConfig(kind, device="cpu")
    expected = bank.neighbour_index(config, weight).search(queries, K)
    similarities, rows = asked(searchers(bank, count, config, weight), bank, queries, K)
    np.testing.assert_array_equal(rows, expected[1])
    np.testing.assert_allclose(similarities, expected[0], atol=2e-6)


@settings(deadline=None, max_examples=20)
@given(copies=st.integers(2, 12), count=st.integers(1, 6), k=st.integers(1, 24), seed=st.integers(0, 99))
def test_ties(copies: int, count: int, k: int, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of rows that are equally near, which of them one index gives is open; the similarities aren't."""
    generator = np.random.default_rng(seed)
    keys = np.repeat(generator.normal(size=(4, DIM)), copies, axis=0)[generator.permutation(4 * copies)]
    keys = (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float16).astype(np.float32)
    rows, count, k = len(keys), min(count, len(keys)), min(k, len(keys))
    products = keys[:5] @ keys.T
    answers = []
    for start, stop in itertools.pairwise(part_edges(rows, count)):
        some = products[:, start:stop]
        order = np.argsort(-some, axis=1, kind="stable")[:, :k]
        answers.append(Answer(start, stop, "", np.take_along_axis(some, order, axis=1), order + start, 0.0))
    similarities, found = whole_answer(answers, rows, "", k)
    order = np.argsort(-products, axis=1, kind="stable")[:, :k]  # by similarity, then by row
    np.testing.assert_array_equal(found, order)
    np.testing.assert_array_equal(similarities, np.take_along_axis(products, order, axis=1))


def test_parts_find_as_near_rows_as_one_index_where_keys_are_the_same(
    tmp_path: Path, tiny_backbone: Backbone, queries: np.ndarray
) -> None:
    rows = some_rows(600)
    same = replace(rows, keys=rows.keys[np.arange(600) % 50])
    write(tmp_path / "bank", some_info(tiny_backbone), same)
    bank = MemoryBank.open(tmp_path / "bank")
    expected = bank.neighbour_index(FLAT).search(queries, 30)
    similarities, found = asked(searchers(bank, 4), bank, queries, 30)
    np.testing.assert_allclose(similarities, expected[0], atol=2e-6)
    assert all(len(set(line)) == 30 for line in found.tolist())
    products = queries @ same.keys.astype(np.float32).T
    np.testing.assert_allclose(np.take_along_axis(products, found, axis=1), similarities, atol=2e-6)


@pytest.mark.parametrize("carried", [False, True])
def test_lists_within_parts_find_what_was_asked_for(bank: MemoryBank, queries: np.ndarray, carried: bool) -> None:
    """By codes that are made when a part is opened, or that the bank carries."""
    held = bank.make_index(0.95, lists=4) if carried else bank
    exact = held.neighbour_index(FLAT).search(queries, K)[1]
    found = asked(searchers(held, 3, IndexConfig("lists", recall=0.95, device="cpu")), held, queries, K)[1]
    assert np.mean([np.isin(one, other).mean() for one, other in zip(exact, found, strict=True)]) > 0.9
    assert all(len(set(line)) == K for line in found.tolist())


def test_codes_that_the_bank_carries_are_used(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    indexed = bank.make_index(0.9, lists=4)
    monkeypatch.setattr("fungi_seg.search.index.train_coder", lambda *given, **more: pytest.fail("made codes again"))
    for part in searchers(indexed, 3, IndexConfig("lists", recall=0.9, device="cpu")):
        assert part.load() == "lists"


def test_the_exact_answer_of_a_part_with_lists(bank: MemoryBank, queries: np.ndarray) -> None:
    lists = searchers(bank, 2, IndexConfig("lists", nprobe=1, refine=1, device="cpu"), 0.3)
    found = whole_answer([part.exact(queries, K) for part in lists], len(bank), bank.manifest.seal, K)
    expected = bank.neighbour_index(FLAT, 0.3).search(queries, K)
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_allclose(found[0], expected[0], atol=2e-6)


def test_a_part_opens_no_other_files(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = contents_module.StoredFile
    monkeypatch.setattr(
        contents_module, "StoredFile", lambda path, entry: opened.append(entry.file) or real(path, entry)
    )
    first = bank.manifest.segments[0]
    rows = RowRange.open(bank.path, 1, first.rows - 1, bank.manifest.seal)
    assert opened == [first.keys.file, first.table.file]
    np.testing.assert_array_equal(rows.keys[:], bank.rows.keys[1 : first.rows - 1])


def test_every_range_of_rows(bank: MemoryBank) -> None:
    keys = np.asarray(bank.rows.keys)
    for start in range(0, len(bank), 37):
        for stop in range(start + 1, len(bank) + 1, 53):
            found = RowRange.open(bank.path, start, stop, bank.manifest.seal)
            assert len(found) == stop - start
            np.testing.assert_array_equal(found.keys[:], keys[start:stop])


def test_the_bank_was_changed(bank: MemoryBank, queries: np.ndarray) -> None:
    """What is open stays as it was; what opens later is told."""
    opened, late = searchers(bank, 2)
    before = opened.search(queries, K)
    bank.remove(images=["first"])
    np.testing.assert_array_equal(opened.search(queries, K).rows, before.rows)
    with pytest.raises(BankError, match=r"part 1, on .*was changed since it was opened; open it again"):
        late.search(queries, K)


def test_a_change_explains_a_file_that_is_gone(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = bank.manifest
    bank.compact()
    seen = iter([manifest])
    real = contents_module.read_manifest
    monkeypatch.setattr("fungi_seg.bank.row_range.read_manifest", lambda path: next(seen, None) or real(path))
    with pytest.raises(BankError, match="was changed since"):
        RowRange.open(bank.path, 0, len(bank), manifest.seal)


def test_a_damaged_file_of_a_part(bank: MemoryBank, queries: np.ndarray) -> None:
    parts = searchers(bank, 2)
    file = bank.path / bank.manifest.segments[0].keys.file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(BankError, match="damaged"):
        parts[0].search(queries, K)


def test_a_missing_bank(bank: MemoryBank, queries: np.ndarray) -> None:
    task = PartTask("part 1", bank.path / "elsewhere", 0, 9, bank.manifest.seal, DIM, FLAT, None)
    with pytest.raises(BankError, match=r"part 1, on .*no memory bank there"):
        PartSearcher(task, 1).load()


def test_the_whole_bank_is_not_checked_for_a_sharded_index(bank: MemoryBank) -> None:
    """The bank's own index checks all keys; other kinds are none of its business."""
    with pytest.raises(FungiSegError, match=r"index.kind is sharded, but rows are searched in this process"):
        bank.neighbour_index(IndexConfig("sharded"))


def test_what_needs_all_rows_here_refuses(bank: MemoryBank) -> None:
    for kind in ("sharded", "milvus"):
        config = IndexConfig(kind, address=None if kind == "sharded" else "milvus://host:1/rows")
        with pytest.raises(FungiSegError, match=f"index.kind is {kind}, but rows are searched in this process here"):
            audit_bank(bank, index=config)
        with pytest.raises(FungiSegError, match=f"index holds '{kind}', which FAISS can't make"):
            sweeping._check_index((kind,), DIM)


def answers(count: int = 3, k: int = 2) -> list[Answer]:
    similarities = np.linspace(1, 0.5, k, dtype=np.float32)[None]
    edges = part_edges(30, count)
    spans = itertools.pairwise(edges)
    return [Answer(a, b, "seal", similarities, np.arange(a, a + k)[None], 0.0) for a, b in spans]


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found[1:],
        lambda found: found[:-1],
        lambda found: [found[0], found[2]],
        lambda found: [*found, found[1]],
        lambda found: [found[0], replace(found[1], stop=19), found[2]],
    ],
)
def test_answers_that_are_not_all_rows(change: object) -> None:
    with pytest.raises(FungiSegError, match=r"isn't each of the bank's 30 rows once"):
        whole_answer(change(answers()), 30, "seal", 2)  # type: ignore[operator]


def test_answers_of_another_state() -> None:
    found = answers()
    with pytest.raises(BankError, match="open it again"):
        whole_answer([found[0], replace(found[1], seal="other"), found[2]], 30, "seal", 2)


def test_answers_that_are_too_short() -> None:
    found = answers()
    short = replace(found[1], rows=found[1].rows[:, :1], similarities=found[1].similarities[:, :1])
    with pytest.raises(FungiSegError, match=r"rows 10 to 20 gave \[1, 1\] neighbours, not \[1, 2\]"):
        whole_answer([found[0], short, found[2]], 30, "seal", 2)


def test_parts_of_whole_blocks() -> None:
    assert part_edges(10, 3) == [0, 3, 6, 10]
    assert part_edges(3, 3) == [0, 1, 2, 3]
    edges = part_edges(1_000_000, 7)
    assert edges[0] == 0
    assert edges[-1] == 1_000_000
    assert all(edge % SCANNED == 0 for edge in edges[:-1])
    assert max(np.diff(edges)) - min(np.diff(edges)) <= 2 * parts_module.BLOCK
    assert parts_module.BLOCK == SCANNED
    with pytest.raises(FungiSegError, match=r"index.parts is 4, but the bank has 3 rows"):
        part_edges(3, 4)


def test_memory_of_each_machine() -> None:
    names, fact = ("part 1 of 2", "part 2 of 2"), Facts("node-a", 3_000_000_000, 5_000_000_000)
    sharded_module._check_memory(("a", "b"), names, (fact, fact))
    sharded_module._check_memory(("a", "a"), names, (replace(fact, free=None),) * 2)
    with pytest.raises(FungiSegError, match=r"node-a has 5.0 GB of memory free, .* 6.0 GB: part 1 of 2 takes 3.0 GB"):
        sharded_module._check_memory(("a", "a"), names, (fact, fact))


def test_replicas_lie_on_different_machines() -> None:
    assert sharded_module._places(3, 2, ["a", "b"]) == [["a", "b"], ["b", "a"], ["a", "b"]]
    assert sharded_module._places(2, 2, ["a"]) == [["a", "a"], ["a", "a"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": 2}, "index.parts is 2, but index.kind auto has no parts"),
        ({"kind": "flat", "replicas": 2}, "index.replicas is 2, but index.kind flat has no parts"),
        ({"kind": "flat", "within": "int8"}, "index.within is 'int8', but index.kind flat"),
        (
            {"kind": "int8", "address": "auto"},
            "index.address is 'auto', but index.kind int8 is searched",
        ),
        ({"kind": "sharded", "parts": 0}, "index.parts is 0, index.replicas 1; both must be at least 1"),
        ({"kind": "sharded", "replicas": 0}, "index.replicas 0; both must be at least 1"),
        ({"kind": "sharded", "within": "IVF8,Flat"}, "index.within is 'IVF8,Flat'; it must be one of auto, flat"),
        ({"kind": "sharded", "within": "flat", "recall": 0.9}, "index.recall is 0.9, but index.within flat is exact"),
        ({"kind": "sharded", "recall": 0.9, "nprobe": 2, "refine": 2}, "nothing is left to tune"),
        ({"kind": "sharded", "device": "cuda"}, "index.device is cuda, but an index of kind sharded"),
        ({"kind": "sharded", "address": "milvus://u:secret@a:1/b"}, r"'milvus://a:1/b', but index.kind sharded needs"),
        ({"kind": "milvus"}, "index.address is None; for index.kind milvus it must be milvus://host:port/collection"),
        ({"kind": "milvus", "address": "milvus://u:secret@host/b"}, r"index.address is 'milvus://host/b'"),
        ({"kind": "milvus", "address": "milvus://a:1/b", "recall": 0.9}, "milvus searches as the rows were pushed"),
        ({"kind": "milvus", "address": "milvus://a:1/b", "parts": 2}, "index.kind milvus has no parts"),
    ],
)
def test_settings_that_can_not_be_meant_so(options: dict[str, object], message: str) -> None:
    with pytest.raises(FungiSegError, match=message) as caught:
        IndexConfig(**options)  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_what_results_say_of_an_index() -> None:
    assert list(IndexConfig().record()) == ["kind", "recall", "nprobe", "refine", "device"]
    found = IndexConfig("milvus", address="milvus://me:secret@host:1/rows").record()
    assert found["address"] == "milvus://host:1/rows"
    assert IndexConfig("sharded", parts=3, within="lists", recall=0.9).of_part == IndexConfig(
        "lists", recall=0.9, device="cpu"
    )
