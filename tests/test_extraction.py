"""Features on disk: complete, resumable, and refused where they come from something else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import HALF, TINY
from safetensors import SafetensorError
from trees import class_tree, revisited_tree

from fungi_seg import Backbone, DataError, FungiSegError, files, load_backbone
from fungi_seg.datasets import ImageData, ImageDataConfig, open_images
from fungi_seg.features.objectives import KL, SimCLR
from fungi_seg.features.settings import ImageFeatureConfig
from fungi_seg.features.views import CentreCrop, SlidingPatches
from fungi_seg.features.whole import ImageFeatures
from fungi_seg.images.settings import LoadConfig, RunConfig
from fungi_seg.whole_images import store as feature_store
from fungi_seg.whole_images.extraction import extract
from fungi_seg.whole_images.store import FeatureStore

CONFIG = ImageFeatureConfig(("kl", "simclr"), fast=True, support=4)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three images a shard, so that small data sets have several."""
    monkeypatch.setattr(feature_store, "SHARD_IMAGES", 3)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return class_tree(tmp_path / "data", train=4, val=2)


@pytest.fixture
def data(tree: Path) -> ImageData:
    return open_images(ImageDataConfig(root=str(tree)))


@pytest.fixture
def store(data: ImageData, tiny_backbone: Backbone, tmp_path: Path) -> FeatureStore:
    return extract(data, tiny_backbone, tmp_path / "features", CONFIG)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir())}


def test_features_ids_and_labels_of_every_image(data: ImageData, store: FeatureStore, tiny_backbone: Backbone) -> None:
    assert store.parts == ("embedding", "kl", "simclr")
    assert store.classes == data.train.classes
    assert store.skipped == ()
    assert store.ground_truth is None
    again = ImageFeatures(tiny_backbone, CONFIG).fit([sample.image for sample in data.train])
    for split, images in (("train", data.train), ("val", data.val)):
        assert store.ids(split) == images.ids
        assert store.labels(split).tolist() == [sample.label for sample in images]
        expected = again([sample.image for sample in images]).numpy()
        np.testing.assert_allclose(store.features(split), expected, atol=2e-3)
        np.testing.assert_allclose(store.features(split, ("simclr",)), expected[:, 48:], atol=2e-3)
        np.testing.assert_allclose(store.features(split, ("kl", "embedding"))[:, 24:], expected[:, :24], atol=2e-3)
        assert store.features(split).dtype == np.float32


def test_speed_settings_do_not_change_the_files(data: ImageData, tiny_backbone: Backbone, tmp_path: Path) -> None:
    one = extract(data, tiny_backbone, tmp_path / "one", CONFIG, run=RunConfig(LoadConfig(batch_size=1, workers=0)))
    many = extract(data, tiny_backbone, tmp_path / "many", CONFIG, run=RunConfig(LoadConfig(batch_size=8, workers=3)))
    assert one.fingerprint == many.fingerprint
    assert one.ids("train") == many.ids("train")
    np.testing.assert_allclose(one.features("train"), many.features("train"), atol=1e-3)


def test_what_is_there_is_not_computed_again(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(store.path)
    (store.path / "train-00001.safetensors").unlink()
    (store.path / "val-00000.safetensors").unlink()
    seen: list[int] = []
    prepare = ImageFeatures.prepare
    monkeypatch.setattr(ImageFeatures, "prepare", lambda self, image: (seen.append(1), prepare(self, image))[1])
    again = extract(data, tiny_backbone, store.path, CONFIG)
    assert len(seen) == 3 + 3
    assert again.ids("train") == data.train.ids
    assert contents(store.path) == whole


def test_overwrite_starts_anew(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(store.path)
    seen: list[int] = []
    prepare = ImageFeatures.prepare
    monkeypatch.setattr(ImageFeatures, "prepare", lambda self, image: (seen.append(1), prepare(self, image))[1])
    extract(data, tiny_backbone, store.path, CONFIG, overwrite=True)
    assert len(seen) == 8 + 4
    assert contents(store.path) == whole


def test_each_data_set_has_a_support_set_of_its_own(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    """Even where one objective is used for both."""
    objectives = [SimCLR(SlidingPatches(32, 4), 24, 0)]
    other = open_images(ImageDataConfig(root=str(class_tree(tmp_path / "other", ("star", "ring"), train=4, val=2))))
    extract(data, tiny_backbone, tmp_path / "first", CONFIG, objectives)
    second = extract(other, tiny_backbone, tmp_path / "second", CONFIG, objectives)
    fresh = extract(other, tiny_backbone, tmp_path / "fresh", CONFIG, [SimCLR(SlidingPatches(32, 4), 24, 0)])
    assert np.array_equal(second.features("val"), fresh.features("val"))


KILLED = """
import os, signal, sys
from fungi_seg.whole_images import extraction
from fungi_seg.whole_images import store as feature_store
feature_store.SHARD_IMAGES = 3
save = extraction._save_shard
left = int(sys.argv.pop(1))
def save_and_die(*arguments):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    save(*arguments)
extraction._save_shard = save_and_die
from fungi_seg.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("shards", [0, 2, 3])
def test_a_killed_extraction_goes_on_where_it_stopped(
    tree: Path, data: ImageData, tiny_weights: Path, tmp_path: Path, shards: int
) -> None:
    out = tmp_path / "killed"
    options = [
        "extract", "--out", str(out), "--data.root", str(tree), "--backbone.name", "tiny",
        "--backbone.weights", str(tiny_weights), "--backbone.model_args", json.dumps(TINY),
        "--backbone.dtype", "float32", "--backbone.mean", json.dumps(HALF), "--backbone.std", json.dumps(HALF),
        "--features.objectives", "[kl,simclr]", "--features.support", "4", "--fast", "--backbone.device", "cpu",
    ]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    died = subprocess.run([sys.executable, "-c", KILLED, str(shards), *options], env=environment, capture_output=True)
    assert died.returncode == -signal.SIGKILL
    assert len(list(out.glob("*-0*.safetensors"))) == shards
    with pytest.raises(
        FungiSegError, match=r"the extraction isn't complete \((train|val): \d of \d images are there\)"
    ):
        FeatureStore.open(out)
    backbone = load_backbone("tiny", tiny_weights, "cpu", "float32", TINY, HALF, HALF)
    finished = extract(data, backbone, out, CONFIG)
    undisturbed = extract(data, backbone, tmp_path / "undisturbed", CONFIG)
    assert finished.ids("train") == undisturbed.ids("train") == data.train.ids
    assert finished.ids("val") == undisturbed.ids("val") == data.val.ids
    np.testing.assert_allclose(finished.features("train"), undisturbed.features("train"), atol=1e-3)


def test_unreadable_images_are_an_error_or_counted(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    broken = sorted((tree / "train").rglob("*.png"))[4]
    broken.write_bytes(b"no image")
    data = open_images(ImageDataConfig(root=str(tree)))
    plain = ImageFeatureConfig(())
    with pytest.raises(DataError, match=rf"{broken.name}: can't be read as an image .*(?s:.)*--skip-bad skips"):
        extract(data, tiny_backbone, tmp_path / "features", plain)
    store = extract(data, tiny_backbone, tmp_path / "features", plain, run=RunConfig(skip_bad=True))
    assert len(store.skipped) == 1
    assert broken.name in store.skipped[0]
    assert len(store.ids("train")) == len(store.labels("train")) == len(store.features("train")) == 7
    assert FeatureStore.open(store.path).skipped == store.skipped
    assert extract(data, tiny_backbone, store.path, plain, run=RunConfig(skip_bad=True)).skipped == store.skipped
    with pytest.raises(DataError, match="--skip-bad skips"):
        extract(data, tiny_backbone, store.path, plain)
    shutil.copy(broken.with_name("train_3.png"), broken)
    repaired = extract(data, tiny_backbone, store.path, plain)
    assert repaired.skipped == ()
    assert repaired.ids("train") == data.train.ids


def test_bad_images_of_the_support_set(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    files = sorted((tree / "train").rglob("*.png"))
    for file in files:
        file.write_bytes(b"no image")
    data = open_images(ImageDataConfig(root=str(tree)))
    with pytest.raises(DataError, match=r"can't be read as an image .*(?s:.)*--skip-bad skips such images"):
        extract(data, tiny_backbone, tmp_path / "features", CONFIG)
    with pytest.raises(DataError, match="none of the 8 training images can be read; a support set needs some"):
        extract(data, tiny_backbone, tmp_path / "features", CONFIG, run=RunConfig(skip_bad=True))


def test_a_shard_without_a_good_image(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    for file in sorted((tree / "train").rglob("*.png"))[:3]:
        file.write_bytes(b"no image")
    data = open_images(ImageDataConfig(root=str(tree)))
    store = extract(data, tiny_backbone, tmp_path / "f", ImageFeatureConfig(()), run=RunConfig(skip_bad=True))
    assert store.features("train").shape == (5, 24)
    assert len(store.skipped) == 3


def test_another_recipe_is_refused_with_both_fingerprints(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone
) -> None:
    other = replace(CONFIG, seed=1)
    before = contents(store.path)
    with pytest.raises(
        FungiSegError,
        match=r"another recipe, fingerprint [0-9a-f]{12}… \(here [0-9a-f]{12}…\): seed 0 \(here 1\)\. Name",
    ):
        extract(data, tiny_backbone, store.path, other)
    assert contents(store.path) == before
    replaced = extract(data, tiny_backbone, store.path, other, overwrite=True)
    assert replaced.settings["seed"] == 1
    assert replaced.fingerprint != store.fingerprint


def test_another_backbone_is_refused_with_both_fingerprints(
    data: ImageData, store: FeatureStore, tiny_weights: Path
) -> None:
    other = load_backbone("tiny", "random", "cpu", "float32", TINY, HALF, HALF)
    ours = load_backbone("tiny", tiny_weights, "cpu", "float32", TINY, HALF, HALF).fingerprint
    message = rf"another backbone: its fingerprint is {ours[:12]}…, that of this one {other.fingerprint[:12]}…"
    with pytest.raises(FungiSegError, match=message):
        extract(data, other, store.path, CONFIG)
    with pytest.raises(FungiSegError, match=message):
        store.image_features(other)


def test_another_arithmetic_is_refused(data: ImageData, store: FeatureStore, tiny_weights: Path) -> None:
    half = load_backbone("tiny", tiny_weights, "cpu", "bfloat16", TINY, HALF, HALF)
    with pytest.raises(FungiSegError, match=r"another recipe, fingerprint .*: dtype float32 \(here bfloat16\)\. Name"):
        extract(data, half, store.path, CONFIG)
    assert store.image_features(half).backbone is half


def test_a_mistake_does_not_stand_in_the_way_of_its_correction(
    data: ImageData, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    config = ImageFeatureConfig(("deepcluster",))
    with pytest.raises(FungiSegError, match="deepcluster looks for 64 clusters among 8 support images"):
        extract(data, tiny_backbone, tmp_path / "features", config)
    assert extract(data, tiny_backbone, tmp_path / "features", replace(config, clusters=3)).features("val").any()


def test_other_images_of_the_same_names_are_refused(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    swapped = class_tree(tmp_path / "swapped", ("circle", "square"), train=4, val=2)
    for split in ("train", "val"):
        for file in (swapped / split / "circle").iterdir():
            shutil.copy(swapped / split / "square" / file.name, file)
    other = open_images(ImageDataConfig(root=str(swapped)))
    assert other.train.ids == data.train.ids
    with pytest.raises(DataError, match=r"circle/train_0: the image isn't the one whose features are in .*--overwrite"):
        extract(other, tiny_backbone, store.path, CONFIG)


def test_other_images_are_refused(tree: Path, store: FeatureStore, tiny_backbone: Backbone) -> None:
    first = min((tree / "val").rglob("*.png"))
    shutil.copy(first, first.with_name("extra.png"))
    with pytest.raises(FungiSegError, match=r"of other images \(val: 4, here 5; classes: 2, here 2\):\n.*extra"):
        extract(open_images(ImageDataConfig(root=str(tree))), tiny_backbone, store.path, CONFIG)


def test_shards_of_another_extraction_are_refused(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    other = extract(data, tiny_backbone, tmp_path / "other", ImageFeatureConfig(("kl",)))
    shutil.copy(other.path / "train-00000.safetensors", store.path)
    with pytest.raises(
        FungiSegError, match=r"train-00000.*the fingerprint of the shard is [0-9a-f]{12}…, .* [0-9a-f]{12}…"
    ):
        FeatureStore.open(store.path)


def test_a_folder_with_something_else_is_left_alone(data: ImageData, tiny_backbone: Backbone, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FungiSegError, match="there is something else already; features need a new or empty folder"):
            extract(data, tiny_backbone, tmp_path, CONFIG, overwrite=overwrite)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nan_features_name_the_image(data: ImageData, tiny_backbone: Backbone, tmp_path: Path) -> None:
    class Broken(KL):
        name = "broken"

        def loss(self, embeddings: torch.Tensor) -> torch.Tensor:
            return super().loss(embeddings) * torch.nan

    with pytest.raises(FungiSegError, match=rf"{data.train.ids[0]}.*: the features \(broken\) are not finite"):
        extract(data, tiny_backbone, tmp_path / "features", objectives=[Broken(CentreCrop(32), 24, 0)])
    assert not list((tmp_path / "features").glob("train-*"))


def test_new_images_get_features_of_the_same_kind(store: FeatureStore, data: ImageData, tiny_weights: Path) -> None:
    features = store.image_features(device="cpu", dtype="float32")
    np.testing.assert_allclose(features([data.val[1].image])[0], store.features("val")[1], atol=2e-3)


def test_objectives_of_ones_own_are_told_apart(data: ImageData, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """By class, views, settings and head."""

    class Own(KL):
        name = "own"

    used = [Own(CentreCrop(32), 24, 5, temperature=1)]
    store = extract(data, tiny_backbone, tmp_path / "features", objectives=used)
    assert store.parts == ("embedding", "own")
    others: list[list[Any]] = [
        [KL(CentreCrop(32), 24, 5, temperature=1)],
        [Own(CentreCrop(16), 24, 5, temperature=1)],
        [Own(CentreCrop(32), 24, 6, temperature=1)],
        [Own(CentreCrop(32), 24, 5, temperature=2)],
    ]
    for objectives in (None, *others):
        with pytest.raises(FungiSegError, match=r"another recipe.*objectives \[.*\(here \["):
            store.image_features(tiny_backbone, objectives)
        with pytest.raises(FungiSegError, match=r"another recipe.*objectives \[.*\(here \["):
            extract(data, tiny_backbone, store.path, objectives=objectives)
    same = store.image_features(tiny_backbone, [Own(CentreCrop(32), 24, 5, temperature=1)])
    np.testing.assert_allclose(same([data.val[1].image])[0], store.features("val")[1], atol=2e-3)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda p: (p / "features.json").unlink(),
            r"no features there \(no features.json\); make them with fungi-seg ext",
        ),
        (lambda p: (p / "features.json").write_text("{"), r"features.json: can't be read"),
        (lambda p: (p / "features.json").write_text("{}"), r"not the manifest of image features of this release"),
        (
            lambda p: (p / "val-00000.safetensors").write_bytes(b"x"),
            r"val-00000.safetensors: can't be read .*delete it",
        ),
        (
            lambda p: shutil.copy(p / "train-00001.safetensors", p / "train-00000.safetensors"),
            r"train-00000.safetensors: holds other images than features.json says",
        ),
    ],
)
def test_damaged_features(
    data: ImageData, store: FeatureStore, tiny_backbone: Backbone, damage: Any, message: str
) -> None:
    damage(store.path)
    with pytest.raises(FungiSegError, match=message):
        FeatureStore.open(store.path)
    if (store.path / "features.json").exists():
        again = extract(data, tiny_backbone, store.path, CONFIG, overwrite=True)
        assert np.array_equal(again.labels("train"), [0, 0, 0, 0, 1, 1, 1, 1])


def test_a_damaged_support_set(store: FeatureStore, tiny_backbone: Backbone) -> None:
    (store.path / "support.safetensors").write_bytes(b"x")
    with pytest.raises(FungiSegError, match=r"support.safetensors: can't be read"):
        store.image_features(tiny_backbone)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.features("test"), "split is 'test'; it must be one of train, val"),
        (lambda s: s.features("train", ("dino",)), "parts is 'dino'; it must be one of embedding, kl, simclr"),
    ],
)
def test_what_a_store_does_not_have(store: FeatureStore, call: Any, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        call(store)


def test_no_image_of_a_retrieval_benchmark_may_be_left_out(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = open_images(ImageDataConfig("revisited", str(revisited_tree(tmp_path / "data"))))
    plain = ImageFeatureConfig(())
    with pytest.raises(FungiSegError, match="skip_bad is true, but the ground truth of a retrieval benchmark names"):
        extract(data, tiny_backbone, tmp_path / "features", plain, run=RunConfig(skip_bad=True))
    store = extract(data, tiny_backbone, tmp_path / "features", plain)
    assert FeatureStore.open(store.path).ground_truth == data.ground_truth
    assert set(store.labels("val").tolist()) == {-1}


def test_a_full_disk_leaves_no_half_file(
    data: ImageData, tiny_backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(files, "save_file", full)
    with pytest.raises(FungiSegError, match=r"can't be written .*No space left.*free some space"):
        extract(data, tiny_backbone, tmp_path / "features", CONFIG)
    assert [file.name for file in (tmp_path / "features").iterdir()] == ["features.json"]
