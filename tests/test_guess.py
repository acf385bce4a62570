"""Which layout is guessed, from a little above and below its root, and what is told where there is none."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import ade20k_tree, class_tree, folder_tree, save_palette, save_picture, scene, voc_tree

from fungi_seg.datasets import LAYOUTS, DataConfig, open_dataset
from fungi_seg.datasets.guessing import Guess, guess
from fungi_seg.datasets.json_heads import PIECE, file_names, json_kind, peek
from fungi_seg.datasets.near_misses import TREES, mask_values
from fungi_seg.datasets.settings import READ_BY
from fungi_seg.errors import DataError

SQUARE = [4, 4, 20, 4, 20, 20, 4, 20]


def coco_json(path: Path, names: list[str], **told: Any) -> Path:
    """A JSON of COCO with one square annotation in each 48×40 image (width×height)."""
    annotation = {"category_id": 3, "iscrowd": 0, "area": 256, "bbox": [4, 4, 16, 16], "segmentation": [SQUARE]}
    images = [{"id": i, "file_name": name, "width": 48, "height": 40} for i, name in enumerate(names)]
    annotations = [annotation | {"id": i, "image_id": i} for i in range(len(names))]
    categories = [{"id": 3, "name": "thing", "supercategory": "all"}]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories} | told))
    return path


def coco_tree(root: Path) -> Path:
    """`train2017` of two images and `val2017` of one, and their JSONs."""
    for split, names in (("train2017", ["a.png", "b.png"]), ("val2017", ["c.png"])):
        for seed, name in enumerate(names):
            save_picture(root / split / name, seed, 1)
        coco_json(root / "annotations" / f"instances_{split}.json", names)
    return root


def panoptic_tree(root: Path) -> Path:
    """One image with a panoptic PNG, all of it segment 7."""
    save_picture(root / "val" / "a.png", 0, 1)
    segments = [{"id": 7, "category_id": 3, "iscrowd": 0, "area": 1920, "bbox": [0, 0, 48, 40]}]
    (root / "annotations" / "panoptic_val").mkdir(parents=True)
    ids = np.zeros((40, 48, 3), np.uint8)
    ids[..., 0] = 7
    Image.fromarray(ids).save(root / "annotations" / "panoptic_val" / "a.png")
    annotations = [{"image_id": 0, "file_name": "a.png", "segments_info": segments}]
    categories = [{"id": 3, "name": "thing", "supercategory": "all", "isthing": 1}]
    coco_json(root / "annotations" / "panoptic_val.json", ["a.png"], annotations=annotations, categories=categories)
    return root


def roboflow_tree(root: Path) -> Path:
    """`train` and `valid`, each with its images and `_annotations.coco.json`."""
    for split in ("train", "valid"):
        save_picture(root / split / f"{split}.png", 0, 1)
        coco_json(root / split / "_annotations.coco.json", [f"{split}.png"])
    return root


def result_tree(root: Path) -> Path:
    """`result.json`, as Label Studio exports COCO, with its images."""
    save_picture(root / "images" / "a.png", 0, 1)
    coco_json(root / "result.json", ["images/a.png"])
    return root


def labelme_tree(root: Path) -> Path:
    """Two images in `train` and one in `val`, a JSON beside each."""
    shape = {"label": "thing", "points": np.reshape(SQUARE, (4, 2)).tolist(), "shape_type": "polygon"}
    for name in ("train/a", "train/b", "val/c"):
        save_picture(root / f"{name}.png", 0, 1)
        told = {"version": "5.5.0", "shapes": [shape], "imagePath": f"{Path(name).name}.png"}
        (root / f"{name}.json").write_text(json.dumps(told | {"imageHeight": 40, "imageWidth": 48}))
    return root


def labelstudio_tree(root: Path) -> Path:
    """A list of one task with a polygon, and its image."""
    save_picture(root / "images" / "a.png", 0, 1)
    value = {"points": [[10, 10], [40, 10], [40, 40]], "polygonlabels": ["thing"], "closed": True}
    result = {"type": "polygonlabels", "value": value, "original_width": 48, "original_height": 40}
    result |= {"from_name": "label", "to_name": "image", "id": "x"}
    tasks = [{"id": 1, "annotations": [{"id": 1, "result": [result]}], "data": {"image": "/data/upload/1/a.png"}}]
    (root / "project-1.json").write_text(json.dumps(tasks))
    return root


def cityscapes_tree(root: Path) -> Path:
    """One image of one city in `train`, one in `val`."""
    for split in ("train", "val"):
        image, _ = scene(0)
        for folder in ("leftImg8bit", "gtFine"):
            (root / folder / split / "aachen").mkdir(parents=True)
        name = f"{split}/aachen/aachen_000000_000019"
        Image.fromarray(image).save(root / "leftImg8bit" / f"{name}_leftImg8bit.png")
        labels = np.full(image.shape[:2], 7, np.uint8)
        Image.fromarray(labels).save(root / "gtFine" / f"{name}_gtFine_labelIds.png")
    return root


def label_ids_tree(root: Path, *splits: str) -> Path:
    """A folder tree whose masks are named like those of Cityscapes, in the splits given or in none."""
    folder_tree(root)
    for path in root.rglob("masks/*.png"):
        path.rename(path.with_name(f"{path.stem}_labelIds.png"))
    if not splits:
        for kind in ("images", "masks"):
            (root / "train" / kind).rename(root / kind)
        for split in ("train", "val"):
            shutil.rmtree(root / split)
    return root


def labelmap_tree(root: Path) -> Path:
    """A VOC tree of other classes, as labelling tools export it."""
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    image, mask = scene(0, void=False)
    Image.fromarray(image).save(root / "JPEGImages" / "a.jpg")
    save_palette(mask, root / "SegmentationClass" / "a.png")
    (root / "ImageSets" / "Segmentation" / "default.txt").write_text("a\n")
    (root / "labelmap.txt").write_text("background:0,0,0::\nred:128,0,0::\ngreen:0,128,0::\n")
    return root


Tree = Callable[[Path], Path]
FOUND = [  # tree, layout, splits with their number of images
    (folder_tree, "folder", {"train": 4, "val": 2}),
    (lambda root: folder_tree(root) / "train", "folder", {"train": 4, "val": 2}),
    (lambda root: folder_tree(root) / "val" / "masks", "folder", {"val": 2, "train": 4}),
    (lambda root: folder_tree(root / "deep" / "er") and root, "folder", {"train": 4, "val": 2}),
    (lambda root: folder_tree(root) / "classes.txt", "folder", {"train": 4, "val": 2}),
    (voc_tree, "voc", {"trainaug": 3, "val": 2}),
    (lambda root: voc_tree(root) / "VOCdevkit", "voc", {"trainaug": 3, "val": 2}),
    (lambda root: voc_tree(root) / "VOCdevkit" / "VOC2012", "voc", {"trainaug": 3, "val": 2}),
    (lambda root: voc_tree(root) / "VOCdevkit/VOC2012/JPEGImages", "voc", {"trainaug": 3, "val": 2}),
    (lambda root: voc_tree(root) / "VOCdevkit/VOC2012/ImageSets", "voc", {"trainaug": 3, "val": 2}),
    (lambda root: voc_tree(root, flat=True), "voc", {"trainaug": 3, "val": 2}),
    (labelmap_tree, "voc", {"default": 1}),
    (ade20k_tree, "ade20k", {"train": 3, "val": 2}),
    (lambda root: ade20k_tree(root) / "ADEChallengeData2016/images/validation", "ade20k", {"val": 2, "train": 3}),
    (coco_tree, "coco", {"train2017": 2, "val2017": 1}),
    (lambda root: coco_tree(root) / "annotations", "coco", {"train2017": 2, "val2017": 1}),
    (lambda root: coco_tree(root) / "val2017", "coco", {"val2017": 1, "train2017": 2}),
    (lambda root: coco_tree(root) / "annotations/instances_val2017.json", "coco", {"val2017": 1, "train2017": 2}),
    (panoptic_tree, "coco", {"val": 1}),
    (roboflow_tree, "coco", {"train": 1, "valid": 1}),
    (result_tree, "coco", {"result": 1}),
    (lambda root: result_tree(root) / "result.json", "coco", {"result": 1}),
    (labelme_tree, "labelme", {"train": 2, "val": 1}),
    (lambda root: labelme_tree(root).parent, "labelme", {"train": 2, "val": 1}),
    (labelstudio_tree, "labelstudio", {"project-1": 1}),
    (lambda root: labelstudio_tree(root) / "project-1.json", "labelstudio", {"project-1": 1}),
    (cityscapes_tree, "cityscapes", {"train": 1, "val": 1}),
    (lambda root: cityscapes_tree(root) / "gtFine/val/aachen", "cityscapes", {"val": 1, "train": 1}),
]


@pytest.mark.parametrize(("tree", "layout", "splits"), FOUND)
def test_layout_and_splits(tree: Tree, layout: str, splits: dict[str, int], tmp_path: Path) -> None:
    """The settings that are guessed open the data set, and its masks are read."""
    found = guess(tree(tmp_path / "data"))
    assert [(g.layout, g.split) for g in found] == [(layout, split) for split in splits]
    for one in found:
        dataset = open_dataset(one.config)
        assert len(dataset) == splits[one.split]
        assert dataset[0].mask.max() >= 0


@pytest.mark.parametrize(("splits", "images"), [((), [4]), (("train", "val"), [4, 2])])
def test_masks_named_like_those_of_cityscapes(tmp_path: Path, splits: tuple[str, ...], images: list[int]) -> None:
    """Whose names don't pair as those of a plain folder do."""
    found = guess(label_ids_tree(tmp_path / "data", *splits))[: len(images)]
    assert [(g.layout, g.split) for g in found] == [("cityscapes", split) for split in splits or ("all",)]
    assert [len(open_dataset(g.config)) for g in found] == images


def test_the_evidence_is_told(tmp_path: Path) -> None:
    assert guess(coco_tree(tmp_path / "c"))[0].why == (
        "annotations/instances_train2017.json holds images, outlines and categories; its images lie in train2017"
    )
    assert guess(folder_tree(tmp_path / "f"))[1].why == "val/images, val/masks and classes.txt are there"
    assert "ADE_" in guess(ade20k_tree(tmp_path / "a"))[0].why


def test_what_is_found_by_itself_is_left_out(tmp_path: Path) -> None:
    assert guess(coco_tree(tmp_path / "c"))[1].config == DataConfig("coco", str(tmp_path / "c"), "val2017")
    assert guess(result_tree(tmp_path / "r"))[0].config == DataConfig(
        "coco", str(tmp_path / "r"), annotations="result.json", images="."
    )


def test_a_split_with_classes_of_its_own(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    (root / "classes.txt").rename(root / "train" / "classes.txt")
    assert guess(root)[0].config == DataConfig("folder", str(root), "train")
    assert guess(root / "train")[0].config == DataConfig("folder", str(root / "train"))


@pytest.mark.parametrize(("value", "void"), [(3, 3), (255, None)])
def test_another_void_value(tmp_path: Path, value: int, void: int | None) -> None:
    root = folder_tree(tmp_path / "data")
    for path in root.rglob("masks/*.png"):
        with Image.open(path) as opened:
            mask = np.array(opened)
        Image.fromarray(np.where(mask == 255, value, mask).astype(np.uint8)).save(path)
    found = guess(root)[0]
    assert found.config.void == void
    assert ("masks hold 3 beyond the classes, taken as void" in found.why) == (void == 3)
    assert (open_dataset(found.config)[0].mask == -1).sum() == 36


def test_a_file_beside_results_is_no_better_guess(tmp_path: Path) -> None:
    """It names images, but none of their annotations."""
    root = labelme_tree(tmp_path / "data")
    names = [path.name for path in (root / "train").glob("*.png")]
    coco_json(root / "train" / "results_images.json", names, annotations=[])
    assert guess(root / "train")[0].layout == "labelme"
    assert [one.layout for one in guess(root / "train")][-1] == "coco"


def test_a_value_beyond_one_class_is_not_guessed_to_be_void(tmp_path: Path) -> None:
    """Masks of 0 and 128: the object is as likely."""
    root = folder_tree(tmp_path / "data")
    for path in root.rglob("masks/*.png"):
        with Image.open(path) as opened:
            Image.fromarray(np.where(np.array(opened) == 1, 128, 0).astype(np.uint8)).save(path)
    assert guess(root)[0].config.void is None


def test_two_values_beyond_the_classes_are_not_guessed(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data", classes=4)
    (root / "classes.txt").write_text("background\nred\n")  # 2, 3 and 255 are left over
    assert guess(root)[0].config.void is None


def test_the_surest_layout_comes_first(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    coco_json(root / "annotations.json", ["train/images/train_0.png"])
    labelstudio_tree(root)
    assert [g.layout for g in guess(root)] == ["folder", "folder", "coco", "labelstudio"]
    assert [g.layout for g in guess(root / "annotations.json")] == ["coco"]


def test_instances_come_before_other_annotations_of_a_split(tmp_path: Path) -> None:
    root = coco_tree(tmp_path / "data")
    for kind in ("person_keypoints", "stuff"):
        coco_json(root / "annotations" / f"{kind}_val2017.json", ["c.png"])
    coco_json(root / "annotations" / "captions_val2017.json", ["c.png"], annotations=[{"caption": "a b"}])
    found = [g for g in guess(root) if g.split == "val2017"]
    assert [g.parts[0].name for g in found] == [
        "instances_val2017.json",
        "stuff_val2017.json",
        "person_keypoints_val2017.json",
    ]


def test_several_data_sets_in_a_folder(tmp_path: Path) -> None:
    folder_tree(tmp_path / "one")
    coco_tree(tmp_path / "two")
    assert [(g.layout, Path(g.config.root).name) for g in guess(tmp_path)] == [
        *[("folder", "one")] * 2,
        *[("coco", "two")] * 2,
    ]


def test_a_folder_beside_a_data_set_is_not_taken_for_it(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data")
    save_picture(root / "new" / "a.png", 0, 1)
    with pytest.raises(DataError, match="neither there nor a little above or below"):
        guess(root / "new")


def test_a_large_json_is_not_read_whole(tmp_path: Path) -> None:
    """Of 2 MB, whose middle holds annotations only, 192 KB are enough."""
    names = [f"{i:012d}.png" for i in range(8000)]
    path = coco_json(tmp_path / "annotations" / "instances_val.json", names)
    assert path.stat().st_size > 10 * PIECE
    text = peek(path)
    assert len(text) == 3 * PIECE
    assert (json_kind(text), file_names(text)) == ("coco", names[:20])
    save_picture(tmp_path / "val" / names[3], 0, 1)
    assert guess(path)[0].config == DataConfig("coco", str(tmp_path), "val")


@pytest.mark.parametrize("order", list(itertools.permutations(["images", "annotations", "categories"])))
@pytest.mark.parametrize(("key", "kind"), [("segmentation", "coco"), ("segments_info", "panoptic"), ("bbox", "boxes")])
def test_a_large_json_is_known_whatever_comes_first(
    tmp_path: Path, order: tuple[str, ...], key: str, kind: str
) -> None:
    count = 3000
    told = {
        "images": [{"id": i, "file_name": f"{i:05d}.jpg", "height": 20, "width": 30} for i in range(count)],
        "annotations": [{"id": i, "image_id": i, "category_id": 1, key: [[2, 2, 9, 2, 9, 9]]} for i in range(count)],
        "categories": [{"id": 1, "name": "cat"}],
    }
    path = tmp_path / "a.json"
    path.write_text(json.dumps({name: told[name] for name in order}))
    assert path.stat().st_size > 3 * PIECE
    assert json_kind(peek(path)) == kind


def test_a_json_in_utf_16_is_read(tmp_path: Path) -> None:
    text = '{"images": ["é"]}' + " " * 4 * PIECE + "}"
    (tmp_path / "a.json").write_text(text, encoding="utf-16")
    assert peek(tmp_path / "a.json").split() == ['{"images":', '["é"]}', "}"]


def test_a_short_json_is_read_whole(tmp_path: Path) -> None:
    text = "x" * (PIECE + 7) + "äö"
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    assert peek(tmp_path / "a.json") == text
    assert peek(tmp_path / "none.json") == ""


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('{"annotations": [{"segmentation": []}], "categories": []}', "coco"),
        ('{"images": [], "annotations": [{"bbox": []}], "categories": []}', "boxes"),
        ('{"images": [], "annotations": [{"caption": ""}]}', ""),
        ('{"images": [{"id": 1}], "annotations": [ ], "categories": []}', "empty"),
        ('{"annotations": []}', ""),
        ('[{"image_id": 1, "category_id": 1, "segmentation": {}}]', "results"),
        ('{"shapes": [], "imageHeight": 3}', "labelme"),
        ('{"shapes": []}', ""),
        ('[{"id": 1, "data": {}, "annotations": []}]', "labelstudio"),
        ('{"id": 1, "data": {}, "annotations": []}', ""),
        ("", ""),
    ],
)
def test_kinds_of_json(text: str, kind: str) -> None:
    assert json_kind(text) == kind


def test_names_in_json_are_decoded() -> None:
    assert file_names('{"file_name": "a\\/\\u00e4.png"}, {"file_name" : "b\\"c.png"}, {"file_name": "cut') == [
        "a/ä.png",
        'b"c.png',
    ]


# Settings that a layout reads

ONE_OF_EACH: dict[str, Tree] = {
    "folder": folder_tree,
    "voc": voc_tree,
    "ade20k": ade20k_tree,
    "coco": coco_tree,
    "labelme": labelme_tree,
    "labelstudio": labelstudio_tree,
    "cityscapes": cityscapes_tree,
}
PAIRS = [(option, layout) for option in READ_BY for layout in ONE_OF_EACH]


@pytest.mark.parametrize(("option", "layout"), PAIRS)
def test_what_is_not_read_is_refused(tmp_path: Path, option: str, layout: str) -> None:
    config = guess(ONE_OF_EACH[layout](tmp_path / "data"))[0].config
    value = {"void": 254, "values": ("254=void",)}.get(option, "lost")
    told = replace(config, **{option: value})
    if layout not in READ_BY[option]:
        rule = f"data.{option} is {value!r}; with layout {layout} it isn't read, only with {', '.join(READ_BY[option])}"
        with pytest.raises(DataError, match=re.escape(f"{rule}: leave it out")):
            open_dataset(told)
    elif option not in ("void", "values"):
        with pytest.raises(DataError, match=f"data.{option} is 'lost': there is nothing of that name"):
            open_dataset(told)
    elif layout == "coco":
        with pytest.raises(DataError, match=rf"data.{option} is 254\S*, but .* ha(s|ve) no mask values"):
            open_dataset(told)
    else:
        assert open_dataset(told).reading != open_dataset(config).reading


def test_void_of_masks_that_are_read_by_colour(tmp_path: Path) -> None:
    config = DataConfig("voc", str(labelmap_tree(tmp_path)), void=255)
    with pytest.raises(DataError, match=r"data.void is 255, but these masks give classes .*leave it out"):
        open_dataset(config)
    assert len(open_dataset(replace(config, void=None))) == 1


# Folders that can't be listed, and large ones


@pytest.fixture
def scanned(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders listed so far; those called `lost+found` can't be."""
    folders: list[str] = []
    scan = os.scandir

    def scandir(path: Any = ".") -> Any:
        told = os.path.normpath(path)
        if "lost+found" in told:
            raise PermissionError(errno.EACCES, "Permission denied", told)
        if not str(path).endswith("/."):  # which is opened and closed
            folders.append(told)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return folders


@pytest.mark.parametrize("start", ["", "data", "data/train/images"])
def test_folders_that_cannot_be_listed_are_left_out(tmp_path: Path, scanned: list[str], start: str) -> None:
    folder_tree(tmp_path / "data")
    for place in (tmp_path, tmp_path / "data", tmp_path / "data" / "train"):
        (place / "lost+found").mkdir()
    assert [one.split for one in guess(tmp_path / start)] == ["train", "val"]


def test_a_folder_that_cannot_be_listed_is_no_miss(tmp_path: Path, scanned: list[str]) -> None:
    save_picture(tmp_path / "photos" / "a.png", 0, 1)
    (tmp_path / "lost+found").mkdir()
    assert "there is:\n  photos/ (1 .png)\n" in miss(tmp_path)
    assert "this folder can't be listed" in miss(tmp_path / "lost+found")


def test_a_folder_that_fails_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = folder_tree(tmp_path / "data")
    (tmp_path / "other").mkdir()
    is_dir = Path.is_dir

    def failing(path: Path) -> bool:
        if path.parent == tmp_path / "other":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return is_dir(path)

    monkeypatch.setattr(Path, "is_dir", failing)
    assert {one.config.root for one in guess(tmp_path)} == {str(root)}


def test_each_folder_is_listed_once(tmp_path: Path, scanned: list[str]) -> None:
    for i in range(3):
        save_picture(tmp_path / "data" / "photos" / f"{i}.png", i, 1)
    miss(tmp_path / "data")
    assert str(tmp_path / "data" / "photos") in scanned
    assert len(scanned) == len(set(scanned))
    (tmp_path / "data" / "photos" / "more.txt").touch()
    assert "photos/ (3 .png, 1 .txt)" in miss(tmp_path / "data")


def test_values_are_those_of_masks_far_apart(tmp_path: Path) -> None:
    for place, numbers in (("", range(100)), ("deep/a", range(100, 102)), ("deep/b", range(102, 103))):
        for i in numbers:
            (tmp_path / place).mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((2, 2), i, np.uint8)).save(tmp_path / place / f"{i:03}.png")
    assert mask_values(tmp_path).tolist() == [0, 20, 40, 60, 80]
    assert mask_values(tmp_path / "deep").tolist() == [100, 101, 102]


# Near misses


def miss(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        guess(path)
    return str(caught.value)


def test_nothing_there(tmp_path: Path) -> None:
    assert miss(tmp_path / "none") == f"{str(tmp_path / 'none')!r}: there is no such folder or file"
    (tmp_path / "data").mkdir()
    assert "there is:\n  nothing" in miss(tmp_path / "data")


def test_what_is_there_is_told(tmp_path: Path) -> None:
    for i in range(3):
        save_picture(tmp_path / "data" / "photos" / f"{i}.JPG", i, 1)
    (tmp_path / "data" / "notes.txt").write_text("x")
    told = miss(tmp_path / "data")
    assert "  photos/ (3 .jpg)\n  1 .txt" in told
    assert "near misses" not in told
    for layout, tree in TREES.items():
        assert f"  {layout}: {tree}" in told


def test_every_layout_is_listed() -> None:
    assert tuple(TREES) == LAYOUTS


@pytest.mark.parametrize("where", ["", "train"])
def test_masks_without_classes(tmp_path: Path, where: str) -> None:
    root = folder_tree(tmp_path / "data")
    (root / "classes.txt").unlink()
    told = miss(root / where)
    name = "" if where else "train/"
    assert f"{name}images/ and {name}masks/ are there, but no classes.txt" in told
    assert "write one with a class name a line" in told
    assert "a few of the masks hold the values 0, 1, 2, 255" in told


def test_smoothed_colour_and_missing_masks(tmp_path: Path) -> None:
    root = folder_tree(tmp_path / "data", val=1)
    (root / "classes.txt").unlink()
    Image.fromarray(np.arange(200, dtype=np.uint8).reshape(10, 20)).save(root / "train" / "masks" / "train_0.png")
    (root / "val" / "masks" / "val_0.png").unlink()
    told = miss(root)
    assert ", 39, …: too many for classes; were the masks saved as JPEG" in told
    assert "there is no mask in masks (.png" in told
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / "train" / "masks" / "train_0.png")
    assert "the mask is a RGB image; an index mask is expected" in miss(root)


def test_half_a_voc_tree(tmp_path: Path) -> None:
    root = labelmap_tree(tmp_path / "data")
    (root / "JPEGImages" / "a.jpg").unlink()
    (root / "JPEGImages").rmdir()
    assert (
        "SegmentationClass and ImageSets/Segmentation as Pascal VOC has it, but no JPEGImages: put it there, or for "
        "images elsewhere give --data.layout voc --data.images FOLDER"
    ) in miss(root)


def test_other_classes_in_the_tree_of_ade20k(tmp_path: Path) -> None:
    root = ade20k_tree(tmp_path / "data") / "ADEChallengeData2016"
    for path in root.rglob("ADE_*"):
        path.rename(path.with_name(path.name[4:]))
    assert "but no file is called ADE_…: --data.layout ade20k reads them if their classes are those 150" in miss(root)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ([{"bbox": [1, 2, 3, 4], "image_id": 0, "category_id": 3}], "holds boxes without outlines"),
        ([{"segments_info": [], "image_id": 0}], "the folder of its PNGs is not beside it; name it with --data.masks"),
        ([{"caption": "x", "image_id": 0}], "holds nothing that is known of COCO, LabelMe or Label Studio"),
    ],
)
def test_other_annotations_of_coco(tmp_path: Path, annotations: list[Any], message: str) -> None:
    save_picture(tmp_path / "data" / "a.png", 0, 1)
    path = coco_json(tmp_path / "data" / "told.json", ["a.png"], annotations=annotations)
    assert f"told.json {'holds annotations of COCO, but ' if 'segments' in str(annotations) else ''}{message}" in (
        miss(path)
    )
    assert message in miss(tmp_path / "data")


def test_coco_without_its_images(tmp_path: Path) -> None:
    path = coco_json(tmp_path / "data" / "annotations" / "told.json", ["a.png"])
    told = "annotations/told.json holds annotations of COCO, but no image of it was found, such as 'a.png'; name their"
    assert told in miss(tmp_path / "data")
    assert told.removeprefix("annotations/") in miss(path)


def test_predictions_of_coco(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('[{"image_id": 1, "category_id": 1, "score": 0.5}]')
    assert "results.json holds predictions for COCO, not annotations" in miss(tmp_path / "results.json")


def test_masks_of_label_studio_alone(tmp_path: Path) -> None:
    save_picture(tmp_path / "data" / "brushed" / "task-1-annotation-2-by-3-tag-thing-0.png", 0, 1)
    for place, name in ((tmp_path / "data", "brushed/"), (tmp_path / "data" / "brushed", "./")):
        assert f"{name} holds masks that Label Studio exported; its JSON is needed too" in miss(place)


def test_folders_of_classes(tmp_path: Path) -> None:
    root = class_tree(tmp_path / "data")
    assert "train/circle/ and 3 more folders hold images and nothing else" in miss(root)


def test_parts_and_places() -> None:
    one = Guess(DataConfig(), "all", "", (Path("/a/images"), Path("/a/b.json")))
    assert [one.touches(Path(p)) for p in ("/a/images/c", "/a/images", "/a", "/a/b.json")] == [True] * 4
    assert [one.touches(Path(p)) for p in ("/a/masks", "/b", "/a/c.json")] == [False] * 3
