"""The memory bank on disk: what is written comes back, damage is refused, nothing is lost on the way."""

from __future__ import annotations

import errno
import hashlib
import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from conftest import HALF, TINY
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from fungi_seg import Backbone, BankError, FeatureConfig, InputConfig, MemoryBank, load_backbone
from fungi_seg import bank as bank_module
from fungi_seg.bank import BankInfo, writing
from fungi_seg.labels import SparseLabels
from fungi_seg.sampling import Rows

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
    with writing(path, overwrite) as writer:
        writer.commit(info, rows, support)


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
    monkeypatch.setattr(bank_module, "SHARD_ROWS", 16)
    support = np.random.default_rng(5).normal(size=(6, 24))
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(), support)
    return tmp_path / "bank"


def manifest_of(bank: Path) -> dict[str, Any]:
    return json.loads((bank / "bank.json").read_text(encoding="utf-8"))


def edit(bank: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = manifest_of(bank)
    change(manifest)
    (bank / "bank.json").write_text(json.dumps(manifest), encoding="utf-8")


def forge(bank: Path, **arrays: np.ndarray) -> None:
    """Change arrays of the first shard, with a checksum that fits."""
    entry = manifest_of(bank)["shards"][0]
    file = bank / entry["file"]
    save_file(load_file(file) | arrays, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(bank, lambda manifest: manifest["shards"][0].update(sha256=digest))


def shards(bank: Path) -> list[Path]:
    return [bank / entry["file"] for entry in manifest_of(bank)["shards"]]


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
    assert len(list((tmp_path / "bank").iterdir())) == 2


def test_several_shards_come_back_in_order(written: Path) -> None:
    assert [len(load_file(file)["keys"]) for file in shards(written)] == [16, 16, 8]
    assert_same_rows(MemoryBank.open(written).rows, some_rows())


def test_manifest_is_json_that_names_config_and_weights(written: Path, tiny_backbone: Backbone) -> None:
    manifest = manifest_of(written)
    info = manifest["info"]
    assert (manifest["format"], manifest["version"], manifest["rows"]) == ("fungi-seg memory bank", 1, 40)
    assert info["fingerprint"] == tiny_backbone.fingerprint
    assert info["features"]["temperature"] == FeatureConfig().temperature
    assert info["input"] == {"size": [48, 64], "keep_aspect": True, "fit": "pad"}
    assert info["sources"][1] == "ünï/second"
    for entry in [*manifest["shards"], manifest["support"]]:
        assert entry["sha256"] == hashlib.sha256((written / entry["file"]).read_bytes()).hexdigest()


def test_nothing_is_pickled(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    monkeypatch.setattr(np, "load", refuse)
    assert len(MemoryBank.open(written)) == 40
    assert {file.suffix for file in written.iterdir()} == {".json", ".safetensors"}


def test_class_rows(tmp_path: Path, tiny_backbone: Backbone) -> None:
    rows = some_rows()
    write(tmp_path / "bank", some_info(tiny_backbone), rows)
    expected = (rows.labels.dense(3) > 0).sum(0)
    np.testing.assert_array_equal(MemoryBank.open(tmp_path / "bank").class_rows(), expected)


def flip_byte(bank: Path) -> None:
    file = shards(bank)[1]
    data = bytearray(file.read_bytes())
    data[-7] ^= 1
    file.write_bytes(data)


def truncate(bank: Path) -> None:
    file = shards(bank)[2]
    file.write_bytes(file.read_bytes()[:-100])


def remove_shard(bank: Path) -> None:
    shards(bank)[0].unlink()


def damage_support(bank: Path) -> None:
    file = bank / manifest_of(bank)["support"]["file"]
    file.write_bytes(file.read_bytes() + b"x")


def not_safetensors(bank: Path) -> None:
    file = shards(bank)[0]
    file.write_bytes(b"\x80\x04junk" * 10)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    edit(bank, lambda manifest: manifest["shards"][0].update(sha256=digest))


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
        (flip_byte, r"rows-\w+-00001.safetensors: damaged or cut off"),
        (truncate, r"rows-\w+-00002.safetensors: damaged or cut off"),
        (remove_shard, r"rows-\w+-00000.safetensors: a file of the bank is missing"),
        (damage_support, r"support-\w+.safetensors: damaged or cut off"),
        (not_safetensors, "not a safetensors file"),
        (truncate_manifest, r"bank.json: can't be read"),
        (binary_manifest, r"bank.json: can't be read"),
        (list_manifest, r"bank.json: not the manifest of a memory bank"),
        (lambda bank: edit(bank, lambda m: m.update(format="zip")), "not the manifest of a memory bank"),
        (lambda bank: edit(bank, lambda m: m.update(version=2)), "format version 2; this release reads 1"),
        (lambda bank: edit(bank, lambda m: m.update(rows=41)), "the shards hold 40 rows, the manifest says 41"),
        (lambda bank: edit(bank, lambda m: m["shards"].pop()), "the shards hold 32 rows, the manifest says 40"),
        (lambda bank: edit(bank, lambda m: m["info"].update(dim=47)), "keys is .*not .*47"),
        (lambda bank: edit(bank, lambda m: m["info"]["classes"].pop()), "palette must hold 2 colours"),
        (lambda bank: edit(bank, lambda m: m["info"]["sources"].pop()), "names an image that isn't listed"),
        (lambda bank: edit(bank, lambda m: m["info"].pop("fingerprint")), "lacks fingerprint"),
        (lambda bank: edit(bank, lambda m: m.pop("shards")), "shards"),
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


@pytest.mark.parametrize("key", ["shards", "info", "rows"])
@pytest.mark.parametrize("value", [None, [], {}, "x", 7, [{}], [None]])
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


@pytest.mark.parametrize("name", ["../outside.safetensors", "{absolute}", "sub/x.safetensors", "..", ".", "", 5])
def test_file_names_cannot_lead_out_of_the_bank(written: Path, name: str | int) -> None:
    """Even if the file there is sound."""
    outside = written.parent / "outside.safetensors"
    shutil.copy(shards(written)[0], outside)
    (written / "sub").mkdir()
    shutil.copy(outside, written / "sub" / "x.safetensors")
    given = str(outside) if name == "{absolute}" else name
    edit(written, lambda manifest: manifest["shards"][0].update(file=given))
    with pytest.raises(BankError, match="not a plain name within the bank"):
        MemoryBank.open(written)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"source": np.full(16, 2, np.int32)}, "names an image that isn't listed"),
        ({"source": np.full(16, -1, np.int32)}, "names an image that isn't listed"),
        ({"source": np.zeros(15, np.int32)}, "columns of a shard don't fit"),
        ({"label_offsets": np.zeros(17, np.int64)}, "columns of a shard don't fit"),
        ({"label_offsets": np.zeros(0, np.int64)}, "columns of a shard don't fit"),
        ({"keys": np.zeros((16, DIM), np.float32)}, "'keys' or holds it in another type"),
        ({"keys": np.zeros((16, DIM - 1), np.float16)}, "don't|agree|width"),
        ({"keys": np.zeros(16, np.float16)}, "don't|agree|width"),
        ({"label_weights": np.zeros(3, np.uint8)}, "don't fit"),
        ({"box": np.zeros((16, 3), np.float32)}, "box|don't fit"),
    ],
)
def test_forged_shards_are_refused(written: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    """The checksum is right, the contents aren't."""
    forge(written, **arrays)
    with pytest.raises(BankError, match=message):
        MemoryBank.open(written)


def test_class_ids_out_of_range_are_refused(written: Path) -> None:
    ids = np.full(16, 9, np.uint8)
    forge(written, label_ids=ids, label_offsets=np.arange(17), label_weights=np.full(16, 255, np.uint8))
    with pytest.raises(BankError, match="class id 9 of 3 classes"):
        MemoryBank.open(written)


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
    (written / "rows-leftover-00000.safetensors").write_bytes(b"of a run that was killed")
    (written / "notes.txt").write_text("mine")
    rows = some_rows(20, seed=4)
    write(written, some_info(tiny_backbone), rows, overwrite=True)
    assert_same_rows(MemoryBank.open(written).rows, rows)
    manifest = manifest_of(written)
    assert {file.name for file in written.iterdir()} == {
        "bank.json",
        "notes.txt",
        *(entry["file"] for entry in manifest["shards"]),
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
    monkeypatch.setattr(bank_module, "save_file", fail_at(number, error))
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
    monkeypatch.setattr(bank_module.os, "replace", full)
    with pytest.raises(BankError, match="Free some space"):
        write(written, some_info(tiny_backbone), some_rows(seed=1), overwrite=True)
    assert contents(written) == before


def test_interrupt_just_as_the_new_bank_is_in_place(
    written: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The manifest names the new files by then, so they must stay."""

    def replace_and_stop(source: Path, target: Path) -> NoReturn:
        source.rename(target)
        raise KeyboardInterrupt

    monkeypatch.setattr(bank_module.os, "replace", replace_and_stop)
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
    monkeypatch.setattr(bank_module, "SHARD_ROWS", 16)
    monkeypatch.setattr(bank_module, "save_file", fail_at(2, error))  # type: ignore[arg-type]
    with pytest.raises((BankError, KeyboardInterrupt, MemoryError)):
        write(tmp_path / "new" / "bank", some_info(tiny_backbone), some_rows())
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_if_commit_never_came(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writing(tmp_path / "bank"):
        _ = 1 / 0
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_taken_and_kept(
    tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "empty"
    folder.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(bank_module, "save_file", fail_at(1, FULL[0]))
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
