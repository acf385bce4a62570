"""Banks in object stores, by fsspec's store in memory: what works, what is refused, and what is never lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import built
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    BankRecipe,
    DataConfig,
    Dataset,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    LoadConfig,
    MemoryBank,
    RunConfig,
    build_bank,
    open_dataset,
)
from fungi_seg.bank import (
    ShardedBuild,
    append_images,
    check_target,
    join_shards,
    join_to_manifest,
    mirror,
    writer as bank_writer,
)
from fungi_seg.cli import main
from fungi_seg.commands.comparison import named
from fungi_seg.errors import MissingExtra, StoreError, UsageError
from fungi_seg.storage import Store

ADDRESS = "memory://bucket/banks/nuclei"


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An empty store, and no mirrors."""
    monkeypatch.setenv("FUNGI_SEG_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go on as on another machine, with mirrors of its own."""
    monkeypatch.setenv("FUNGI_SEG_CACHE", str(folder))


def contents(system: Any) -> dict[str, bytes]:
    return {path: system.cat_file(path) for path in system.find("/")}


def mirror_of(address: str = ADDRESS) -> Path:
    return mirror.local(address)


def rows_of(bank: MemoryBank) -> list[np.ndarray]:
    rows = bank.rows
    return [np.concatenate(list(rows.keys.chunks())), rows.labels.ids, rows.source, rows.box]


@pytest.fixture
def remote(bank: MemoryBank) -> MemoryBank:
    """The tiny bank in the store."""
    assert bank.export(ADDRESS) == ADDRESS
    return MemoryBank.open(ADDRESS)


def test_a_bank_is_carried_there_and_opened(bank: MemoryBank, remote: MemoryBank, store: Any) -> None:
    names = {path.rpartition("/")[2] for path in store.find("/")}
    assert names == {"bank.json", *(entry.file for entry in bank.manifest.entries())}
    assert remote.place == ADDRESS
    assert remote.path.name == "nuclei"
    for mine, there in zip(rows_of(bank), rows_of(remote), strict=True):
        np.testing.assert_array_equal(mine, there)
    assert remote.verify() == []


def test_only_what_is_not_here_is_fetched(remote: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    fetch = Store.fetch
    monkeypatch.setattr(Store, "fetch", lambda self, name, file: fetched.append(name) or fetch(self, name, file))
    MemoryBank.open(ADDRESS)
    assert fetched == []
    lost = next(remote.path.glob("table-*"))
    lost.unlink()
    MemoryBank.open(ADDRESS)
    assert fetched == [lost.name]


def test_a_file_damaged_on_this_disk_is_fetched_again(remote: MemoryBank) -> None:
    file = next(remote.path.glob("keys-*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.unlink()
    file.write_bytes(data)
    assert MemoryBank.open(ADDRESS).verify() == []


def test_a_bank_is_built_there(tiny_backbone: Backbone, tmp_path: Path, store: Any) -> None:
    data, own = open_dataset(DataConfig(root=str(folder_tree(tmp_path / "data")), split="train")), InputConfig(None)
    there = built(data, tiny_backbone, ADDRESS, input=own)
    here = built(data, tiny_backbone, tmp_path / "bank", input=own)
    assert {path.rpartition("/")[2] for path in store.find("/")} == {f.name for f in here.path.iterdir()}
    for mine, other in zip(rows_of(here), rows_of(there), strict=True):
        np.testing.assert_array_equal(mine, other)
    with pytest.raises(BankError, match="memory://bucket/banks/nuclei: there is a bank already"):
        built(data, tiny_backbone, ADDRESS, input=own)
    before = set(store.find("/"))
    again = built(data, tiny_backbone, ADDRESS, overwrite=True, seed=3, input=own)
    assert again.info.build["seed"] == 3
    assert len(set(store.find("/"))) == len(before)  # the files of the old one are gone


def test_a_bank_is_not_built_among_other_things(store: Any) -> None:
    store.pipe_file("/bucket/banks/nuclei/photo.png", b"")
    with pytest.raises(BankError, match="something else already"):
        check_target(ADDRESS, overwrite=False)


def test_changes_are_published_and_seen_elsewhere(
    remote: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Any
) -> None:
    smaller = remote.remove(["train_0"])
    assert json.loads(store.cat_file("/bucket/banks/nuclei/bank.json"))["rows"] == len(smaller) < len(remote)
    machine(monkeypatch, tmp_path / "other")
    elsewhere = MemoryBank.open(ADDRESS)
    assert len(elsewhere) == len(smaller)
    back = elsewhere.undo()
    machine(monkeypatch, tmp_path / "cache")
    assert len(MemoryBank.open(ADDRESS)) == len(back) == len(remote)
    assert MemoryBank.open(ADDRESS).verify() == []


def test_a_change_is_made_to_the_bank_as_it_is_now(
    remote: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As of a folder: what another machine did since the bank was opened stays."""
    machine(monkeypatch, tmp_path / "other")
    MemoryBank.open(ADDRESS).remove(["train_0"])
    machine(monkeypatch, tmp_path / "cache")
    changed = remote.relabel({remote.info.classes[1]: "renamed"})
    assert "train_0" not in changed.info.sources
    assert "renamed" in changed.info.classes


def test_compacting_removes_what_no_state_names(remote: MemoryBank, store: Any) -> None:
    bank = remote.remove(["train_0"]).compact()
    assert {path.rpartition("/")[2] for path in store.find("/")} == {
        "bank.json",
        *(entry.file for entry in bank.manifest.entries()),
    }
    assert {f.name for f in bank.path.iterdir()} == {"bank.json", *(entry.file for entry in bank.manifest.entries())}


def test_images_are_appended(remote: MemoryBank, tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = open_dataset(DataConfig(root=str(folder_tree(tmp_path / "more")), split="val"))
    grown = append_images(remote, data, tiny_backbone)
    assert len(grown) > len(remote)
    assert len(MemoryBank.open(ADDRESS)) == len(grown)


def during(monkeypatch: pytest.MonkeyPatch, name: str, act: Callable[[], object]) -> None:
    """Do something once, right before a method of the store is called."""
    method, done = getattr(Store, name), []

    def call(self: Store, *args: Any) -> Any:
        if not done:
            done.append(True)
            act()
        return method(self, *args)

    monkeypatch.setattr(Store, name, call)


@pytest.mark.parametrize("moment", ["send", "sizes", "replace"])
def test_two_writers_at_once(remote: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str) -> None:
    """One of them is told, the other's change stays, and calling again makes both."""

    def other() -> None:
        with monkeypatch.context() as elsewhere:
            machine(elsewhere, tmp_path / "other")
            MemoryBank.open(ADDRESS).remove(["train_0"]).compact()

    during(monkeypatch, moment, other)
    with pytest.raises(BankError, match=r"memory://bucket/banks/nuclei: the bank was changed by someone else"):
        remote.relabel({remote.info.classes[1]: "renamed"})
    now = MemoryBank.open(ADDRESS)
    assert "train_0" not in now.info.sources
    assert now.verify() == []
    both = remote.relabel({remote.info.classes[1]: "renamed"})
    assert "train_0" not in both.info.sources
    assert both.verify() == []


def test_new_files_of_another_writer_are_left_alone(
    remote: MemoryBank, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only those that a killed one left a day ago are removed."""
    young, stranger = "/bucket/banks/nuclei/keys-0123456789abcdef.npy", "/bucket/banks/nuclei/notes.txt"
    for path in (young, stranger):
        store.pipe_file(path, b"x")
    remote.remove(["train_0"])
    assert store.exists(young)
    monkeypatch.setattr(mirror, "LEFT_BEHIND", -1)
    MemoryBank.open(ADDRESS).undo()
    assert not store.exists(young)
    assert store.exists(stranger)
    assert MemoryBank.open(ADDRESS).verify() == []


@pytest.mark.parametrize("number", range(6))
def test_a_change_that_fails_leaves_the_old_bank(
    remote: MemoryBank, store: Any, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Whichever call to the store fails first, and all after it."""
    before = contents(store)
    system, calls = type(store), []

    def failing(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(self: Any, *args: Any, **options: Any) -> Any:
            calls.append(method.__name__)
            if len(calls) > number:
                raise OSError("503")
            return method(self, *args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in ("pipe_file", "put_file", "cat_file", "get_file", "find", "rm_file"):
            patch.setattr(system, name, failing(getattr(system, name)))
        with pytest.raises(StoreError, match=r"memory://bucket/banks/nuclei/?.*: the store can't be reached"):
            remote.remove(["train_0"])
    assert len(calls) > number
    after = contents(store)
    assert before.items() <= after.items()
    assert MemoryBank.open(ADDRESS).verify() == []
    assert "train_0" not in remote.remove(["train_0"]).info.sources


def test_a_commit_whose_answer_is_lost_counts(remote: MemoryBank, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = type(store).pipe_file

    def silent(self: Any, *args: Any, **options: Any) -> None:
        pipe(self, *args, **options)
        raise OSError("the connection was closed")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "pipe_file", silent)
        assert "train_0" not in remote.remove(["train_0"]).info.sources
    assert "train_0" not in MemoryBank.open(ADDRESS).info.sources


def test_files_that_cannot_be_removed_are_told(
    remote: MemoryBank, store: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def refused(*args: Any) -> None:
        raise PermissionError("no")

    monkeypatch.setattr(type(store), "rm_file", refused)
    assert remote.remove(["train_0"]).compact().verify() == []
    assert "files that it doesn't need any more stay in the store" in caplog.text


def test_a_file_missing_in_the_store(remote: MemoryBank, store: Any) -> None:
    gone = next(path for path in store.find("/") if "table-" in path)
    store.rm_file(gone)
    assert MemoryBank.open(ADDRESS).verify() == [f"memory:/{gone}: missing in the store; put it there again"]
    shutil.rmtree(remote.path)
    with pytest.raises(BankError, match=f"memory:/{gone}: a file of the bank is missing in the store"):
        MemoryBank.open(ADDRESS)
    with pytest.raises(BankError, match="memory://bucket/banks/nuclei"):
        remote.remove(["train_0"])


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data[:-1] + bytes([data[-1] ^ 1])])
def test_a_file_damaged_in_the_store(remote: MemoryBank, store: Any, damage: Callable[[bytes], bytes]) -> None:
    path = next(path for path in store.find("/") if "keys-" in path)
    store.pipe_file(path, damage(store.cat_file(path)))
    assert [line.partition(" ")[0] for line in MemoryBank.open(ADDRESS).verify()] == [f"memory:/{path}:"]
    shutil.rmtree(remote.path)
    with pytest.raises(BankError, match=f"memory:/{path}: damaged or cut off in the store"):
        MemoryBank.open(ADDRESS)
    assert not any(remote.path.glob("keys-*"))
    with pytest.raises(BankError, match=f"memory:/{path}: damaged or cut off in the store"):
        MemoryBank.import_file(ADDRESS, remote.path.parent / "copy")
    assert not (remote.path.parent / "copy").exists()


def test_states_it_could_go_back_to_may_be_gone(remote: MemoryBank, store: Any, caplog: Any) -> None:
    smaller = remote.remove(["train_0"])
    store.rm_file(f"/bucket/banks/nuclei/{smaller.manifest.revisions[0].manifest.file}")
    shutil.rmtree(remote.path)
    assert len(MemoryBank.open(ADDRESS)) == len(smaller)
    assert "can't go back to revision 1" in caplog.text


def test_a_bank_that_is_gone(remote: MemoryBank, store: Any) -> None:
    store.store.clear()
    with pytest.raises(BankError, match=r"memory://bucket/banks/nuclei: no memory bank there"):
        MemoryBank.open(ADDRESS)
    with pytest.raises(BankError, match=r"no memory bank there"):
        MemoryBank.import_file("memory://bucket/nothing", remote.path.parent / "copy")


def test_a_damaged_manifest(remote: MemoryBank, store: Any) -> None:
    path = "/bucket/banks/nuclei/bank.json"
    store.pipe_file(path, store.cat_file(path).replace(b'"rows": ', b'"rows":  ', 1))
    with pytest.raises(BankError, match=r"memory://bucket/banks/nuclei/bank.json: damaged or edited"):
        MemoryBank.open(ADDRESS)


def test_the_disk_here_is_full(remote: MemoryBank, monkeypatch: pytest.MonkeyPatch, store: Any) -> None:
    shutil.rmtree(remote.path)

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(store), "get_file", full)
        with pytest.raises(StoreError, match=r"memory://bucket/banks/nuclei/.*disk is full.*FUNGI_SEG_CACHE"):
            MemoryBank.open(ADDRESS)
    opened = MemoryBank.open(ADDRESS)
    with monkeypatch.context() as patch:
        patch.setattr(bank_writer, "write_arrays", full)
        with pytest.raises(BankError, match=r"memory://bucket/banks/nuclei: the copy .*FUNGI_SEG_CACHE"):
            opened.remove(["train_0"])
    assert opened.verify() == []


def test_a_writer_on_this_machine_is_named(remote: MemoryBank) -> None:
    with (
        bank_writer.changing(remote.path),
        pytest.raises(BankError, match=rf"memory://bucket/banks/nuclei: .* process {os.getpid()} "),
    ):
        remote.remove(["train_0"])
    assert MemoryBank.open(ADDRESS).verify() == []


def test_reading_works_while_it_is_changed(remote: MemoryBank) -> None:
    with bank_writer.changing(remote.path):
        assert len(MemoryBank.open(ADDRESS)) == len(remote)


def test_file_addresses_are_folders(bank: MemoryBank, tmp_path: Path) -> None:
    assert MemoryBank.open(f"file://{bank.path}").path == bank.path
    assert bank.export(f"file://{tmp_path / 'bank.tar'}") == tmp_path / "bank.tar"


def test_one_file_in_a_store(bank: MemoryBank, tmp_path: Path, store: Any) -> None:
    assert bank.export("memory://bucket/nuclei.tar") == "memory://bucket/nuclei.tar"
    assert store.cat_file("/bucket/nuclei.tar") == bank.export(tmp_path / "bank.tar").read_bytes()
    made = MemoryBank.import_file("memory://bucket/nuclei.tar", "memory://bucket/copy")
    assert made.place == "memory://bucket/copy"
    assert len(made) == len(bank)
    with pytest.raises(BankError, match=r"memory://bucket/nuclei.tar: is there already"):
        bank.export("memory://bucket/nuclei.tar")
    with pytest.raises(BankError, match=r"memory://bucket/other.tar: no such file"):
        MemoryBank.import_file("memory://bucket/other.tar", tmp_path / "copy")


def test_a_folder_of_a_store_is_imported(remote: MemoryBank, tmp_path: Path) -> None:
    made = MemoryBank.import_file(ADDRESS, tmp_path / "copy")
    assert [f.name for f in sorted(made.path.iterdir())] == [f.name for f in sorted(remote.path.iterdir())]
    with pytest.raises(BankError, match="there is a bank already"):
        made.export(ADDRESS)


@pytest.mark.parametrize(
    ("address", "error", "said"),
    [
        ("s3://", UsageError, "names no place there; give an address such as s3://bucket"),
        ("nothing://bucket/x", FungiSegError, "nothing://bucket/x: not an address of an object store"),
        (Path("s3://bucket/x"), UsageError, "a Path takes a slash out of an address"),
    ],
)
def test_addresses_that_are_none(address: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        MemoryBank.open(address)


@pytest.mark.parametrize(("address", "extra"), [("s3://b/x", "s3"), ("gs://b/x", "gcs")])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, address: str, extra: str) -> None:
    def absent(address: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(MissingExtra, match=rf"fungi-seg\[{extra}\]") as found:
        MemoryBank.open(address)
    assert "\n" not in str(found.value)


def test_the_folder_of_copies_is_the_one_that_is_named(
    remote: MemoryBank, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert remote.path.is_relative_to(tmp_path / "cache" / "banks")
    assert (remote.path.parent / "address.txt").read_text() == ADDRESS
    monkeypatch.delenv("FUNGI_SEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    assert MemoryBank.open(ADDRESS).path.is_relative_to(tmp_path / "own" / "fungi-seg" / "banks")


PLAIN = BankRecipe(FeatureConfig(kind="plain"), InputConfig(None), BankConfig(size=60))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(folder_tree(tmp_path / "tree", 7)), split="train"))


def sharded(dataset: Dataset, backbone: Backbone) -> ShardedBuild:
    return ShardedBuild(dataset, backbone, ADDRESS, 3, PLAIN, RunConfig(LoadConfig(2, 0)))


def test_shards_are_joined_there_without_their_keys(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Any
) -> None:
    """Each by a machine of its own, joined by another one; the rows are those of one build."""
    for number in (2, 3, 1):
        machine(monkeypatch, tmp_path / f"machine{number}")
        build = sharded(dataset, tiny_backbone)
        assert not build.is_done(number)
        build.write(number)
        assert build.is_done(number)
    machine(monkeypatch, tmp_path / "other")
    assert sharded(dataset, tiny_backbone).write(2).name == "0002-of-0003"  # it is there
    manifest = join_to_manifest(ADDRESS)
    assert not list((tmp_path / "other").rglob("keys-*"))
    joined = MemoryBank.open(ADDRESS)
    plain = build_bank(dataset, tiny_backbone, tmp_path / "plain", PLAIN, RunConfig(LoadConfig(2, 0)))
    assert len(manifest) == len(joined) == len(plain)
    for mine, other in zip(rows_of(joined), rows_of(plain), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert joined.verify() == []
    copy = MemoryBank.import_file(ADDRESS, tmp_path / "copy")
    assert not any(copy.path.glob("shards"))
    assert copy.verify() == []
    joined.compact()
    assert not [path for path in store.find("/") if "shards" in path]


def test_shards_that_are_missing_there(dataset: Dataset, tiny_backbone: Backbone, store: Any) -> None:
    with pytest.raises(BankError, match=r"memory://bucket/banks/nuclei/shards: no shards there"):
        join_to_manifest(ADDRESS)
    build = sharded(dataset, tiny_backbone)
    for number in (1, 3):
        build.attempt(number)
    with pytest.raises(BankError, match=r"memory://bucket/banks/nuclei: .*\n.*1 of 3 are missing: --shard 2/3"):
        join_to_manifest(ADDRESS)
    build.attempt(2)
    keys = next(path for path in store.find("/") if "keys-" in path)
    data = store.cat_file(keys)
    store.rm_file(keys)
    with pytest.raises(BankError, match=r"files of the bank are gone from the store:\n  shards/.*/keys-"):
        join_to_manifest(ADDRESS)
    assert not store.exists("/bucket/banks/nuclei/bank.json")
    store.pipe_file(keys, data)
    assert MemoryBank.open(join_shards(ADDRESS).place).verify() == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    assert main(arguments) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_banks_are_compared_at_their_addresses(remote: MemoryBank) -> None:
    assert named([ADDRESS, "report.json"]) == {"nuclei": remote.path, "report": Path("report.json")}


def test_commands_take_addresses(remote: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bank = ["--bank", ADDRESS]
    assert f"{ADDRESS}: sound" in run(capsys, "bank", "verify", *bank)
    assert ADDRESS in run(capsys, "bank", "inspect", *bank)
    assert f"{ADDRESS}: {len(remote)} →" in run(capsys, "bank", "remove", *bank, "--ids", "train_0")
    assert f"--bank {ADDRESS} " in run(capsys, "bank", "undo", *bank)
    assert "checkout" not in run(capsys, "bank", "history", *bank)
    assert ADDRESS in run(capsys, "bank", "diff", *bank)
    assert "memory://bucket/copy: " in run(capsys, "bank", "export", *bank, "--file", "memory://bucket/copy")
    out = str(tmp_path / "here")
    assert out in run(capsys, "bank", "import", "--file", "memory://bucket/copy", "--out", out)
    served = run(capsys, "serve", "--bank", ADDRESS, code=2)
    assert f"--bank is {ADDRESS}: a page serves" in served
    refused = run(capsys, "bank", "remove", *bank, "--ids", "nothing", code=1)
    assert f"{ADDRESS}: no such image" in refused
    assert str(tmp_path) not in refused
