"""A bank as one file: it comes back byte for byte, and no archive writes anything but a sound bank."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bank import assert_same_rows, change_byte, contents, edit, forge_keys, some_info, some_rows, write

from fungi_seg import Backbone, BankError, FungiSegError, MemoryBank
from fungi_seg.bank import writer as bank_writer
from fungi_seg.bank.manifest import Manifest, parse_manifest

Members = list[tuple[tarfile.TarInfo, bytes]]


@pytest.fixture
def bank(tmp_path: Path, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A bank of 40 rows in three shards, with a support set."""
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 16)
    support = np.random.default_rng(1).normal(size=(5, 24))
    write(tmp_path / "bank", some_info(tiny_backbone), some_rows(), support)
    return tmp_path / "bank"


@pytest.fixture
def archive(bank: Path, tmp_path: Path) -> Path:
    return MemoryBank.open(bank).export(tmp_path / "bank.tar")


def members(archive: Path) -> Members:
    with tarfile.open(archive) as opened:
        return [(member, opened.extractfile(member).read()) for member in opened]  # type: ignore[union-attr]


def pack(archive: Path, found: Members) -> None:
    with tarfile.open(archive, "w") as opened:
        for member, data in found:
            if member.isreg():
                member.size = len(data)
            opened.addfile(member, io.BytesIO(data))


def everything(folder: Path) -> dict[str, str]:
    """Also folders and links below `folder`."""
    return {
        str(path.relative_to(folder)): contents(folder).get(str(path.relative_to(folder)), "")
        for path in folder.rglob("*")
    }


def refused(archive: Path, out: Path, message: str) -> None:
    """Nothing is left, and nothing is written anywhere near."""
    before = everything(archive.parent)
    with pytest.raises(BankError, match=message):
        MemoryBank.import_file(archive, out)
    assert everything(archive.parent) == before


def test_what_is_exported_comes_back_byte_for_byte(bank: Path, archive: Path, tmp_path: Path) -> None:
    made = MemoryBank.import_file(str(archive), tmp_path / "deep" / "copy")
    assert contents(made.path) == contents(bank)
    assert_same_rows(made.rows, some_rows())
    assert made.export(tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_an_edited_bank_comes_back_byte_for_byte(bank: Path, tmp_path: Path) -> None:
    edited = MemoryBank.open(bank).remove(classes=["green"]).relabel({"red": "Röt"})
    made = MemoryBank.import_file(edited.export(tmp_path / "bank.tar"), tmp_path / "copy")
    manifest = replace(edited.manifest, revisions=())
    (bank / "bank.json").write_bytes(manifest.text())
    present = {"bank.json", *(entry.file for entry in manifest.entries())}
    assert contents(made.path) == {file: digest for file, digest in contents(bank).items() if file in present}
    assert made.history == edited.history
    assert edited.export(tmp_path / "once.tar").read_bytes() == made.export(tmp_path / "again.tar").read_bytes()


def test_earlier_revisions_neither_leave_nor_come(bank: Path, tmp_path: Path) -> None:
    """Also of an archive whose manifest names some."""
    edited = MemoryBank.open(bank).remove(classes=["green"])
    assert edited.revisions
    archive = edited.export(tmp_path / "bank.tar")
    assert {member.name for member, _ in members(archive)} == {
        "bank.json",
        *(entry.file for entry in edited.manifest.entries()),
    }
    found = members(archive)
    found[0] = (found[0][0], edited.manifest.text())
    pack(archive, found)
    made = MemoryBank.import_file(archive, tmp_path / "copy")
    assert (made.revisions, made.revision, made.verify()) == ((), edited.revision, [])
    with pytest.raises(BankError, match=r"the last change \(remove\) can't be taken back. No earlier revision is kept"):
        made.undo()


def test_the_archive_is_a_plain_tar_that_tells_nothing_of_its_maker(archive: Path) -> None:
    found = members(archive)
    assert found[0][0].name == "bank.json"
    named = json.loads(found[0][1])["segments"]
    assert {member.name for member, _ in found} >= {segment["keys"]["file"] for segment in named}
    assert {(m.uid, m.gid, m.uname, m.mtime, m.mode) for m, _ in found} == {(0, 0, "", 0, 0o644)}


def test_a_file_that_is_there_stays(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.tar").write_bytes(b"mine")
    with pytest.raises(BankError, match=r"mine\.tar: is there already; name another file"):
        MemoryBank.open(bank).export(tmp_path / "mine.tar")
    assert (tmp_path / "mine.tar").read_bytes() == b"mine"


def test_a_file_that_cannot_be_written(bank: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(FungiSegError, match=r"file/bank\.tar: can't be written"):
        MemoryBank.open(bank).export(tmp_path / "file" / "bank.tar")


def test_a_damaged_bank_is_not_exported(bank: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fungi_seg.bank.contents.CHECK_AT_OPEN", 0)
    opened = MemoryBank.open(bank)
    change_byte(bank / opened.manifest.segments[1].keys.file)
    with pytest.raises(BankError, match="damaged"):
        opened.export(tmp_path / "bank.tar")
    assert not list(tmp_path.glob("*.tar"))


def test_a_bank_that_is_there_stays(bank: Path, archive: Path) -> None:
    refused(archive, bank, "there is a bank already")


def test_a_folder_of_something_else_stays(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    refused(archive, tmp_path / "notes", "there is something else already")


def test_no_file(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere.tar", tmp_path / "out", "no such file; make one with fungi-seg bank export")


def test_a_folder_in_place_of_a_file(bank: Path, tmp_path: Path) -> None:
    refused(bank, tmp_path / "out", "can't be read")


def without_manifest(found: Members) -> None:
    del found[0]


def without_a_shard(found: Members) -> None:
    del found[2]


def damaged_member(found: Members) -> None:
    data = bytearray(found[2][1])
    data[-1] ^= 1
    found[2] = (found[2][0], bytes(data))


def longer_member(found: Members) -> None:
    found[2] = (found[2][0], found[2][1] + b"x")


def damaged_manifest(found: Members) -> None:
    found[0] = (found[0][0], found[0][1].replace(b"red", b"rad"))


def link(kind: bytes, target: str) -> Callable[[Members], None]:
    def change(found: Members) -> None:
        member = tarfile.TarInfo(found[2][0].name)
        member.type, member.linkname = kind, target
        found[2] = (member, b"")

    return change


def sparse_member(found: Members) -> None:
    """Of a header that says: a terabyte, all of it a hole."""
    found[2][0].pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(1 << 40)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_manifest, r"bank\.tar: has no bank\.json; export the bank again"),
        (without_a_shard, r"bank\.tar: has no (keys|table|support)-\w+\.\w+; export the bank again"),
        (damaged_member, r"bank\.tar: \S+ is damaged \(its size or SHA-256 isn't the manifest's\)"),
        (longer_member, r"bank\.tar: \S+ is damaged"),
        (damaged_manifest, r"bank\.tar: damaged or edited"),
        (link(tarfile.SYMTYPE, "/etc/hostname"), "is not a plain file in it"),
        (link(tarfile.SYMTYPE, "bank.json"), "is not a plain file in it"),
        (link(tarfile.LNKTYPE, "bank.json"), "is not a plain file in it"),
        (link(tarfile.DIRTYPE, ""), "is not a plain file in it"),
        (link(tarfile.FIFOTYPE, ""), "is not a plain file in it"),
        (link(tarfile.CHRTYPE, ""), "is not a plain file in it"),
        (link(tarfile.CONTTYPE, ""), "is not a plain file in it"),
        (link(tarfile.GNUTYPE_SPARSE, ""), "is not a plain file in it"),
        (sparse_member, "is not a plain file in it"),
    ],
)
def test_archives_of_no_sound_bank(
    archive: Path, tmp_path: Path, change: Callable[[Members], None], message: str
) -> None:
    found = members(archive)
    change(found)
    pack(archive, found)
    refused(archive, tmp_path / "out", message)


OUTSIDE = ["../evil.npy", "{absolute}", "sub/../../evil.npy", "keys-0123456789abcdef.npy/../../evil.npy"]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_out_are_refused(bank: Path, archive: Path, tmp_path: Path, name: str) -> None:
    """In a manifest whose checksum is right."""
    name = str(tmp_path / "evil.npy") if name == "{absolute}" else name
    edit(bank, lambda manifest: manifest["segments"][0]["keys"].update(file=name))
    found = members(archive)
    data = found[2][1]
    member = tarfile.TarInfo(name)
    pack(archive, [(found[0][0], (bank / "bank.json").read_bytes()), *found[1:], (member, data)])
    refused(archive, tmp_path / "out", "not a plain name within the bank")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("name", [*OUTSIDE, "notes.txt", ".lock", "keys-0123456789abcdef.npy"])
def test_members_that_the_manifest_does_not_name_are_passed_over(
    bank: Path, archive: Path, tmp_path: Path, name: str
) -> None:
    name = str(tmp_path / "evil.npy") if name == "{absolute}" else name
    pack(archive, [(tarfile.TarInfo(name), b"evil"), *members(archive), (tarfile.TarInfo(name), b"evil")])
    before = everything(tmp_path)
    MemoryBank.import_file(archive, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(bank)
    assert {path for path in everything(tmp_path) if path.partition("/")[0] != "out"} == set(before)


def test_a_bank_that_cannot_be_is_not_left_there(bank: Path, archive: Path, tmp_path: Path) -> None:
    """All checksums fit; what the files hold doesn't."""
    forge_keys(bank, np.zeros((3, 3)))
    named = json.loads((bank / "bank.json").read_text())["segments"][0]["keys"]["file"]
    found = [(m, (bank / m.name).read_bytes()) for m, _ in members(archive)]
    assert named in {member.name for member, _ in found}
    digest = hashlib.sha256((bank / named).read_bytes()).hexdigest()
    new = f"keys-{digest[:16]}.npy"
    edit(bank, lambda manifest: manifest["segments"][0]["keys"].update(file=new))
    found[0] = (found[0][0], (bank / "bank.json").read_bytes())
    for member, _ in found:
        member.name = new if member.name == named else member.name
    pack(archive, found)
    refused(archive, tmp_path / "out", "which isn't 16 keys of width 48")


def test_a_name_that_is_not_that_of_the_contents_is_refused(bank: Path, archive: Path, tmp_path: Path) -> None:
    entry: dict[str, Any] = json.loads((bank / "bank.json").read_text())["segments"][0]["keys"]
    other = "keys-" + "0" * 16 + ".npy"
    edit(bank, lambda manifest: manifest["segments"][0]["keys"].update(file=other))
    found = members(archive)
    found[0] = (found[0][0], (bank / "bank.json").read_bytes())
    for member, _ in found:
        member.name = other if member.name == entry["file"] else member.name
    pack(archive, found)
    refused(archive, tmp_path / "out", "is damaged")


@pytest.mark.parametrize(
    "data", [b"", b"x", b"not a tar" * 200, bytes(5000), b"\x1f\x8b\x08" + bytes(600), b"PK\3\4" + bytes(600)]
)
def test_what_is_no_archive(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "bank.tar").write_bytes(data)
    refused(tmp_path / "bank.tar", tmp_path / "out", r"not a whole file of a bank|has no bank\.json")


def test_compressed_archives_are_told_apart(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "bank.tgz", "w:gz") as opened:
        for member, data in members(archive):
            opened.addfile(member, io.BytesIO(data))
    refused(tmp_path / "bank.tgz", tmp_path / "out", "not a whole file of a bank")


def test_cut_off_anywhere(bank: Path, archive: Path, tmp_path: Path) -> None:
    """At any length the archive is refused, or else only padding at its end is missing."""
    whole, expected = archive.read_bytes(), contents(bank)
    found = members(archive)
    end = sum(512 + -(-len(data) // 512) * 512 for _, data in found)
    lengths = np.random.default_rng(0).integers(0, end, 40).tolist()
    for length in [*lengths, 512, end - 512, end - 1]:
        archive.write_bytes(whole[:length])
        refused(archive, tmp_path / "out", "not a whole file|has no|damaged|is not a plain file|can't be read")
    for number, length in enumerate((end, end + 512, len(whole))):
        archive.write_bytes(whole[:length])
        assert contents(MemoryBank.import_file(archive, tmp_path / str(number)).path) == expected


def test_any_changed_byte(bank: Path, archive: Path, tmp_path: Path) -> None:
    """Is refused, or was one of the archive's own that don't matter: the bank is the one that was exported."""
    whole, expected = archive.read_bytes(), contents(bank)
    generator, came = np.random.default_rng(1), 0
    found = members(archive)
    starts = np.cumsum([0, *(512 + -(-len(data) // 512) * 512 for _, data in found)])[:-1]
    anywhere = generator.integers(0, len(whole), 60)
    headers = generator.choice(starts, 100) + generator.integers(0, 512, 100)
    for number, place in enumerate([*anywhere, *headers]):
        data = bytearray(whole)
        data[place] ^= 1 << int(generator.integers(8))
        archive.write_bytes(data)
        out = tmp_path / f"out{number}"
        try:
            MemoryBank.import_file(archive, out)
        except BankError:
            assert not out.exists()
        else:
            came += 1
            assert contents(out) == expected
    assert 0 < came < 160


def test_a_manifest_is_not_read_at_any_size(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(members(archive)[0][1])
    monkeypatch.setattr("fungi_seg.bank.bundle.LARGEST_MANIFEST", size - 1)
    refused(archive, tmp_path / "out", rf"bank\.json has {size} bytes, more than a manifest can have")
    monkeypatch.setattr("fungi_seg.bank.bundle.LARGEST_MANIFEST", size)
    assert len(MemoryBank.import_file(archive, tmp_path / "out")) == 40


def test_a_member_of_another_size_is_not_written(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, written = members(archive), []
    found[-1] = (found[-1][0], found[-1][1] + b"x")
    pack(archive, found)
    stream = bank_writer.BankWriter.stream

    def noted(self: bank_writer.BankWriter, entry: Any, source: Any) -> Any:
        written.append(entry.file)
        return stream(self, entry, source)

    monkeypatch.setattr(bank_writer.BankWriter, "stream", noted)
    refused(archive, tmp_path / "out", "is damaged")
    assert found[-1][0].name not in written


def test_a_bank_made_meanwhile_stays(
    archive: Path, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, between the first look and the lock."""

    def overtaken(text: bytes, file: Path) -> Manifest:
        write(tmp_path / "out", some_info(tiny_backbone), some_rows(7))
        return parse_manifest(text, file)

    monkeypatch.setattr("fungi_seg.bank.bundle.parse_manifest", overtaken)
    with pytest.raises(BankError, match="there is a bank already"):
        MemoryBank.import_file(archive, tmp_path / "out")
    assert len(MemoryBank.open(tmp_path / "out")) == 7
