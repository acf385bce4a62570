"""File lists as different tools write them, and names that differ only in their Unicode form."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from coco_tree import coco_tree
from PIL import Image
from test_coco import pixel_maps
from test_labelling_masks import cityscapes_tree
from trees import folder_tree, scene

from fungi_seg import DataConfig, DataError, Dataset, open_dataset
from fungi_seg.datasets.common import read_ids
from fungi_seg.datasets.paths import by_form, composed
from fungi_seg.evaluation.predictions import open_predictions

KNOWN = ("a", "b c", "sub/d", "#1", "e,f", "back\\slash", "x;y")
NFC, NFD = "caf\u00e9", "cafe\u0301"


def listed(tmp_path: Path, data: str | bytes, known: tuple[str, ...] = KNOWN) -> list[str]:
    path = tmp_path / "list.txt"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return read_ids(path, known)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("train\\images\\a.png", "a"),
        ("C:\\data\\sub\\d.png", "sub/d"),
        ("sub\\d", "sub/d"),
        (".\\a.png", "a"),
        ("back\\slash.png", "back\\slash"),
        ("images/a.png,masks/a.png", "a"),
        ("images/a.png, masks/a.png", "a"),
        ("images/a.png;masks/a.png", "a"),
        ("images\\a.png\tmasks\\a.png", "a"),
        ("a.png,0,cat", "a"),
        ("a.png,", "a"),
        ("a.png 1", "a"),
        ("a.png  # the first", "a"),
        ("e,f.png", "e,f"),
        ("x;y.png,1", "x;y"),
        ('"a.png"', "a"),
        ("'b c.png'", "b c"),
        ('"b c.png","masks/b c.png"', "b c"),
        ('"b c.png" 1', "b c"),
        ("'a.png','masks/a.png'", "a"),
        ("b c.png", "b c"),
        ("#1.png", "#1"),
        ("no\\such.png", "no/such"),
        ("neither,nor", "neither,nor"),
    ],
)
def test_ways_to_write_a_line(tmp_path: Path, line: str, found: str) -> None:
    assert listed(tmp_path, f"{line}\n") == [found]


@pytest.mark.parametrize(
    "data",
    [
        b"# a comment\na.png\n\n#sub/d.png\nb c.png\n",
        "\ufeffa.png\r\nb c.png\r\n".encode(),
        "a.png\r\nb c.png\r\n".encode("utf-16"),  # as PowerShell writes it
        b"\xfe\xff" + "a\nb c\n".encode("utf-16-be"),
        b"  a.png  \r b c.png ",
    ],
)
def test_comments_marks_and_ends_of_lines(tmp_path: Path, data: bytes) -> None:
    assert listed(tmp_path, data) == ["a", "b c"]


def test_comments_only(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"file list '.*list.txt' holds comments only; it must hold one entry a line"):
        listed(tmp_path, "# nothing\n#\n")


def test_text_in_utf_16_without_a_mark(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"can't be read: it holds zero bytes; save it as text in UTF-8"):
        listed(tmp_path, "a.png\n".encode("utf-16-le"))


@pytest.mark.parametrize("line", ["a.png,sub/d.png", "a.png sub/d.png", "a.png;x;sub\\d.png", '"a.png","sub/d.png"'])
def test_a_line_that_names_several_images(tmp_path: Path, line: str) -> None:
    """The others would be lost without a word."""
    with pytest.raises(DataError) as raised:
        listed(tmp_path, f"b c\n{line}\n")
    assert f"list.txt' has the line {line!r}, which names 2 images; give each a line of its own:\n  a\n  sub/d" in str(
        raised.value
    )


def test_a_list_from_windows_builds_the_same(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    (tmp_path / "list.txt").write_bytes(b"train\\images\\train_3.png\r\ntrain\\images\\train_1.png\r\n")
    dataset = open_dataset(DataConfig("folder", str(root), "train", file_list=str(tmp_path / "list.txt")))
    assert [item.id for item in dataset.items] == ["train_3", "train_1"]


# Unicode forms


def test_forms_of_names() -> None:
    assert composed(NFD) == NFC
    assert composed(NFC) == NFC
    assert by_form([NFD, "a"]) == {NFC: NFD, "a": "a"}
    assert by_form([NFD, NFC, "a"]) == {"a": "a"}  # it can't be told which is meant


def renamed(root: Path, kind: str, name: str) -> Path:
    path = root / "train" / kind / "train_0.png"
    return path.rename(path.with_name(f"{name}.png"))


def opened(root: Path, **more: object) -> Dataset:
    return open_dataset(DataConfig("folder", str(root), "train", **more))  # type: ignore[arg-type]


@pytest.mark.parametrize(("image", "mask"), [(NFC, NFD), (NFD, NFC)])
def test_an_image_and_its_mask_in_two_forms(tmp_path: Path, image: str, mask: str) -> None:
    root = folder_tree(tmp_path / "data")
    renamed(root, "images", image)
    path = renamed(root, "masks", mask)
    dataset = opened(root)
    assert dataset.items[0].id == image
    assert dataset.items[0].mask == path
    assert dataset[0].mask.any()
    for told in (NFC, NFD):
        (tmp_path / "list.txt").write_text(f"{told}.png\n", encoding="utf-8")
        assert [item.id for item in opened(root, file_list=str(tmp_path / "list.txt")).items] == [image]


def test_files_of_both_forms_are_not_mixed(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    for kind in ("images", "masks"):
        renamed(root, kind, NFC)
        (root / "train" / kind / "train_1.png").rename(root / "train" / kind / f"{NFD}.png")
    masks = {item.id: item.mask.stem for item in opened(root).items}
    assert masks[NFC] == NFC
    assert masks[NFD] == NFD
    (root / "train" / "masks" / f"{NFC}.png").rename(root / "train" / "masks" / "x.png")
    with pytest.raises(DataError, match="image without mask"):
        opened(root)


def test_predictions_in_the_other_form(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    renamed(root, "images", NFC)
    path = renamed(root, "masks", NFC)
    (tmp_path / "predicted").mkdir()
    for mask in path.parent.iterdir():
        name = unicodedata.normalize("NFD", mask.name)
        (tmp_path / "predicted" / name).write_bytes(mask.read_bytes())
    assert set(open_predictions(tmp_path / "predicted", opened(root)).names) == {i.id for i in opened(root).items}


def test_cityscapes_in_two_forms(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path)
    for path in [*(root / "gtFine").rglob("*.png")]:
        target = Path(unicodedata.normalize("NFD", str(path)))
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    assert len(open_dataset(DataConfig("cityscapes", str(root), "train"))) == 2


def test_coco_in_two_forms(tmp_path: Path) -> None:
    tree = coco_tree(tmp_path)
    (tree / "train" / "train_1.png").rename(tree / "train" / f"{NFD}.png")
    file = tree / "annotations" / "instances_train.json"
    file.write_text(file.read_text().replace("train_1.png", f"{NFC}.png"), encoding="utf-8")
    assert len(open_dataset(DataConfig("coco", str(tree), "train"))) == 3
    pixel_maps(tree)
    path = tree / "maps" / "train_1.png"
    path.rename(path.with_name(f"{NFD}.png"))
    assert len(open_dataset(DataConfig("coco", str(tree), "train", masks="maps"))) == 3


@pytest.mark.parametrize("told", [f"{NFC}.png", "elsewhere.png"])
def test_labelme_in_two_forms(tmp_path: Path, told: str) -> None:
    """By imagePath, and by the JSON's own name."""
    Image.fromarray(scene(0)[0]).save(tmp_path / f"{NFD}.png")
    square = {"label": "x", "points": [[5, 6], [30, 6], [30, 40], [5, 40]], "shape_type": "polygon"}
    size = {"imageHeight": 48, "imageWidth": 64}
    (tmp_path / f"{NFC}.json").write_text(json.dumps({"shapes": [square], "imagePath": told} | size))
    dataset = open_dataset(DataConfig("labelme", str(tmp_path)))
    assert dataset.remarks == ()
    assert dataset[0].mask.sum() == 25 * 34


def test_label_studio_in_two_forms(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(scene(0)[0]).save(tmp_path / "images" / f"{NFD}.png")
    points = {"points": [[0, 0], [50, 0], [50, 100]], "polygonlabels": ["x"]}
    region = {"type": "polygonlabels", "original_width": 64, "original_height": 48, "value": points}
    task = {"id": 1, "data": {"image": f"/data/upload/1/{NFC}.png"}, "annotations": [{"id": 1, "result": [region]}]}
    (tmp_path / "export.json").write_text(json.dumps([task]))
    dataset = open_dataset(DataConfig("labelstudio", str(tmp_path)))
    assert np.count_nonzero(dataset[0].mask) > 100


# Images whose mask lies there otherwise


def lone(root: Path, name: str) -> str:
    """What is said where the mask of train_0 is called `name`."""
    path = root / "train" / "masks" / "train_0.png"
    if Path(name).suffix == ".jpg":
        with Image.open(path) as mask:
            mask.convert("L").save(path.with_name(name))
        path.unlink()
    else:
        path.rename(path.with_name(name))
    with pytest.raises(DataError) as raised:
        opened(root)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("train_0.jpg", "masks/train_0.jpg is a JPEG, which changes ids: save it as PNG"),
        ("train_0.npy", "masks/train_0.npy is no mask image (.npy): save it as PNG"),
        ("train_0_mask.png", "masks/train_0_mask.png may be it, but must be called train_0.png"),
        ("mask-train_0.png", "masks/mask-train_0.png may be it, but must be called train_0.png"),
        (
            "train_0_mask.jpg",
            "masks/train_0_mask.jpg, which is a JPEG, which changes ids, may be it, but must be called train_0.png",
        ),
        ("train_01.png", ""),
        ("train_1_mask.png", ""),
    ],
)
def test_why_an_image_has_no_mask(tmp_path: Path, name: str, told: str) -> None:
    said = lone(folder_tree(tmp_path), name)
    assert f"  train_0.png: image without mask{f'; {told}' if told else ''}\n" in said
    assert "Complete them (an image and its mask have the same name)" in said


def test_a_name_that_fits_several_files_is_no_hint(tmp_path: Path) -> None:
    root = folder_tree(tmp_path)
    (root / "train" / "masks" / "train_0-old.txt").write_text("x")
    assert "  train_0.png: image without mask\n" in lone(root, "train_0_mask.png")


def test_what_is_passed_over_is_told_with_the_reason(tmp_path: Path) -> None:
    root = folder_tree(tmp_path)
    lone(root, "train_0.jpg")
    dataset = open_dataset(DataConfig("folder", str(root), "train"), skip_bad=True)
    assert dataset.problems == (
        "train_0.png: image without mask; masks/train_0.jpg is a JPEG, which changes ids: save it as PNG",
    )


def test_masks_that_are_all_jpeg(tmp_path: Path) -> None:
    root = folder_tree(tmp_path)
    for path in sorted((root / "train" / "masks").iterdir()):
        path.rename(path.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"no image with a mask was found:\n  train_0.png: image .*is a JPEG"):
        open_dataset(DataConfig("folder", str(root), "train"), skip_bad=True)


def test_predictions_that_are_jpeg(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    (tmp_path / "predicted").mkdir()
    (tmp_path / "predicted" / "train_0.jpg").write_bytes(b"")
    with pytest.raises(DataError, match=r"no mask image .*train_0.jpg is a JPEG, which changes ids: save predictions"):
        open_predictions(tmp_path / "predicted", opened(root))
