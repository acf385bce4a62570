"""Mask images as labelling tools export them: VOC trees with a label map, and trees in the form of Cityscapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import Run, backbone_options, run  # noqa: F401
from trees import scene, voc_tree

from fungi_seg import DataConfig, open_dataset
from fungi_seg.datasets.palettes import voc_palette
from fungi_seg.datasets.voc import read_labelmap
from fungi_seg.errors import DataError

LABELMAP = """# label:color_rgb:parts:actions
background:0,0,0::
traffic sign:192,128,128:arm,leg:walk
vélo:10,20,30::
ignored:224,224,192::
"""
COLOURS = {0: (0, 0, 0), 1: (192, 128, 128), 2: (10, 20, 30), 255: (224, 224, 192)}
NAMES = ("a b", "grün/ñ", "c")


def coloured(mask: np.ndarray) -> np.ndarray:
    """Pixel by pixel."""
    return np.array([[COLOURS[int(v)] for v in row] for row in mask], np.uint8)


def save(array: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def labelmap_tree(root: Path, labelmap: str = LABELMAP, lists: tuple[str, ...] = ("default",)) -> Path:
    """As CVAT exports "Segmentation mask 1.1", and datumaro `voc_segmentation`: ids with spaces and sub-folders."""
    for seed, name in enumerate(NAMES):
        image, mask = scene(seed)
        save(image, root / "JPEGImages" / f"{name}.png")
        save(coloured(mask), root / "SegmentationClass" / f"{name}.png")
        save(coloured(mask), root / "SegmentationObject" / f"{name}.png")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name in lists:
        (root / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("".join(f"{n}\n" for n in NAMES))
    (root / "labelmap.txt").write_text(labelmap)
    return root


def voc(root: Path, **settings: object) -> DataConfig:
    return DataConfig("voc", str(root), **settings)  # type: ignore[arg-type]


def expected(seed: int) -> np.ndarray:
    mask = scene(seed)[1].astype(np.int16)
    return np.where(mask == 255, -1, mask)


# Label maps


@pytest.mark.parametrize("inside", [".", "VOC2012", "VOCdevkit/VOC2012"])
def test_a_label_map_gives_classes_colours_and_void(tmp_path: Path, inside: str) -> None:
    labelmap_tree(tmp_path / inside)
    dataset = open_dataset(voc(tmp_path))
    assert dataset.classes == ("background", "traffic sign", "vélo")
    np.testing.assert_array_equal(dataset.palette, [COLOURS[i] for i in range(3)])
    assert [item.id for item in dataset.items] == list(NAMES)
    for seed, sample in enumerate(dataset):
        np.testing.assert_array_equal(sample.mask, expected(seed))


@pytest.mark.parametrize("form", ["palette", "alpha", "grey"])
def test_colours_count_whatever_the_form_of_the_mask(tmp_path: Path, form: str) -> None:
    labelmap = LABELMAP if form != "grey" else "background:0,0,0::\na:1,1,1::\nb:2,2,2::\nvoid:255,255,255::\n"
    root, mask = labelmap_tree(tmp_path, labelmap), scene(0)[1]
    if form == "palette":  # indices of its own, in no order
        image = Image.fromarray(np.select([mask == 0, mask == 1, mask == 2], [9, 0, 4], 7).astype(np.uint8))
        colours = np.zeros((256, 3), np.uint8)
        colours[[9, 0, 4, 7]] = [COLOURS[i] for i in (0, 1, 2, 255)]
        image.putpalette(colours.tobytes())
    elif form == "alpha":
        image = Image.fromarray(np.dstack([coloured(mask), np.full(mask.shape, 90, np.uint8)]))
    else:
        image = Image.fromarray(mask)
    image.save(root / "SegmentationClass" / "a b.png")
    np.testing.assert_array_equal(open_dataset(voc(root))[0].mask, expected(0))


def test_without_any_colour_they_are_those_of_pascal_voc(tmp_path: Path) -> None:
    """As datumaro writes a label map of labels that have no colours."""
    path = tmp_path / "labelmap.txt"
    path.write_text("# label:color_rgb:parts:actions\nbackground:::\nperson:::\ncar:::\n")
    colours = [tuple(colour) for colour in voc_palette(3).tolist()]
    assert read_labelmap(path) == dict(zip(("background", "person", "car"), colours, strict=True))


def test_background_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "labelmap.txt"
    path.write_text("car:1,2,3::\nbus: 4, 5, 6\nbackground:0,0,0::\n")
    assert list(read_labelmap(path).items()) == [("background", (0, 0, 0)), ("car", (1, 2, 3)), ("bus", (4, 5, 6))]


@pytest.mark.parametrize(
    ("lists", "split", "found"),
    [((), None, 3), (("default",), None, 3), (("only",), None, 3), (("default", "val"), None, 3), (("x", "y"), "y", 3)],
)
def test_the_list_is_default_or_the_only_one(
    tmp_path: Path, lists: tuple[str, ...], split: str | None, found: int
) -> None:
    assert len(open_dataset(voc(labelmap_tree(tmp_path, lists=lists), split=split))) == found


def test_images_may_lie_elsewhere(tmp_path: Path) -> None:
    root = labelmap_tree(tmp_path / "export")
    (root / "JPEGImages").rename(tmp_path / "photos")
    with pytest.raises(DataError, match=r"annotations but no .*JPEGImages.*put the images there.*--data.images"):
        open_dataset(voc(root))
    assert open_dataset(voc(root, images=str(tmp_path / "photos")))[2].image.shape == (48, 64, 3)
    voc_tree(tmp_path / "voc")
    (tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages").rename(tmp_path / "jpeg")
    (tmp_path / "voc" / "VOCdevkit" / "VOC2012" / "JPEGImages").mkdir()
    assert len(open_dataset(voc(tmp_path / "voc", images=str(tmp_path / "jpeg")))) == 3


@pytest.mark.parametrize(
    ("labelmap", "message"),
    [
        ("person\ncar:1,2,3::\n", "wrong are:\n  person"),
        ("person:1,2::\n", "person:1,2::"),
        ("person:1,2,256::\n", "person:1,2,256::"),
        ("person:1,2,-3::\n", "person:1,2,-3::"),
        (":1,2,3::\n", ":1,2,3::"),
        ("a:1,2,3::\na:1,2,4::\n", "a:1,2,3::"),
        ("a:1,2,3::\nb:1,2,3::\n", "a, b have one colour"),
        ("a:1,2,3::\nvoid:1,2,3::\n", "__ignore__, a have one colour"),
        ("ignored:1,2,3::\n", "no class is there"),
        ("# only a comment\n", "no class is there"),
        ("", "is empty"),
    ],
)
def test_label_maps_that_are_wrong(tmp_path: Path, labelmap: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        open_dataset(voc(labelmap_tree(tmp_path, labelmap)))
    assert "labelmap.txt" in str(error.value)
    assert message in str(error.value)


def test_unknown_colours_are_counted(tmp_path: Path) -> None:
    root = labelmap_tree(tmp_path)
    mask = coloured(scene(0)[1])
    mask[10, :5], mask[11, 3] = (1, 2, 3), (255, 255, 255)
    save(mask, root / "SegmentationClass" / "a b.png")
    with pytest.raises(DataError) as error:
        open_dataset(voc(root))[0]
    assert str(root / "SegmentationClass" / "a b.png") in str(error.value)
    assert "2 colours (r,g,b) that are neither a class nor void: 1,2,3 (5 pixels), 255,255,255 (1 pixels)" in str(
        error.value
    )
    assert "Add a line like name:r,g,b:: to labelmap.txt" in str(error.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.split is 'val'.*lists there: default"):
        open_dataset(voc(labelmap_tree(tmp_path), split="val"))
    with pytest.raises(DataError, match=r"data.split is 'default'.*lists there: x, y"):
        open_dataset(voc(labelmap_tree(tmp_path / "two", lists=("x", "y"))))


def test_label_map_on_the_command_line(run: Run, tmp_path: Path, tiny_weights: Path) -> None:  # noqa: F811
    data = ["--data.layout=voc", "--data.root", labelmap_tree(tmp_path / "data"), "--data.split=default"]
    tiny = [*backbone_options(tiny_weights), "--input.size=48"]
    assert run("build", "--out", tmp_path / "bank", *data, *tiny)[0] == 0
    code, out, _ = run("evaluate", "--bank", tmp_path / "bank", *data)
    assert code == 0
    assert "traffic sign" in out


# Cityscapes

IDS = {0: 7, 1: 26, 2: 4, 255: 255}  # road, car, static (not evaluated), license plate


def with_ids(mask: np.ndarray) -> np.ndarray:
    return np.vectorize(IDS.get)(mask).astype(np.uint8)


def cityscapes_tree(root: Path, truth: str = "gtFine", splits: tuple[str, ...] = ("train", "val")) -> Path:
    for seed, (split, city) in enumerate((split, city) for split in splits for city in ("aachen", "köln x")):
        image, mask = scene(seed)
        name = f"{city}_000000_000019"
        save(image, root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
        save(with_ids(mask), root / truth / split / city / f"{name}_{truth}_labelIds.png")
        save(coloured(mask), root / truth / split / city / f"{name}_{truth}_color.png")
        save(mask, root / truth / split / city / f"{name}_{truth}_instanceIds.png")
    return root


def cityscapes(root: Path, **settings: object) -> DataConfig:
    return DataConfig("cityscapes", str(root), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("truth", ["gtFine", "gtCoarse"])
def test_cityscapes(tmp_path: Path, truth: str) -> None:
    root = cityscapes_tree(tmp_path, truth)
    dataset = open_dataset(cityscapes(root))
    assert [item.id for item in dataset.items] == ["aachen/aachen_000000_000019", "köln x/köln x_000000_000019"]
    assert len(dataset.classes) == len(set(dataset.classes)) == len(dataset.groups) == 19
    road, car = dataset.classes.index("road"), dataset.classes.index("car")
    assert (dataset.groups[road], dataset.groups[car]) == ("flat", "vehicle")
    assert dataset.palette[car].tolist() == [0, 0, 142]
    mask = scene(0)[1]
    np.testing.assert_array_equal(dataset[0].mask, np.select([mask == 0, mask == 1], [road, car], -1))
    held_out = open_dataset(cityscapes(root, split="val"))
    np.testing.assert_array_equal(held_out[1].mask == car, scene(3)[1] == 1)


def test_cityscapes_categories_stand_for_their_classes(tmp_path: Path) -> None:
    dataset = open_dataset(cityscapes(cityscapes_tree(tmp_path), classes=("vehicle",), merge=("vehicle=vehicle",)))
    assert dataset.classes == ("vehicle",)
    np.testing.assert_array_equal(dataset[0].mask, np.where(scene(0)[1] == 1, 0, -1))


def test_every_published_id_is_a_class_or_void(tmp_path: Path) -> None:
    save(np.zeros((6, 6, 3), np.uint8), tmp_path / "x.png")
    save(np.array([[*range(34), 255, 255]], np.uint8).reshape(6, 6), tmp_path / "x_labelIds.png")
    mask = open_dataset(cityscapes(tmp_path))[0].mask.ravel()
    assert sorted(mask[mask >= 0].tolist()) == list(range(19))
    assert (mask == -1).sum() == 17


def test_ids_beyond_the_published_ones(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path)
    path = root / "gtFine" / "train" / "aachen" / "aachen_000000_000019_gtFine_labelIds.png"
    save(np.full((48, 64), 34, np.uint8), path)
    with pytest.raises(DataError, match=r"34 \(3072 pixels\).*classes.txt.*data.void"):
        open_dataset(cityscapes(root))[0]
    assert (open_dataset(cityscapes(root, void=34))[0].mask == -1).all()


def test_classes_of_ones_own(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path)
    for path in root.rglob("*_labelIds.png"):
        save(np.array(Image.open(path.with_name(path.name.replace("labelIds", "instanceIds")))), path)
    (root / "classes.txt").write_text("ground\nvoid\ntall thing\n")
    dataset = open_dataset(cityscapes(root))
    assert (dataset.classes, dataset.groups) == (("ground", "tall thing"), ())
    mask = scene(0)[1]
    np.testing.assert_array_equal(dataset[0].mask, np.select([mask == 0, mask == 2], [0, 1], -1))
    (root / "classes.txt").write_text("ground\nground\n")
    with pytest.raises(DataError, match="names 1 classes more than once:\n  ground"):
        open_dataset(cityscapes(root))


@pytest.mark.parametrize(
    "told", ["0 0 0 background\n192 128 128 a b\n10 20 30 car\n", "192 128 128 a b\n10 20 30 car\n"]
)
def test_as_datumaro_exports_cityscapes(tmp_path: Path, told: str) -> None:
    """Its file names and label list; where it doesn't list the background, the masks have it as 0 all the same."""
    image, mask = scene(4)
    save(image, tmp_path / "imgsFine" / "leftImg8bit" / "default" / "town" / "a b_leftImg8bit.png")
    save(mask, tmp_path / "gtFine" / "default" / "town" / "a b_gtFine_labelIds.png")
    (tmp_path / "label_colors.txt").write_text(told)
    dataset = open_dataset(cityscapes(tmp_path))
    assert dataset.classes == ("background", "a b", "car")
    assert dataset.palette.tolist() == [[0, 0, 0], [192, 128, 128], [10, 20, 30]]
    assert dataset.items[0].id == "town/a b"
    np.testing.assert_array_equal(dataset[0].mask, expected(4))


def test_label_colours_that_are_wrong(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path)
    (root / "label_colors.txt").write_text("0 0 0 background\nperson\n")
    with pytest.raises(DataError, match=r"label_colors.txt: has the line 'person'; it must be like 128 64 128 road"):
        open_dataset(cityscapes(root))


@pytest.mark.parametrize(
    ("images", "masks", "settings"),
    [
        ("images", "labels", {}),
        ("images/train", "labels/train", {}),
        ("images/val", "labels/val", {"split": "val"}),
        ("val/images", "val/labels", {"split": "val"}),
        ("photos", "truth", {"images": "photos", "masks": "truth"}),
        ("photos/val", "truth/val", {"images": "photos", "masks": "truth", "split": "val"}),
        (".", ".", {}),
    ],
)
def test_trees_of_others_are_paired_by_the_masks_end(
    tmp_path: Path, images: str, masks: str, settings: dict[str, str]
) -> None:
    for seed, (other_images, other_masks) in enumerate([(images, masks), ("images/other", "labels/other")]):
        if seed and "train" not in images and "val" not in images:
            continue
        save(scene(seed)[0], tmp_path / other_images / "straße" / "1.png")
        save(with_ids(scene(seed)[1]), tmp_path / other_masks / "straße" / "1_labelIds.png")
    dataset = open_dataset(cityscapes(tmp_path, **settings))
    assert [item.id for item in dataset.items] == ["straße/1"]
    np.testing.assert_array_equal(dataset[0].mask == 13, scene(0)[1] == 1)


def test_images_and_masks_that_do_not_belong_together(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path, splits=("train",))
    (root / "gtFine" / "train" / "aachen").rename(root / "gtFine" / "train" / "bonn")
    with pytest.raises(DataError, match="2 of 3 entries are not complete") as error:
        open_dataset(cityscapes(root))
    assert "aachen_000000_000019_leftImg8bit.png: image without mask" in str(error.value)
    assert "aachen_000000_000019_gtFine_labelIds.png: mask without image" in str(error.value)
    assert len(open_dataset(cityscapes(root), skip_bad=True)) == 1


def test_two_masks_for_an_image(tmp_path: Path) -> None:
    save(scene(0)[0], tmp_path / "images" / "1.png")
    for folder in ("one", "two"):
        save(with_ids(scene(0)[1]), tmp_path / folder / "1_labelIds.png")
    with pytest.raises(DataError, match=r"1_labelIds.png could be .*one.* or .*two"):
        open_dataset(cityscapes(tmp_path))
    assert len(open_dataset(cityscapes(tmp_path, masks="two"))) == 1


def test_masks_of_the_ids_in_training_alone(tmp_path: Path) -> None:
    root = cityscapes_tree(tmp_path, splits=("train",))
    for path in list((root / "gtFine").rglob("*_labelIds.png")):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    with pytest.raises(DataError, match=r"2 masks are named …_labelTrainIds.png, .*export or keep …_labelIds.png"):
        open_dataset(cityscapes(root))


def test_a_split_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.split is 'test'.*there are: train, val"):
        open_dataset(cityscapes(cityscapes_tree(tmp_path), split="test"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no image with a mask was found"):
        open_dataset(cityscapes(tmp_path / "empty"))


def test_cityscapes_on_the_command_line(run: Run, tmp_path: Path, tiny_weights: Path) -> None:  # noqa: F811
    data = [
        "--data.layout=cityscapes",
        "--data.root",
        cityscapes_tree(tmp_path / "data"),
        "--data.classes=road,vehicle",
    ]
    tiny = [*backbone_options(tiny_weights), "--input.size=48"]
    assert run("build", "--out", tmp_path / "bank", *data, *tiny)[0] == 0
    code, out, _ = run("evaluate", "--bank", tmp_path / "bank", *data, "--data.split=val")
    assert code == 0
    assert "motorcycle" in out
