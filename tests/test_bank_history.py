"""Going back in a bank's history: against what the bank was, and against lists of rows in plain Python."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_bank import change_byte, contents, edit
from test_bank_edits import Row, bank_of, build, images_of, rows_of, sorted_rows

from fungi_seg import Backbone, BankError, DataConfig, DataError, MemoryBank
from fungi_seg.bank import going_back, writer as bank_writer
from fungi_seg.bank.build import append_images, replace_images
from fungi_seg.bank.revisions import lineage
from fungi_seg.bank.sources import SourceImages
from fungi_seg.search import RECALL
from fungi_seg.segmentation.confidence import changes_since_fit
from fungi_seg.segmentation.settings import DecoderConfig

RIDGE = {"settings": {**vars(DecoderConfig()), "ridge": "token"}}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 16)


@pytest.fixture
def bank(tmp_path: Path, tiny_backbone: Backbone) -> MemoryBank:
    """60 rows of 5 images in 4 shards, with the equations of a regression: revision 1."""
    return bank_of(tmp_path / "bank", tiny_backbone).keep_decoder(RIDGE)


Change = Callable[[MemoryBank], MemoryBank]


def merged(bank: MemoryBank) -> MemoryBank:
    other = bank.path.parent / "other"
    shutil.rmtree(other, ignore_errors=True)
    shutil.copytree(bank.path.parent / "origin", other)
    return bank.merge(other)


CHANGES: dict[str, Change] = {
    "remove images": lambda bank: bank.remove(["a/1", "a/4"]),
    "remove classes": lambda bank: bank.remove(classes=["green"]),
    "rename": lambda bank: bank.relabel({"red": "auto"}),
    "fuse": lambda bank: bank.relabel(fuse={"both": ["red", "green"]}),
    "drop": lambda bank: bank.relabel(drop=["blue"]),
    "index": lambda bank: bank.make_index(lists=2),
    "fit": lambda bank: bank.keep_decoder({"settings": {**vars(DecoderConfig()), "k": 7}}),
    "merge": merged,
}


def state(bank: MemoryBank) -> dict[str, Any]:
    """All that a bank is, but its history: rows, and the files that it is made of."""
    values = json.loads(bank.manifest.text())
    for key in ("history", "revisions", "sha256"):
        del values[key]
    return values | {"all rows": rows_of(bank)}


@pytest.mark.parametrize("name", CHANGES)
def test_undo_gives_back_what_was(bank: MemoryBank, tiny_backbone: Backbone, name: str) -> None:
    """Byte for byte, the regression and the index too; and what was taken back can be had again."""
    bank_of(bank.path.parent / "origin", tiny_backbone, "b")
    before, number = state(bank), bank.revision
    changed = CHANGES[name](bank)
    after = state(changed)
    assert after != before
    back = changed.undo()
    assert state(back) == state(MemoryBank.open(bank.path)) == before
    assert (back.revision, back.revisions[-2:]) == (number + 2, (number, number + 1))
    assert back.history[-1]["action"] == "undo"
    assert (back.history[-1]["to"], back.history[-1]["rows"]) == (number, len(bank))
    assert back.verify() == []
    again = back.checkout(number + 1)
    assert state(again) == after
    assert again.verify() == []


def test_undo_goes_back_step_by_step_until_the_first_state(bank: MemoryBank) -> None:
    states, now = [state(bank)], bank
    for change in (CHANGES["remove images"], CHANGES["index"], CHANGES["fuse"], CHANGES["fit"]):
        now = change(now)
        states.append(state(now))
    for expected in states[-2::-1]:
        now = now.undo()
        assert state(now) == expected
    first = now.undo()  # the fit of the fixture, on a bank whose history was empty
    assert (first.manifest.ridge, len(first)) == (None, 60)
    with pytest.raises(BankError, match=r"the last change can't be taken back. The earlier revisions 0, 1, 2, "):
        first.undo()
    assert first.verify() == []


def test_a_change_after_an_undo_is_taken_back_first(bank: MemoryBank) -> None:
    one = bank.remove(["a/1"])
    two = one.remove(["a/2"])
    back = two.undo()
    three = back.remove(["a/3"])
    assert {row["image"] for row in rows_of(three)} == {"a/0", "a/2", "a/4"}
    back = three.undo()
    assert state(back) == state(one)
    assert state(back.undo()) == state(bank)


def test_a_checkout_is_a_change_that_undo_takes_back(bank: MemoryBank) -> None:
    three = bank.remove(["a/1"]).relabel({"red": "rot"}).remove(["a/2"])
    expected = state(three)
    back = three.checkout(bank.revision)
    assert state(back) == state(bank)
    assert (back.history[-1]["action"], back.history[-1]["to"]) == ("checkout", bank.revision)
    assert state(back.undo()) == expected


def test_images_that_came_go_and_come_again(tiny_backbone: Backbone, tmp_path: Path) -> None:
    one, two = images_of(tmp_path / "one", "one", 3, 0), images_of(tmp_path / "two", "two", 2, 10)
    first = build(one, tiny_backbone, tmp_path / "bank")
    both = append_images(first, two, tiny_backbone)
    expected = sorted_rows(rows_of(both))
    back = both.undo()
    assert state(back) == state(first)
    assert sorted_rows(rows_of(append_images(back, two, tiny_backbone))) == expected


def test_a_replaced_annotation_comes_back(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """The rows, and where the mask of the image is looked for."""
    one, other = images_of(tmp_path / "one", "one", 3, 0), images_of(tmp_path / "other", "one", 1, 10)
    records = [{"data": asdict(DataConfig(root=str(tmp_path / name), split="train"))} for name in ("one", "other")]
    first = build(one, tiny_backbone, tmp_path / "bank", record=records[0])
    replaced = replace_images(first, other, tiny_backbone, record=records[1])
    assert np.array_equal(SourceImages(replaced)["one0"].mask, other[0].mask)
    back = replaced.undo()
    assert state(back) == state(first)
    assert np.array_equal(SourceImages(back)["one0"].mask, one[0].mask)
    assert np.array_equal(SourceImages(back.checkout(replaced.revision))["one0"].mask, other[0].mask)


def test_a_removed_image_is_found_again_once_it_is_back(tiny_backbone: Backbone, tmp_path: Path) -> None:
    one = images_of(tmp_path / "one", "one", 3, 0)
    record = {"data": asdict(DataConfig(root=str(tmp_path / "one"), split="train"))}
    removed = build(one, tiny_backbone, tmp_path / "bank", record=record).remove(["one1"])
    with pytest.raises(DataError, match="wasn't found"):
        SourceImages(removed)["one1"]
    assert np.array_equal(SourceImages(removed.undo())["one1"].mask, one[1].mask)


# What can't be gone back to


@pytest.mark.parametrize("number", [-1, 9, 3])
def test_revisions_that_are_not_there(bank: MemoryBank, number: int) -> None:
    changed = bank.remove(["a/1"])
    before, kept = contents(bank.path), r"The earlier revisions 0, 1 are kept, it is at revision 2 now: fungi-seg bank "
    with pytest.raises(BankError, match=rf"bank: can't go back to revision {number}\. {kept}compact ends them, "):
        changed.checkout(number)
    with pytest.raises(BankError, match=rf"can't go back to revision {number}\. "):
        changed.diff(number)
    with pytest.raises(BankError, match=rf"bank: revision 2 is what the bank is now\. {kept}"):
        changed.checkout(2)
    assert contents(bank.path) == before


def test_compacting_ends_the_way_back(bank: MemoryBank) -> None:
    compacted = bank.remove(["a/1"]).compact()
    assert {file.name.partition("-")[0] for file in bank.path.iterdir()} == {"bank.json", "keys", "table", "ridge"}
    assert not compacted.revisions
    with pytest.raises(
        BankError, match=r"the last change \(compact\) can't be taken back\. No earlier revision is kept"
    ):
        compacted.undo()
    changed = compacted.remove(["a/2"])
    assert changed.revisions == (compacted.revision,)
    assert state(changed.undo()) == state(compacted)


def test_a_new_build_has_no_way_back(tiny_backbone: Backbone, tmp_path: Path) -> None:
    one = images_of(tmp_path / "one", "one", 3, 0)
    build(one, tiny_backbone, tmp_path / "bank").remove(["one1"])
    again = build(one, tiny_backbone, tmp_path / "bank", overwrite=True)
    assert (again.revision, again.revisions) == (1, ())
    assert not list(again.path.glob("revision-*"))


def test_only_so_many_are_kept(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of those that go, go too."""
    monkeypatch.setattr(going_back, "MOST_KEPT", 3)
    now, states = bank, {bank.revision: state(bank)}
    for number in range(5):
        now = now.relabel({now.info.classes[1]: f"name {number}"})
        states[now.revision] = state(now)
    assert now.revisions == (3, 4, 5)
    tables = {segment["table"]["file"] for number in (3, 4, 5, 6) for segment in states[number]["segments"]}
    assert {file.name for file in now.path.glob("table-*")} == tables
    assert len(list(now.path.glob("revision-*"))) == 3
    assert now.verify() == []
    assert state(now.checkout(3)) == states[3]
    with pytest.raises(BankError, match="can't go back to revision 3"):
        MemoryBank.open(now.path).checkout(3)


def test_a_bank_from_before_there_were_revisions(bank: MemoryBank) -> None:
    """It opens, has none, and gets them from its next change on."""
    changed = bank.remove(["a/1"])
    edit(bank.path, lambda manifest: manifest.pop("revisions"))
    old = MemoryBank.open(bank.path)
    assert (old.revision, old.revisions, state(old)) == (2, (), state(changed))
    with pytest.raises(BankError, match=r"the last change \(remove\) can't be taken back"):
        old.undo()
    again = old.remove(["a/2"])
    assert again.revisions == (2,)
    assert state(again.undo()) == state(changed)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["revisions"].reverse(), "revisions must be numbered, rising"),
        (lambda m: m["revisions"][1].update(number="1"), "revisions must be numbered, rising"),
        (lambda m: m["revisions"][1].update(number=2), "revisions must be earlier than 2, the present one"),
        (lambda m: m["revisions"][0].update(number=-1), "revisions must be earlier than 2, the present one"),
        (
            lambda m: m["revisions"][0].update(manifest=None),
            "revisions must be numbered, rising, each with its manifest",
        ),
        (lambda m: m["revisions"][0]["manifest"].update(file="../revision-0123456789abcdef.json"), "not a plain name"),
        (lambda m: m["revisions"][0].pop("number"), "revision has no number"),
    ],
)
def test_manifests_with_revisions_that_cannot_be(
    bank: MemoryBank, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    bank.remove(["a/1"])
    edit(bank.path, change)
    with pytest.raises(BankError, match=message):
        MemoryBank.open(bank.path)


@pytest.mark.parametrize("to", [2, 7, -1, None, "1"])
def test_a_history_that_goes_in_circles(to: Any) -> None:
    with pytest.raises(BankError, match=f"its entry 2 goes back to {to}, which isn't an earlier one"):
        lineage([{"action": "build"}, {"action": "undo", "to": to}])


# Damage


def files_of_the_past(bank: MemoryBank) -> list[Path]:
    present = {"bank.json", *(entry.file for entry in bank.manifest.entries())}
    return sorted(file for file in bank.path.iterdir() if file.name not in present)


def test_every_changed_bit_of_the_past_is_found(bank: MemoryBank) -> None:
    """By `verify`, and by whoever goes there; the present is sound."""
    now = bank.remove(["a/1"]).remove(["a/2"])
    generator, files = np.random.default_rng(0), files_of_the_past(now)
    assert {file.name.partition("-")[0] for file in files} == {"revision", "keys", "table", "ridge"}
    for file in files * 3:
        whole = file.read_bytes()
        data = bytearray(whole)
        data[int(generator.integers(len(data)))] ^= 1 << int(generator.integers(8))
        file.write_bytes(data)
        opened = MemoryBank.open(now.path)
        assert any(str(file) in line for line in opened.verify()), file.name
        refusals = [line for line in (refusal(opened, number) for number in opened.revisions) if line]
        assert refusals
        assert all(str(file) in line for line in refusals)
        file.write_bytes(whole)
    assert MemoryBank.open(now.path).verify() == []


def refusal(bank: MemoryBank, number: int) -> str | None:
    """Why a revision can't be gone back to."""
    try:
        going_back.went_back(bank.contents, number)
    except BankError as error:
        return str(error)
    return None


@pytest.mark.parametrize("damage", [change_byte, Path.unlink])
def test_a_damaged_revision_does_not_stop_other_changes(
    bank: MemoryBank, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    """It is left out, with a warning; the others stay."""
    now = bank.remove(["a/1"]).remove(["a/2"])
    damaged = now.manifest.revisions[1]
    damage(now.path / damaged.manifest.file)
    after = MemoryBank.open(now.path).remove(["a/3"])
    assert f"revision-{damaged.manifest.sha256[:16]}.json" in caplog.text
    assert "the bank can't go back to it any more" in caplog.text
    assert after.revisions == (0, 2, 3)
    assert after.verify() == []
    assert state(after.undo()) == state(now)


def test_nothing_is_removed_while_it_is_unknown_what_the_past_needs(bank: MemoryBank) -> None:
    """A failed change leaves all files; the damaged one may be put back from a copy."""
    now = bank.remove(["a/1"]).remove(["a/2"])
    file = now.path / now.manifest.revisions[1].manifest.file
    whole, before = file.read_bytes(), contents(now.path)
    change_byte(file)
    with pytest.raises(BankError, match="no such image"):
        MemoryBank.open(now.path).remove(["a/9"])
    file.write_bytes(whole)
    assert contents(now.path) == before
    assert MemoryBank.open(now.path).verify() == []


def test_a_bank_that_was_compacted_meanwhile(bank: MemoryBank) -> None:
    """What is open still is what it was, but for its past."""
    now = bank.remove(["a/1"])
    expected = rows_of(now)
    MemoryBank.open(bank.path).compact()
    assert rows_of(now) == expected
    assert now.verify() == []
    with pytest.raises(BankError, match="the manifest of revision 1 can't be read"):
        now.diff(1)


# What was done


def test_what_was_taken_back_was_not_done() -> None:
    done = [{"action": a} for a in ("build", "fit", "remove", "append")]
    assert lineage(done) == done
    back = [*done, {"action": "undo", "to": 3}]
    assert lineage(back) == done[:3]
    assert changes_since_fit(back) == ["remove"]
    assert changes_since_fit([*back, {"action": "undo", "to": 2}]) == []
    again = [*back, {"action": "undo", "to": 2}, {"action": "checkout", "to": 5}, {"action": "relabel"}]
    assert lineage(again) == [*done[:3], {"action": "relabel"}]
    assert lineage([]) == lineage([{"action": "build"}, {"action": "checkout", "to": 0}]) == []


# Differences


def expected_classes(old: list[Row], new: list[Row]) -> dict[str, tuple[int, int, int, int]]:
    """Old, new, came and went, of rows that are told apart by their keys."""

    def holders(rows: list[Row]) -> dict[str, set[tuple[float, ...]]]:
        found: dict[str, set[tuple[float, ...]]] = {}
        for row in rows:
            for name in row["labels"]:
                found.setdefault(name, set()).add(tuple(row["key"]))
        return found

    before, after = holders(old), holders(new)
    found = {}
    for name in {*before, *after}:
        one, other = before.get(name, set()), after.get(name, set())
        found[name] = (len(one), len(other), len(other - one), len(one - other))
    return found


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("name", CHANGES)
def test_differences(bank: MemoryBank, tiny_backbone: Backbone, name: str, backwards: bool) -> None:
    bank_of(bank.path.parent / "origin", tiny_backbone, "b")
    changed = CHANGES[name](bank)
    sides = [(bank.revision, rows_of(bank), bank.info), (changed.revision, rows_of(changed), changed.info)]
    (first, old, before), (second, new, after) = sides[::-1] if backwards else sides
    found = changed.diff(first, second)
    assert (found.revisions, found.rows) == ((first, second), (len(old), len(new)))
    held = {c.name: (c.old, c.new, c.added, c.removed) for c in found.classes}
    assert {c: counts for c, counts in held.items() if any(counts)} == expected_classes(old, new)
    assert set(held) == {*before.classes, *after.classes}
    assert set(found.classes_added) == {*after.classes} - {*before.classes}
    assert set(found.classes_removed) == {*before.classes} - {*after.classes}
    assert set(found.images_added) == {*after.sources} - {*before.sources}
    assert set(found.images_removed) == {*before.sources} - {*after.sources}
    both = {*before.sources} & {*after.sources}
    parts = [{image: [r for r in rows if r["image"] == image] for image in both} for rows in (old, new)]
    assert set(found.images_changed) == {image for image in both if parts[0][image] != parts[1][image]}
    wanted = {
        "index": {"index.recall": (None, RECALL)},
        "fit": {"decoder.k": (30, 7), "decoder.ridge": ("token", "none")},
    }
    pairs = {key: pair[::-1] if backwards else pair for key, pair in wanted.get(name, {}).items()}
    assert found.settings == pairs
    assert json.loads(json.dumps(asdict(found)))["rows"] == [len(old), len(new)]


def test_differences_without_a_word_are_those_of_the_last_change(bank: MemoryBank) -> None:
    changed = bank.remove(["a/1"]).remove(["a/2"])
    assert changed.diff() == changed.diff(changed.revision - 1, changed.revision)
    assert changed.diff().images_removed == ("a/2",)
    same = changed.diff(changed.revision)
    assert (same.images_changed, same.settings, {c.added + c.removed for c in same.classes}) == ((), {}, {0})
    assert changed.undo().diff(2).images_added == ()


def test_a_replaced_image_differs(tiny_backbone: Backbone, tmp_path: Path) -> None:
    one, other = images_of(tmp_path / "one", "one", 3, 0), images_of(tmp_path / "other", "one", 1, 10)
    found = replace_images(build(one, tiny_backbone, tmp_path / "bank"), other, tiny_backbone).diff()
    assert (found.images_changed, found.images_added, found.images_removed) == (("one0",), (), ())
