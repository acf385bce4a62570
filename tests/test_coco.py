"""COCO: what is read equals pycocotools' own painting, and what is wrong is named with file and id."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coco_tree import SIZE, blob, change, coco_tree, panoptic_tree, render, ring, write_json
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from test_cli import Run, backbone_options, run  # noqa: F401

from fungi_seg import DataConfig, DataError, Dataset, MemoryBank, open_dataset
from fungi_seg.datasets import coco_json, coco_table, json_stream
from fungi_seg.datasets.coco_index import read_index
from fungi_seg.datasets.guessing import guess
from fungi_seg.datasets.json_stream import elements_of
from fungi_seg.datasets.palettes import default_palette
from fungi_seg.datasets.shapes import area, crosses_itself, paint, run_counts, runs_fault
from fungi_seg.evaluation.predictions import open_predictions

IDS = [3, 7, 8, 20, 90]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return coco_tree(tmp_path)


@pytest.fixture
def instances(tree: Path) -> Path:
    return tree / "annotations" / "instances_train.json"


def opened(root: Path, split: str | None = "train", skip_bad: bool = False, **options: Any) -> Dataset:
    return open_dataset(DataConfig("coco", str(root), split, **options), skip_bad)


def ids(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items]


def painted(path: Path) -> dict[str, np.ndarray]:
    """Class indices of every image by pycocotools' own classes."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(path)
    order = sorted(coco.getCatIds())
    masks = {}
    for number, image in coco.imgs.items():
        records = coco.loadAnns(coco.getAnnIds(number))
        found = [coco.annToMask(record) > 0 for record in records]
        areas = [record.get("area", int(mask.sum())) for record, mask in zip(records, found, strict=True)]
        canvas = np.zeros((image["height"], image["width"]), np.int16)
        for i in sorted(range(len(records)), key=lambda i: -areas[i]):
            canvas[found[i]] = -1 if records[i]["iscrowd"] else 1 + order.index(records[i]["category_id"])
        masks[Path(image["file_name"]).stem] = canvas
    return masks


# What is read


@pytest.mark.parametrize("split", ["train", "val"])
def test_instances_are_painted_as_by_pycocotools(tree: Path, split: str) -> None:
    dataset = opened(tree, split)
    expected = painted(tree / "annotations" / f"instances_{split}.json")
    assert ids(dataset) == sorted(expected)
    assert dataset.problems == dataset.remarks == ()
    for sample in dataset:
        assert sample.mask.dtype == np.int16
        np.testing.assert_array_equal(sample.mask, expected[sample.id])
        assert (sample.mask == -1).any()
        assert len(np.unique(sample.mask)) > 3


def test_classes_are_the_categories_by_id(tree: Path) -> None:
    dataset = opened(tree)
    assert dataset.classes == ("background", "person", "car", "bus", "dog", "unused")
    assert dataset.groups == ("", "person", "vehicle", "vehicle", "animal", "")
    np.testing.assert_array_equal(dataset.palette, default_palette(dataset.classes))


def test_a_category_called_background_is_the_background(tree: Path, instances: Path) -> None:
    expected = {sample.id: sample.mask for sample in opened(tree)}
    change(instances, lambda told: told["categories"][1].update(name="background"))
    dataset = opened(tree)
    assert dataset.classes == ("background", "car", "bus", "dog", "unused")
    for sample in dataset:
        np.testing.assert_array_equal(sample.mask, np.array([0, 0, 1, 2, 3, 4, -1])[expected[sample.id]])


def test_the_smaller_one_is_on_top_and_of_equals_the_later_one(tree: Path, instances: Path) -> None:
    square = [[10, 10, 30, 10, 30, 30, 10, 30]]

    def stack(told: Any) -> None:
        image = told["images"][0]["id"]
        base = {"image_id": image, "segmentation": square, "iscrowd": 0}
        told["annotations"] = [
            base | {"id": i, "category_id": category, "area": area}
            for i, (category, area) in enumerate([(3, 5), (7, 5), (8, 9), (20, float("nan"))])
        ]

    change(instances, stack)
    dataset = opened(tree)
    first = dataset[ids(dataset).index("train_2")].mask
    assert first[20, 20] == 2  # of area 5, after another of area 5; the not a number counts 400 pixels
    assert (first > 0).sum() == 400
    assert not dataset[0].mask.any()  # an image without annotations is background


def test_an_image_whose_size_is_not_told(tree: Path, instances: Path) -> None:
    expected = painted(instances)
    change(instances, lambda told: [image.update(height=None, width=None) for image in told["images"]])
    for sample in opened(tree):
        np.testing.assert_array_equal(sample.mask, expected[sample.id])
    change(instances, lambda told: told["annotations"][0].update(segmentation=[[0, 0, 90, 0, 90, 20]]))
    dataset = opened(tree)
    with pytest.raises(DataError, match=r"instances_train.json: train_2.png: annotation 99800: the outline reaches 26"):
        dataset[2]


def test_categories_may_come_first_and_annotations_before_images(tree: Path, instances: Path) -> None:
    expected = painted(instances)
    told = json.loads(instances.read_text())
    write_json(instances, {key: told[key] for key in ("categories", "annotations", "images")})
    for sample in opened(tree):
        np.testing.assert_array_equal(sample.mask, expected[sample.id])


def test_classes_can_be_kept_and_merged(tree: Path) -> None:
    whole = opened(tree)
    dataset = opened(tree, classes=("person", "vehicle"), merge=("vehicle=car,bus",))
    assert dataset.classes == ("background", "person", "vehicle")
    for before, after in zip(whole, dataset, strict=True):
        np.testing.assert_array_equal(after.mask, np.array([0, 1, 2, 2, 0, 0, -1])[before.mask])


def test_many_batches_give_the_same(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = painted(tree / "annotations" / "instances_train.json")
    monkeypatch.setattr(coco_table, "BATCH", 8)
    monkeypatch.setattr(json_stream, "CHUNK", 100)
    for sample in opened(tree):
        np.testing.assert_array_equal(sample.mask, expected[sample.id])


def test_every_annotation_is_parsed_once_to_open_and_once_to_read(
    tree: Path, instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the number of images is."""
    told = json.loads(instances.read_text())
    count, images = 4_000, 100
    template = told["images"][0] | {"file_name": ""}
    told["images"] = [template | {"id": i, "file_name": f"{i}.png"} for i in range(images)]
    box = [[5, 5, 9, 5, 9, 9]]
    told["annotations"] = [
        {"id": i, "image_id": i * 7 % images, "category_id": 3, "segmentation": box, "area": 8, "iscrowd": 0}
        for i in range(count)
    ]
    write_json(instances, told)
    for i in range(images):
        os.symlink(tree / "train" / "train_0.png", tree / "train" / f"{i}.png")
    seen = {"added": 0, "loaded": 0}

    def add(self: coco_table.AnnotationTable, element: json_stream.Element, own: Any) -> None:
        seen["added"] += 1
        own(self, element)

    def loads(text: bytes, own: Callable[[bytes], Any] = json.loads) -> Any:
        seen["loaded"] += 1
        return own(text)

    monkeypatch.setattr(
        coco_table.AnnotationTable,
        "add",
        lambda self, element, own=coco_table.AnnotationTable.add: add(self, element, own),
    )
    monkeypatch.setattr(coco_json.json, "loads", loads)
    dataset = opened(tree)
    assert seen == {"added": count, "loaded": 0}
    for item in dataset.items:
        assert dataset.read(item, SIZE).any()
    assert seen == {"added": count, "loaded": count}


def test_what_decides_the_reading_is_told_shortly(tree: Path) -> None:
    train, val = opened(tree), opened(tree, "val")
    assert repr(train.read) == repr(val.read)
    assert len(repr(train.read)) < 40
    change(tree / "annotations" / "instances_val.json", lambda told: told["categories"].pop())
    assert repr(opened(tree, "val").read) != repr(train.read)


@pytest.mark.data
@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_instances(real_data: Path, split: str) -> None:
    dataset = opened(real_data / "coco", split)
    expected = painted(real_data / "coco" / "annotations" / f"instances_{split}.json")
    assert len(dataset.classes) == 81
    assert ids(dataset) == sorted(expected)
    void = 0
    for sample in dataset:
        np.testing.assert_array_equal(sample.mask, expected[sample.id])
        void += int((sample.mask == -1).sum())
    assert void > 0
    crossing = {"train2017": "000000108548.jpg: annotation 1130273", "val2017": "000000060932.jpg: annotation 294465"}
    assert dataset.remarks == (f"instances_{split}.json: {crossing[split]}: an outline crosses itself",)


# Where it is found


def moved(root: Path, file: str, images: str, prefix: str = "") -> Path:
    """The training part of a tree with its JSON at `file`, images in `images`, and names that begin with `prefix`."""
    told = json.loads((root / "annotations" / "instances_train.json").read_text())
    for image in told["images"]:
        image["file_name"] = prefix + image["file_name"]
    os.renames(root / "train", root / "moved")
    for name in ("train", "val"):
        (root / "annotations" / f"instances_{name}.json").unlink()
    write_json(root / file, told)
    (root / images).parent.mkdir(parents=True, exist_ok=True)
    if images != ".":
        os.rename(root / "moved", root / images)
    else:
        for path in (root / "moved").iterdir():
            path.rename(root / path.name)
    return root


@pytest.mark.parametrize(
    ("split", "file", "images", "prefix"),
    [
        ("train", "annotations/instances_train.json", "images/train", ""),
        ("train", "annotations/stuff_train.json", "images", ""),
        ("train", "train/_annotations.coco.json", "train/pictures", "pictures/"),  # Roboflow
        ("train", "annotations/train.json", ".", ""),
        ("train", "train.json", "train", ""),
        (None, "annotations/instances_default.json", "images/default", ""),  # CVAT
        (None, "annotations/instances_train.json", "train", ""),
        (None, "result.json", "images", "images\\"),  # Label Studio
        (None, "result_coco.json", "images", "images/"),
    ],
)
def test_the_usual_places(tree: Path, split: str | None, file: str, images: str, prefix: str) -> None:
    expected = painted(tree / "annotations" / "instances_train.json")
    write_json(tree / "annotations" / "other.json", {"shapes": []})
    if file.startswith("train/"):
        os.rename(tree / "train", tree / "pictures")
        os.renames(tree / "pictures", tree / "train" / "pictures")
        told = json.loads((tree / "annotations" / "instances_train.json").read_text())
        write_json(tree / file, told)
        (tree / "annotations" / "instances_train.json").unlink()
        change(tree / file, lambda told: [im.update(file_name=prefix + im["file_name"]) for im in told["images"]])
    else:
        moved(tree, file, images, prefix)
    dataset = opened(tree, split)
    assert [Path(i).name for i in ids(dataset)] == sorted(expected)
    for sample in dataset:
        np.testing.assert_array_equal(sample.mask, expected[Path(sample.id).name])


def test_places_that_are_named(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    os.rename(tree / "train", elsewhere / "pictures")
    os.rename(tree / "annotations" / "instances_train.json", elsewhere / "own.json")
    dataset = opened(tree, annotations=str(elsewhere / "own.json"), images=str(elsewhere / "pictures"))
    assert len(dataset) == 3
    assert dataset[0].mask.any()


FAR = {
    "Label Studio on Windows": "..\\..\\label-studio\\media\\upload\\4\\{}",
    "with what it puts before": "../media/upload/4/0a1b2c3d-{}",
    "a notebook": "/content/data/{}",
    "Windows": "C:\\data\\{}",
    "an address": "https://example.org/some/{}?version=1",
    "a folder that isn't there": "images/7/{}",
}


@pytest.mark.parametrize("form", FAR.values(), ids=FAR)
def test_images_that_lie_elsewhere_are_found_by_name(tree: Path, instances: Path, form: str) -> None:
    expected = painted(instances)
    change(instances, lambda told: [im.update(file_name=form.format(im["file_name"])) for im in told["images"]])
    with pytest.raises(DataError, match=r"--data.images"):
        opened(tree)
    dataset = opened(tree, images="train")
    assert ids(dataset) == ["train_0", "train_1", "train_2"]
    for sample in dataset:
        np.testing.assert_array_equal(sample.mask, expected[sample.id])
    where = f"those of the same name in {tree / 'train'} are taken"
    assert f"instances_train.json: 3 images don't lie where file_name says; {where}" in dataset.remarks[-1]
    (tree / "list.txt").write_text("train_2.png\n")
    assert ids(opened(tree, images="train", file_list=str(tree / "list.txt"))) == ["train_2"]


def test_of_files_of_one_name_none_is_taken(tree: Path, instances: Path) -> None:
    change(instances, lambda told: image(told).update(file_name="/far/train_2.png"))
    for name in ("a", "b"):
        (tree / "train" / name).mkdir()
        (tree / "train" / name / "train_2.png").write_bytes((tree / "train" / "train_2.png").read_bytes())
    (tree / "train" / "train_2.png").unlink()
    with pytest.raises(DataError, match=r"train_2.png could be .*a/train_2.png or .*b/train_2.png; rename one"):
        opened(tree, images="train")
    change(instances, lambda told: image(told).update(file_name="/far/b/train_2.png"))
    assert ids(opened(tree, images="train")) == ["b/train_2", "train_0", "train_1"]


def test_a_file_is_the_image_of_one_entry(tree: Path, instances: Path) -> None:
    change(instances, lambda told: image(told).update(file_name="/far/train_0.png"))
    with pytest.raises(DataError, match=r"another image, 'train_0.png', would be the same file, .*train_0"):
        opened(tree, images="train")


def test_no_file_beyond_the_folder_is_taken(tree: Path, instances: Path) -> None:
    """Not even one that is there."""
    change(instances, lambda told: image(told).update(file_name="../val/val_0.png"))
    with pytest.raises(DataError, match=r"its image '../val/val_0.png' isn't in '.*train'"):
        opened(tree, images="train")
    change(instances, lambda told: image(told).update(file_name=str(tree / "val" / "val_0.png")))
    with pytest.raises(DataError, match=r"leads out of the images' folder; name the folder with --data.images"):
        opened(tree)


def test_percent_encoded_names(tree: Path, instances: Path) -> None:
    (tree / "train" / "train_2.png").rename(tree / "train" / "a b.png")
    change(instances, lambda told: image(told).update(file_name="a%20b.png"))
    assert [item.image.name for item in opened(tree).items] == ["a b.png", "train_0.png", "train_1.png"]
    (tree / "train" / "a b.png").rename(tree / "train" / "a%20b.png")
    assert opened(tree).items[0].image.name == "a%20b.png"


def test_images_without_any_annotation_are_background(tree: Path, instances: Path) -> None:
    change(instances, lambda told: told.update(annotations=[]))
    dataset = opened(tree)
    assert dataset.classes[0] == "background"
    assert len(dataset.classes) == 6
    assert not any(sample.mask.any() for sample in dataset)
    assert dataset.remarks == ("instances_train.json: 0 annotations, so that all of every image is background",)
    assert guess(tree)[0].split == "val"  # that with annotations first
    assert guess(instances)[0].why.startswith("annotations/instances_train.json holds images and categories, 0 annot")
    assert open_predictions(tree / "train", dataset).names.keys() == set(ids(dataset))


def test_a_file_without_annotations_beside_another(tree: Path, instances: Path) -> None:
    """As those that are written beside COCO results."""
    change(instances, lambda told: told.update(annotations=[]))
    assert ids(opened(tree, None)) == ["val_0", "val_1"]
    (tree / "annotations" / "instances_val.json").unlink()
    assert len(opened(tree, None)) == 3


def test_a_panoptic_file_without_annotations(tree: Path, instances: Path) -> None:
    change(instances, lambda told: told.update(annotations=[]))
    instances.rename(tree / "annotations" / "panoptic_train.json")
    with pytest.raises(DataError, match=r"panoptic_train.json: names no segment of any image"):
        opened(tree)


def test_a_file_list_chooses(tree: Path, instances: Path) -> None:
    (tree / "list.txt").write_text("train_2.png\ntrain_0\n")
    change(instances, lambda told: told["annotations"][12].update(category_id=5))  # of train_1, which isn't listed
    assert ids(opened(tree, file_list=str(tree / "list.txt"))) == ["train_2", "train_0"]
    (tree / "list.txt").write_text("train_2\nother\n")
    with pytest.raises(DataError, match="1 images or annotations can't be used:\n  other: not among the images"):
        opened(tree, file_list=str(tree / "list.txt"))


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (None, "found 2 COCO JSON files"),
        ("test", "data.split 'test': found no COCO JSON"),
    ],
)
def test_no_file_or_several(tree: Path, split: str | None, message: str) -> None:
    with pytest.raises(DataError) as error:
        opened(tree, split)
    assert message in str(error.value)
    assert ("instances_val.json" in str(error.value)) == (split is None)
    assert "--data.split, as in instances_SPLIT.json, or the file with --data.annotations" in str(error.value)


def test_images_that_are_nowhere(tree: Path) -> None:
    os.rename(tree / "train", tree / "away")
    with pytest.raises(DataError, match=r"its images, 'train_2.png' and others, weren't found in(.|\n)*--data.images"):
        opened(tree)
    assert len(opened(tree, images="away")) == 3


# Panoptic, and pixel maps


def test_panoptic_equals_loops(tmp_path: Path) -> None:
    root = panoptic_tree(tmp_path)
    told = json.loads((root / "annotations" / "panoptic_val.json").read_text())
    dataset = opened(root, "val")
    assert dataset.classes == ("person", "car", "bus", "dog")
    assert dataset.groups == ("person", "vehicle", "vehicle", "animal")
    np.testing.assert_array_equal(dataset.palette, default_palette(dataset.classes))
    for sample, annotation in zip(dataset, told["annotations"], strict=True):
        segments = {segment["id"]: segment for segment in annotation["segments_info"]}
        pixels = Image.open(root / "annotations" / "panoptic_val" / annotation["file_name"])
        for y in range(SIZE[0]):
            for x in range(SIZE[1]):
                red, green, blue = pixels.getpixel((x, y))
                segment = segments.get(red + 256 * green + 65536 * blue, {"iscrowd": 1})
                expected = -1 if segment["iscrowd"] else [3, 7, 8, 20].index(segment["category_id"])
                assert sample.mask[y, x] == expected
        assert set(np.unique(sample.mask)) == {-1, 0, 2}


def test_a_changed_panoptic_file_reads_differently(tmp_path: Path) -> None:
    root = panoptic_tree(tmp_path)
    before = opened(root, "val").reading
    change(
        root / "annotations" / "panoptic_val.json",
        lambda told: told["annotations"][0]["segments_info"][0].update(category_id=20),
    )
    assert opened(root, "val").reading != before


def segments(told: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = told["annotations"][0]["segments_info"]
    return found


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda told: segments(told)[0].update(category_id=5), "val_0.jpg: {}: there is no category of id 5"),
        (lambda told: segments(told)[0].update(id=2**24), "each of segments_info must have an id, 1..16777215"),
        (lambda told: segments(told).append(segments(told)[0]), "is there twice"),
        (lambda told: segments(told)[1].update(iscrowd="no"), "iscrowd is 'no'; it must be 0 or 1"),
        (lambda told: told["annotations"][0].update(segments_info=5), "must have segments_info, a list, and the file"),
        (lambda told: told["annotations"][0].update(file_name="no.png"), "val_0.jpg: there is no 'no.png' in"),
        (lambda told: told["annotations"][0].update(file_name="../x.png"), "val_0.jpg: there is no '../x.png' in"),
        (lambda told: told["annotations"].pop(0), "val_0.jpg: it has no annotation"),
        (lambda told: told["annotations"].append(told["annotations"][0]), "the image has another one"),
    ],
)
def test_panoptic_faults(tmp_path: Path, how: Callable[[Any], Any], message: str) -> None:
    root = panoptic_tree(tmp_path)
    path = root / "annotations" / "panoptic_val.json"
    change(path, how)
    for part in message.split("{}"):
        with pytest.raises(DataError) as error:
            opened(root, "val")
        assert part in str(error.value)
        assert str(path) in str(error.value)
    dataset = opened(root, "val", skip_bad=True)
    assert ids(dataset) == ["val_1"]
    assert len(dataset.problems) == 1


def test_pixels_of_a_segment_that_is_not_named(tmp_path: Path) -> None:
    root = panoptic_tree(tmp_path)
    path = root / "annotations" / "panoptic_val.json"
    gone = segments(json.loads(path.read_text()))[1]["id"]
    change(path, lambda told: segments(told).pop(1))
    with pytest.raises(DataError, match=rf"seg_0.png: holds segment ids that .*_val.json doesn't name: {gone};"):
        opened(root, "val")[0]


def test_png_files_that_are_no_segments(tmp_path: Path) -> None:
    root = panoptic_tree(tmp_path)
    png = root / "annotations" / "panoptic_val" / "seg_0.png"
    dataset = opened(root, "val")
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(png)
    with pytest.raises(DataError, match=r"seg_0.png: is a L image; segment ids must be RGB colours"):
        dataset[0]
    png.write_bytes(png.read_bytes()[:20])
    with pytest.raises(DataError, match=r"seg_0.png: can't be read as a mask"):
        dataset[0]
    os.rename(png.parent, tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"the folder of its PNG files wasn't found(.|\n)*--data.masks"):
        opened(root, "val")
    assert len(opened(root, "val", masks="elsewhere")) == 2


def pixel_maps(tree: Path) -> Path:
    """Pixel maps of the training images, beside outlines that nobody looks at."""
    for i in range(3):
        values = np.kron([[0, 3], [8, 20]], np.ones((24, 32))).astype(np.uint8)
        values[0, :4] = [0, 7, 90, 3 + i]
        (tree / "maps").mkdir(exist_ok=True)
        Image.fromarray(values).save(tree / "maps" / f"train_{i}.png")
    return tree


def test_pixel_maps(tree: Path, instances: Path) -> None:
    pixel_maps(tree)
    change(instances, lambda told: told.update(annotations=[{"id": 1, "segmentation": "nobody looks"}]))
    dataset = opened(tree, masks="maps")
    assert dataset.classes == ("person", "car", "bus", "dog", "unused")
    with pytest.raises(DataError, match=r"train_1.png: class ids outside the 5 known classes: 4 \(1 pixels\)"):
        dataset[1]
    dataset = opened(tree, masks="maps", void=4)
    for sample in (dataset[0], dataset[1]):
        values = np.asarray(Image.open(tree / "maps" / f"{sample.id}.png"))
        expected = [[IDS.index(v) if v in IDS else -1 for v in row] for row in values]
        np.testing.assert_array_equal(sample.mask, expected)


def test_pixel_maps_that_lack_or_cannot_be(tree: Path, instances: Path) -> None:
    pixel_maps(tree)
    (tree / "maps" / "train_1.png").unlink()
    with pytest.raises(DataError, match=r"train_1.png: there is no mask of that name in .*maps'"):
        opened(tree, masks="maps")
    assert ids(opened(tree, masks="maps", skip_bad=True)) == ["train_0", "train_2"]
    change(instances, lambda told: told["categories"][0].update(id=70_000))
    with pytest.raises(DataError, match=r"categories of ids \[70000\] can't be values of pixel maps"):
        opened(tree, masks="maps", skip_bad=True)


def test_void_needs_mask_values(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.void is 255, but instances_train.json has no mask values; leave it out"):
        opened(tree, void=255)


# What is wrong with the file


def cut(told: bytes) -> bytes:
    return told[: len(told) // 2]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (cut, "cut off at byte {half}; download or export it again"),
        (lambda told: told.rstrip()[:-1], "cut off at byte"),
        (lambda told: told.replace(b'"id"', b'"id'), "not JSON: "),
        (lambda told: told.replace(b'"images":', b'\n"images"'), "not JSON: ':' expected, line 2, column 10 (byte"),
        (lambda told: told + b"{}", "not JSON: more follows where it should end, line 1"),
        (lambda told: told.replace(b"train_0", b"tr\xff"), "not JSON: a text that isn't UTF-8, line 1"),
        (lambda told: b"", "must hold a JSON object, {…}, but is empty"),
        (lambda told: b"[" + told + b"]", "must hold a JSON object, {…}, but begins with '['"),
        (lambda told: told.replace(b'"annotations"', b'"other"'), "has no list called annotations; it needs images, "),
        (lambda told: b'{"images": {}}', "'images' must be a list, but begins with '{'"),
        (lambda told: b'{"images": [], "annotations": [], "categories": []}', "'categories' is empty; it must name"),
        (lambda told: b'{"images": ' + b"[" * 100_000 + b"}", "not JSON: maximum recursion depth"),
    ],
)
def test_files_that_are_broken(tree: Path, instances: Path, how: Callable[[bytes], bytes], message: str) -> None:
    whole = instances.read_bytes()
    instances.write_bytes(how(whole))
    for skip_bad in (False, True):
        with pytest.raises(DataError) as error:
            opened(tree, skip_bad=skip_bad)
        assert f"{instances}: {message.format(half=len(whole) // 2) if '{half' in message else message}" in str(
            error.value
        )


@pytest.mark.parametrize("chunk", [3, 64, 1000])
def test_a_stream_gives_what_json_does(tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is in the file and wherever it is cut in pieces."""
    monkeypatch.setattr(json_stream, "CHUNK", chunk)
    generator = random.Random(chunk)

    def value(depth: int = 0) -> Any:
        kind = generator.random()
        if kind < 0.4 or depth > 3:
            return generator.choice([1, -2.5e10, 1e-300, 10**17, True, None, "", 'é"\\\n,{}[]😀' * 9])
        if kind < 0.7:
            return [value(depth + 1) for _ in range(generator.randrange(5))]
        return {f"k{i}é": value(depth + 1) for i in range(generator.randrange(5))}

    path = tmp_path / "some.json"
    for _ in range(60):
        told: dict[str, Any] = {key: value() for key in generator.sample("abcxyz", 6)}
        told |= {key: [value() for _ in range(generator.randrange(6))] for key in "abc"}
        text = json.dumps(told, ensure_ascii=generator.random() < 0.5, indent=generator.choice([None, 2])).encode()
        path.write_bytes(generator.choice([b"", b"\xef\xbb\xbf"]) + text + b" \n")
        whole = path.read_bytes()
        found: dict[str, list[Any]] = {key: [] for key in "abc"}
        for key, start, length, element in elements_of(path, "abc"):
            assert json.loads(whole[start : start + length]) == element
            found[key].append(element)
        assert found == {key: told[key] for key in "abc"}
        size = generator.randrange(1, len(text))
        path.write_bytes(text[:size])
        with pytest.raises(DataError, match=f"cut off at byte {size};"):
            list(elements_of(path, "abc"))


def test_a_file_that_changes_meanwhile(tree: Path, instances: Path) -> None:
    dataset = opened(tree)
    change(instances, lambda told: told["annotations"].reverse() or told.update(more=1))
    with pytest.raises(DataError, match=r"instances_train.json: has changed since it was opened; open the data"):
        dataset[0]


# What is wrong with what it says: `a` is an annotation of the image train_2


def first(told: Any) -> dict[str, Any]:
    found: dict[str, Any] = told["annotations"][0]
    return found


def shape(segmentation: Any) -> Callable[[Any], Any]:
    return lambda told: first(told).update(segmentation=segmentation)


OUTSIDE = [[0, 0, 64, 0, 65.5, 20]]
GOOD = blob(np.random.default_rng(0))
NUMBERS = "the outline has coordinates that are no numbers"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (shape(OUTSIDE), "the outline reaches 1.5 pixels outside the image, which is 48×64 (height×width)"),
        (shape([ring(np.random.default_rng(0)), [-2, 0, 4, 0, 4, 4]]), "the outline reaches 2.0 pixels outside"),
        (shape([[1, 1, 5, 5]]), "the outline has 2 points; it must have 3 or more"),
        (shape([[], [1, 1, 5, 5]]), "the outline has 2 points; it must have 3 or more"),
        (shape([GOOD, []]), "the segmentation must be a list of outlines"),
        (shape([[1, 1, 5, 1, 5, 5, 1]]), "the outline has 7 numbers; it must have an x and a y for each point"),
        (shape([[1, 1, 5, 1, 5, "5"]]), NUMBERS),
        (shape([[1, 1, 5, 1, 5, None]]), NUMBERS),
        (shape([[1, 1, 5, 1, 5, 10**400]]), NUMBERS),
        (shape([[1, 1, 5, 1, 5, float("nan")]]), NUMBERS),
        (shape([[1, 1, 5, 1, 5, float("inf")]]), NUMBERS),
        (shape([1, 1, 5, 1, 5, 5]), "the segmentation must be a list of outlines [x1, y1, x2, y2, …], or run lengths"),
        (shape("0 0 5 5"), "the segmentation must be a list of outlines"),
        (shape([GOOD]), "the segmentation must be a list of outlines"),
        (shape(GOOD | {"size": [48, 63]}), "the run lengths add up to 3072, not to 48×63 pixels"),
        (shape({"size": [10, 10], "counts": [40, 60]}), "the run lengths are of 10×10 pixels (height×width), the im"),
        (
            shape({"size": [64, 48], "counts": [3072]}),
            "the run lengths are of 64×48 pixels (height×width), the im",
        ),
        (shape({"size": [48, 64], "counts": [40, 60]}), "the run lengths add up to 100, not to 48×64 pixels"),
        (
            shape({"size": [48, 64], "counts": [4000, -928]}),
            "the run lengths (counts) must be a text, or a list of",
        ),
        (shape({"size": [48, 64], "counts": [3071.5, 0.5]}), "the run lengths (counts) must be a text, or a list of"),
        (shape({"size": [48, 64]}), "the run lengths (counts) must be a text, or a list of whole numbers"),
        (shape({"counts": [3072]}), "the run lengths must have a size, [height, width], and counts"),
        (shape({"size": [0, 64], "counts": []}), "the run lengths must have a size"),
        (shape(GOOD | {"counts": GOOD["counts"][:-1] + "p"}), "the run lengths aren't compressed as COCO does"),
        (shape(GOOD | {"counts": "o" * 40}), "the run lengths aren't compressed as COCO does"),
        (shape(GOOD | {"counts": GOOD["counts"][:-1] + "P"}), "the run lengths aren't compressed as COCO does, or are"),
        (lambda told: first(told).update(category_id=4), "there is no category of id 4"),
        (
            lambda told: first(told).update(category_id=None),
            "id is 99800 and category_id None; both must be whole numbers",
        ),
        (lambda told: told["annotations"][1].update(id=99800), "another one has the same id"),
        (lambda told: first(told).update(iscrowd="0"), "iscrowd is '0'; it must be 0 or 1"),
    ],
)
def test_annotations_that_are_wrong(tree: Path, instances: Path, how: Callable[[Any], Any], message: str) -> None:
    change(instances, how)
    line = f"train_2.png: annotation 99800: {message}"
    with pytest.raises(DataError) as error:
        opened(tree)
    assert f"{instances}: 1 images or annotations can't be used:\n  {line}" in str(error.value)
    assert "skip these images with --skip-bad" in str(error.value)
    dataset = opened(tree, skip_bad=True)
    assert ids(dataset) == ["train_0", "train_1"]
    assert dataset.problems[0].startswith(f"instances_train.json: {line}")
    assert dataset[0].mask.any()


def image(told: Any) -> dict[str, Any]:
    found: dict[str, Any] = told["images"][0]
    return found


@pytest.mark.parametrize(
    ("how", "message", "left"),
    [
        (lambda told: image(told).update(id=5), "annotation 99800: there is no image of id 998", 3),
        (lambda told: image(told).update(file_name="no.png"), "no.png: there is no such file in", 2),
        (lambda told: image(told).update(file_name="../val/val_0.png"), "../val/val_0.png: file_name leads out of", 2),
        (
            lambda told: image(told).update(file_name="/etc/x.png"),
            "/etc/x.png: file_name leads out of the",
            2,
        ),
        (
            lambda told: image(told).update(file_name="C:\\x.png"),
            "C:\\x.png: file_name leads out of",
            2,
        ),
        (
            lambda told: image(told).update(file_name="train_1.png"),
            "train_1.png: another image, 'train_1.png', has the same file_name",
            1,
        ),
        (
            lambda told: image(told).update(file_name="train_1.jpg"),
            "train_1.jpg: another image, 'train_1.png', has the same file_name, up",
            1,
        ),
        (
            lambda told: image(told).update(height=0),
            "train_2.png: height is 0 and width 64; both must be whole numbers",
            2,
        ),
        (
            lambda told: image(told).update(height="48"),
            "train_2.png: height is '48' and width 64; both must be whole numbers",
            2,
        ),
        (lambda told: image(told).update(width=32), "train_2.png: annotation 998", 2),
        (lambda told: image(told).update(id="one"), "image at byte 12: needs an id, a whole number, or a file_name", 2),
        (lambda told: told["images"].append([]), "needs an id, a whole number, or a file_name", 3),
        (lambda told: told["annotations"].append(5), "annotation at byte", 3),
        (lambda told: told["annotations"].append(5), ": is 5, not an object", 3),
        (lambda told: first(told).pop("image_id"), "annotation 99800: image_id is None; it must be a whole number", 3),
        (lambda told: first(told).update(image_id="998"), "annotation 99800: image_id is '998'; it must be a", 3),
        (lambda told: first(told).update(image_id=998.5), "annotation 99800: image_id is 998.5; it must be a", 3),
        (lambda told: first(told).update(image_id=True), "annotation 99800: image_id is True; it must be a", 3),
        (lambda told: first(told).update(id="one"), "id is 'one' and category_id", 2),
        *[
            (
                lambda told, file=file: image(told).update(file_name=file),
                f"{file}: file_name is {file!r}; it must be the name of a file",
                2,
            )
            for file in (".", "/", "a/..", "..", "./", "a\\..")
        ],
        (lambda told: told["annotations"][0].update(image_id=7), "annotation 99800: there is no image of id 7", 3),
        (lambda told: told["annotations"][0].pop("id"), "train_2.png: annotation at byte", 2),
    ],
)
def test_images_that_are_wrong(tree: Path, instances: Path, how: Callable[[Any], Any], message: str, left: int) -> None:
    change(instances, how)
    with pytest.raises(DataError) as error:
        opened(tree)
    assert str(instances) in str(error.value)
    assert message in str(error.value)
    dataset = opened(tree, skip_bad=True)
    assert len(dataset) == left
    assert any(message in line for line in dataset.problems)
    assert all(sample.mask.any() for sample in dataset if sample.id != "train_2")


def test_both_images_of_one_name_are_told(tree: Path, instances: Path) -> None:
    change(instances, lambda told: image(told).update(file_name="./train_1.jpg"))
    dataset = opened(tree, skip_bad=True)
    assert ids(dataset) == ["train_0"]
    assert dataset.problems == (
        "instances_train.json: ./train_1.jpg: another image, 'train_1.png', has the same file_name, up to its suffix",
        "instances_train.json: train_1.png: another image, './train_1.jpg', has the same file_name, up to its suffix",
    )


def test_addresses_are_shown_as_they_are(tree: Path, instances: Path) -> None:
    change(instances, lambda told: [im.update(file_name=f"https://x.org/{im['id']}.png") for im in told["images"]])
    with pytest.raises(DataError, match=r"its images, 'https://x.org/998.png' and others, weren't found"):
        opened(tree)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda told: image(told).update(id=True), "id is True; it must be a whole number"),
        (lambda told: image(told).update(id=1.5), "id is 1.5; it must be a whole number"),
        (lambda told: image(told).update(file_name="a/.."), "file_name is 'a/..'; it must be the name of a file"),
        (lambda told: image(told).update(file_name="/"), "file_name is '/'; it must be the name of a file"),
        (lambda told: image(told).update(height=True), "height is True and width 64; both must be whole numbers above"),
    ],
)
def test_an_index_with_faults(instances: Path, how: Callable[[Any], Any], message: str) -> None:
    change(instances, how)
    with pytest.raises(DataError) as error:
        read_index(instances)
    assert str(error.value) == f"{instances}: images[0]: {message}" + " 0" * message.endswith("above")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32"])
def test_other_encodings_are_named(tree: Path, instances: Path, encoding: str) -> None:
    instances.write_text(instances.read_text(), encoding=encoding)
    (tree / "annotations" / "instances_val.json").unlink()
    message = rf"instances_train.json: is in {encoding.upper()}; JSON must be in UTF-8"
    for split in ("train", None):
        with pytest.raises(DataError, match=message):
            opened(tree, split)
    with pytest.raises(DataError, match=message):
        read_index(instances)


def test_two_images_of_one_id(tree: Path, instances: Path) -> None:
    change(instances, lambda told: image(told).update(id=999))
    with pytest.raises(DataError, match=r"train_1.png: image id 999 is there twice"):
        opened(tree)
    assert ids(opened(tree, skip_bad=True)) == ["train_0"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda told: told["categories"][0].update(id=3), "categories of ids 3, 3: have the same id, 3"),
        (lambda told: told["categories"][0].update(name="car"), "categories of ids 20, 7: have the same name, 'car'"),
        (lambda told: told["categories"][0].update(name=""), "needs an id, a whole number, or a name"),
        (lambda told: told["categories"].append("cat"), "needs an id, a whole number, or a name"),
        (
            lambda told: [a.update(image_id="998") for a in told["annotations"]],
            "36 annotations belong to no image:\n  annotation 99800: image_id is '998'; it must be a whole number",
        ),
        (lambda told: told.update(images=[]), "'images' names no image"),
        (lambda told: [a.update(segmentation=[]) for a in told["annotations"]], "no annotation has an outline or run"),
        (lambda told: [im.update(file_name="../x") for im in told["images"]], "../x: file_name leads out of"),
    ],
)
def test_faults_that_cannot_be_passed_over(
    tree: Path, instances: Path, how: Callable[[Any], Any], message: str
) -> None:
    change(instances, how)
    for skip_bad in (False, True):
        with pytest.raises(DataError) as error:
            opened(tree, skip_bad=skip_bad)
        assert str(instances) in str(error.value)
        assert message in str(error.value)


def test_no_more_than_ten_faults_are_listed(tree: Path, instances: Path) -> None:
    def spoil(told: Any) -> None:
        told["annotations"] += [{"id": i, "image_id": 5, "category_id": 3, "segmentation": []} for i in range(30)]
        first(told).update(category_id=4)
        told["annotations"][1].update(category_id=4)

    change(instances, spoil)
    with pytest.raises(DataError) as error:
        opened(tree)
    assert "31 images or annotations can't be used" in str(error.value)
    assert "… and 21 more" in str(error.value)
    problems = opened(tree, skip_bad=True).problems
    assert len(problems) == 31
    assert problems[0].endswith("train_2.png: annotation 99800: there is no category of id 4 (and 1 more)")


def test_an_image_of_another_size(tree: Path) -> None:
    dataset = opened(tree)
    Image.new("RGB", (64, 50)).save(tree / "train" / "train_1.png")
    with pytest.raises(DataError, match=r"train_1.png: the image is 50×64 .* says 48×64 of image 999; was the .*\?$"):
        dataset[1]


def test_an_image_that_its_exif_orientation_turns(tree: Path) -> None:
    dataset = opened(tree)
    path = tree / "train" / "train_1.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(path)
    picture.save(path, exif=exif)
    with pytest.raises(
        DataError, match=r"is 64×48 .* says 48×64 .*rotated\? If its EXIF .*, or remove the orientation"
    ):
        dataset[1]
    picture.save(path)
    assert dataset[1].mask.any()


def test_what_only_looks_wrong_is_a_remark(tree: Path, instances: Path) -> None:
    crossed = [[5, 5, 20, 20, 20, 5, 5, 20]]

    def odd(told: Any) -> None:
        first(told).update(segmentation=crossed)
        told["annotations"][1].update(segmentation=[])
        told["annotations"][2].pop("segmentation")

    change(instances, odd)
    dataset = opened(tree)
    assert dataset.remarks == (
        "instances_train.json: train_2.png: annotation 99800: an outline crosses itself",
        "instances_train.json: train_2.png: annotation 99801: no outline, only a box; left out",
        "instances_train.json: train_2.png: annotation 99802: no outline, only a box; left out",
    )
    records = [r for r in json.loads(instances.read_text())["annotations"] if r["image_id"] == 998]
    values = render([record for record in records if record.get("segmentation")])
    expected = np.array([-1, 0, *(1 + IDS.index(i) if i in IDS else 0 for i in range(1, 91))])[values + 1]
    np.testing.assert_array_equal(dataset[2].mask, expected)


def test_outlines_without_points_are_left_out(tree: Path, instances: Path) -> None:
    expected = painted(instances)
    change(instances, lambda told: first(told).update(segmentation=[[], *first(told)["segmentation"], []]))
    dataset = opened(tree)
    assert dataset.remarks == (
        "instances_train.json: train_2.png: annotation 99800: an outline has no points; left out",
    )
    np.testing.assert_array_equal(dataset[2].mask, expected["train_2"])
    change(instances, lambda told: first(told).pop("segmentation"))
    expected = {sample.id: sample.mask for sample in opened(tree)}
    change(instances, lambda told: first(told).update(segmentation=[[]]))
    dataset = opened(tree)
    assert dataset.remarks == ("instances_train.json: train_2.png: annotation 99800: no outline, only a box; left out",)
    np.testing.assert_array_equal(dataset[2].mask, expected["train_2"])


@pytest.mark.parametrize(("area", "on_top"), [(0, 7), (-3.5, 7), (350, 3)])
def test_an_area_that_is_not_above_0_is_counted(tree: Path, instances: Path, area: float, on_top: int) -> None:
    """Of 400 pixels, below another one of 375."""

    def stack(told: Any) -> None:
        base = {"image_id": 998, "iscrowd": 0}
        large = base | {"id": 1, "category_id": 3, "area": area, "segmentation": [[10, 10, 30, 10, 30, 30, 10, 30]]}
        small = base | {"id": 2, "category_id": 7, "area": 375, "segmentation": [[10, 10, 25, 10, 25, 35, 10, 35]]}
        told["annotations"] = [large, small]

    change(instances, stack)
    assert opened(tree)[2].mask[20, 20] == 1 + IDS.index(on_top)


def floats(value: Any) -> Any:
    """The same with all whole numbers as pandas writes them."""
    if isinstance(value, dict):
        return {key: floats(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [floats(entry) for entry in value]
    return float(value) if type(value) is int else value


def test_whole_numbers_may_be_written_as_floats(tree: Path, instances: Path) -> None:
    expected = painted(instances)
    index = read_index(instances)
    write_json(instances, floats(json.loads(instances.read_text())))
    assert b'"id": 998.0' in instances.read_bytes()
    for sample in opened(tree):
        np.testing.assert_array_equal(sample.mask, expected[sample.id])
    assert read_index(instances) == index
    assert "998.0" not in repr(read_index(instances))


def test_whole_numbers_of_panoptic_files_may_be_floats(tmp_path: Path) -> None:
    root = panoptic_tree(tmp_path)
    expected = [sample.mask for sample in opened(root, "val")]
    path = root / "annotations" / "panoptic_val.json"
    write_json(path, floats(json.loads(path.read_text())))
    for mask, sample in zip(expected, opened(root, "val"), strict=True):
        np.testing.assert_array_equal(sample.mask, mask)


@pytest.mark.parametrize("name", ["blood", "person"])
def test_the_first_category_of_roboflow_is_left_out(tree: Path, instances: Path, name: str) -> None:
    """It is named like the project, which is the super-category of all others, and one of these may be, too."""
    expected = {sample.id: sample.mask for sample in opened(tree)}

    def like_roboflow(told: Any) -> None:
        for category in told["categories"]:
            category["supercategory"] = name
        told["categories"].insert(0, {"id": 0, "name": name, "supercategory": "none"})

    change(instances, like_roboflow)
    dataset = opened(tree)
    assert dataset.classes == ("background", "person", "car", "bus", "dog", "unused")
    assert dataset.remarks == (
        f"instances_train.json: category 0, '{name}', is left out: it is the super-category of others, and no "
        f"annotation is of it",
    )
    for sample in dataset:
        np.testing.assert_array_equal(sample.mask, expected[sample.id])
    kept = opened(tree, classes=(name,))
    assert any((sample.mask > 0).any() for sample in kept)


def test_categories_that_are_used_or_no_super_category_stay(tree: Path, instances: Path) -> None:
    change(instances, lambda told: told["categories"].append({"id": 0, "name": "plant", "supercategory": "none"}))
    dataset = opened(tree)
    assert (dataset.classes[1], dataset.remarks) == ("plant", ())
    change(instances, lambda told: told["categories"][-1].update(name="vehicle"))
    assert "vehicle" not in opened(tree).classes
    change(instances, lambda told: first(told).update(category_id=0))
    dataset = opened(tree)
    assert (dataset.classes[1], dataset.remarks) == ("vehicle", ())


def test_crowds_are_told_of_where_there_are_many(tree: Path, instances: Path) -> None:
    """Some tools call a crowd what was drawn by brush."""

    def as_datumaro(told: Any) -> None:
        for record in told["annotations"]:
            record["iscrowd"] = int(isinstance(record["segmentation"], dict))

    change(instances, as_datumaro)
    (remark,) = opened(tree).remarks
    assert "instances_train.json: 9 of 36 annotations are crowds (iscrowd 1), so they are void; Datumaro" in remark
    change(instances, lambda told: [a.update(iscrowd=1) for a in told["annotations"]])
    with pytest.raises(DataError, match=r"instances_train.json: all annotations are crowds"):
        opened(tree)


# Pixels


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_are_those_of_pycocotools(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = (int(side) for side in generator.integers(1, 40, 2))
    mask = (generator.random((height, width)) < [0, 0.1, 0.5, 0.95, 1][seed % 5]).astype(np.uint8)
    runs = coco_mask.encode(np.asfortranarray(mask))
    counts = run_counts(runs["counts"])
    assert counts.sum() == height * width
    assert runs_fault({"size": [height, width], "counts": runs["counts"].decode()}, (height, width)) is None
    assert runs_fault({"size": [height, width], "counts": counts.tolist()}, (height, width)) is None
    assert area(runs) == mask.sum()
    for counted in (runs["counts"], counts.tolist()):
        canvas = generator.integers(0, 9, (height, width)).astype(np.int16)
        expected = np.where(mask > 0, 77, canvas)
        paint(canvas, {"size": [height, width], "counts": counted}, 77)
        np.testing.assert_array_equal(canvas, expected)


def test_no_text_of_run_lengths_is_taken_for_what_it_is_not() -> None:
    """What passes the check is what pycocotools writes, or decodes to as many pixels as the image has."""
    generator = random.Random(0)
    accepted = 0
    for _ in range(3000):
        text = "".join(chr(generator.randrange(40, 120)) for _ in range(generator.randrange(6)))
        if generator.random() < 0.5:
            text = "".join(chr(48 + generator.randrange(8)) for _ in range(4))
        if runs_fault({"size": [4, 5], "counts": text}, (4, 5)) is None:
            accepted += 1
            counts = run_counts(text)
            assert counts.min() >= 0
            assert counts.sum() == 20
            decoded = coco_mask.decode({"size": [4, 5], "counts": text.encode()})
            np.testing.assert_array_equal(decoded.T.ravel(), np.repeat(np.arange(len(counts)) % 2, counts))
    assert accepted > 20


def test_outlines_that_cross_or_touch_themselves() -> None:
    assert not crosses_itself(np.array([[0, 0], [5, 0], [5, 5.0]]))
    assert crosses_itself(np.array([[0, 0], [4, 4], [4, 0], [0, 4.0]]))
    assert crosses_itself(np.array([[0, 0], [1, 1], [0, 0.0]]))


# On the command line


def test_build_and_evaluate(tree: Path, tiny_weights: Path, tmp_path: Path, run: Run) -> None:  # noqa: F811
    data = ["--data.layout", "coco", "--data.root", tree, "--data.classes", "person,vehicle"]
    data += ["--data.merge", "vehicle=car,bus"]
    bank, report = tmp_path / "bank", tmp_path / "report.json"
    change(
        tree / "annotations" / "instances_train.json",
        lambda told: first(told).update(segmentation=[[5, 5, 20, 20, 20, 5, 5, 20]]),
    )
    code, _, err = run(
        "build", "--out", bank, *data, "--data.split", "train", "--input.size=48", *backbone_options(tiny_weights)
    )
    assert code == 0
    assert "taken, but look at 1:\n  instances_train.json: train_2.png: annotation 99800: an outline crosses" in err
    assert MemoryBank.open(bank).info.classes == ("background", "person", "vehicle")
    code, _, _ = run("evaluate", "--bank", bank, *data, "--data.split", "val", "--json", report)
    assert code == 0
    values = json.loads(report.read_text())
    truth = np.concatenate(
        [s.mask.ravel() for s in opened(tree, "val", classes=("person", "vehicle"), merge=("vehicle=car,bus",))]
    )
    assert sum(map(sum, values["confusion"])) == (truth >= 0).sum()
    assert [sum(row) for row in values["confusion"]] == [int((truth == c).sum()) for c in range(3)]


def test_a_build_from_a_broken_file_leaves_nothing(
    tree: Path,
    instances: Path,
    tiny_weights: Path,
    tmp_path: Path,
    run: Run,  # noqa: F811
) -> None:
    instances.write_bytes(cut(instances.read_bytes()))
    options = ["--data.layout", "coco", "--data.root", tree, "--data.split", "train", *backbone_options(tiny_weights)]
    code, _, err = run("build", "--out", tmp_path / "out" / "bank", *options, "--skip-bad")
    assert code == 1
    assert f"{instances}: cut off at byte" in err
    assert not (tmp_path / "out").exists()
