"""Classes of a data set that are kept, merged and left out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_cli import backbone_options
from trees import folder_tree

from fungi_seg import DataConfig, MemoryBank, open_dataset
from fungi_seg.cli import main
from fungi_seg.datasets import Dataset
from fungi_seg.datasets.masks import IndexMasks
from fungi_seg.datasets.selection import select
from fungi_seg.errors import DataError

NAMES = ("background", "person", "car", "bus", "dog", "cat")
GROUPS = ("", "person", "vehicle", "vehicle", "animal", "animal")
COLOURS = np.arange(18, dtype=np.uint8).reshape(6, 3)


def dataset(names: tuple[str, ...] = NAMES, groups: tuple[str, ...] = GROUPS) -> Dataset:
    return Dataset((), names, COLOURS[: len(names)], IndexMasks(range(len(names)), (255,)), groups=groups)


@pytest.mark.parametrize(
    ("classes", "merge", "expected"),
    [
        (("person", "dog"), (), ["background", "person", "background", "background", "dog", "background"]),
        (("dog", "person"), (), ["background", "person", "background", "background", "dog", "background"]),
        (("animal",), (), ["background", "background", "background", "background", "dog", "cat"]),
        ((), ("vehicle=car,bus",), ["background", "person", "vehicle", "vehicle", "dog", "cat"]),
        ((), ("vehicle=car", "bus", "pet=dog,cat"), ["background", "person", "vehicle", "vehicle", "pet", "pet"]),
        ((), ("road user=vehicle,person",), ["background", "road user", "road user", "road user", "dog", "cat"]),
        ((), ("car=bus",), ["background", "person", "car", "car", "dog", "cat"]),
        (("vehicle",), ("vehicle=car,bus",), ["background", "background", "vehicle", "vehicle"] + ["background"] * 2),
        (("vehicle",), ("auto=car",), ["background", "background", "auto", "bus", "background", "background"]),
    ],
)
def test_every_class_goes_where_it_is_told(
    classes: tuple[str, ...], merge: tuple[str, ...], expected: list[str]
) -> None:
    chosen = select(dataset(), classes, merge)
    assert [chosen.classes[i] for i in chosen.selection] == expected
    assert set(chosen.classes) == set(expected)
    assert chosen.classes[0] == "background"


def test_merged_names_may_hold_commas() -> None:
    chosen = select(dataset(("sky", "car, van", "bus"), ()), (), (r"big\, small=car\, van,bus",))
    assert (chosen.classes, chosen.selection) == (("sky", "big, small"), (0, 1, 1))


def test_classes_stand_in_the_order_asked_for() -> None:
    assert select(dataset(), ("dog", "person")).classes == ("background", "dog", "person")
    assert select(dataset(), ("dog", "background")).classes == ("dog", "background")


def test_the_first_of_the_merged_gives_place_colour_and_group() -> None:
    chosen = select(dataset(), (), ("pet=cat,dog", "vehicle=bus,car"))
    assert chosen.classes == ("background", "person", "vehicle", "pet")
    np.testing.assert_array_equal(chosen.palette, COLOURS[[0, 1, 2, 4]])
    assert chosen.groups == ("", "person", "vehicle", "animal")


def test_without_background_the_others_are_void() -> None:
    chosen = select(dataset(NAMES[1:], GROUPS[1:]), ("dog",))
    assert (chosen.classes, chosen.selection) == (("dog",), (-1, -1, -1, 0, -1))


def test_samples_and_what_decides_them_change(tmp_path: Path) -> None:
    root = str(folder_tree(tmp_path, classes=4))
    whole = open_dataset(DataConfig(root=root, split="train"))
    chosen = open_dataset(DataConfig(root=root, split="train", classes=("blue",), merge=("blue=red,blue",)))
    assert chosen.classes == ("background", "blue")
    for before, after in zip(whole, chosen, strict=True):
        expected = np.select([before.mask == -1, np.isin(before.mask, (1, 3))], [-1, 1], 0)
        np.testing.assert_array_equal(after.mask, expected)
    other = open_dataset(DataConfig(root=root, split="train", classes=("blue",), merge=("blue=green,blue",)))
    assert other.classes == chosen.classes
    assert other.reading != chosen.reading


@pytest.mark.parametrize(
    ("classes", "merge", "message"),
    [
        (("persn",), (), "data.classes names 'persn', which is no class of the data set; did you mean 'person'"),
        (("dog", "dog"), (), "data.classes names 1 classes more than once:\n  dog"),
        (("dog", "animal"), (), "data.classes names 1 classes more than once:\n  dog"),
        ((), ("vehicle=car,van",), "data.merge names 'van', which is no class"),
        ((), ("a=car", "b=car"), "data.merge names 1 classes more than once:\n  car"),
        ((), ("car,bus",), "data.merge has 'car'; it must be like vehicle=car,bus"),
        ((), ("=car",), "data.merge has '=car'; it must be like vehicle=car,bus"),
    ],
)
def test_names_that_are_wrong(classes: tuple[str, ...], merge: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError) as error:
        select(dataset(), classes, merge)
    assert message in str(error.value)


def test_on_the_command_line(tmp_path: Path, tiny_weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder_tree(tmp_path / "data", classes=4)
    data = ["--data.root", str(root), "--data.classes", "red,others", "--data.merge", "others=green,blue"]
    tiny = [*backbone_options(tiny_weights), "--input.size=48"]
    assert main(["build", "--out", str(tmp_path / "bank"), "--data.split=train", *data, *tiny]) == 0
    info = MemoryBank.open(tmp_path / "bank").info
    assert info.classes == ("background", "red", "others")
    evaluate = ["evaluate", "--bank", str(tmp_path / "bank"), "--data.split=val"]
    assert main([*evaluate, *data]) == 0
    capsys.readouterr()
    assert main([*evaluate, "--data.root", str(root)]) == 1
    assert "Where the bank was built with data.classes or data.merge, give them here too" in capsys.readouterr().err
