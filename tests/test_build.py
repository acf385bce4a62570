"""Building a bank: which patches become rows, and that each row is what it says."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HALF, TINY, built
from PIL import Image
from safetensors.torch import load_file, save_file
from trees import folder_tree, save_palette, scene

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
    LoadConfig,
    MemoryBank,
    PatchFeatures,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.build import append_images
from fungi_seg.bank.settings import BankRecipe

OWN = InputConfig(size=None)
PATCH = 8


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four training images of 48×64: 48 patches each, none all void."""
    return folder_tree(tmp_path_factory.mktemp("data") / "tree")


def train(root: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(root), split="train"))


@pytest.fixture(scope="module")
def dataset(tree: Path) -> Dataset:
    return train(tree)


def make(dataset: Dataset, backbone: Backbone, out: Path, size: int | None = None, **options: Any) -> MemoryBank:
    options = {"input": OWN, "bank": BankConfig(size=size), "features": FeatureConfig(kind="plain")} | options
    built(dataset, backbone, out, **options)
    return MemoryBank.open(out)


def image_and_mask(root: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    with Image.open(root / "images" / f"{name}.png") as image, Image.open(root / "masks" / f"{name}.png") as mask:
        return np.array(image), np.array(mask)


def write_sample(root: Path, name: str, image: np.ndarray, mask: np.ndarray) -> None:
    Image.fromarray(image).save(root / "images" / f"{name}.png")
    Image.fromarray(mask).save(root / "masks" / f"{name}.png")


def dense_labels(bank: MemoryBank) -> np.ndarray:
    """`[M, C]` label distributions, decoded entry by entry."""
    labels = bank.rows.labels
    found = np.zeros((len(bank), len(bank.info.classes)))
    for row in range(len(bank)):
        for entry in range(labels.offsets[row], labels.offsets[row + 1]):
            found[row, labels.ids[entry]] += labels.weights[entry] / 255
    return found


def one_image(features: PatchFeatures, image: np.ndarray) -> np.ndarray:
    return features(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)[0].numpy()


def assert_same_rows(one: MemoryBank, other: MemoryBank, tolerance: float = 1e-3) -> None:
    for name in ("source", "epoch", "box"):
        np.testing.assert_array_equal(getattr(one.rows, name), getattr(other.rows, name))
    for name in ("offsets", "ids", "weights"):
        np.testing.assert_array_equal(getattr(one.rows.labels, name), getattr(other.rows.labels, name))
    np.testing.assert_allclose(one.rows.keys.astype(float), other.rows.keys.astype(float), atol=tolerance)


@pytest.mark.parametrize(("size", "rows"), [(1, 1), (50, 50), (191, 191), (192, 192), (193, 192), (None, 192)])
def test_exactly_as_many_rows_as_asked_for_or_there_are(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, size: int | None, rows: int
) -> None:
    bank = make(dataset, tiny_backbone, tmp_path / "bank", size)
    assert len(bank) == rows
    assert bank.info.build["available_rows"] == 192
    assert len({(s, tuple(b)) for s, b in zip(bank.rows.source, bank.rows.box, strict=True)}) == rows


@pytest.mark.parametrize(
    "features",
    [FeatureConfig(kind="plain"), FeatureConfig(), FeatureConfig(projection="dense", projection_dim=10)],
    ids=["plain", "factored", "dense"],
)
def test_every_row_is_its_patch(
    tree: Path, dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, features: FeatureConfig
) -> None:
    """Key, label and box of all rows against a computation patch by patch."""
    bank = make(dataset, tiny_backbone, tmp_path / "bank", features=features)
    extractor = PatchFeatures(tiny_backbone, features)
    labels, seen = dense_labels(bank), 0
    for source, name in enumerate(bank.info.sources):
        image, mask = image_and_mask(tree / "train", name)
        expected = one_image(extractor, image)
        for row in np.flatnonzero(bank.rows.source == source):
            left, top, right, bottom = bank.rows.box[row].astype(int)
            assert (right - left, bottom - top) == (PATCH, PATCH)
            position = top // PATCH * (64 // PATCH) + left // PATCH
            np.testing.assert_allclose(bank.rows.keys[row].astype(float), expected[position], atol=1e-3)
            inside = mask[top:bottom, left:right]
            counts = np.array([(inside == c).sum() for c in range(3)])
            np.testing.assert_allclose(labels[row], counts / counts.sum(), atol=1 / 255 + 1e-9)
            seen += 1
    assert seen == len(bank) == 192
    np.testing.assert_allclose(labels.sum(1), 1)
    np.testing.assert_allclose(np.linalg.norm(bank.rows.keys.astype(float), axis=1), 1, atol=2e-3)


@pytest.mark.parametrize("augmented", [False, True])
def test_same_seed_same_bank_whatever_the_loading(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, augmented: bool
) -> None:
    config = BankConfig(size=60, epochs=2 if augmented else 1, augment=augmented)
    options: dict[str, Any] = {"bank": config, "input": InputConfig(size=48), "features": FeatureConfig(), "seed": 3}
    first = make(dataset, tiny_backbone, tmp_path / "first", load=LoadConfig(1, 0), **options)
    for number, load in enumerate([LoadConfig(4, 0), LoadConfig(3, 1), LoadConfig(1, 3)]):
        assert_same_rows(first, make(dataset, tiny_backbone, tmp_path / str(number), load=load, **options))


def test_another_seed_another_bank(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    one = make(dataset, tiny_backbone, tmp_path / "one", 60, seed=0)
    other = make(dataset, tiny_backbone, tmp_path / "other", 60, seed=1)
    assert not np.array_equal(one.rows.box, other.rows.box)


def test_global_random_state_is_neither_used_nor_changed(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"bank": BankConfig(40, 2, True), "input": InputConfig(size=48)}
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    first = make(dataset, tiny_backbone, tmp_path / "first", **options)
    after = float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    assert after == (float(np.random.rand()), float(torch.rand(())))  # noqa: NPY002
    assert_same_rows(first, make(dataset, tiny_backbone, tmp_path / "second", **options))


def void_tree(root: Path) -> Path:
    """A tree whose first image is void over its upper half, with a patch that is void but for one pixel."""
    folder_tree(root, train=2)
    image, mask = scene(0)
    mask[:24] = 255
    mask[7, 7] = 1
    write_sample(root / "train", "train_0", image, mask)
    return root


def test_void_is_left_out(tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = make(train(void_tree(tmp_path / "data")), tiny_backbone, tmp_path / "bank")
    assert len(bank) == 24 + 1 + 48
    assert bank.rows.labels.ids.max() < 3
    corner = (bank.rows.source == 0) & (bank.rows.box[:, 1] == 0)
    np.testing.assert_array_equal(bank.rows.box[corner], [[0, 0, 8, 8]])
    np.testing.assert_allclose(dense_labels(bank)[corner], [[0, 1, 0]])


def test_void_as_background(tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = BankConfig(size=None, void="background")
    bank = make(train(void_tree(tmp_path / "data")), tiny_backbone, tmp_path / "bank", bank=config)
    assert len(bank) == 96
    corner = np.flatnonzero((bank.rows.source == 0) & (bank.rows.box[:, :2] == 0).all(1))
    np.testing.assert_allclose(dense_labels(bank)[corner], [[63 / 64, 1 / 64, 0]], atol=1 / 255)


def test_void_as_background_needs_a_background(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = folder_tree(tmp_path / "data", train=1)
    (data / "classes.txt").write_text("road\nred\ngreen\n")
    with pytest.raises(FungiSegError, match="class 0 of this data set is 'road'"):
        make(train(data), tiny_backbone, tmp_path / "bank", bank=BankConfig(void="background"))
    assert not (tmp_path / "bank").exists()


def test_all_void(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = folder_tree(tmp_path / "data", train=1)
    image, mask = scene(0)
    write_sample(data / "train", "train_0", image, np.full_like(mask, 255))
    with pytest.raises(DataError, match="no labelled patch in 1 images: every pixel is void"):
        make(train(data), tiny_backbone, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 2}, "bank.epochs is 2 without augmentation"),
        ({"epochs": 0}, "bank.epochs is 0"),
        ({"size": 0}, "bank.size is 0"),
        ({"void": "backgroud"}, "did you mean 'background'"),
    ],
)
def test_bank_config_rules(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        BankConfig(**options)


@pytest.mark.parametrize("load", [(0, 2), (1, -1)])
def test_load_config_rules(load: tuple[int, int]) -> None:
    with pytest.raises(FungiSegError, match=r"load\.batch_size is .*, load\.workers"):
        LoadConfig(*load)


def test_augmented_rows_tell_epoch_and_place(
    tree: Path, dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """The labels of a row are those of the pixels in its box of the original image."""
    config = BankConfig(size=None, epochs=3, augment=True)
    bank = make(dataset, tiny_backbone, tmp_path / "bank", bank=config, input=InputConfig(size=48))
    box, labels = bank.rows.box, dense_labels(bank)
    assert set(bank.rows.epoch) == {0, 1, 2}
    assert box[:, :2].min() >= 0
    assert box[:, 2].max() <= 64
    assert box[:, 3].max() <= 48
    assert (box[:, 2:] > box[:, :2]).all()
    windows = {tuple(box[(bank.rows.epoch == e) & (bank.rows.source == 0)].min(0)) for e in range(3)}
    assert len(windows) == 3
    masks = [image_and_mask(tree / "train", name)[1] for name in bank.info.sources]
    differences = []
    for row in range(len(bank)):
        left, top, right, bottom = box[row].round().astype(int)
        inside = masks[bank.rows.source[row]][top:bottom, left:right]
        counts = np.array([(inside == c).sum() for c in range(3)])
        differences.append(np.abs(labels[row] - counts / max(1, counts.sum())).max())
    assert np.mean(differences) < 0.02


def test_images_of_different_sizes(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = folder_tree(tmp_path / "data", train=3)
    sizes = [(48, 64), (40, 40), (64, 32)]
    for i, size in enumerate(sizes):
        write_sample(data / "train", f"train_{i}", *scene(i, *size))
    bank = make(train(data), tiny_backbone, tmp_path / "bank")
    assert np.bincount(bank.rows.source).tolist() == [48, 25, 32]
    for source, (height, width) in enumerate(sizes):
        assert bank.rows.box[bank.rows.source == source].max(0).tolist() == [width - 8, height - 8, width, height]


def test_boxes_are_in_pixels_of_the_image(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """An input of 24×32 makes 3×4 patches of 16×16 image pixels."""
    bank = make(dataset, tiny_backbone, tmp_path / "bank", input=InputConfig(size=24))
    assert len(bank) == 4 * 12
    size = bank.rows.box[:, 2:] - bank.rows.box[:, :2]
    np.testing.assert_allclose(size, 16)
    assert bank.rows.box.max(0).tolist() == [48, 32, 64, 48]


def test_padding_is_never_stored(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """44×60 is padded to 48×64: border patches hold 4 pixels of image, patches of padding alone don't exist."""
    data = folder_tree(tmp_path / "data", train=1)
    image, mask = scene(0, 44, 60)
    write_sample(data / "train", "train_0", image, mask)
    bank = make(train(data), tiny_backbone, tmp_path / "bank", input=InputConfig(size=None, fit="pad"))
    assert len(bank) == 48
    assert bank.rows.box.max(0).tolist() == [56, 40, 60, 44]
    labels = dense_labels(bank)
    for row in range(len(bank)):
        left, top, right, bottom = bank.rows.box[row].astype(int)
        counts = np.array([(mask[top:bottom, left:right] == c).sum() for c in range(3)])
        np.testing.assert_allclose(labels[row], counts / counts.sum(), atol=1 / 255 + 1e-9)


def bad_tree(root: Path) -> Path:
    """Five training images: three sound, one cut off, one whose mask has a class too many."""
    folder_tree(root, train=5)
    photo = root / "train" / "images" / "train_1.png"
    photo.write_bytes(photo.read_bytes()[:300])
    image, mask = scene(3)
    mask[20, 20] = 77
    write_sample(root / "train", "train_3", image, mask)
    return root


@pytest.mark.parametrize("load", [LoadConfig(2, 0), LoadConfig(2, 2)])
def test_bad_image_stops_the_build(tiny_backbone: Backbone, tmp_path: Path, load: LoadConfig) -> None:
    data = bad_tree(tmp_path / "data")
    with pytest.raises(DataError, match=r"train_1\.png.*\n.*--skip-bad"):
        make(train(data), tiny_backbone, tmp_path / "bank", load=load)
    assert not (tmp_path / "bank").exists()


def test_bad_images_are_passed_over_and_listed(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = train(bad_tree(tmp_path / "data"))
    bank = make(data, tiny_backbone, tmp_path / "bank", bank=BankConfig(None, 2, True), skip_bad=True)
    skipped = bank.info.build["skipped"]
    assert len(skipped) == 2
    assert "train_1.png" in skipped[0]
    assert "train_3.png" in skipped[1]
    assert "77 (1 pixels)" in skipped[1]
    assert bank.info.build["images"] == 3
    assert bank.info.sources == ("train_0", "train_2", "train_4")
    assert set(bank.rows.source) == {0, 1, 2}


def test_images_without_a_labelled_patch_are_told(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """They aren't among the images of the bank, so that they can be appended once they are annotated."""
    data = folder_tree(tmp_path / "data", train=3)
    mask = data / "train" / "masks" / "train_1.png"
    annotated = mask.read_bytes()
    save_palette(np.full((48, 64), 255, np.uint8), mask)
    bank = make(train(data), tiny_backbone, tmp_path / "bank", bank=BankConfig(None))
    assert bank.info.sources == ("train_0", "train_2")
    assert bank.info.build["images"] == 2
    assert bank.info.build["skipped"] == ["train_1: no labelled patch, every pixel is void"]
    mask.write_bytes(annotated)
    (tmp_path / "list.txt").write_text("train_1\n")
    again = DataConfig(root=str(data), split="train", file_list=str(tmp_path / "list.txt"))
    both = append_images(bank, open_dataset(again), tiny_backbone)
    assert both.info.sources == ("train_0", "train_2", "train_1")
    assert set(both.rows.source) == {0, 1, 2}


def test_skipping_everything_is_an_error(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = folder_tree(tmp_path / "data", train=1)
    (data / "train" / "images" / "train_0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"skipped:\n.*train_0\.png"):
        make(train(data), tiny_backbone, tmp_path / "bank", skip_bad=True)


def test_support_set_is_carried(tree: Path, dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    config = FeatureConfig(negatives=2, support_size=20)
    made = build_bank(dataset, tiny_backbone, tmp_path / "bank", BankRecipe(config, OWN, BankConfig(None)))
    opened = MemoryBank.open(tmp_path / "bank")
    assert opened.support is not None
    assert opened.support.shape == (20, 24)
    image = torch.from_numpy(scene(100)[0]).permute(2, 0, 1)[None].float() / 255
    features = opened.patch_features(backbone=tiny_backbone)
    torch.testing.assert_close(features(image), made.patch_features(backbone=tiny_backbone)(image), rtol=0, atol=0)
    plain = PatchFeatures(tiny_backbone, FeatureConfig())(image)
    assert not torch.allclose(features(image), plain, atol=1e-3)
    expected = one_image(features, image_and_mask(tree / "train", opened.info.sources[2])[0])
    rows = np.flatnonzero(opened.rows.source == 2)
    box = opened.rows.box[rows].astype(int)
    position = box[:, 1] // PATCH * 8 + box[:, 0] // PATCH
    np.testing.assert_allclose(opened.rows.keys[rows].astype(float), expected[position], atol=2e-3)


def test_features_that_are_not_finite_are_refused(
    dataset: Dataset, tiny_weights: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    state = load_file(tiny_weights)
    state["norm.weight"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    broken = load_backbone("tiny", tmp_path / "nan.safetensors", model_args=TINY, mean=HALF, std=HALF)
    with pytest.raises(FungiSegError, match=r"train_0, .*: the features \(plain\) are not finite"):
        make(dataset, broken, tmp_path / "bank")
    assert not (tmp_path / "bank").exists()


def test_failed_build_keeps_the_old_bank(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = train(folder_tree(tmp_path / "good", train=1))
    make(data, tiny_backbone, tmp_path / "bank")
    before = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "bank").iterdir()}
    with pytest.raises(DataError):
        make(train(bad_tree(tmp_path / "bad")), tiny_backbone, tmp_path / "bank", overwrite=True)
    with pytest.raises(BankError, match="--overwrite"):
        make(data, tiny_backbone, tmp_path / "bank")
    assert before == {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in (tmp_path / "bank").iterdir()}


def test_record_of_the_build(dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = make(dataset, tiny_backbone, tmp_path / "bank", 50, seed=9, record={"data": {"root": "here"}})
    build = bank.info.build
    assert (build["size"], build["seed"], build["images"], build["data"]) == (50, 9, 4, {"root": "here"})
    assert (build["mean"], build["dtype"], build["skipped"]) == ([0.5, 0.5, 0.5], "float32", [])
    assert bank.info.classes == ("background", "red", "green")
    assert bank.info.sources == ("train_0", "train_1", "train_2", "train_3")
    assert bank.info.features == FeatureConfig(kind="plain")
    assert bank.info.fingerprint == tiny_backbone.fingerprint
    assert bank.info.made_by.keys() == {"python", "fungi-seg", "feature code", "torch", "timm"}


def test_rare_classes_are_kept(tiny_backbone: Backbone, tmp_path: Path) -> None:
    """A class of one patch is in nearly every bank of an eighth of the image's patches."""
    data = folder_tree(tmp_path / "data", train=1)
    image, mask = scene(0, classes=2, void=False)
    mask[:] = 0
    mask[8:16, 8:16] = 2
    write_sample(data / "train", "train_0", image, mask)
    kept = [
        2 in make(train(data), tiny_backbone, tmp_path / str(seed), 6, seed=seed).rows.labels.ids for seed in range(10)
    ]
    assert sum(kept) >= 8


def test_a_bank_made_meanwhile_is_not_replaced(
    dataset: Dataset, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another process, between the first look and the lock."""

    def overtaken(*_: object) -> None:
        monkeypatch.undo()
        make(dataset, tiny_backbone, tmp_path / "bank", 7)

    monkeypatch.setattr("fungi_seg.bank.build.check_fit", overtaken)
    with pytest.raises(BankError, match="there is a bank already"):
        make(dataset, tiny_backbone, tmp_path / "bank", 50)
    assert len(MemoryBank.open(tmp_path / "bank")) == 7
