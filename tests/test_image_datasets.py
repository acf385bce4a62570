"""Sets of labelled images: what every layout gives, and what each says when something is wrong."""

from __future__ import annotations

import codecs
import json
import pickle
import shutil
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat
from trees import class_tree, cub200_tree, picture, revisited_tree, save_picture

from fungi_seg.datasets import ImageData, ImageDataConfig, ImageSet, LabelledImage, open_images
from fungi_seg.datasets.named import SOURCES
from fungi_seg.datasets.revisited import read_plain_pickle
from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.images.reading import read_image

NAMED = ("cifar10", "cifar100", "dtd", "flowers102", "food101", "aircraft", "pets", "cars", "eurosat")
TRAIN_IDS = tuple(f"{name}/train_{i}" for name in ("circle", "square") for i in range(4))


def opened(root: Path, name: str = "folder", skip_bad: bool = False, **options: Any) -> ImageData:
    return open_images(ImageDataConfig(name, str(root), **options), skip_bad)


def per_class(images: ImageSet) -> dict[str, int]:
    return {name: images.labels.count(label) for label, name in enumerate(images.classes)}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return class_tree(tmp_path)


@pytest.mark.parametrize("name", ["folder", "imagenet"])
def test_folder(tree: Path, name: str) -> None:
    data = opened(tree, name)
    assert data.ground_truth is None
    assert data.train.classes == data.val.classes == ("circle", "square")
    assert data.train.ids == TRAIN_IDS
    assert data.train.labels == (0,) * 4 + (1,) * 4
    assert data.val.ids == ("circle/val_0", "circle/val_1", "square/val_0", "square/val_1")
    assert data.train.problems == data.val.problems == ()
    for number, found in enumerate(data.train):
        assert isinstance(found, LabelledImage)
        assert (found.id, found.label) == (TRAIN_IDS[number], number // 4)
        assert found.image.dtype == np.uint8
        np.testing.assert_array_equal(found.image, picture(number % 4, number // 4))
    np.testing.assert_array_equal(data.val[-1].image, picture(101, 1))
    assert data.val[-1].id == "square/val_1"
    with pytest.raises(IndexError):
        data.val[4]


def test_pictures_of_the_tree_differ(tree: Path) -> None:
    data = opened(tree)
    assert len({found.image.tobytes() for images in (data.train, data.val) for found in images}) == 12


def test_splits_of_ones_own(tree: Path) -> None:
    data = opened(tree, train="val", val="train")
    assert (len(data.train), len(data.val)) == (4, 8)


def test_classes_are_sorted_and_searched_to_any_depth(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("b", "a", "C"):
            save_picture(tmp_path / split / name / "one" / "two" / "x.png", 0, 0)
            save_picture(tmp_path / split / name / "x.tiff", 1, 0)
    data = opened(tmp_path)
    assert data.train.classes == ("C", "a", "b")
    assert data.train.ids == ("C/one/two/x", "C/x", "a/one/two/x", "a/x", "b/one/two/x", "b/x")


def test_hidden_and_other_files_are_ignored(tree: Path) -> None:
    circle = tree / "train" / "circle"
    for path in (circle / "._train_0.png", circle / ".thumbnails" / "x.png", circle / "notes.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    (tree / "train" / ".cache").mkdir()
    (tree / "train" / "readme.png").write_text("no class")
    assert opened(tree).train.ids == TRAIN_IDS


def test_class_folders_may_be_links(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    away = tmp_path_factory.mktemp("away") / "circle"
    shutil.move(tree / "train" / "circle", away)
    (tree / "train" / "circle").symlink_to(away)
    assert opened(tree).train.ids == TRAIN_IDS


def test_a_class_may_lack_in_val(tree: Path) -> None:
    shutil.rmtree(tree / "val" / "circle")
    data = opened(tree)
    assert data.val.classes == ("circle", "square")
    assert data.val.labels == (1, 1)


def test_images_are_decoded_when_asked_for(tree: Path) -> None:
    bad = tree / "train" / "square" / "train_2.png"
    bad.write_bytes(b"no image")
    train = opened(tree).train
    assert train.ids == TRAIN_IDS
    assert train[5].id == "square/train_1"
    with pytest.raises(
        DataError, match=r"image 6 \(square/train_2\): .*square/train_2\.png: can't be read as an image"
    ):
        train[6]
    bad.unlink()
    with pytest.raises(DataError, match=r"image 6 \(square/train_2\): .*train_2\.png: no such image file"):
        train[-2]


def test_images_that_arent_files_are_named_too() -> None:
    images = ImageSet(("a", "b"), (0, 1), ("x", "y"), lambda i: np.zeros((4, 4, 2)))
    with pytest.raises(DataError, match=r"image 1 \(b\): image is an array of shape"):
        images[1]


def test_ids_are_unique() -> None:
    with pytest.raises(DataError, match=r"1 ids stand for several images; rename or remove some:\n  a$"):
        ImageSet(("a", "b", "a"), (0, 0, 0), ("x", "y"), lambda i: None)


def test_two_files_of_one_id(tree: Path) -> None:
    save_picture(tree / "val" / "circle" / "val_0.jpg", 0, 0)
    with pytest.raises(DataError, match=r"circle: val_0\.jpg and val_0\.png have the same id 'val_0'; rename one"):
        opened(tree)


def test_no_such_split(tree: Path) -> None:
    (tree / ".git").mkdir()
    with pytest.raises(DataError, match=r"data\.train is 'trian', but .* sub-folder; sub-folders there: train, val$"):
        opened(tree, train="trian")
    with pytest.raises(DataError, match=r"data\.val is 'test', but .* sub-folder; sub-folders there: train, val$"):
        opened(tree, val="test")
    shutil.rmtree(tree / "train")
    with pytest.raises(DataError, match=r"data\.train is 'train', but .* sub-folders there: val$"):
        opened(tree)


@pytest.mark.parametrize("split", ["train", "val"])
def test_empty_class_folder(tree: Path, split: str) -> None:
    (tree / split / "star").mkdir()
    with pytest.raises(
        DataError, match=rf"{split}: 1 of 3 class folders hold no image .*\n  {split}/star: no image\n.*bad"
    ):
        opened(tree)
    data = opened(tree, skip_bad=True)
    assert data.train.classes == data.val.classes == ("circle", "square")
    told = {"train": data.train.problems, "val": data.val.problems}
    assert told.pop(split) == (f"{split}/star: no image",)
    assert list(told.values()) == [()]


def test_one_class_is_too_few(tree: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(tree / split / "circle")
    for skip_bad in (False, True):
        with pytest.raises(DataError, match=r"are of these classes: square; classification needs at least two"):
            opened(tree, skip_bad=skip_bad)


def test_no_class(tree: Path) -> None:
    for name in ("circle", "square"):
        shutil.rmtree(tree / "train" / name)
        shutil.rmtree(tree / "val" / name)
    with pytest.raises(DataError, match=r"are of these classes: none; classification needs at least two"):
        opened(tree)


def test_class_without_training_images(tree: Path) -> None:
    save_picture(tree / "val" / "star" / "x.png", 0, 2)
    with pytest.raises(
        DataError, match=r"1 classes of the measured.* no training images:\n  star: 1 images\n.*--skip-bad"
    ):
        opened(tree)
    val = opened(tree, skip_bad=True).val
    assert val.classes == ("circle", "square")
    assert len(val) == 4
    assert val.problems == ("star: 1 images left out, of a class without training images",)


def test_nothing_left_to_measure(tree: Path) -> None:
    shutil.rmtree(tree / "val")
    save_picture(tree / "val" / "star" / "x.png", 0, 2)
    with pytest.raises(DataError, match=r"data\.val: no image was found for it below"):
        opened(tree, skip_bad=True)


@pytest.mark.parametrize("root", ["", "/no/such/folder"])
def test_no_root(root: str) -> None:
    with pytest.raises(DataError, match=r"--data\.root") as told:
        open_images(ImageDataConfig("folder", root))
    assert "--data.download" not in str(told.value)


def test_unknown_data_set() -> None:
    with pytest.raises(
        FungiSegError, match=r"data\.name is 'cifar'; it must be one of folder, cub200.*did you mean 'cifar10'"
    ):
        ImageDataConfig("cifar")


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("folder", "train/<class>"),
        ("cub200", "images.txt"),
        ("imagenet", "train/<wnid>"),
        ("revisited", "gnd_roxford5k.pkl"),
        ("cars", "devkit"),
    ],
)
def test_what_cant_be_fetched(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(DataError, match=rf"data\.download is true, but {name} can't be fetched.*--data\.root.*{what}"):
        opened(tmp_path, name, download=True)


@pytest.mark.parametrize("below", ["", "CUB_200_2011"])
def test_cub200(tmp_path: Path, below: str) -> None:
    """Training images are those marked 1."""
    data = opened(cub200_tree(tmp_path) / below, "cub200")
    assert data.train.classes == data.val.classes == ("001.Albatross", "002.Auklet", "010.Wren")
    assert data.train.ids == (
        "001.Albatross/Albatross_0_10",
        "001.Albatross/Albatross_1_11",
        "002.Auklet/Auklet_0_20",
        "002.Auklet/Auklet_1_21",
        "010.Wren/Wren_0_30",
        "010.Wren/Wren_1_31",
    )
    assert data.val.ids == ("001.Albatross/Albatross_2_12", "002.Auklet/Auklet_2_22", "010.Wren/Wren_2_32")
    assert data.train.labels == (0, 0, 1, 1, 2, 2)
    assert data.val.labels == (0, 1, 2)
    path = tmp_path / "CUB_200_2011" / "images" / "002.Auklet" / "Auklet_2_22.jpg"
    np.testing.assert_array_equal(data.val[1].image, read_image(path))


def test_cub200_splits(tmp_path: Path) -> None:
    cub200_tree(tmp_path)
    swapped = opened(tmp_path, "cub200", train="test", val="train")
    assert (len(swapped.train), len(swapped.val)) == (3, 6)
    with pytest.raises(FungiSegError, match=r"data\.val is 'val'; it must be one of train, test"):
        opened(tmp_path, "cub200", val="val")
    with pytest.raises(FungiSegError, match=r"data\.train is 'all'; it must be one of train, test"):
        opened(tmp_path, "cub200", train="all")


def test_cub200_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no CUB-200-2011: expected CUB_200_2011 with images\.txt"):
        opened(tmp_path, "cub200")


def test_cub200_missing_images(tmp_path: Path) -> None:
    base = cub200_tree(tmp_path) / "CUB_200_2011"
    (base / "images" / "002.Auklet" / "Auklet_0_20.jpg").unlink()
    with pytest.raises(
        DataError, match=r"1 images of images\.txt are missing:\n  images/002.Auklet/Auklet_0_20.*\n.*bad"
    ):
        opened(tmp_path, "cub200")
    data = opened(tmp_path, "cub200", skip_bad=True)
    assert data.train.problems == ("images/002.Auklet/Auklet_0_20.jpg: no such file",)
    assert data.val.problems == ()
    assert data.train.labels == (0, 0, 1, 2, 2)
    assert len(data.val) == 3


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("image_class_labels", "1 1\n"),
        ("train_test_split", "1 1\n2 0\n"),
        ("classes", "1 001.Albatross\n2 002.Auklet\n"),
    ],
)
def test_cub200_lists_that_dont_fit(tmp_path: Path, name: str, text: str) -> None:
    (cub200_tree(tmp_path) / "CUB_200_2011" / f"{name}.txt").write_text(text)
    with pytest.raises(DataError, match=r"must name the same images, and of classes in classes\.txt; unpack"):
        opened(tmp_path, "cub200")


def test_cub200_bad_lines(tmp_path: Path) -> None:
    base = cub200_tree(tmp_path) / "CUB_200_2011"
    (base / "images.txt").write_text("1 a/b.jpg\n2\n")
    with pytest.raises(DataError, match=r"images\.txt: lines must be a number and a value; unpack.*\n  2$"):
        opened(tmp_path, "cub200")
    (base / "classes.txt").unlink()
    (base / "images.txt").write_text("1 a/b.jpg\n")
    with pytest.raises(DataError, match=r"classes\.txt' can't be read"):
        opened(tmp_path, "cub200")


def dtd_tree(root: Path) -> None:
    """Lists of partition 1 (and another of partition 2, which must not be read)."""
    labels = root / "dtd" / "dtd" / "labels"
    labels.mkdir(parents=True)
    for number, split in enumerate(("train", "val", "test")):
        files = [f"{name}/{name}_{number}{i}.jpg" for name in ("banded", "zigzagged") for i in range(2)]
        for label, file in enumerate(files):
            save_picture(root / "dtd" / "dtd" / "images" / file, number, label // 2)
        (labels / f"{split}1.txt").write_text("".join(f"{file}\n" for file in files))
        (labels / f"{split}2.txt").write_text("".join(f"{file}\n" for file in files[::-1]))


def food101_tree(root: Path) -> None:
    base = root / "food-101"
    (base / "meta").mkdir(parents=True)
    for number, split in enumerate(("train", "test")):
        files = {name: [f"{name}/{number}{i}" for i in range(2)] for name in ("apple_pie", "waffles")}
        (base / "meta" / f"{split}.json").write_text(json.dumps(files))
        for label, names in enumerate(files.values()):
            for name in names:
                save_picture(base / "images" / f"{name}.jpg", number, label)


def aircraft_tree(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b" / "data"
    (data / "images").mkdir(parents=True)
    (data / "variants.txt").write_text("707-320\nA300B4 F\n")
    for number, split in enumerate(("train", "val", "trainval", "test")):
        lines = [f"0{number}{i} {name}\n" for i, name in enumerate(("707-320", "A300B4 F"))]
        (data / f"images_variant_{split}.txt").write_text("".join(lines))
        for i in range(2):
            save_picture(data / "images" / f"0{number}{i}.jpg", number, i)


def pets_tree(root: Path) -> None:
    base = root / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for number, split in enumerate(("trainval", "test")):
        names = [f"Abyssinian_{number}", f"great_pyrenees_{number}"]
        lines = [f"{name} {label} {label} 1\n" for label, name in enumerate(names, 1)]
        (base / "annotations" / f"{split}.txt").write_text("".join(lines))
        for label, name in enumerate(names):
            save_picture(base / "images" / f"{name}.jpg", number, label)


def eurosat_tree(root: Path) -> None:
    for label, name in enumerate(("AnnualCrop", "River")):
        for i in range(1, 12):
            save_picture(root / "eurosat" / "2750" / name / f"{name}_{i}.jpg", i, label)


def cars_tree(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(["AM General", "Acura RL"], object)})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        kind = [("fname", object), ("class", np.uint8)]
        savemat(base / file, {"annotations": np.array([("00001.jpg", 2), ("00002.jpg", 1)], kind)})
        for i in range(2):
            save_picture(base / f"cars_{split}" / f"0000{i + 1}.jpg", i, 1 - i)


def flowers102_tree(root: Path) -> None:
    base = root / "flowers-102"
    (base / "jpg").mkdir(parents=True)
    savemat(base / "imagelabels.mat", {"labels": np.array([[2, 1, 102, 1, 2, 3]], np.uint8)})
    savemat(base / "setid.mat", {"trnid": [[2, 3]], "valid": [[4, 1]], "tstid": [[5, 6]]})
    for i in range(1, 7):
        save_picture(base / "jpg" / f"image_{i:05d}.jpg", i, i)


def cifar_tree(root: Path, name: str) -> None:
    """The batches as Python 2 wrote them: image `i` is of the value `i` and the label `i % 2`."""
    kind = getattr(torchvision.datasets, name.upper())
    base = root / kind.base_folder
    base.mkdir(parents=True)
    for batch, (file, _) in enumerate(kind.train_list + kind.test_list):
        pixels = np.repeat(np.arange(4 * batch, 4 * batch + 4, dtype=np.uint8)[:, None], 3072, axis=1)
        labels = {"cifar10": "labels", "cifar100": "fine_labels"}[name]
        (base / file).write_bytes(pickle.dumps({"data": pixels, labels: [0, 1, 0, 1]}, protocol=2))
    (base / kind.meta["filename"]).write_bytes(pickle.dumps({kind.meta["key"]: ["airplane", "cat"]}, protocol=2))


TREES: dict[str, Callable[[Path], None]] = {
    "dtd": dtd_tree,
    "food101": food101_tree,
    "aircraft": aircraft_tree,
    "pets": pets_tree,
    "eurosat": eurosat_tree,
    "cars": cars_tree,
    "flowers102": flowers102_tree,
    "cifar10": lambda root: cifar_tree(root, "cifar10"),
    "cifar100": lambda root: cifar_tree(root, "cifar100"),
}


@pytest.fixture
def named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ImageData]:
    """Opens a tiny tree of a data set, by torchvision's own code; the checksums alone are skipped."""
    for module in ("cifar", "flowers102"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).is_file()
        )

    def make(name: str, **options: Any) -> ImageData:
        if not any(tmp_path.iterdir()):
            TREES[name](tmp_path)
        return opened(tmp_path, name, **options)

    return make


NAMED_FACTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], tuple[int, ...], tuple[str, ...]]] = {
    "dtd": (
        ("banded/banded_00", "banded/banded_01", "zigzagged/zigzagged_00", "zigzagged/zigzagged_01"),
        ("banded/banded_20", "banded/banded_21", "zigzagged/zigzagged_20", "zigzagged/zigzagged_21"),
        (0, 0, 1, 1),
        ("banded", "zigzagged"),
    ),
    "food101": (
        ("apple_pie/00", "apple_pie/01", "waffles/00", "waffles/01"),
        ("apple_pie/10", "apple_pie/11", "waffles/10", "waffles/11"),
        (0, 0, 1, 1),
        ("apple_pie", "waffles"),
    ),
    "aircraft": (("020", "021"), ("030", "031"), (0, 1), ("707-320", "A300B4 F")),
    "pets": (
        ("Abyssinian_0", "great_pyrenees_0"),
        ("Abyssinian_1", "great_pyrenees_1"),
        (0, 1),
        ("Abyssinian", "Great Pyrenees"),
    ),
    "cars": (("00001", "00002"), ("00001", "00002"), (1, 0), ("AM General", "Acura RL")),
}


@pytest.mark.parametrize("name", NAMED_FACTS)
def test_named_usual_splits(named: Callable[..., ImageData], name: str) -> None:
    data = named(name)
    train_ids, val_ids, labels, classes = NAMED_FACTS[name]
    assert (data.train.ids, data.val.ids) == (train_ids, val_ids)
    assert data.train.labels == data.val.labels == labels
    assert data.train.classes == data.val.classes == classes
    assert all(type(label) is int for label in data.train.labels)
    assert data.train[1].image.shape == (40, 48, 3)
    assert data.train[1].label == labels[1]


def test_named_images_are_those_of_the_files(named: Callable[..., ImageData], tmp_path: Path) -> None:
    data = named("cars")
    for images, folder in ((data.train, "cars_train"), (data.val, "cars_test")):
        for found in images:
            path = tmp_path / "stanford_cars" / folder / f"{found.id}.jpg"
            np.testing.assert_array_equal(found.image, read_image(path))


def test_flowers102(named: Callable[..., ImageData]) -> None:
    data = named("flowers102")
    assert data.train.ids == ("image_00002", "image_00003")
    assert data.val.ids == ("image_00005", "image_00006")
    assert data.train.labels == (0, 101)
    assert data.val.labels == (1, 2)
    assert len(data.train.classes) == 102
    assert data.train.classes[0] == "pink primrose"
    assert named("flowers102", val="val").val.ids == ("image_00004", "image_00001")


@pytest.mark.parametrize(("name", "batches"), [("cifar10", 5), ("cifar100", 1)])
def test_cifar(named: Callable[..., ImageData], name: str, batches: int) -> None:
    data = named(name)
    assert len(data.train) == 4 * batches
    assert data.train.ids[:2] == ("00000", "00001")
    assert data.val.ids == ("00000", "00001", "00002", "00003")
    assert data.train.labels == (0, 1) * (2 * batches)
    assert data.train.classes == ("airplane", "cat")
    np.testing.assert_array_equal(data.train[3].image, np.full((32, 32, 3), 3, np.uint8))
    np.testing.assert_array_equal(data.val[1].image, np.full((32, 32, 3), 4 * batches + 1, np.uint8))
    assert (data.val[1].id, data.val[1].label) == ("00001", 1)


def test_eurosat_has_a_split_made_here(named: Callable[..., ImageData]) -> None:
    """Sorted as text: 1, 10, 11, 2, 3 | 4, 5, 6, 7, 8 | 9."""
    data = named("eurosat")
    assert data.val.ids == ("AnnualCrop/AnnualCrop_3", "AnnualCrop/AnnualCrop_8", "River/River_3", "River/River_8")
    assert data.val.labels == (0, 0, 1, 1)
    assert per_class(data.train) == {"AnnualCrop": 9, "River": 9}
    assert len({*data.train.ids, *data.val.ids}) == 22


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("cifar10", "train, test"),
        ("cifar100", "train, test"),
        ("dtd", "train, val, test"),
        ("flowers102", "train, val, test"),
        ("food101", "train, test"),
        ("aircraft", "train, val, trainval, test"),
        ("pets", "trainval, test"),
        ("cars", "train, test"),
        ("eurosat", "train, val"),
    ],
)
def test_named_splits(named: Callable[..., ImageData], name: str, splits: str) -> None:
    for train, val in permutations(splits.split(", "), 2):
        if name == "flowers102":  # whose classes are in no list
            continue
        if "trainval" in (train, val) and "test" not in (train, val):
            with pytest.raises(DataError, match=r"which share images: trainval is train and val together"):
                named(name, train=train, val=val)
        else:
            data = named(name, train=train, val=val)
            assert len(data.train)
            assert len(data.val)
    with pytest.raises(DataError, match=r"data.train and data.val are both '\w+': images that were learnt from would"):
        named(name, train=train, val=train)
    for option in ("train", "val"):
        with pytest.raises(FungiSegError, match=rf"data\.{option} is 'xyz'; it must be one of {splits}$"):
            named(name, **{option: "xyz"})


@pytest.mark.parametrize("name", NAMED)
def test_named_not_there(tmp_path: Path, name: str) -> None:
    for root in (tmp_path, tmp_path / "no"):
        with pytest.raises(DataError, match=r"data\.root is '.*--data\.root") as told:
            opened(root, name)
        assert ("--data.download" in str(told.value)) == (name != "cars")
    assert not list(tmp_path.iterdir())


def test_named_damaged(named: Callable[..., ImageData], tmp_path: Path) -> None:
    named("aircraft")
    (tmp_path / "fgvc-aircraft-2013b" / "data" / "images_variant_test.txt").write_text("031 Concorde\n")
    with pytest.raises(
        DataError, match=r"where aircraft can't be opened \(KeyError: 'Concorde'\); .*--data\.download true"
    ):
        named("aircraft")
    (tmp_path / "fgvc-aircraft-2013b" / "data" / "images_variant_test.txt").unlink()
    with pytest.raises(DataError, match=r"where aircraft can't be opened \(FileNotFoundError: .*images_variant_test"):
        named("aircraft")


def test_named_other_classes_in_val(named: Callable[..., ImageData], tmp_path: Path) -> None:
    named("dtd")
    (tmp_path / "dtd" / "dtd" / "labels" / "test1.txt").write_text("banded/banded_20.jpg\n")
    with pytest.raises(DataError, match=r"where dtd has 2 classes in train and 1 in test.*both must have the same"):
        named("dtd")


class Fake:
    """Stands for a data set of torchvision, and remembers what it was asked for."""

    asked: ClassVar[list[tuple[tuple, dict]]]
    classes: tuple[str, ...] | None = ("x", "y")
    data = np.zeros((2, 32, 32, 3), np.uint8)
    targets = _labels = (0, 1)
    _image_files = _images = ("a/1.jpg", "b/2.jpg")
    samples = _samples = tuple((f"{c}/{c}{i}.jpg", label) for label, c in enumerate("ab") for i in range(5))

    def __init__(self, *args: Any, **options: Any):
        self.asked.append((args, options))


CLASS_OF = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "dtd": "DTD",
    "flowers102": "Flowers102",
    "food101": "Food101",
    "aircraft": "FGVCAircraft",
    "pets": "OxfordIIITPet",
    "cars": "StanfordCars",
    "eurosat": "EuroSAT",
}


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    kind = type("Asked", (Fake,), {"asked": []})
    for name in CLASS_OF.values():
        monkeypatch.setattr(torchvision.datasets, name, kind)
    return kind


def test_every_name_is_known() -> None:
    assert tuple(SOURCES) == NAMED


@pytest.mark.parametrize("name", NAMED)
def test_nothing_is_fetched_unless_asked_for(tmp_path: Path, name: str, fake: type[Fake]) -> None:
    assert len(opened(tmp_path, name).train) >= 2
    assert [options.get("download", False) for _, options in fake.asked] == [False, False]
    if name != "cars":
        fake.asked.clear()
        opened(tmp_path / "new", name, download=True)
        assert [options["download"] for _, options in fake.asked] == [True, True]
        assert all(args[0] == str(tmp_path / "new") for args, _ in fake.asked)


def test_classes_without_names(tmp_path: Path, fake: type[Fake]) -> None:
    fake.classes = None
    assert opened(tmp_path, "flowers102").train.classes == ("class 0", "class 1")


def test_fetching_needs_a_root() -> None:
    with pytest.raises(DataError, match=r"data\.root is not given; name the folder to put it in with --data\.root"):
        open_images(ImageDataConfig("dtd", "", download=True))


def test_fetching_fails(tmp_path: Path, fake: type[Fake]) -> None:
    def refuse(self: Any, *args: Any, **options: Any) -> None:
        raise OSError("no route to host")

    fake.__init__ = refuse  # type: ignore[method-assign]
    with pytest.raises(
        DataError, match=r"dtd can't be fetched \(OSError: no route to host\); try again, or fetch it by"
    ):
        opened(tmp_path, "dtd", download=True)


@pytest.mark.parametrize("name", ["gnd_roxford5k", "gnd_rparis6k"])
@pytest.mark.parametrize("suffix", [".pkl", ".json"])
def test_revisited(tmp_path: Path, name: str, suffix: str) -> None:
    data = opened(revisited_tree(tmp_path, f"{name}{suffix}"), "revisited")
    assert data.train.ids == ("all_souls_000000", "all_souls_000001", "all_souls_000002", "all_souls_000003")
    assert data.val.ids == ("query_000000", "query_000001")
    assert data.train.labels == (-1,) * 4
    assert data.val.labels == (-1,) * 2
    assert data.train.classes == data.val.classes == ()
    assert data.ground_truth == {
        "queries": [{"easy": [0], "hard": [2, 1], "junk": []}, {"easy": [], "hard": [3], "junk": [0]}]
    }
    assert json.loads(json.dumps(data.ground_truth)) == data.ground_truth
    assert data.train[2].label == -1
    np.testing.assert_array_equal(data.train[2].image, read_image(tmp_path / "jpg" / "all_souls_000002.jpg"))


def test_revisited_queries_are_cropped(tmp_path: Path) -> None:
    """`[x1, y1, x2, y2]`, rounded and kept within the image of 48×40; a query without a box is taken whole."""
    val = opened(revisited_tree(tmp_path, boxes=([10.4, 4.6, 30.5, 20.2], None)), "revisited").val
    whole = [read_image(tmp_path / "jpg" / f"query_00000{i}.jpg") for i in range(2)]
    np.testing.assert_array_equal(val[0].image, whole[0][5:20, 10:30])
    np.testing.assert_array_equal(val[1].image, whole[1])


def test_revisited_boxes_are_kept_within_the_image(tmp_path: Path) -> None:
    val = opened(revisited_tree(tmp_path, boxes=([-3, 8, 20, 99], [40, -1, 48.4, 2])), "revisited").val
    whole = [read_image(tmp_path / "jpg" / f"query_00000{i}.jpg") for i in range(2)]
    np.testing.assert_array_equal(val[0].image, whole[0][8:, :20])
    np.testing.assert_array_equal(val[1].image, whole[1][:2, 40:])


def test_revisited_boxes_are_of_pixels_as_stored(tmp_path: Path) -> None:
    """The box is cut first, then the cut is turned upright."""
    revisited_tree(tmp_path, boxes=([10, 5, 30, 20], None))
    path = tmp_path / "jpg" / "query_000000.jpg"
    with Image.open(path) as image:
        exif = image.getexif()
        exif[0x0112] = 6  # to be turned clockwise
        image.save(path, exif=exif)
    with Image.open(path) as image:
        stored = np.array(image)
    np.testing.assert_array_equal(opened(tmp_path, "revisited").val[0].image, np.rot90(stored[5:20, 10:30], -1))


@pytest.mark.parametrize(
    "box",
    [
        [30, 5, 10, 20],
        [10, 20, 30, 5],
        [10, 5, 10.4, 20],
        [48, 0, 60, 10],
        [0, 0, 9],
        "all",
        [0, 0, float("nan"), 9],
        [1e999] * 4,
        3,
    ],
)
def test_revisited_bad_box(tmp_path: Path, box: Any) -> None:
    revisited_tree(tmp_path, boxes=(None, box))
    with pytest.raises(
        DataError, match=r"pkl: query 1: bbx is .*x1, y1, x2, y2 of a box in query_000001\.jpg, which is 48×40"
    ):
        opened(tmp_path, "revisited")


def test_revisited_two_queries_of_one_image(tmp_path: Path) -> None:
    told = gnd(tmp_path)
    told["qimlist"] = ["query_000000"] * 2
    say(tmp_path, told)
    assert opened(tmp_path, "revisited").val.ids == ("query_000000", "query_000000#2")


def test_revisited_images_are_decoded_when_asked_for(tmp_path: Path) -> None:
    revisited_tree(tmp_path, boxes=([0, 0, 9, 9], None))
    path = tmp_path / "jpg" / "query_000000.jpg"
    path.write_bytes(path.read_bytes()[:700])
    (tmp_path / "jpg" / "all_souls_000001.jpg").write_bytes(b"no image")
    data = opened(tmp_path, "revisited")
    with pytest.raises(DataError, match=r"image 0 \(query_000000\): .*query_000000\.jpg: can't be read as an image"):
        data.val[0]
    with pytest.raises(
        DataError, match=r"image 1 \(all_souls_000001\): .*all_souls_000001\.jpg: can't be read as an image"
    ):
        data.train[1]
    path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"query_000000\.jpg: can't be read as an image .*benchmark needs it"):
        opened(tmp_path, "revisited")


def gnd(root: Path) -> dict[str, Any]:
    """Contents of the ground truth that `revisited_tree` writes."""
    return json.loads((revisited_tree(root, "gnd_roxford5k.json") / "gnd_roxford5k.json").read_text())


def say(root: Path, told: Any) -> None:
    (root / "gnd_roxford5k.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("easy", [4]), ("hard", [-1]), ("junk", [0.5]), ("easy", ["0"]), ("hard", None), ("junk", [True])],
)
def test_revisited_bad_rows(tmp_path: Path, kind: str, rows: Any) -> None:
    told = gnd(tmp_path)
    told["gnd"][1] = {"easy": [], "hard": [], "junk": []} | {kind: rows}
    say(tmp_path, told)
    with pytest.raises(DataError, match=rf"json: query 1: '{kind}' must list numbers of imlist, 0\.\.3, but is"):
        opened(tmp_path, "revisited")


def test_revisited_missing_rows(tmp_path: Path) -> None:
    told = gnd(tmp_path)
    del told["gnd"][0]["junk"]
    say(tmp_path, told)
    with pytest.raises(DataError, match=r"query 0: 'junk' must list numbers of imlist, 0\.\.3, but is missing"):
        opened(tmp_path, "revisited")


def test_revisited_rows_in_two_lists(tmp_path: Path) -> None:
    told = gnd(tmp_path)
    told["gnd"][0] = {"easy": [0, 3], "hard": [1], "junk": [3]}
    say(tmp_path, told)
    with pytest.raises(DataError, match=r"query 0: an image can be one of easy, hard and junk alone.*:\n  3\nFetch"):
        opened(tmp_path, "revisited")


def test_revisited_missing_images(tmp_path: Path) -> None:
    revisited_tree(tmp_path)
    (tmp_path / "jpg" / "query_000001.jpg").unlink()
    (tmp_path / "jpg" / "all_souls_000003.jpg").unlink()
    with pytest.raises(
        DataError, match=r"2 of the 6 images are missing.*:\n  all_souls_000003\.jpg\n  query_000001\.jpg$"
    ):
        opened(tmp_path, "revisited")


@pytest.mark.parametrize(
    "change",
    [
        {"imlist": None},
        {"imlist": []},
        {"imlist": [1, 2, 3, 4]},
        {"qimlist": ["query_000000"]},
        {"gnd": {"0": {}}},
        {"gnd": [[], []]},
    ],
)
def test_revisited_other_contents(tmp_path: Path, change: dict) -> None:
    say(tmp_path, gnd(tmp_path) | change)
    with pytest.raises(
        DataError, match=r"gnd_roxford5k\.json: must be a dict of imlist and qimlist, lists of image names"
    ):
        opened(tmp_path, "revisited")


def test_revisited_other_kind_of_contents(tmp_path: Path) -> None:
    gnd(tmp_path)
    say(tmp_path, ["imlist"])
    with pytest.raises(DataError, match=r"gnd_roxford5k\.json: must be a dict of imlist"):
        opened(tmp_path, "revisited")


def test_revisited_files(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"holds no revisited benchmark: expected gnd_roxford5k\.pkl or gnd_rparis6k\.pkl"
    ):
        opened(tmp_path, "revisited")
    revisited_tree(tmp_path, "gnd_roxford5k.json")
    for option in ("train", "val"):
        with pytest.raises(DataError, match=r"data\.train and data\.val name splits, and revisited has none"):
            opened(tmp_path, "revisited", **{option: "test"})
    (tmp_path / "gnd_roxford5k.pkl").write_bytes(b"never looked at where there is JSON")
    assert len(opened(tmp_path, "revisited").val) == 2
    shutil.copy(tmp_path / "gnd_roxford5k.json", tmp_path / "gnd_rparis6k.json")
    with pytest.raises(DataError, match=r"ground truth of Oxford and of Paris; give each a folder of its own"):
        opened(tmp_path, "revisited")


@pytest.mark.parametrize(("suffix", "kind"), [("pkl", "a pickle"), ("json", "JSON")])
def test_revisited_damaged_ground_truth(tmp_path: Path, suffix: str, kind: str) -> None:
    revisited_tree(tmp_path, f"gnd_roxford5k.{suffix}")
    path = tmp_path / f"gnd_roxford5k.{suffix}"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=rf"gnd_roxford5k\.{suffix}: can't be read as {kind} \("):
        opened(tmp_path, "revisited")


class Malice:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "done")


def by_command(marker: Path) -> bytes:
    """`os.system`, in the text of protocol 0."""
    return f"cos\nsystem\n(S'touch {marker}'\ntR.".encode()


def by_attribute(marker: Path) -> bytes:
    """A dotted name, that goes from what is allowed to what isn't."""
    code = f"open({str(marker)!r}, 'w')"
    name = b"ndarray.__class__.__base__.__subclasses__"
    return b"\x80\x04\x8c\x05numpy\x8c" + bytes([len(name)]) + name + b"\x93)R0" + pickle.dumps(code, 0)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_code_in_a_pickle_is_never_run(tmp_path: Path, protocol: int) -> None:
    revisited_tree(tmp_path)
    marker = tmp_path / "marker"
    data = pickle.dumps({"imlist": ["x"], "gnd": [Malice(marker)]}, protocol)
    path = tmp_path / "gnd_roxford5k.pkl"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"gnd_roxford5k\.pkl: it holds code \(.*\), which is never run; take the file"):
        opened(tmp_path, "revisited")
    assert not marker.exists()
    pickle.loads(data)
    assert marker.exists(), "the pickle of this test does nothing"


def test_a_command_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = tmp_path / "x.pkl"
    path.write_bytes(by_command(marker))
    with pytest.raises(DataError, match=r"x\.pkl: it holds code \(os\.system\), which is never run"):
        read_plain_pickle(path)
    assert not marker.exists()
    pickle.loads(by_command(marker))
    assert marker.exists()


def test_dotted_names_in_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(by_attribute(tmp_path / "marker"))
    with pytest.raises(DataError, match=r"holds code \(numpy\.ndarray\.__class__"):
        read_plain_pickle(path)


@pytest.mark.parametrize("module", ["builtins", "numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs"])
def test_other_names_of_allowed_modules(tmp_path: Path, module: str) -> None:
    path = tmp_path / "x.pkl"
    for name in ("eval", "load", "fromfile", "lookup"):
        path.write_bytes(f"c{module}\n{name}\n.".encode())
        with pytest.raises(DataError, match=rf"holds code \({module}\.{name}\)"):
            read_plain_pickle(path)


@pytest.mark.parametrize("core", ["core", "_core"])
@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_plain_pickles_with_arrays(tmp_path: Path, protocol: int, core: str) -> None:
    told = {
        "rows": np.arange(300),
        "none": np.array([]),
        "names": np.array(["a", "ü"]),
        "mixed": np.array(["a", 1], object),
        "one": np.int64(7),
        "box": [1.5, 2],
        "bytes": b"\xff\x00",
    }
    data = pickle.dumps(told, protocol, fix_imports=False)
    if protocol < 4:
        data = data.replace(b"cnumpy._core.", f"cnumpy.{core}.".encode()).replace(
            b"cnumpy.core.", f"cnumpy.{core}.".encode()
        )
        assert f"numpy.{core}.multiarray".encode() in data
    (tmp_path / "x.pkl").write_bytes(data)
    found = read_plain_pickle(tmp_path / "x.pkl")
    for name in ("rows", "none", "names", "mixed"):
        np.testing.assert_array_equal(found[name], told[name])
        assert found[name].dtype == told[name].dtype
    assert {name: found[name] for name in ("one", "box", "bytes")} == {"one": 7, "box": [1.5, 2], "bytes": b"\xff\x00"}


def test_pickles_of_python_2(tmp_path: Path) -> None:
    """As Python 2 and its numpy wrote them: byte strings for text and for what is in an array, `numpy.core`."""
    values = np.array([255, 2, 1], "<i8")
    state = codecs.escape_encode(values.tobytes())[0]  # type: ignore[attr-defined]
    data = (
        b"(dp0\nS'rows'\ncnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\nt"
        b"cnumpy\ndtype\n(S'i8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntbI00\nS'" + state + b"'\ntb"
        b"sS'name'\nS'caf\\xe9'\ns."
    )
    (tmp_path / "x.pkl").write_bytes(data)
    found = read_plain_pickle(tmp_path / "x.pkl")
    np.testing.assert_array_equal(found["rows"], values)
    assert found["rows"].dtype == np.int64
    assert found["name"] == "café"
