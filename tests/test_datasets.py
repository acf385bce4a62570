"""The layouts of annotated images, and what each says when something is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from trees import ade20k_tree, folder_tree, scene, voc_tree

from fungi_seg import DataConfig, DataError, Dataset, FungiSegError, open_dataset
from fungi_seg.datasets.palettes import voc_palette


def folder(root: Path, split: str | None = "train", skip_bad: bool = False, **options: object) -> Dataset:
    return open_dataset(DataConfig("folder", str(root), split, **options), skip_bad)  # type: ignore[arg-type]


def ids(dataset: Dataset) -> list[str]:
    return [item.id for item in dataset.items]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return folder_tree(tmp_path)


def in_displayed_values(mask: np.ndarray) -> np.ndarray:
    return np.where(mask == 255, -1, mask.astype(int))


def test_folder(tree: Path) -> None:
    dataset = folder(tree)
    assert len(dataset) == 4
    assert ids(dataset) == ["train_0", "train_1", "train_2", "train_3"]
    assert dataset.classes == ("background", "red", "green")
    assert dataset.problems == ()
    for seed, sample in enumerate(dataset):
        image, mask = scene(seed)
        assert sample.id == f"train_{seed}"
        assert sample.mask.dtype == np.int16
        np.testing.assert_array_equal(sample.image, image)
        np.testing.assert_array_equal(sample.mask, in_displayed_values(mask))
    assert ids(folder(tree, "val")) == ["val_0", "val_1"]


def test_folder_without_splits(tree: Path) -> None:
    """`images`, `masks` and `classes.txt` all in the root."""
    (tree / "classes.txt").rename(tree / "train" / "classes.txt")
    assert len(folder(tree / "train", None)) == 4


def test_class_list_of_the_split_comes_first(tree: Path) -> None:
    (tree / "train" / "classes.txt").write_text("ground\nfirst\nsecond\n")
    assert folder(tree).classes == ("ground", "first", "second")
    assert folder(tree, "val").classes == ("background", "red", "green")


def test_default_colours(tree: Path) -> None:
    """Black is left to a class called background."""
    np.testing.assert_array_equal(folder(tree).palette, [[0, 0, 0], [230, 159, 0], [86, 180, 233]])
    (tree / "classes.txt").write_text("road\nred\ngreen\n")
    np.testing.assert_array_equal(folder(tree).palette, [[230, 159, 0], [86, 180, 233], [0, 158, 115]])


def test_palette_file(tree: Path) -> None:
    (tree / "palette.txt").write_text("1 2 3\n4 5 6\n\n255 0 7\n")
    found = folder(tree).palette
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [[1, 2, 3], [4, 5, 6], [255, 0, 7]])
    (tree / "train" / "palette.txt").write_text("9 9 9\n8 8 8\n7 7 7\n")
    assert folder(tree).palette[0].tolist() == [9, 9, 9]
    assert folder(tree, "val").palette[0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("text", ["1 2 3\n4 5 6\n", "1 2 3\n4 5\n7 8 9\n", "1 2 3\n4 5 6\n7 8 256\n", "a b c\n" * 3])
def test_bad_palette_file(tree: Path, text: str) -> None:
    (tree / "palette.txt").write_text(text)
    with pytest.raises(DataError, match=r"palette\.txt: must hold one line 'r g b'.* each of the 3 classes"):
        folder(tree)


def test_voc_colour_map() -> None:
    colours = voc_palette(256)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {i: tuple(colours[i].tolist()) for i in known} == known
    assert len({tuple(c) for c in colours.tolist()}) == 256


@pytest.mark.parametrize("flat", [False, True])
def test_voc(tmp_path: Path, flat: bool) -> None:
    voc_tree(tmp_path, flat)
    train = open_dataset(DataConfig("voc", str(tmp_path)))
    assert ids(train) == ["2007_000000", "2007_000001", "2007_000002"]
    assert len(train.classes) == 21
    assert [train.classes[i] for i in (0, 1, 15, 20)] == ["background", "aeroplane", "person", "tvmonitor"]
    np.testing.assert_array_equal(train.palette[[1, 15]], [[128, 0, 0], [192, 128, 128]])
    val = open_dataset(DataConfig("voc", str(tmp_path), "val"))
    assert ids(val) == ["2007_000010", "2007_000011"]
    np.testing.assert_array_equal(val[1].mask, in_displayed_values(scene(11)[1]))
    assert val[0].image.shape == (48, 64, 3)


@pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_root_may_be_any_level(tmp_path: Path, below: str) -> None:
    assert len(open_dataset(DataConfig("voc", str(voc_tree(tmp_path) / below), "val"))) == 2


def test_voc_masks_of_augmented_lists(tmp_path: Path) -> None:
    """`trainaug` reads SegmentationClassAug, other lists SegmentationClass."""
    base = voc_tree(tmp_path) / "VOCdevkit" / "VOC2012"
    (base / "ImageSets" / "Segmentation" / "train.txt").write_text("2007_000000\n")
    aug = open_dataset(DataConfig("voc", str(tmp_path), "trainaug"))
    plain = open_dataset(DataConfig("voc", str(tmp_path), "train"))
    assert aug.items[0].mask.parent.name == "SegmentationClassAug"
    assert plain.items[0].mask.parent.name == "SegmentationClass"


def test_voc_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.split is 'trian'.*lists there: trainaug, val"):
        open_dataset(DataConfig("voc", str(voc_tree(tmp_path)), "trian"))


def test_voc_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no Pascal VOC: expected VOCdevkit/VOC2012"):
        open_dataset(DataConfig("voc", str(tmp_path)))


def test_voc_without_the_list_named(tmp_path: Path) -> None:
    voc_tree(tmp_path)
    with pytest.raises(DataError, match=r"file.list\b.*gone\.txt"):
        open_dataset(DataConfig("voc", str(tmp_path), file_list=str(tmp_path / "gone.txt")))


def test_ade20k(tmp_path: Path) -> None:
    """Mask value 1 is class 0, 0 is void."""
    ade20k_tree(tmp_path)
    train = open_dataset(DataConfig("ade20k", str(tmp_path)))
    assert ids(train) == [f"ADE_train_{i:08d}" for i in range(3)]
    assert len(train.classes) == 150
    assert train.classes[0] == "wall"
    assert train.classes[149] == "flag"
    assert train.palette.shape == (150, 3)
    assert train.palette[0].tolist() == [120, 120, 120]
    np.testing.assert_array_equal(
        train[1].mask, np.array([0, 1, 149])[scene(1)[1] % 255] * (scene(1)[1] != 255) - (scene(1)[1] == 255)
    )
    for split in ("val", "validation"):
        assert ids(open_dataset(DataConfig("ade20k", str(tmp_path), split))) == [f"ADE_val_{i:08d}" for i in range(2)]
    assert len(open_dataset(DataConfig("ade20k", str(tmp_path / "ADEChallengeData2016")))) == 3


def test_ade20k_unknown_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.split 'test'.*splits are train and val"):
        open_dataset(DataConfig("ade20k", str(ade20k_tree(tmp_path)), "test"))


def test_ade20k_value_beyond_its_classes(tmp_path: Path) -> None:
    ade20k_tree(tmp_path)
    dataset = open_dataset(DataConfig("ade20k", str(tmp_path)))
    Image.fromarray(np.full((48, 64), 151, np.uint8)).save(dataset.items[0].mask)
    with pytest.raises(DataError, match=r"151 \(3072 pixels\); ids must be 1\.\.150, or the void value \(0\)"):
        dataset[0]


def test_file_list(tree: Path, tmp_path: Path) -> None:
    """Ids, image paths, or a first column of either; order is the list's."""
    listed = tmp_path / "list.txt"
    for text in (
        "train_3\ntrain_1\n",
        "train_3.png\n\ntrain_1.png\n",
        "images/train_3.png masks/train_3.png\nimages/train_1.png masks/train_1.png\n",
        f"{tree}/train/images/train_3.png\n{tree}/train/images/train_1.png\n",
        "train_3\tmasks/train_3.png\r\ntrain_1\tmasks/train_1.png\r\n",
    ):
        listed.write_text(text)
        assert ids(folder(tree, file_list=str(listed))) == ["train_3", "train_1"]


def test_file_list_for_the_other_layouts(tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    voc, ade = voc_tree(tmp_path / "voc"), ade20k_tree(tmp_path / "ade")
    listed.write_text("JPEGImages/2007_000011.jpg SegmentationClassAug/2007_000011.png\n")
    assert ids(open_dataset(DataConfig("voc", str(voc), file_list=str(listed)))) == ["2007_000011"]
    listed.write_text("ADE_train_00000002\n")
    assert ids(open_dataset(DataConfig("ade20k", str(ade), file_list=str(listed)))) == ["ADE_train_00000002"]


def test_file_list_naming_an_id_twice(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("train_0\ntrain_1.png\ntrain_1\n")
    with pytest.raises(DataError, match=r"list\.txt' names 1 ids more than once:\n  train_1"):
        folder(tree, file_list=str(tmp_path / "list.txt"))


def test_file_list_naming_what_is_not_there(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("train_0\ntrain_9\n")
    with pytest.raises(DataError, match=r"1 of 2 entries are not complete:\n  train_9: neither image nor mask"):
        folder(tree, file_list=str(tmp_path / "list.txt"))
    dataset = folder(tree, skip_bad=True, file_list=str(tmp_path / "list.txt"))
    assert ids(dataset) == ["train_0"]
    assert dataset.problems == ("train_9: neither image nor mask",)


def test_file_list_of_names_with_spaces(tree: Path, tmp_path: Path) -> None:
    """What isn't known is one name, whatever it has in common with others."""
    for kind in ("images", "masks"):
        for old, new in (("train_0", "my"), ("train_1", "my img 1")):
            (tree / "train" / kind / "a").mkdir(exist_ok=True)
            (tree / "train" / kind / f"{old}.png").rename(tree / "train" / kind / "a" / f"{new}.png")
    listed = tmp_path / "list.txt"
    listed.write_text("a/my img 1.png\na/my.png a/my_mask.png\nimg 3\nimg 4\n")
    dataset = folder(tree, skip_bad=True, file_list=str(listed))
    assert ids(dataset) == ["a/my img 1", "a/my"]
    assert dataset.problems == ("img 3: neither image nor mask", "img 4: neither image nor mask")


def test_file_list_empty_or_unreadable(tree: Path, tmp_path: Path) -> None:
    listed = tmp_path / "list.txt"
    with pytest.raises(DataError, match=r"file list '.*list\.txt' can't be read"):
        folder(tree, file_list=str(listed))
    listed.write_text("\n \n")
    with pytest.raises(DataError, match=r"file list '.*list\.txt' is empty; it must hold one entry a line"):
        folder(tree, file_list=str(listed))
    listed.write_bytes(b"train_\xff\n")
    with pytest.raises(DataError, match=r"file list '.*list\.txt' can't be read"):
        folder(tree, file_list=str(listed))


def nested(tree: Path) -> Path:
    """Two of the training images in sub-folders, under one name."""
    for kind in ("images", "masks"):
        for i, city in enumerate(("rome", "oslo")):
            (tree / "train" / kind / city).mkdir()
            (tree / "train" / kind / f"train_{i}.png").rename(tree / "train" / kind / city / "street.png")
    return tree


def test_nested_folders(tree: Path) -> None:
    dataset = folder(nested(tree))
    assert ids(dataset) == ["oslo/street", "rome/street", "train_2", "train_3"]
    np.testing.assert_array_equal(dataset[1].image, scene(0)[0])


@pytest.mark.parametrize("line", ["{}/street", "{}/street.png", "images/{}/street.png", "train/images/{}/street.png"])
def test_file_list_of_nested_folders(tree: Path, tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{line.format(city)}\n" for city in ("rome", "oslo")))
    dataset = folder(nested(tree), file_list=str(tmp_path / "list.txt"))
    assert ids(dataset) == ["rome/street", "oslo/street"]


def test_unpaired_files_are_counted_and_listed(tree: Path) -> None:
    (tree / "train" / "images" / "train_0.png").unlink()
    (tree / "train" / "masks" / "train_2.png").unlink()
    with pytest.raises(DataError) as raised:
        folder(tree)
    message = str(raised.value)
    assert "2 of 4 entries are not complete" in message
    assert "  train_0.png: mask without image" in message
    assert "  train_2.png: image without mask" in message
    assert "--skip-bad" in message
    dataset = folder(tree, skip_bad=True)
    assert ids(dataset) == ["train_1", "train_3"]
    assert dataset.problems == ("train_0.png: mask without image", "train_2.png: image without mask")


def test_long_lists_are_cut(tmp_path: Path) -> None:
    folder_tree(tmp_path, train=13)
    for mask in (tmp_path / "train" / "masks").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match=r"13 of 13 entries (?s:.*)… and 3 more") as raised:
        folder(tmp_path)
    assert str(raised.value).count("image without mask") == 10


def test_nothing_left(tree: Path) -> None:
    for mask in (tree / "train" / "masks").iterdir():
        mask.unlink()
    with pytest.raises(DataError, match="no image with a mask was found"):
        folder(tree, skip_bad=True)
    for image in (tree / "train" / "images").iterdir():
        image.unlink()
    with pytest.raises(DataError, match=r"no image with a mask was found; check data\.root, data\.layout"):
        folder(tree)


def test_missing_folders(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"tset.images' is not a folder; check data\.root, data\.layout and data\.split"
    ):
        folder(tree, "tset")
    for root in ("", str(tmp_path / "nowhere"), str(tree / "classes.txt")):
        with pytest.raises(DataError, match=r"data\.root is '.*': no such folder"):
            open_dataset(DataConfig("folder", root))


def test_unknown_layout() -> None:
    with pytest.raises(FungiSegError, match=r"data\.layout is 'foldr'; .*folder, voc, ade20k.*; did you mean 'folder'"):
        DataConfig("foldr")


@pytest.mark.parametrize("void", [-1, 2**16])
def test_void_outside_mask_values(void: int) -> None:
    with pytest.raises(DataError, match=rf"data\.void is {void}; it must be a mask value"):
        DataConfig(void=void)


def test_no_class_list(tree: Path) -> None:
    (tree / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"no classes\.txt in .*: write one with a class name a line"):
        folder(tree)


def test_bad_class_lists(tree: Path) -> None:
    (tree / "classes.txt").write_text("")
    with pytest.raises(DataError, match=r"class list '.*classes\.txt' is empty"):
        folder(tree)
    (tree / "classes.txt").write_text("sky\nroad\nsky\n")
    with pytest.raises(DataError, match=r"class list of .* names 1 classes more than once:\n  sky$"):
        folder(tree)
    (tree / "classes.txt").write_bytes("sky\nstraße\nm\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"class list '.*classes\.txt' can't be read"):
        folder(tree)


def test_class_names_beyond_ascii(tree: Path) -> None:
    (tree / "classes.txt").write_text("Hintergrund\nStraße\n 木 \n", encoding="utf-8")
    assert folder(tree).classes == ("Hintergrund", "Straße", "木")


def test_class_list_with_a_byte_order_mark(tree: Path) -> None:
    (tree / "classes.txt").write_text("background\nred\ngreen\n", encoding="utf-8-sig")
    assert folder(tree).classes[0] == "background"


def test_class_id_without_a_name(tree: Path) -> None:
    mask = np.zeros((48, 64), np.uint8)
    mask[0, :5] = 7
    mask[1, :3] = 3
    Image.fromarray(mask).save(tree / "train" / "masks" / "train_1.png")
    dataset = folder(tree)
    assert len(dataset[0].mask)
    with pytest.raises(DataError, match=r"train_1\.png: class ids outside the 3 known classes") as raised:
        dataset[1]
    message = str(raised.value)
    assert "3 (3 pixels), 7 (5 pixels)" in message
    assert "ids must be 0..2, or the void value (255)" in message


def test_mask_of_16_bits(tree: Path) -> None:
    (tree / "classes.txt").write_text("".join(f"class {i}\n" for i in range(400)))
    mask = np.full((48, 64), 399, np.uint16)
    mask[0, 0], mask[0, 1] = 65535, 255
    Image.fromarray(mask).save(tree / "train" / "masks" / "train_0.png")
    found = folder(tree)[0].mask
    assert found[1, 1] == 399
    assert (found[0, 0], found[0, 1]) == (-1, 255)


def test_mask_of_another_size(tree: Path) -> None:
    Image.fromarray(np.zeros((10, 20), np.uint8)).save(tree / "train" / "masks" / "train_0.png")
    with pytest.raises(DataError, match=r"train_0\.png: the mask is 10×20 .* its image train_0\.png 48×64; both must"):
        folder(tree)[0]


def test_unreadable_sample(tree: Path) -> None:
    (tree / "train" / "masks" / "train_0.png").write_text("oops")
    with pytest.raises(DataError, match=r"masks.train_0\.png: can't be read as a mask"):
        folder(tree)[0]


def test_void_override(tree: Path) -> None:
    """Another void value takes the place of 255, even where it names a class."""
    with pytest.raises(DataError, match=r"255 \(36 pixels\)"):
        folder(tree, void=2)[0]
    mask = scene(0, void=False)[1]
    Image.fromarray(mask).save(tree / "train" / "masks" / "train_0.png")
    np.testing.assert_array_equal(folder(tree, void=2)[0].mask, np.where(mask == 2, -1, mask.astype(int)))


def test_two_files_of_one_id(tree: Path) -> None:
    Image.fromarray(scene(0)[0]).save(tree / "train" / "images" / "train_0.jpg")
    with pytest.raises(DataError, match=r"train_0\.jpg and train_0\.png have the same id 'train_0'; rename one"):
        folder(tree)


def test_other_files_are_passed_over(tree: Path) -> None:
    (tree / "train" / "images" / "notes.txt").write_text("")
    (tree / "train" / "images" / "._train_0.png").write_text("")
    assert len(folder(tree)) == 4


@pytest.mark.parametrize("layout", ["folder", "voc", "labelmap", "ade20k", "cityscapes"])
def test_linked_folders_count_and_images_of_other_kinds_are_told(tmp_path: Path, layout: str) -> None:
    """Whatever layout searches a folder of images."""
    root, store = tmp_path / "root", tmp_path / "store"
    split, suffix, what = "train", "", {}
    if layout == "folder":
        folder_tree(root)
        images, masks = root / "train" / "images", root / "train" / "masks"
    elif layout == "ade20k":
        ade20k_tree(root)
        images, masks = (next(root.rglob(f"{name}/training")) for name in ("images", "annotations"))
    elif layout == "cityscapes":
        images, masks, suffix = root / "leftImg8bit" / "train", root / "gtFine" / "train", "_gtFine_labelIds"
    else:
        images, masks, split = root / "JPEGImages", root / "SegmentationClass", "default"
        name = "labelmap.txt" if layout == "labelmap" else "unused.txt"
        lists = root / "ImageSets" / "Segmentation"
        lists.mkdir(parents=True)
        (lists / "default.txt").write_text("linked/new\n")
        (root / name).write_text("background:0,0,0::\n")
        what = {} if layout == "labelmap" else {"void": 0}
    for folder_, name in ((images, "images"), (masks, "masks")):
        folder_.mkdir(parents=True, exist_ok=True)
        (store / name).mkdir(parents=True)
        (folder_ / "linked").symlink_to(store / name)
    Image.fromarray(np.zeros((48, 64, 3), np.uint8)).save(store / "images" / "new.png")
    mask = np.zeros((48, 64, 3) if layout == "labelmap" else (48, 64), np.uint8)
    Image.fromarray(mask).save(store / "masks" / f"new{suffix}.png")
    for name in ("a.heic", "b.JXL", ".c.heic"):
        (store / "images" / name).write_bytes(b"x")
    layout = "voc" if layout == "labelmap" else layout
    dataset = open_dataset(DataConfig(root=str(root), layout=layout, split=split, **what))  # type: ignore[arg-type]
    assert "linked/new" in ids(dataset)
    assert dataset[ids(dataset).index("linked/new")].image.shape == (48, 64, 3)
    told = f"{images}: 2 files left out: 1 .heic, 1 .jxl; convert them to JPEG or PNG to have them read"
    assert dataset.remarks == (told,)


def test_dots_in_names(tree: Path) -> None:
    for kind in ("images", "masks"):
        (tree / "train" / kind / "train_0.png").rename(tree / "train" / kind / "train.v1.0.png")
    assert ids(folder(tree))[0] == "train.v1.0"


def test_rotated_photo_with_a_mask_as_displayed(tree: Path) -> None:
    image, mask = scene(0)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned clockwise
    stored = np.ascontiguousarray(np.rot90(image))
    (tree / "train" / "images" / "train_0.png").unlink()
    Image.fromarray(stored).save(tree / "train" / "images" / "train_0.jpg", quality=95, subsampling=0, exif=exif)
    sample = folder(tree)[0]
    assert sample.image.shape == image.shape
    assert np.abs(sample.image.astype(int) - image).mean() < 8
    np.testing.assert_array_equal(sample.mask, in_displayed_values(mask))


@pytest.mark.parametrize("below", [b"", b"caf\xe9/"])
def test_names_that_are_not_utf_8(tree: Path, below: bytes) -> None:
    name = os.fsencode(tree / "train" / "images") + b"/" + below + (b"x.png" if below else b"caf\xe9.png")
    os.makedirs(os.path.dirname(name), exist_ok=True)
    try:
        with open(name, "wb"):
            pass
    except OSError:
        pytest.skip("this file system has no such names")
    with pytest.raises(DataError, match=r"images/caf\\udce9\S*png': the name isn't UTF-8.*; rename it") as caught:
        folder(tree)
    assert str(caught.value).encode()
