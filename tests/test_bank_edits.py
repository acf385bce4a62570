"""Changing a bank: against lists of rows in plain Python, and that others aren't disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HALF, TINY, built
from PIL import Image
from test_bank import DIM, change_byte, contents, forge_table, some_info, write
from trees import scene

from fungi_seg import (
    Backbone,
    BankConfig,
    BankError,
    DataConfig,
    DataError,
    Dataset,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    RunConfig,
    Segmenter,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank import contents as bank_module, writer as bank_writer
from fungi_seg.bank.build import append_images, replace_images
from fungi_seg.bank.labels import SparseLabels
from fungi_seg.bank.rows import Rows
from fungi_seg.bank.writer import changing

CLASSES = ("background", "red", "green", "blue")
COLOURS = {"background": (0, 0, 0), "red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "pink": (9, 8, 7)}
PLAIN = FeatureConfig(kind="plain")
OWN = InputConfig(size=None)
Row = dict[str, Any]


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_writer, "SHARD_ROWS", 16)


def rows_of(bank: MemoryBank) -> list[Row]:
    """What each row says, with the names of its image and of its classes."""
    rows, found = bank.rows, []
    keys = np.asarray(rows.keys)
    for i in range(len(bank)):
        entries = range(rows.labels.offsets[i], rows.labels.offsets[i + 1])
        labels = {bank.info.classes[rows.labels.ids[e]]: int(rows.labels.weights[e]) for e in entries}
        found.append(
            {
                "image": bank.info.sources[rows.source[i]],
                "labels": labels,
                "epoch": int(rows.epoch[i]),
                "box": rows.box[i].tolist(),
                "key": keys[i].tolist(),
            }
        )
    return found


def sorted_rows(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["image"], row["epoch"], row["box"], row["key"]))


def assert_about_the_same(found: list[Row], expected: list[Row]) -> None:
    """The same rows, but for the rounding of labels, which depends on the order of the classes."""
    assert [row | {"labels": None} for row in found] == [row | {"labels": None} for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert sum(one["labels"].values()) == 255
        for name in {*one["labels"], *other["labels"]}:
            assert abs(one["labels"].get(name, 0) - other["labels"].get(name, 0)) <= 1


def without(rows: list[Row], images: tuple[str, ...] = (), classes: tuple[str, ...] = ()) -> list[Row]:
    return [row for row in rows if row["image"] not in images and not set(classes) & set(row["labels"])]


def renamed(rows: list[Row], names: dict[str, str | None]) -> list[Row]:
    """`names` says what becomes of a class, nothing of it for none."""
    found = []
    for row in rows:
        labels: dict[str, float] = {}
        for name, weight in row["labels"].items():
            new = names.get(name, name)
            if new is not None:
                labels[new] = labels.get(new, 0) + weight
        if labels:
            total = sum(labels.values())
            found.append(row | {"labels": {name: weight * 255 / total for name, weight in labels.items()}})
    return found


def bank_of(
    path: Path,
    backbone: Backbone,
    prefix: str = "a",
    classes: tuple[str, ...] = CLASSES,
    images: int = 5,
    count: int = 60,
    seed: int = 0,
) -> MemoryBank:
    """A bank of random rows of `images` images named by `prefix`."""
    generator = np.random.default_rng([seed, ord(prefix[0])])
    keys = generator.normal(size=(count, DIM))
    histograms = generator.integers(0, 3, (count, len(classes)))
    histograms[~histograms.any(1), generator.integers(len(classes))] = 1
    corner = generator.integers(0, 50, (count, 2))
    rows = Rows(
        (keys / np.linalg.norm(keys, axis=1, keepdims=True)).astype(np.float16),
        SparseLabels.from_histograms(histograms),
        np.sort(generator.integers(0, images, count)).astype(np.int32),
        generator.integers(0, 4, count).astype(np.int16),
        np.concatenate([corner, corner + 8], axis=1).astype(np.float32),
    )
    sources, palette = tuple(f"{prefix}/{i}" for i in range(images)), tuple(COLOURS[name] for name in classes)
    write(path, some_info(backbone, classes=classes, palette=palette, sources=sources), rows)
    return MemoryBank.open(path)


@pytest.fixture
def bank(tmp_path: Path, tiny_backbone: Backbone) -> MemoryBank:
    """60 rows of 5 images in 4 shards."""
    return bank_of(tmp_path / "bank", tiny_backbone)


def images_of(root: Path, prefix: str, count: int, first: int, classes: tuple[str, ...] = CLASSES[:3]) -> Dataset:
    """A data set of `count` images of 32×48, named by `prefix`."""
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    for i in range(count):
        for array, kind in zip(scene(first + i, 32, 48, len(classes)), ("images", "masks"), strict=True):
            Image.fromarray(array).save(root / "train" / kind / f"{prefix}{i}.png")
    (root / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    return open_dataset(DataConfig(root=str(root), split="train"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return images_of(tmp_path_factory.mktemp("data") / "one", "one", 3, 0)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Classes in another order, and one more."""
    return images_of(tmp_path_factory.mktemp("data") / "two", "two", 2, 10, ("green", "background", "blue"))


def build(dataset: Dataset, backbone: Backbone, out: Path, **options: Any) -> MemoryBank:
    options = {"bank": BankConfig(size=None), "features": PLAIN} | options
    return built(dataset, backbone, out, input=OWN, **options)


# Append


@pytest.mark.parametrize("kind", ["float16", "int8", "int4"])
def test_append_keeps_the_rows_and_adds_those_of_a_build(
    one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path, kind: str
) -> None:
    config = BankConfig(size=None, key_dtype=kind)
    first = build(one, tiny_backbone, tmp_path / "one", bank=config)
    alone = build(two, tiny_backbone, tmp_path / "two", bank=config)
    before = rows_of(first)
    both = append_images(first, two, tiny_backbone, record={"data": {"root": "two"}})
    assert rows_of(both)[: len(before)] == before
    assert_about_the_same(sorted_rows(rows_of(both)[len(before) :]), sorted_rows(rows_of(alone)))
    assert both.info.classes == ("background", "red", "green", "blue")
    assert both.info.palette[3] == tuple(two.palette[2])
    assert both.info.sources == (*first.info.sources, *alone.info.sources)
    assert [entry["action"] for entry in both.history] == ["build", "append"]
    added = both.history[-1]
    assert (added["added"], added["images"], added["rows"]) == (len(alone), 2, len(both))
    assert added["data"] == {"root": "two"}
    assert not both.verify()


def test_append_takes_as_many_rows_an_image_as_the_bank_has(
    one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = build(one, tiny_backbone, tmp_path / "bank", bank=BankConfig(size=30))
    assert len(append_images(first, two, tiny_backbone)) == 30 + 20
    fewer = build(one, tiny_backbone, tmp_path / "fewer", bank=BankConfig(size=30))
    assert len(append_images(fewer, two, tiny_backbone, rows=7)) == 30 + 7


def test_append_computes_the_features_of_the_bank(
    one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """With its support set, which another bank wouldn't have; the backbone is loaded from what the bank says."""
    features = FeatureConfig(negatives=2, support_size=20)
    first = build(one, tiny_backbone, tmp_path / "one", features=features)
    both = append_images(first, two)
    np.testing.assert_array_equal(both.support, first.support)
    extractor = both.patch_features()
    sample = two[1]
    image = np.moveaxis(sample.image, 2, 0)[None].astype(np.float32) / 255
    expected = extractor(torch.from_numpy(image))[0].numpy()
    rows = np.flatnonzero(both.rows.source == 4)
    box = both.rows.box[rows].astype(int)
    np.testing.assert_allclose(
        both.rows.keys[rows].astype(float), expected[box[:, 1] // 8 * 6 + box[:, 0] // 8], atol=2e-3
    )


def test_append_refuses_images_that_are_there(one: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    first = build(one, tiny_backbone, tmp_path / "bank")
    before = contents(first.path)
    with pytest.raises(
        BankError, match=r"3 of 3 images have the id of an image in the bank:\n  one0.*\n.*\n.*\n.*replace"
    ):
        append_images(first, one, tiny_backbone)
    assert contents(first.path) == before


def test_append_of_what_was_appended_already(
    one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """An earlier run may have been stopped after its end; not where only some of the images are there."""
    both = append_images(build(one, tiny_backbone, tmp_path / "bank"), two, tiny_backbone)
    with pytest.raises(BankError, match=r"data\.file_list\.\nAn earlier run that was stopped after its end may have"):
        append_images(both, two, tiny_backbone)
    more = replace(two, items=(*two.items, replace(two.items[0], id="new")))
    with pytest.raises(BankError, match=r"2 of 3 images have the id (.|\n)*data\.file_list\Z"):
        append_images(both, more, tiny_backbone)


def test_append_refuses_another_backbone(
    one: Dataset, two: Dataset, tiny_weights: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = build(one, tiny_backbone, tmp_path / "bank")
    other = load_backbone("tiny", tiny_weights, model_args=TINY, mean=HALF, std=(0.5, 0.5, 0.4))
    before = contents(first.path)
    with pytest.raises(BankError, match="another backbone"):
        append_images(first, two, other)
    assert contents(first.path) == before


def test_append_never_counts_void_as_a_class_that_took_the_place_of_background(
    one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = build(one, tiny_backbone, tmp_path / "bank", bank=BankConfig(size=None, void="background"))
    dropped = first.relabel(drop=["background"])
    with pytest.raises(BankError, match=r"bank\.void background, but its class 0 is 'red'"):
        append_images(dropped, two, tiny_backbone)


def test_append_to_what_was_edited(one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    first = build(one, tiny_backbone, tmp_path / "bank").remove(["one1"]).relabel({"green": "leaf"})
    before = rows_of(first)
    both = append_images(first, two, tiny_backbone)
    assert rows_of(both)[: len(before)] == before
    assert both.info.classes == ("background", "red", "leaf", "green", "blue")
    assert both.info.sources == ("one0", "one2", "two0", "two1")
    assert not both.verify()


# Replace


def test_replace_is_a_build_with_the_new_annotation(tiny_backbone: Backbone, tmp_path: Path) -> None:
    old = images_of(tmp_path / "old", "x", 3, 0)
    images_of(tmp_path / "new", "x", 3, 0)
    mask = np.full((32, 48), 2, np.uint8)
    mask[:8] = 1
    Image.fromarray(mask).save(tmp_path / "new" / "train" / "masks" / "x1.png")
    listed = tmp_path / "list.txt"
    listed.write_text("x1\n")
    changed = open_dataset(DataConfig(root=str(tmp_path / "new"), split="train", file_list=str(listed)))
    bank = replace_images(build(old, tiny_backbone, tmp_path / "bank"), changed, tiny_backbone)
    new = open_dataset(DataConfig(root=str(tmp_path / "new"), split="train"))
    expected = build(new, tiny_backbone, tmp_path / "expected")
    assert sorted_rows(rows_of(bank)) == sorted_rows(rows_of(expected))
    assert bank.info.sources == ("x0", "x2", "x1")
    assert bank.history[-1]["action"] == "replace"
    assert not bank.verify()


def test_replace_refuses_images_that_are_not_there(
    one: Dataset, two: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    first = build(one, tiny_backbone, tmp_path / "bank")
    with pytest.raises(BankError, match=r"no such image in the bank; append it:\n  two0\n  two1"):
        replace_images(first, two, tiny_backbone)


SKIP = RunConfig(skip_bad=True)


def spoil(root: Path, name: str, how: str) -> None:
    """An image of a folder tree that can't be used, or whose every pixel is void."""
    file = root / "train" / ("masks" if how == "void" else "images") / f"{name}.png"
    if how == "void":
        Image.fromarray(np.full((32, 48), 255, np.uint8)).save(file)
    elif how == "gone":
        file.write_bytes(b"")
    else:
        file.write_bytes(file.read_bytes()[:60])


@pytest.mark.parametrize("how", ["cut off", "gone", "void"])
def test_replace_keeps_the_rows_of_what_it_passes_over(tiny_backbone: Backbone, tmp_path: Path, how: str) -> None:
    """Rows go only where there are others to take their place."""
    bank = build(images_of(tmp_path / "old", "x", 3, 0), tiny_backbone, tmp_path / "bank")
    before = rows_of(bank)
    new = images_of(tmp_path / "new", "x", 3, 7)
    spoil(tmp_path / "new", "x1", how)
    with pytest.raises(DataError, match=r"(?s)x1.*--skip-bad skips such images"):
        replace_images(bank, new, tiny_backbone)
    assert rows_of(MemoryBank.open(bank.path)) == before
    after = replace_images(bank, new, tiny_backbone, run=SKIP)
    found = rows_of(after)
    assert [row for row in found if row["image"] == "x1"] == [row for row in before if row["image"] == "x1"]
    assert after.info.sources == ("x1", "x0", "x2")
    entry = after.history[-1]
    assert (entry["images"], entry["rows"]) == (2, len(after))
    assert len(entry["skipped"]) == 1
    assert "x1" in entry["skipped"][0]
    assert not after.verify()
    sound = images_of(tmp_path / "sound", "x", 3, 7)
    others = [row for row in rows_of(build(sound, tiny_backbone, tmp_path / "expected")) if row["image"] != "x1"]
    assert sorted_rows([row for row in found if row["image"] != "x1"]) == sorted_rows(others)


@pytest.mark.parametrize("how", ["cut off", "gone"])
def test_replace_that_passes_over_everything_changes_nothing(tiny_backbone: Backbone, tmp_path: Path, how: str) -> None:
    bank = build(images_of(tmp_path / "old", "x", 2, 0), tiny_backbone, tmp_path / "bank")
    new = images_of(tmp_path / "new", "x", 2, 7)
    for name in ("x0", "x1"):
        spoil(tmp_path / "new", name, how)
    before = contents(bank.path)
    with pytest.raises(DataError, match="no labelled patch in 2 images; skipped"):
        replace_images(bank, new, tiny_backbone, run=SKIP)
    assert contents(bank.path) == before


@pytest.mark.parametrize("how", ["cut off", "gone", "void"])
def test_what_append_passed_over_can_be_appended_later(tiny_backbone: Backbone, tmp_path: Path, how: str) -> None:
    bank = build(images_of(tmp_path / "one", "x", 2, 0), tiny_backbone, tmp_path / "bank")
    more = images_of(tmp_path / "more", "y", 3, 3)
    sound = {file: file.read_bytes() for file in (tmp_path / "more").rglob("y1.png")}
    spoil(tmp_path / "more", "y1", how)
    both = append_images(bank, more, tiny_backbone, run=SKIP)
    assert both.info.sources == ("x0", "x1", "y0", "y2")
    assert {row["image"] for row in rows_of(both)} == {"x0", "x1", "y0", "y2"}
    assert both.history[-1]["images"] == 2
    assert "y1" in both.history[-1]["skipped"][0]
    for file, values in sound.items():
        file.write_bytes(values)
    listed = tmp_path / "list.txt"
    listed.write_text("y1\n")
    mended = open_dataset(DataConfig(root=str(tmp_path / "more"), split="train", file_list=str(listed)))
    whole = append_images(both, mended, tiny_backbone)
    expected = append_images(
        build(images_of(tmp_path / "again", "x", 2, 0), tiny_backbone, tmp_path / "expected"), more, tiny_backbone
    )
    assert sorted_rows(rows_of(whole)) == sorted_rows(rows_of(expected))
    assert not whole.verify()


# Remove


@pytest.mark.parametrize(
    ("images", "classes"),
    [(("a/1",), ()), (("a/0", "a/4"), ()), ((), ("red",)), ((), ("red", "blue")), (("a/2",), ("green",))],
)
def test_remove(bank: MemoryBank, images: tuple[str, ...], classes: tuple[str, ...]) -> None:
    expected = without(rows_of(bank), images, classes)
    assert 0 < len(expected) < len(bank)
    after = bank.remove(images, classes)
    assert rows_of(after) == expected
    assert after.info.classes == CLASSES
    assert after.info.sources == tuple(source for source in bank.info.sources if source not in images)
    entry = after.history[-1]
    assert (entry["action"], entry["rows"]) == ("remove", len(expected))
    assert (entry["images"], entry["classes"]) == (sorted(images), sorted(classes))
    assert not after.verify()


@pytest.mark.parametrize(
    ("images", "classes", "message"),
    [
        ((), (), "remove needs images or classes"),
        (("a/9",), (), r"no such image in the bank:\n  'a/9'; did you mean 'a/\d'"),
        ((), ("rde",), r"no such class in the bank:\n  'rde'; did you mean 'red'"),
        (tuple(f"a/{i}" for i in range(5)), (), "no row would be left"),
        (tuple(f"a/{i}" for i in range(5)), ("red",), "no row would be left"),
        ((), CLASSES, "no row would be left"),
    ],
)
def test_what_cannot_be_removed(
    bank: MemoryBank, images: tuple[str, ...], classes: tuple[str, ...], message: str
) -> None:
    before = contents(bank.path)
    with pytest.raises(BankError, match=message):
        bank.remove(images, classes)
    assert contents(bank.path) == before


def test_only_unknown_names_that_are_shown_are_looked_up(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("fungi_seg.bank.edits.nearest", lambda name, _: asked.append(name) or "; nearest")
    with pytest.raises(BankError, match=r"(\n  'x/\d+'; nearest){10}\n  … and 30 more\Z"):
        bank.remove([f"x/{i}" for i in range(40)])
    assert len(asked) == 10


# Relabel

SWAP = {"red": "green", "green": "red"}


@pytest.mark.parametrize(
    ("rename", "fuse", "drop", "names", "classes"),
    [
        ({"red": "rot"}, {}, [], {"red": "rot"}, ("background", "rot", "green", "blue")),
        (SWAP, {}, [], SWAP, ("background", "green", "red", "blue")),
        ({}, {"warm": ["red", "green"]}, [], {"red": "warm", "green": "warm"}, ("background", "warm", "blue")),
        ({}, {"red": ["red", "blue"]}, [], {"blue": "red"}, ("background", "red", "green")),
        ({}, {"blue": ["red", "blue"]}, [], {"red": "blue"}, ("background", "blue", "green")),
        ({}, {}, ["red"], {"red": None}, ("background", "green", "blue")),
        ({}, {}, ["background", "red", "blue"], dict.fromkeys(["background", "red", "blue"]), ("green",)),
        ({"blue": "red"}, {}, ["red"], {"blue": "red", "red": None}, ("background", "green", "red")),
        (
            {"background": "ground"},
            {"warm": ["red", "blue"]},
            ["green"],
            {"background": "ground", "red": "warm", "blue": "warm", "green": None},
            ("ground", "warm"),
        ),
    ],
)  # fmt: skip
def test_relabel(
    bank: MemoryBank,
    rename: dict[str, str],
    fuse: dict[str, list[str]],
    drop: list[str],
    names: dict[str, str | None],
    classes: tuple[str, ...],
) -> None:
    expected = renamed(rows_of(bank), names)
    after = bank.relabel(rename, fuse, drop)
    assert after.info.classes == classes
    assert_about_the_same(rows_of(after), expected)
    if not drop:
        assert rows_of(after) == expected
    for name, colour in zip(after.info.classes, after.info.palette, strict=True):
        assert colour in (COLOURS.get(name), *(COLOURS[old] for old, new in names.items() if new == name))
        assert name not in COLOURS or colour == COLOURS[name]
    entry = after.history[-1]
    assert (entry["action"], entry["rename"], entry["drop"]) == ("relabel", rename, sorted(drop))
    assert {name: list(parts) for name, parts in entry["fuse"].items()} == fuse
    assert not after.verify()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "relabel needs rename, fuse or drop"),
        ({"rename": {"rde": "x"}}, r"no such class in the bank:\n  'rde'; did you mean 'red'"),
        ({"fuse": {"x": ["red", "violet"]}}, r"no such class in the bank:\n  'violet'"),
        ({"drop": ["violet"]}, r"no such class in the bank:\n  'violet'"),
        ({"rename": {"red": "green"}}, "red and green would both be called 'green'; .* fuse them all"),
        ({"rename": {"red": "x", "green": "x"}}, "red and green would both be called 'x'"),
        ({"fuse": {"green": ["red", "blue"]}}, "red and green and blue would both be called 'green'"),
        ({"rename": {"green": "x"}, "fuse": {"x": ["red", "blue"]}}, "would both be called 'x'"),
        ({"rename": {"red": "x"}, "drop": ["red"]}, "red: named more than once"),
        ({"fuse": {"x": ["red", "red"]}}, "red: named more than once"),
        ({"fuse": {"x": ["red"], "y": ["red"]}}, "red: named more than once"),
        ({"drop": list(CLASSES)}, "no class would be left"),
    ],
)
def test_what_cannot_be_relabelled(bank: MemoryBank, options: dict[str, Any], message: str) -> None:
    before = contents(bank.path)
    with pytest.raises(BankError, match=message):
        bank.relabel(**options)
    assert contents(bank.path) == before


# Merge


def test_classes_that_join_a_bank_get_free_colours(one: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """By default the first class of every data set has the same colour; in one bank two would look the same."""
    first = build(one, tiny_backbone, tmp_path / "one")
    kept = first.info.palette
    assert len(set(kept)) == 3
    added = append_images(first, images_of(tmp_path / "more", "more", 1, 30, ("background", "violet")), tiny_backbone)
    pink = images_of(tmp_path / "pink", "pink", 1, 40, ("background", "pink"))
    merged = added.merge(build(pink, tiny_backbone, tmp_path / "other"))
    assert merged.info.classes == (*first.info.classes, "violet", "pink")
    assert merged.info.palette[:3] == kept
    assert len(set(merged.info.palette)) == 5


def test_merge(bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path) -> None:
    other = bank_of(tmp_path / "b", tiny_backbone, "b", ("pink", "green", "background"), 3, 20).remove(["b/1"])
    third = bank_of(tmp_path / "c", tiny_backbone, "c", ("blue", "violet"[:0] or "pink"), 2, 10)
    untouched = contents(other.path)
    after = bank.merge(other, str(third.path))
    assert rows_of(after) == rows_of(bank) + rows_of(other) + rows_of(third)
    assert after.info.classes == (*CLASSES, "pink")
    assert after.info.palette == tuple(COLOURS[name] for name in after.info.classes)
    assert after.info.sources == (*bank.info.sources, *other.info.sources, *third.info.sources)
    assert contents(other.path) == untouched
    entry = after.history[-1]
    assert (entry["action"], entry["rows"]) == ("merge", len(after))
    assert [(origin["path"], origin["rows"]) for origin in entry["merged"]] == [
        (str(other.path), len(other)),
        (str(third.path), len(third)),
    ]
    assert entry["merged"][0]["history"][-1]["action"] == "remove"
    assert not after.verify()


def test_merge_of_other_kinds_of_keys(bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path) -> None:
    other = bank_of(tmp_path / "b", tiny_backbone, "b").compact("int8")
    third = bank_of(tmp_path / "c", tiny_backbone, "c").compact("int4")
    after = bank.merge(other, third)
    assert rows_of(after) == rows_of(bank) + rows_of(other) + rows_of(third)
    assert rows_of(after.compact()) == rows_of(after)
    assert not after.verify()


def info_with(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda manifest: manifest["info"].update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: replace(i, fingerprint="f" * 64), "weights of the backbone: 'tiny' .* and 'tiny' ffffffffffff"),
        (lambda i: replace(i, fingerprint=i.fingerprint[:12] + "f" * 52), f"'tiny' [0-9a-f]{{12}}{'f' * 52}"),
        (lambda i: replace(i, features=FeatureConfig(seed=1)), "features: .*seed=0.* and .*seed=1"),
        (lambda i: replace(i, features=PLAIN), "features: .*factored|features: .*plain"),
        (lambda i: replace(i, input=OWN), "input: "),
        (lambda i: replace(i, build={"void": "background"}), "void: None and background"),
    ],
)
def test_merge_refuses_other_features(
    bank: MemoryBank, tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    info = change(replace(bank.info, sources=tuple(f"b/{i}" for i in range(5))))
    write(tmp_path / "b", info, bank.rows)
    before = contents(bank.path)
    with pytest.raises(BankError, match=message) as caught:
        bank.merge(tmp_path / "b")
    assert "its features aren't those of" in str(caught.value)
    assert contents(bank.path) == before


def test_merge_of_the_same_features_told_in_other_words(bank: MemoryBank, tmp_path: Path) -> None:
    """The same weights under another name, from another file; a seed that plain features don't use."""
    for name, info in {
        "b": replace(bank.info, backbone=replace(bank.info.backbone, name="mine", weights="/mine.pth", device="cuda")),
        "c": replace(bank.info, features=FeatureConfig(kind="plain", seed=3)),
    }.items():
        write(tmp_path / name, replace(info, sources=tuple(f"{name}/{i}" for i in range(5))), bank.rows)
    write(tmp_path / "plain", replace(bank.info, features=PLAIN), bank.rows)
    assert len(bank.merge(tmp_path / "b")) == 2 * len(bank)
    assert len(MemoryBank.open(tmp_path / "plain").merge(tmp_path / "c")) == 2 * len(bank)


@pytest.mark.parametrize("supports", [(None, 1), (1, None), (1, 2)])
def test_merge_refuses_another_support(
    bank: MemoryBank, tmp_path: Path, supports: tuple[int | None, int | None]
) -> None:
    for name, seed in zip("bc", supports, strict=True):
        info = replace(bank.info, sources=tuple(f"{name}/{i}" for i in range(5)))
        support = None if seed is None else np.random.default_rng(seed).normal(size=(4, 24))
        write(tmp_path / name, info, bank.rows, support)
    with pytest.raises(BankError, match="the support sets that the features were contrasted with"):
        MemoryBank.open(tmp_path / "b").merge(tmp_path / "c")


def test_merge_of_the_same_support(bank: MemoryBank, tmp_path: Path) -> None:
    support = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float16)
    for name in "bc":
        info = replace(bank.info, sources=tuple(f"{name}/{i}" for i in range(5)))
        write(tmp_path / name, info, bank.rows, support)
    after = MemoryBank.open(tmp_path / "b").merge(tmp_path / "c")
    assert len(after) == 2 * len(bank)
    np.testing.assert_array_equal(after.support, support)


def test_merge_refuses_images_that_both_have(bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path) -> None:
    other = bank_of(tmp_path / "b", tiny_backbone, "b")
    same = bank_of(tmp_path / "c", tiny_backbone, "b", images=2)
    before = contents(bank.path)
    with pytest.raises(BankError, match=r"2 of its images are in .*bank as well:\n  b/0\n  b/1\nRemove them"):
        bank.merge(other, same)
    assert contents(bank.path) == before


def test_merge_refuses_itself(bank: MemoryBank, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(bank.path)
    for itself in (bank, bank.path, tmp_path / "alias"):
        with pytest.raises(BankError, match="can't be merged with itself"):
            bank.merge(itself)


def test_merge_refuses_what_was_damaged_since_it_was_opened(
    bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    other = bank_of(tmp_path / "b", tiny_backbone, "b")
    change_byte(other.path / other.manifest.segments[1].keys.file)
    before = contents(bank.path)
    with pytest.raises(BankError, match="damaged"):
        bank.merge(other)
    assert contents(bank.path) == before


# Compact


def stored_keys(bank: MemoryBank) -> int:
    return sum(segment.stored for segment in bank.manifest.segments)


def test_compact_drops_dead_keys_and_keeps_the_rows(bank: MemoryBank) -> None:
    after = bank.remove(["a/1"])
    assert stored_keys(after) > len(after)
    compacted = after.compact()
    assert rows_of(compacted) == rows_of(after)
    assert stored_keys(compacted) == len(compacted)
    assert [segment.rows for segment in compacted.manifest.segments[:-1]] == [16] * ((len(compacted) - 1) // 16)
    entry = compacted.history[-1]
    assert (entry["action"], entry["keys"], entry["rows"]) == ("compact", "float16", len(after))
    named = {"bank.json", *(entry.file for entry in compacted.manifest.entries())}
    assert {file.name for file in compacted.path.iterdir()} == named
    assert not compacted.verify()


@pytest.mark.parametrize(("kind", "cosine"), [("float16", 0.99999), ("int8", 0.9999), ("int4", 0.985)])
def test_compact_to_other_keys(bank: MemoryBank, kind: str, cosine: float) -> None:
    after = bank.compact(kind)
    assert after.manifest.keys == kind
    assert {np.load(after.path / s.keys.file).dtype for s in after.manifest.segments} == {
        np.dtype({"float16": np.float16, "int8": np.int8, "int4": np.uint8}[kind])
    }
    keys, old = np.asarray(after.rows.keys).astype(float), np.asarray(bank.rows.keys).astype(float)
    assert ((keys * old).sum(1) / np.linalg.norm(old, axis=1) / np.linalg.norm(keys, axis=1)).min() > cosine
    for row, expected in zip(rows_of(after), rows_of(bank), strict=True):
        assert row | {"key": None} == expected | {"key": None}
    assert not after.verify()
    assert rows_of(after.remove(["a/0"]).compact()) == without(rows_of(after), ("a/0",))


def test_compact_to_unknown_keys(bank: MemoryBank) -> None:
    with pytest.raises(FungiSegError, match="must be one of float16, int8, int4; did you mean 'int8'"):
        bank.compact("int9")


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_small_keys_segment_as_well(one: Dataset, tiny_backbone: Backbone, tmp_path: Path, kind: str) -> None:
    """On the images of the bank: nearly every pixel gets the class it gets with float16."""
    banks = [build(one, tiny_backbone, tmp_path / k, bank=BankConfig(None, key_dtype=k)) for k in ("float16", kind)]
    full, small = (Segmenter(bank, features=bank.patch_features(backbone=tiny_backbone)) for bank in banks)
    agree = [np.mean(full.predict(s.image).mask == small.predict(s.image).mask) for s in one]
    assert np.mean(agree) > 0.97


# Any edits, one after another


def random_edit(generator: np.random.Generator, bank: MemoryBank) -> tuple[str, tuple[Any, ...], list[Row]]:
    """An edit, its arguments, and what must come of it."""
    rows, info = rows_of(bank), bank.info
    name = str(generator.choice(["images", "classes", "rename", "fuse", "drop", "compact"]))
    picked = [str(n) for n in generator.permutation(info.classes)[:2]]
    if name == "images":
        image = str(generator.choice(info.sources))
        return "remove", ([image],), without(rows, (image,))
    if name == "classes":
        return "remove", ((), picked[:1]), without(rows, (), tuple(picked[:1]))
    if name == "rename":
        return "relabel", ({picked[0]: "new"},), renamed(rows, {picked[0]: "new"})
    if name == "fuse":
        return "relabel", ({}, {picked[0]: picked}), renamed(rows, dict.fromkeys(picked, picked[0]))
    if name == "drop":
        return "relabel", ({}, {}, picked[:1]), renamed(rows, {picked[0]: None})
    return "compact", (), rows


@pytest.mark.parametrize("seed", range(8))
def test_edits_one_after_another(tiny_backbone: Backbone, tmp_path: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    bank = bank_of(tmp_path / "bank", tiny_backbone, seed=seed, count=80)
    for number in range(6):
        edit, arguments, expected = random_edit(generator, bank)
        if not expected or ("new" in bank.info.classes and "new" in str(arguments)):
            continue
        bank = getattr(bank, edit)(*arguments)
        assert_about_the_same(rows_of(bank), expected)
        assert bank.history[-1]["action"] == edit
        assert not bank.verify()
        if number == 3:
            other = bank_of(tmp_path / "b", tiny_backbone, "b", ("pink", "red"), count=20)
            expected = rows_of(bank) + rows_of(other)
            bank = bank.merge(other)
            assert rows_of(bank) == expected
    assert len({entry["action"] for entry in bank.history}) > 1


def test_history_is_carried_on(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    after = bank.relabel({"red": "rot"}).remove(["a/0"]).compact()
    assert [entry["action"] for entry in after.history] == ["relabel", "remove", "compact"]
    assert {entry["time"] for entry in after.history} == {"1970-01-02T00:00:00+00:00"}
    versions = {"python", "fungi-seg", "feature code", "torch", "timm"}
    assert all(entry["made_by"].keys() == versions for entry in after.history)
    assert json.loads((bank.path / "bank.json").read_text())["history"] == list(after.history)


# Readers


def edits() -> list[Callable[[MemoryBank], MemoryBank]]:
    return [
        lambda bank: bank.remove(["a/1"]),
        lambda bank: bank.relabel({"red": "rot"}),
        lambda bank: bank.compact("int8"),
        lambda bank: bank.remove(["a/2"]).compact(),
    ]


@pytest.mark.parametrize("limit", [1 << 29, 0], ids=["checked at opening", "not yet read"])
@pytest.mark.parametrize("edit", edits(), ids=["remove", "relabel", "compact", "both"])
def test_an_open_bank_stays_as_it_was(
    bank: MemoryBank,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: int,
    edit: Callable[[MemoryBank], MemoryBank],
) -> None:
    """Whether or not anything of it was read before its files were replaced."""
    expected = rows_of(bank)
    monkeypatch.setattr(bank_module, "CHECK_AT_OPEN", limit)
    readers = [MemoryBank.open(bank.path) for _ in range(4)]
    edit(MemoryBank.open(bank.path))
    for reader in readers[:3]:
        assert rows_of(reader) == expected
        assert not reader.verify()
    exported = MemoryBank.import_file(readers[3].export(tmp_path / "old.tar"), tmp_path / "old")
    assert rows_of(exported) == expected


def test_a_stale_bank_can_be_merged(bank: MemoryBank, tiny_backbone: Backbone, tmp_path: Path) -> None:
    other = bank_of(tmp_path / "b", tiny_backbone, "b")
    expected = rows_of(bank) + rows_of(other)
    MemoryBank.open(other.path).compact("int4")
    assert rows_of(bank.merge(other)) == expected


def test_a_stale_bank_changes_what_is_there_now(bank: MemoryBank) -> None:
    expected = without(rows_of(bank), ("a/1", "a/2"))
    bank.remove(["a/1"])
    assert rows_of(bank.remove(["a/2"])) == expected
    with pytest.raises(BankError, match="no such image"):
        bank.remove(["a/1"])
    assert [entry["images"] for entry in MemoryBank.open(bank.path).history] == [["a/1"], ["a/2"]]


def test_opening_while_the_bank_changes(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest was read, then the files that it names went."""
    read = bank_module.read_manifest
    pending = [lambda: bank.compact("int4"), lambda: bank.remove(["a/0"]).compact("int8")]

    def overtaken(path: Path) -> Any:
        manifest = read(path)
        if pending:
            with monkeypatch.context() as patch:
                patch.setattr(bank_module, "read_manifest", read)
                pending.pop()()
        return manifest

    expected = len(without(rows_of(bank), ("a/0",)))
    monkeypatch.setattr(bank_module, "read_manifest", overtaken)
    found = MemoryBank.open(bank.path)
    assert len(found) == expected
    assert not found.verify()


# Verify


def test_verify_finds_what_happened_since_the_bank_was_opened(bank: MemoryBank) -> None:
    assert bank.verify() == []
    keys, table = bank.manifest.segments[2].keys.file, bank.manifest.segments[0].table.file
    for name in (keys, table):
        change_byte(bank.path / name)
    problems = bank.verify()
    for name in (keys, table):
        assert sum(f"{bank.path / name}: damaged" in line for line in problems) == 1


def test_verify_of_a_large_bank(bank: MemoryBank, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but sizes is checked at opening; wrong contents are named, and never read as a whole."""
    monkeypatch.setattr(bank_module, "CHECK_AT_OPEN", 0)
    forge_table(bank.path, source=np.full(16, 9, np.int32))
    keys = bank.manifest.segments[1].keys.file
    change_byte(bank.path / keys)
    opened = MemoryBank.open(bank.path)
    problems = opened.verify()
    assert len(problems) == 2
    assert any("names an image that isn't listed" in line for line in problems)
    assert any(f"{keys}: damaged" in line for line in problems)
    with pytest.raises(BankError, match="isn't listed"):
        _ = opened.rows


# One writer at a time

HOLDER = """
import sys, fungi_seg.bank.writer as w
from pathlib import Path
with w.changing(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def starting() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Starts a process that holds the lock of a bank until its input ends."""
    running: list[subprocess.Popen[str]] = []

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLDER, str(path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def test_a_second_writer_is_told_who_is_at_work(
    bank: MemoryBank, starting: Callable[[Path], subprocess.Popen[str]], tiny_backbone: Backbone
) -> None:
    before = contents(bank.path)
    holder = starting(bank.path)
    told = rf"process {holder.pid} on '{os.uname().nodename}' \('-c'\), for \d+ s; wait until it is done, or stop it"
    for change in (lambda: bank.remove(["a/0"]), lambda: bank.compact(), lambda: bank.relabel({"red": "x"})):
        with pytest.raises(BankError, match=told):
            change()
    assert rows_of(MemoryBank.open(bank.path)) == rows_of(bank)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert {".lock", ".writer.json"} <= {file.name for file in bank.path.iterdir()}
    after = bank.remove(["a/0"])
    assert len(after) < len(bank)
    earlier = [revision.manifest for revision in after.manifest.revisions]
    named = [*earlier, *after.manifest.entries(), *bank.manifest.entries()]
    assert {file.name for file in bank.path.iterdir()} == {"bank.json", *(entry.file for entry in named)}
    assert before.keys() != contents(bank.path).keys()


def test_a_second_writer_in_the_same_process(bank: MemoryBank) -> None:
    before = contents(bank.path)
    with changing(bank.path):
        for _ in range(2):
            with pytest.raises(BankError, match=rf"process {os.getpid()} on .*Reading works meanwhile"):
                bank.remove(["a/0"])
        assert not MemoryBank.open(bank.path).verify()
    assert contents(bank.path) == before
    assert len(bank.remove(["a/0"])) < len(bank)


def test_a_writer_who_has_not_signed(bank: MemoryBank) -> None:
    with changing(bank.path):
        (bank.path / ".writer.json").write_text('{"pid": "x"}')
        with pytest.raises(BankError, match="being changed by another process"):
            bank.remove(["a/0"])


def test_leftovers_of_a_killed_writer_go_with_the_next_change(bank: MemoryBank) -> None:
    for name in ("keys-0123456789abcdef.npy", "table-0123456789abcdef.safetensors", ".new-0123.npy", ".tmpZc0QPa"):
        (bank.path / name).write_bytes(b"left")
    (bank.path / "notes.txt").write_text("mine")
    with pytest.raises(BankError, match="no such image"):
        bank.remove(["a/9"])
    named = {"bank.json", "notes.txt", *(entry.file for entry in bank.manifest.entries())}
    assert {file.name for file in bank.path.iterdir()} == named
