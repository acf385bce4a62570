"""The memory bank on disk: what is written comes back, damage is refused, nothing is lost on the way."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import HALF, TINY
from safetensors import SafetensorError
from safetensors.numpy import load_file, save, save_file
from timm.models.vision_transformer import VisionTransformer

from fungi_seg import Backbone, BankError, FeatureConfig, InputConfig, MemoryBank, load_backbone
from fungi_seg.bank import writer as bank_writer
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.manifest import BLANK, BankInfo, Entry, Manifest, StoredFile
from fungi_seg.bank.rows import Rows
from fungi_seg.bank.writer import Shards, changing, check_target

DIM = 48
CLASSES = ("background", "red", "green")


def some_rows(count: int = 40, seed: int = 0, dim: int = DIM) -> Rows:
    generator = np.random.default_rng(seed)
    keys = generator.normal(size=(count, dim))
    histograms = generator.integers(0, 3, (count, len(CLASSES)))
    histograms[:, 0] += 1
    corner = generator.integers(0, 50, (count, 2))
    return Rows(
        (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float16),
        SparseLabels.from_histograms(histograms),
        generator.integers(0, 2, count).astype(np.int32),
        generator.integers(0, 4, count).astype(np.int16),
        np.concatenate([corner, corner + 8], axis=1).astype(np.float32),
    )


def some_info(backbone: Backbone, **changes: Any) -> BankInfo:
    info = BankInfo(
        classes=CLASSES,
        palette=((0, 0, 0), (128, 0, 0), (0, 128, 0)),
        sources=("first", "ünï/second"),
        backbone=backbone.config,
        fingerprint=backbone.fingerprint,
        features=FeatureConfig(),
        input=InputConfig(size=(48, 64), fit="pad"),
        build={"seed": 3, "skipped": []},
        dim=DIM,
        created="2030-01-01T00:00:00+00:00",
        made_by={"python": "3"},
    )
    return replace(info, **changes)


def write(path: Path, info: BankInfo, rows: Rows, support: np.ndarray | None = None, overwrite: bool = False) -> None:
    check_target(path, overwrite)
    with changing(path) as writer:
        shards = Shards(writer)
        shards.add(np.asarray(rows.keys), rows.table)
        entry = None if support is None else writer.arrays("support", {"keys": support.astype(np.float16)})
        writer.commit(Manifest(info, "float16", shards.finish(), entry))


def assert_same_rows(found: Rows, expected: Rows) -> None:
    for name in ("keys", "source", "epoch", "box"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    for name in ("offsets", "ids", "weights"):
        np.testing.assert_array_equal(getattr(found.labels, name), getattr(expected.labels, name))


def contents(folder: Path) -> dict[str, str]:
    """Every file below `folder` with the SHA-256 of its bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def written(tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank of 40 rows in three shards, with a support set."""
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 16)
    support = np.random.default_rng(5).normal(size=(6, 24))
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(), support)
    return tmp_path / "bank"


def manifest_of(bank: Path) -> dict[str, Any]:
    return json.loads((bank / "bank.json").read_text(encoding="utf-8"))


def edit(bank: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as whoever made the bank could: the seal fits."""
    manifest = manifest_of(bank)
    change(manifest)
    manifest.pop("sha256")
    text = json.dumps(manifest | {"sha256": BLANK}, indent=1) + "\n"
    seal = hashlib.sha256(text.encode()).hexdigest()
    (bank / "bank.json").write_text(text.replace(BLANK, seal), encoding="utf-8")


def forge(bank: Path, data: bytes, which: str = "table", number: int = 0) -> None:
    """Put other contents into a file of a segment, as whoever made the bank could: all checksums fit."""
    file = bank / manifest_of(bank)["segments"][number][which]["file"]
    file.write_bytes(data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(bank, lambda manifest: manifest["segments"][number][which].update(facts))


def forge_table(bank: Path, number: int = 0, **arrays: np.ndarray | None) -> None:
    """Change arrays of a segment's table, or leave them out."""
    file = bank / manifest_of(bank)["segments"][number]["table"]["file"]
    changed = load_file(file) | arrays
    forge(bank, save({name: array for name, array in changed.items() if array is not None}), "table", number)


def forge_keys(bank: Path, keys: np.ndarray, number: int = 0) -> None:
    forge(bank, npy(keys), "keys", number)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def shards(bank: Path, which: str = "keys") -> list[Path]:
    return [bank / segment[which]["file"] for segment in manifest_of(bank)["segments"]]


def test_round_trip(tmp_path: Path, tiny_backbone: Backbone) -> None:
    info, rows = some_info(tiny_backbone), some_rows()
    support = np.random.default_rng(1).normal(size=(5, 24)).astype(np.float16)
    write(tmp_path / "deep" / "bank", info, rows, support)
    opened = MemoryBank.open(str(tmp_path / "deep" / "bank"))
    assert opened.info == info
    assert len(opened) == 40
    assert opened.rows.keys.dtype == np.float16
    assert_same_rows(opened.rows, rows)
    np.testing.assert_array_equal(opened.support, support)


def test_without_support(tmp_path: Path, tiny_backbone: Backbone) -> None:
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows())
    assert MemoryBank.open(tmp_path / "bank").support is None
    assert len(list((tmp_path / "bank").iterdir())) == 3


def test_several_shards_come_back_in_order(written: Path) -> None:
    assert [len(np.load(file)) for file in shards(written)] == [16, 16, 8]
    assert [len(load_file(file)["source"]) for file in shards(written, "table")] == [16, 16, 8]
    assert_same_rows(MemoryBank.open(written).rows, some_rows())


def test_manifest_is_json_that_names_config_and_weights(written: Path, tiny_backbone: Backbone) -> None:
    manifest = manifest_of(written)
    info = manifest["info"]
    assert (manifest["format"], manifest["version"], manifest["rows"]) == ("fungi-seg memory bank", 2, 40)
    assert info["fingerprint"] == tiny_backbone.fingerprint
    assert info["features"]["temperature"] == FeatureConfig().temperature
    assert {k: info["input"][k] for k in ("size", "keep_aspect", "fit")} == {
        "size": [48, 64],
        "keep_aspect": True,
        "fit": "pad",
    }
    assert info["sources"][1] == "ünï/second"
    entries = [segment[which] for segment in manifest["segments"] for which in ("keys", "table")]
    for entry in [*entries, manifest["support"]]:
        data = (written / entry["file"]).read_bytes()
        assert (entry["sha256"], entry["bytes"]) == (hashlib.sha256(data).hexdigest(), len(data))


def test_manifest_ends_with_the_checksum_of_itself(written: Path) -> None:
    text = (written / "bank.json").read_bytes()
    seal = manifest_of(written)["sha256"].encode()
    assert text.endswith(b'"sha256": "' + seal + b'"\n}\n')
    assert hashlib.sha256(text.replace(seal, b"0" * 64)).hexdigest().encode() == seal


def test_nothing_is_pickled(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    bank = MemoryBank.open(written)
    assert len(np.asarray(bank.rows.keys)) == 40
    assert not bank.verify()
    assert {file.suffix for file in written.iterdir()} == {".json", ".safetensors", ".npy"}


def test_class_rows(tmp_path: Path, tiny_backbone: Backbone) -> None:
    rows = some_rows()
    write(tmp_path / "bank", some_info(tiny_backbone), rows)
    expected = (rows.labels.dense(3) > 0).sum(0)
    np.testing.assert_array_equal(MemoryBank.open(tmp_path / "bank").class_rows(), expected)


def change_byte(file: Path, place: int = -7) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


def truncate(bank: Path) -> None:
    file = shards(bank)[2]
    file.write_bytes(file.read_bytes()[:-100])


def damage_support(bank: Path) -> None:
    file = bank / manifest_of(bank)["support"]["file"]
    file.write_bytes(file.read_bytes() + b"x")


def forge_support(bank: Path) -> None:
    entry = manifest_of(bank)["support"]
    data = save({"keys": np.zeros(5, np.float32)})
    (bank / entry["file"]).write_bytes(data)
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    edit(bank, lambda manifest: manifest["support"].update(facts))


def truncate_manifest(bank: Path) -> None:
    text = (bank / "bank.json").read_text(encoding="utf-8")
    (bank / "bank.json").write_text(text[: len(text) // 2], encoding="utf-8")


def binary_manifest(bank: Path) -> None:
    (bank / "bank.json").write_bytes(b"\xff\xfe\x00\x80")


def list_manifest(bank: Path) -> None:
    (bank / "bank.json").write_text("[1, 2]", encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda bank: change_byte(shards(bank)[1]), r"keys-\w+.npy: damaged or cut off"),
        (lambda bank: change_byte(shards(bank, "table")[1]), r"table-\w+.safetensors: damaged or cut off"),
        (truncate, r"keys-\w+.npy: damaged or cut off"),
        (lambda bank: shards(bank)[0].unlink(), r"keys-\w+.npy: a file of the bank is missing"),
        (lambda bank: shards(bank, "table")[2].unlink(), r"table-\w+.safetensors: a file of the bank is missing"),
        (lambda bank: forge(bank, b"", "keys"), r"keys-\w+.npy: (can't be read|not an npy file)"),
        (damage_support, r"support-\w+.safetensors: damaged or cut off"),
        (forge_support, r"the support set isn't \[S, D\] numbers"),
        (lambda bank: forge(bank, b"\x80\x04junk" * 10), r"table-\w+.safetensors: not a safetensors file"),
        (lambda bank: forge(bank, b"\x80\x04junk" * 10, "keys"), r"keys-\w+.npy: not an npy file"),
        (truncate_manifest, r"bank.json: can't be read"),
        (binary_manifest, r"bank.json: can't be read"),
        (list_manifest, r"bank.json: not the manifest of a memory bank"),
        (lambda bank: edit(bank, lambda m: m.update(format="zip")), "not the manifest of a memory bank"),
        (lambda bank: edit(bank, lambda m: m.update(version=1)), "format version 1; this release reads 2"),
        (lambda bank: change_byte(bank / "bank.json", 900), r"bank.json: (damaged or edited|can't be read)"),
        (lambda bank: (bank / "bank.json").write_text("[" * 100_000), r"bank.json: can't be read"),
        (lambda bank: edit(bank, lambda m: m.update(rows=41)), "segments hold 40 rows, the manifest says 41"),
        (lambda bank: edit(bank, lambda m: m.update(rows=float("inf"))), "incomplete or damaged"),
        (lambda bank: edit(bank, lambda m: m["segments"].pop()), "segments hold 32 rows, the manifest says 40"),
        (lambda bank: edit(bank, lambda m: m.update(segments=[], rows=0)), "a bank without a row"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(stored=17)), "isn't 17 keys of width 48|17 stored"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(stored="x")), "count their rows"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(rows=True, stored=True)), "count their rows"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(rows=0)), "can't have 0 rows of 16 stored keys"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(rows=-1)), "can't have -1 rows of 16 stored keys"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(rows=17)), "can't have 17 rows of 16 stored keys"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(stored=2**31)), f"16 rows of {2**31} stored keys"),
        (lambda bank: edit(bank, lambda m: m["segments"][0]["keys"].update(bytes=True)), "needs a SHA-256 and a size"),
        (lambda bank: edit(bank, lambda m: m["info"].update(build=[])), "build must hold settings by name"),
        (lambda bank: edit(bank, lambda m: m.update(keys="int9")), "keys must be one of float16, int8, int4"),
        (lambda bank: edit(bank, lambda m: m.update(keys=["int8"])), "keys must be one of float16, int8, int4"),
        (
            lambda bank: forge(bank, safetensors.torch.save({"source": torch.zeros(16, dtype=torch.bfloat16)})),
            r"table-\w+.safetensors: not a safetensors file of arrays",
        ),
        (lambda bank: edit(bank, lambda m: m["info"].update(dim=47)), r"is \[16, 48\] float16, .* keys of width 47"),
        (lambda bank: edit(bank, lambda m: m["info"]["classes"].pop()), "palette must hold 2 colours"),
        (lambda bank: edit(bank, lambda m: m["info"]["sources"].pop()), "names an image that isn't listed"),
        (lambda bank: edit(bank, lambda m: m["info"].pop("fingerprint")), "has no fingerprint"),
        (lambda bank: edit(bank, lambda m: m["info"]["classes"].__setitem__(0, 5)), "must be names"),
        (lambda bank: edit(bank, lambda m: m["info"]["palette"].__setitem__(0, [0, 0, 256])), "palette must hold 3"),
        (lambda bank: edit(bank, lambda m: m["info"]["palette"].__setitem__(0, ["a", "b", "c"])), "damaged"),
        (lambda bank: edit(bank, lambda m: m.pop("segments")), "segments"),
        (lambda bank: edit(bank, lambda m: m["segments"][0]["keys"].pop("sha256")), "has no sha256"),
        (lambda bank: edit(bank, lambda m: m["segments"][0]["keys"].update(bytes="1")), "needs a SHA-256 and a size"),
        (lambda bank: edit(bank, lambda m: m["segments"][0].update(extra=1)), "unknown key 'extra'"),
        (
            lambda bank: edit(bank, lambda m: m["info"]["features"].update(temprature=1)),
            "features has the unknown key 'temprature'; did you mean 'temperature'",
        ),
        (
            lambda bank: edit(bank, lambda m: m["info"].update(fingerprnt="x")),
            "info has the unknown key 'fingerprnt'; did you mean 'fingerprint'",
        ),
        (lambda bank: edit(bank, lambda m: m["info"]["input"].update(fit="crop")), "input.fit is 'crop'"),
    ],
)
def test_damage_is_refused(written: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(written)
    with pytest.raises(BankError, match=message):
        MemoryBank.open(written)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("segments", "info", "rows") for value in (None, [], {}, "x", 7, [{}], [None])),
        *((key, value) for key in ("support", "index") for value in ([], {}, "x", 7, [{}], [None])),
        *(("history", value) for value in (None, "x", 7, [None], ["x"])),
    ],
)
def test_nonsense_in_the_manifest_is_a_bank_error(written: Path, key: str, value: object) -> None:
    edit(written, lambda manifest: manifest.update({key: value}))
    with pytest.raises(BankError, match="bank"):
        MemoryBank.open(written)


@pytest.mark.parametrize("key", ["classes", "palette", "sources", "backbone", "features", "input", "dim"])
@pytest.mark.parametrize("value", [None, 7])
def test_nonsense_in_the_info_is_a_bank_error(written: Path, key: str, value: object) -> None:
    edit(written, lambda manifest: manifest["info"].update({key: value}))
    with pytest.raises(BankError, match="bank"):
        MemoryBank.open(written)


def test_another_version_with_odd_info_is_a_bank_error(written: Path) -> None:
    edit(written, lambda manifest: manifest.update(version=9, info=[]))
    with pytest.raises(BankError, match="format version 9"):
        MemoryBank.open(written)


OUTSIDE = ["../outside.npy", "{absolute}", "sub/x.npy", "..", ".", "", 5]
OUTSIDE += ["bank.json", "keys-0123.npy", "keys", ".new-0123.npy"]


@pytest.mark.parametrize("which", ["keys", "table", "codes"])
@pytest.mark.parametrize("name", [*OUTSIDE, "keys-0123456789abcdef.npy/../../outside.npy", "keys-0123456789abcdef.pkl"])
def test_file_names_cannot_lead_out_of_the_bank(written: Path, name: str | int, which: str) -> None:
    """Even if the file there is sound."""
    entry = manifest_of(written)["segments"][0]["keys"]
    outside = written.parent / "outside.npy"
    shutil.copy(shards(written)[0], outside)
    (written / "sub").mkdir()
    shutil.copy(outside, written / "sub" / "x.npy")
    given = str(outside) if name == "{absolute}" else name
    edit(written, lambda manifest: manifest["segments"][0].update({which: entry | {"file": given}}))
    with pytest.raises(BankError, match="not a plain name within the bank"):
        MemoryBank.open(written)


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("which", ["support", "index"])
def test_other_file_names_cannot_lead_out_either(written: Path, name: str | int, which: str) -> None:
    entry = manifest_of(written)["support"]
    edit(written, lambda manifest: manifest.update({which: entry | {"file": name}}))
    with pytest.raises(BankError, match="not a plain name within the bank"):
        MemoryBank.open(written)


TABLES: list[tuple[dict[str, np.ndarray | None], str]] = [
    ({"source": np.full(16, 2, np.int32)}, "names an image that isn't listed"),
    ({"source": np.full(16, -1, np.int32)}, "names an image that isn't listed"),
    ({"source": np.zeros(15, np.int32)}, "columns don't fit"),
    ({"source": np.zeros(16, np.int64)}, "'source' or holds it in another type"),
    ({"source": None}, "has no column 'source'"),
    ({"label_counts": np.ones(17, np.uint8)}, "columns don't fit"),
    ({"label_counts": np.zeros(0, np.uint8)}, "columns don't fit"),
    ({"label_counts": np.full(16, 255, np.uint8)}, "columns don't fit"),
    ({"label_counts": np.ones((16, 1), np.uint8)}, "columns don't fit"),
    ({"label_weights": np.zeros(3, np.uint8)}, "columns don't fit"),
    ({"label_weights": np.zeros(3, np.float32)}, "another type"),
    ({"box": np.zeros((16, 3), np.float32)}, "columns don't fit"),
    ({"box": np.full((16, 4), np.nan, np.float32)}, "a box isn't one"),
    ({"box": np.tile(np.array([8, 8, 0, 0], np.float32), (16, 1))}, "a box isn't one"),
    ({"epoch": np.zeros(16, np.float16)}, "another type"),
    ({"stored_row": np.arange(16, dtype=np.int32)[::-1].copy()}, "stored_row must be 16 rising numbers below 16"),
    ({"stored_row": np.arange(1, 17, dtype=np.int32)}, "stored_row must be 16 rising numbers below 16"),
    ({"stored_row": np.arange(-1, 15, dtype=np.int32)}, "stored_row must be 16 rising numbers below 16"),
    ({"stored_row": np.zeros(16, np.int32)}, "stored_row must be 16 rising numbers below 16"),
    ({"stored_row": np.arange(16)}, "stored_row must be 16 rising numbers below 16"),
    ({"stored_row": np.arange(15, dtype=np.int32)}, "stored_row must be 16 rising numbers below 16"),
]


@pytest.mark.parametrize(("arrays", "message"), TABLES)
def test_forged_tables_are_refused(written: Path, arrays: dict[str, np.ndarray | None], message: str) -> None:
    """The checksums are right, the contents aren't."""
    forge_table(written, **arrays)
    with pytest.raises(BankError, match=message):
        MemoryBank.open(written)


def labels_of(*rows: dict[int, int], kind: type = np.uint8) -> dict[str, np.ndarray]:
    """Columns of the labels of 16 rows: those that are given, then whole ones of class 0."""
    filled = [*rows, *[{0: 255}] * (16 - len(rows))]
    return {
        "label_counts": np.array([len(row) for row in filled], np.uint8),
        "label_ids": np.array([name for row in filled for name in row], kind),
        "label_weights": np.array([weight for row in filled for weight in row.values()], np.uint8),
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (labels_of({9: 255}), "class id 9 of 3 classes"),
        (labels_of({300: 255}, kind=np.uint16), "class id 300 of 3 classes"),
        (labels_of({0: 254}), "don't sum to 255"),
        (labels_of({0: 255, 1: 255}), "don't sum to 255"),
        (labels_of({}), "a row has no label"),
        (labels_of(*[{0: 255}] * 15, {}), "a row has no label"),
    ],
)
def test_labels_that_cannot_be_are_refused(written: Path, columns: dict[str, np.ndarray], message: str) -> None:
    forge_table(written, **columns)
    with pytest.raises(BankError, match=message):
        MemoryBank.open(written)


KEYS = [
    np.zeros((16, DIM), np.float32),
    np.zeros((16, DIM), ">f2"),
    np.zeros((16, DIM - 1), np.float16),
    np.zeros((15, DIM), np.float16),
    np.zeros(16, np.float16),
    np.zeros((16, DIM, 1), np.float16),
    np.zeros((16, DIM), np.uint8),
    np.zeros((16, DIM // 2), np.int8),
    np.zeros(16, [("a", "f2")]),
]


@pytest.mark.parametrize("keys", KEYS, ids=lambda keys: f"{keys.shape}{keys.dtype}")
def test_forged_keys_are_refused(written: Path, keys: np.ndarray) -> None:
    forge_keys(written, keys)
    with pytest.raises(BankError, match=r"isn't 16 keys of width 48"):
        MemoryBank.open(written)


def header(text: str, version: bytes = b"\1\0") -> bytes:
    """An npy file with this header over 16 × 48 numbers of 2 bytes."""
    line = text.encode("latin1").ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(line).to_bytes(2, "little") + line + bytes(16 * DIM * 2)


HEADERS = [
    header("{'descr': '<f2', 'fortran_order': False, 'shape': (16, 48), }", b"\2\0"),
    header("{'descr': '<f2', 'fortran_order': False, 'shape': (16, 49), }"),
    header("{'descr': '<f2', 'fortran_order': False, 'shape': (-16, 48), }"),
    header("{'descr': '<f2', 'fortran_order': False, 'shape': (16, 99999999999999999999), }"),
    header("{'descr': '<f2', 'fortran_order': False, 'shape': (4611686018427387904, 4), }"),
    header("{'descr': '<f2', 'fortran_order': False, 'shape': ("),
    header("{'descr': '|O', 'fortran_order': False, 'shape': (16, 48), }"),
    header("{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (16,), }"),
    header("{'descr': __import__('os').system('touch /tmp/x'), 'fortran_order': False, 'shape': (16, 48), }"),
    header("[" * 110),
    header("{" * 110),
    header(""),
    b"\x93NUMPY\1\0",
    b"\x93NUMPY\1\0\xff\xff{",
    b"\x93NUMPY",
    b"P",
]


@pytest.mark.parametrize("data", HEADERS, ids=range(len(HEADERS)))
def test_forged_headers_are_refused(written: Path, data: bytes) -> None:
    forge(written, data, "keys")
    with pytest.raises(BankError, match="not an npy file"):
        MemoryBank.open(written)


def test_the_header_that_is_forged_above_would_be_read(written: Path) -> None:
    forge(written, header("{'descr': '<f2', 'fortran_order': False, 'shape': (16, 48), }"), "keys")
    assert not MemoryBank.open(written).rows.keys[:16].any()


class Mine:
    """Whoever unpickles this makes the folder that it is given."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("which", ["keys", "table"])
def test_pickles_are_refused_unread(written: Path, tmp_path: Path, which: str) -> None:
    objects = np.empty((16, DIM), object)
    objects[0, 0] = Mine(tmp_path / "ran")
    forge(written, npy(objects), which)
    with pytest.raises(BankError, match=r"not an? (npy|safetensors) file"):
        MemoryBank.open(written)
    assert not (tmp_path / "ran").exists()
    np.load(shards(written, which)[0], allow_pickle=True)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, 2])
def test_keys_that_are_no_directions_are_found(written: Path, value: float) -> None:
    keys = np.load(shards(written)[1]).copy()
    keys[3] = value
    forge_keys(written, keys, 1)
    problems = MemoryBank.open(written).verify()
    assert len(problems) == 1
    assert f"{shards(written)[1]}: a key isn't finite and of length 1" in problems[0]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(BankError, match="no memory bank there"):
        MemoryBank.open(tmp_path / "nowhere")


def test_features_of_the_banks_backbone(written: Path, tiny_backbone: Backbone) -> None:
    features = MemoryBank.open(written).patch_features(dtype="float32")
    assert features.dim == DIM
    assert features.backbone.fingerprint == tiny_backbone.fingerprint


def save_vit(path: Path, seed: int, **arguments: Any) -> Path:
    torch.manual_seed(seed)
    torch.save(VisionTransformer(**(TINY | arguments)).state_dict(), path)
    return path


def test_another_backbone_is_refused(written: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    other = load_backbone("elsewhere", save_vit(tmp_path / "other.pth", 8), model_args=TINY, mean=HALF, std=HALF)
    with pytest.raises(BankError, match="another backbone") as caught:
        MemoryBank.open(written).patch_features(backbone=other)
    for named in ("tiny", "elsewhere", tiny_backbone.fingerprint[:12], other.fingerprint[:12]):
        assert named in str(caught.value)


def test_same_weights_with_other_normalisation_are_refused(written: Path, tiny_weights: Path) -> None:
    other = load_backbone("tiny", tiny_weights, model_args=TINY, mean=HALF, std=(0.5, 0.5, 0.4))
    with pytest.raises(BankError, match="another backbone"):
        MemoryBank.open(written).patch_features(backbone=other)


def test_features_of_another_width_are_refused(tmp_path: Path, tiny_backbone: Backbone) -> None:
    write(tmp_path / "bank", some_info(tiny_backbone, dim=30), some_rows(dim=30))
    with pytest.raises(BankError, match="keys are 30 wide, the features 48"):
        MemoryBank.open(tmp_path / "bank").patch_features(backbone=tiny_backbone)


def test_weights_that_moved(written: Path, tiny_weights: Path, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.safetensors")
    edit(written, lambda manifest: manifest["info"]["backbone"].update(weights=gone))
    bank = MemoryBank.open(written)
    with pytest.raises(Exception, match="no such file"):
        bank.patch_features()
    assert bank.patch_features(weights=str(tiny_weights)).dim == DIM
    with pytest.raises(BankError, match="another backbone"):
        bank.patch_features(weights=str(save_vit(tmp_path / "other.pth", 8)))


def test_bank_is_not_overwritten_unasked(written: Path, tiny_backbone: Backbone) -> None:
    before = contents(written)
    with pytest.raises(BankError, match=r"there is a bank already.*--overwrite"):
        write(written, some_info(tiny_backbone), some_rows(8))
    assert contents(written) == before


def test_overwriting_leaves_only_the_new_files(written: Path, tiny_backbone: Backbone) -> None:
    (written / "table-0123456789abcdef.safetensors").write_bytes(b"of a run that was killed")
    (written / ".new-0123.npy").write_bytes(b"of a run that was killed")
    (written / "notes.txt").write_text("mine")
    rows = some_rows(20, seed=4)
    write(written, some_info(tiny_backbone), rows, overwrite=True)
    assert_same_rows(MemoryBank.open(written).rows, rows)
    manifest = manifest_of(written)
    assert {file.name for file in written.iterdir()} == {
        "bank.json",
        "notes.txt",
        *(segment[which]["file"] for segment in manifest["segments"] for which in ("keys", "table")),
    }


def fail_at(number: int, error: Exception) -> Callable[..., None]:
    """`save_file` that writes half of file `number` and fails there."""
    calls = 0

    def failing(arrays: dict[str, np.ndarray], path: Path) -> None:
        nonlocal calls
        calls += 1
        save_file(arrays, path)
        if calls == number:
            path.write_bytes(path.read_bytes()[:200])
            raise error

    return failing


FULL = [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("Error while serializing: I/O error")]


@pytest.mark.parametrize("error", FULL)
@pytest.mark.parametrize("number", [1, 2, 4])
def test_old_bank_survives_a_full_disk(
    written: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, error: Exception, number: int
) -> None:
    before = contents(written)
    monkeypatch.setattr(bank_writer, "save_file", fail_at(number, error))
    support = np.zeros((4, 24), np.float16)
    with pytest.raises(BankError, match=r"can't be written.*Free some space") as caught:
        write(written, some_info(tiny_backbone), some_rows(44, seed=1), support, overwrite=True)
    assert str(written) in str(caught.value)
    assert contents(written) == before
    assert_same_rows(MemoryBank.open(written).rows, some_rows())


def test_old_bank_survives_a_manifest_that_cannot_be_written(
    written: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = contents(written)
    monkeypatch.setattr(bank_writer.os, "replace", full)
    with pytest.raises(BankError, match="Free some space"):
        write(written, some_info(tiny_backbone), some_rows(seed=1), overwrite=True)
    assert contents(written) == before


def test_interrupt_just_as_the_new_bank_is_in_place(
    written: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names the new files by then, so they must stay."""

    def replace_and_stop(source: Path, target: Path) -> None:
        source.rename(target)
        if target.name == "bank.json":
            raise KeyboardInterrupt

    monkeypatch.setattr(bank_writer.os, "replace", replace_and_stop)
    with pytest.raises(KeyboardInterrupt):
        write(written, some_info(tiny_backbone), some_rows(20, seed=1), overwrite=True)
    assert_same_rows(MemoryBank.open(written).rows, some_rows(20, seed=1))


def test_files_can_be_read_by_whoever_may_read_the_manifest(written: Path) -> None:
    modes = {file.stat().st_mode & 0o777 for file in written.iterdir()}
    assert modes == {(written / "bank.json").stat().st_mode & 0o777}


@pytest.mark.parametrize("error", [*FULL, KeyboardInterrupt(), MemoryError()])
def test_new_folders_are_removed_when_writing_fails(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 16)
    monkeypatch.setattr(bank_writer, "save_file", fail_at(2, error))  # type: ignore[arg-type]
    with pytest.raises((BankError, KeyboardInterrupt, MemoryError)):
        write(tmp_path / "new" / "bank", some_info(tiny_backbone), some_rows())
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_if_commit_never_came(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), changing(tmp_path / "bank"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_kept(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(bank_writer, "save_file", fail_at(1, FULL[0]))
        with pytest.raises(BankError):
            write(folder, some_info(tiny_backbone), some_rows())
    assert folder.is_dir()
    assert not list(folder.iterdir())
    write(folder, some_info(tiny_backbone), some_rows())
    assert len(MemoryBank.open(folder)) == 40


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, tiny_backbone: Backbone, overwrite: bool) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(BankError, match="something else already"):
        write(tmp_path, some_info(tiny_backbone), some_rows(), overwrite=overwrite)
    assert contents(tmp_path).keys() == {"photo.jpg"}


@pytest.mark.parametrize("below", ["", "bank", "deep/bank"])
def test_a_file_in_the_way_is_refused(tmp_path: Path, tiny_backbone: Backbone, below: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    with pytest.raises(BankError, match="file"):
        write(file / below, some_info(tiny_backbone), some_rows())
    assert file.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [file]


def test_a_file_that_goes_while_it_is_looked_for_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when another process compacts the bank: what a first look told isn't asked again."""
    (tmp_path / "keys-0123456789abcdef.npy").write_bytes(b"keys")
    file = StoredFile(tmp_path, Entry("keys-0123456789abcdef.npy", "", 4))
    looks, real = list[Path](), Path.stat

    def gone_after_a_look(path: Path, **options: Any) -> os.stat_result:
        if path == file.path:
            looks.append(path)
            if len(looks) > 1:
                raise FileNotFoundError(errno.ENOENT, "removed meanwhile", str(path))
        return real(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", gone_after_a_look)
        assert [file.is_there(), file.is_there()] == [True, False]
