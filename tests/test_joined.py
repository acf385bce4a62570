"""Banks of images of many channels: what is chosen, how it is scaled, and channels whose features are joined."""

from __future__ import annotations

import json
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from PIL import Image
from tifffile import imwrite

from fungi_seg import (
    Backbone,
    BackboneConfig,
    BankConfig,
    BankError,
    BankRecipe,
    DataConfig,
    DataError,
    Dataset,
    FeatureConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    PatchFeatures,
    Segmenter,
    SourceImages,
    build_bank,
    evaluate,
    open_dataset,
)
from fungi_seg.annotating import Workspace, WorkspaceConfig
from fungi_seg.annotating.runs import from_runs, to_runs
from fungi_seg.audit import audit_bank, write_audit
from fungi_seg.bank import append_images
from fungi_seg.bank.room import check_fit
from fungi_seg.cli import main
from fungi_seg.images import LoadConfig, data_limits, read_image
from fungi_seg.segmentation import explanation_sheet, fit_decoder
from fungi_seg.sweep import SweepConfig, sweep

KINDS = ("plain", "fungi")
SIZE = (40, 48)


def cells(seed: int, channels: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """`[H, W, channels]` uint16, one of which shows the objects that the mask holds."""
    generator = np.random.default_rng(seed)
    mask = np.zeros(SIZE, np.uint8)
    mask[8:24, 8 * (seed % 3) : 8 * (seed % 3) + 24] = 1
    image = generator.normal(500, 40, (*SIZE, channels))
    image[..., channels // 2] += 2000.0 * mask
    return image.clip(0).astype(np.uint16), mask


def cells_tree(root: Path, train: int = 3, val: int = 2, channels: int = 5) -> Path:
    seed = 0
    for split, count in (("train", train), ("val", val)):
        for kind in ("images", "masks"):
            (root / split / kind).mkdir(parents=True)
        for number in range(count):
            image, mask = cells(seed, channels)
            kept = {"photometric": "minisblack", "planarconfig": "separate", "metadata": None}
            imwrite(root / split / "images" / f"{split}{number}.tif", np.moveaxis(image, -1, 0), **kept)
            Image.fromarray(mask).save(root / split / "masks" / f"{split}{number}.png")
            seed += 1
    (root / "classes.txt").write_text("background\ncell\n")
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return cells_tree(tmp_path_factory.mktemp("cells") / "data")


def split(root: Path, name: str) -> Dataset:
    return open_dataset(DataConfig(root=str(root), split=name))


def recipe(kind: str = "plain", size: int | None = None, **input: Any) -> BankRecipe:
    return BankRecipe(FeatureConfig(kind=kind), InputConfig(size=size, **input), BankConfig(None))


def build(root: Path, backbone: Backbone, out: Path, made: BankRecipe) -> MemoryBank:
    record = {"data": {"root": str(root), "split": "train"}}
    return build_bank(split(root, "train"), backbone, out, made, record=record)


@pytest.mark.parametrize("kind", KINDS)
def test_features_of_each_channel_are_joined(tiny_backbone: Backbone, kind: str) -> None:
    """Tokens of all, then gradients of all; each channel counts alike, and each half."""
    config = FeatureConfig(kind=kind)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 16, 24)).astype(np.uint8))
    joined = PatchFeatures(tiny_backbone, config, channels=3)
    single = PatchFeatures(tiny_backbone, config)
    found = joined(images)
    assert found.shape == (2, 6, joined.dim)
    assert joined.dim == 3 * single.dim
    grey = [single(images[:, n : n + 1].expand(-1, 3, -1, -1)) for n in range(3)]
    width = tiny_backbone.dim
    tokens = [F.normalize(one[..., :width], dim=-1) for one in grey]
    gradients = [F.normalize(one[..., width:], dim=-1) for one in grey if kind == "fungi"]
    expected = F.normalize(torch.cat([*tokens, *gradients], -1), dim=-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if kind == "fungi":
        halves = found[..., : 3 * width].norm(dim=-1), found[..., 3 * width :].norm(dim=-1)
        torch.testing.assert_close(*halves, rtol=1e-4, atol=1e-5)
    sums = (found.numpy() * np.float32(3)).reshape(2, 2, 3, -1)
    np.testing.assert_allclose(joined.normalised(sums), found.reshape(2, 2, 3, -1), rtol=1e-4, atol=1e-5)


def test_one_channel_joined_is_grey(tiny_backbone: Backbone) -> None:
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (1, 1, 16, 16)).astype(np.uint8))
    config = FeatureConfig(kind="fungi")
    found = PatchFeatures(tiny_backbone, config, channels=1)(image)
    torch.testing.assert_close(found, PatchFeatures(tiny_backbone, config)(image.expand(-1, 3, -1, -1)))


def test_features_of_other_channels_are_refused(tiny_backbone: Backbone) -> None:
    joined = PatchFeatures(tiny_backbone, FeatureConfig(kind="plain"), channels=4)
    with pytest.raises(FungiSegError, match=r"images are \[1, 3, 16, 16\]; these features are of \[B, 4, H, W\]"):
        joined(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(DataError, match=r"has 3 channels, the first annotated image 4; with input\.channels all every"):
        joined.fit_image(np.zeros((16, 16, 3), np.uint8), InputConfig(None))
    with pytest.raises(FungiSegError, match=r"features\.negatives is 2, and input\.channels all.*set features\.neg"):
        PatchFeatures(tiny_backbone, FeatureConfig(negatives=2), channels=4)


@pytest.mark.parametrize("kind", KINDS)
def test_bank_of_joined_channels(tree: Path, tiny_backbone: Backbone, tmp_path: Path, kind: str) -> None:
    bank = build(tree, tiny_backbone, tmp_path / "bank", recipe(kind, channels=("all",)))
    single = tiny_backbone.dim * len(KINDS[: KINDS.index(kind) + 1])
    assert (bank.info.channels, bank.info.dim, bank.info.token_width) == (5, 5 * single, 5 * tiny_backbone.dim)
    features = bank.patch_features(backbone=tiny_backbone)
    image = read_image(tree / "train" / "images" / "train0.tif", bank.info.input)
    assert image.shape == (*SIZE, 5)
    keys = features(torch.from_numpy(image).permute(2, 0, 1)[None])[0].numpy()
    own = np.asarray(bank.rows.source) == 0
    left, top = bank.rows.box[own, 0].astype(int), bank.rows.box[own, 1].astype(int)
    assert own.sum() == len(keys)
    np.testing.assert_allclose(bank.rows.keys[own], keys[top // 8 * (SIZE[1] // 8) + left // 8], atol=1e-3)
    segmenter = Segmenter(bank, features)
    report = evaluate(segmenter, split(tree, "val"))
    assert report.miou > 0.8
    found = segmenter.predict(tree / "val" / "images" / "val0.tif")
    assert found.image.shape == (*SIZE, 3)
    np.testing.assert_array_equal(
        found.image, read_image(tree / "val" / "images" / "val0.tif", bank.info.input)[..., :3]
    )
    array = cells(3)[0]
    np.testing.assert_array_equal(segmenter.predict(array).mask, found.mask)
    sample = SourceImages(bank)["train1"]
    np.testing.assert_array_equal(sample.image, read_image(tree / "train" / "images" / "train1.tif", bank.info.input))
    grown = append_images(bank, split(tree, "val"), tiny_backbone)
    assert grown.info.sources == ("train0", "train1", "train2", "val0", "val1")


def test_joined_channels_find_what_one_of_them_shows(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """The channel that shows nothing is no help, the one that does is, and so are all."""
    shares = {}
    for channels in (("1",), ("3",), ("3", "1", "2"), ("all",)):
        bank = build(tree, tiny_backbone, tmp_path / channels[0] / str(len(channels)), recipe(channels=channels))
        shares[channels] = evaluate(
            Segmenter(bank, bank.patch_features(backbone=tiny_backbone)), split(tree, "val")
        ).miou
    assert shares["1",] < 0.7
    assert min(shares["3",], shares["3", "1", "2"], shares["all",]) > 0.8


def test_joined_channels_in_tiles(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    tiled = {"scale": 1.0, "tile": 16, "channels": ("all",)}
    bank = build(tree, tiny_backbone, tmp_path / "bank", recipe("fungi", **tiled))
    assert evaluate(Segmenter(bank, bank.patch_features(backbone=tiny_backbone)), split(tree, "val")).miou > 0.8


def test_banks_of_images_of_other_channels(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build(tree, tiny_backbone, tmp_path / "bank", recipe(channels=("all",)))
    other = cells_tree(tmp_path / "other", 1, 1, 4)
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    with pytest.raises(DataError, match=r"val0\.tif: has 4 channels, the first annotated image 5"):
        segmenter.predict(other / "val" / "images" / "val0.tif")
    with pytest.raises(DataError, match=r"val0\.tif: has 4 channels, the first annotated image 5"):
        append_images(bank, split(other, "val"), tiny_backbone)
    with pytest.raises(BankError, match=r"keys are .* wide, the features"):
        Segmenter(bank, PatchFeatures(tiny_backbone, bank.info.features, channels=4))


def test_limits_of_a_data_set_are_kept(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    input = {"channels": ("3", "1", "2"), "scaling": "data"}
    bank = build(tree, tiny_backbone, tmp_path / "bank", recipe(**input))
    files = sorted((tree / "train" / "images").iterdir())
    limits = data_limits(files, InputConfig(**input))
    assert bank.info.input.limits == limits
    stack = np.stack([cells(number)[0] for number in range(3)])
    np.testing.assert_allclose(limits[1::2], np.percentile(stack, 99.9, (0, 1, 2))[[2, 0, 1]])
    assert MemoryBank.open(tmp_path / "bank").info.input == bank.info.input
    dim = cells(3)[0] // 4  # a darker image stays darker: it isn't scaled by itself
    imwrite(tmp_path / "dim.tif", np.moveaxis(dim, -1, 0), photometric="minisblack", planarconfig="separate")
    found = Segmenter(bank, bank.patch_features(backbone=tiny_backbone)).predict(tmp_path / "dim.tif")
    assert found.image[..., 0].max() < 100
    again = build(tree, tiny_backbone, tmp_path / "again", recipe(**input))
    assert np.array_equal(np.asarray(again.rows.keys), np.asarray(bank.rows.keys))


def test_plan_knows_joined_channels(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    needs = check_fit(split(tree, "train"), tiny_backbone, tmp_path, recipe("fungi", channels=("all",)), LoadConfig())
    assert needs.dim == 5 * 2 * tiny_backbone.dim


def test_sweeps_read_channels(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    input = InputConfig(None, channels=("all",), scaling="data")
    config = SweepConfig(k=(5,), size=(None,), seeds=(0,))
    train, val = split(tree, "train"), split(tree, "val")
    report = sweep(train, val, tiny_backbone, tmp_path, config, FeatureConfig(kind="plain"), input)
    assert report.results[0]["miou"] > 0.8


def test_a_damaged_count_of_channels(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    from dataclasses import replace

    bank = build(tree, tiny_backbone, tmp_path / "bank", recipe(channels=("all",)))
    manifest = bank.manifest
    build_record = {name: value for name, value in manifest.info.build.items() if name != "channels"}
    changed = replace(manifest, info=replace(manifest.info, build=build_record))
    (tmp_path / "bank" / "bank.json").write_bytes(changed.text())
    with pytest.raises(BankError, match="build must count the channels that are joined"):
        MemoryBank.open(tmp_path / "bank")


def test_commands_take_channels(
    tree: Path, tiny_weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank, out = tmp_path / "bank", tmp_path / "out"
    model = ["--backbone.name=tiny", f"--backbone.weights={tiny_weights}", f"--backbone.model_args={json.dumps(TINY)}"]
    data = ["--data.root", str(tree), "--data.split", "train", "--input.size", "null"]
    channels = ["--input.channels", "4,3,2", "--input.scaling", "data"]
    assert main(["build", *data, *model, *channels, "--out", str(bank)]) == 0
    info = MemoryBank.open(bank).info
    assert info.input.channels == ("4", "3", "2")
    assert len(info.input.limits) == 6
    assert main(["segment", str(tree / "val" / "images"), "--bank", str(bank), "--out", str(out)]) == 0
    assert sorted(file.name for file in (out / "masks").iterdir()) == ["val0.png", "val1.png"]
    capsys.readouterr()
    assert main(["build", *data, *model, "--input.channels", "9", "--out", str(tmp_path / "no")]) == 1
    assert "train0.tif: has no channel '9'; its channels are 1, 2, 3, 4, 5" in capsys.readouterr().err
    assert main(["build", *data, *model, "--out", str(tmp_path / "no")]) == 1
    assert "name those to use by --input.channels" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [("3",), ("all",)])
def test_images_of_many_channels_are_annotated(
    tree: Path, tiny_config: BackboneConfig, tmp_path: Path, channels: tuple[str, ...]
) -> None:
    input = InputConfig(None, channels=channels, scaling="data")
    classes = [{"name": "background", "colour": "#000000"}, {"name": "cell", "colour": "#e69f00"}]
    config = WorkspaceConfig(tiny_config, input=input)
    with closing(Workspace(tree / "train" / "images", tmp_path / "bank", config)) as page:
        page.set_classes(classes)
        mask = cells(0)[1]
        version = page.image(0, "a")["version"]
        told = page.edit(0, version, (0, 0, SIZE[1], SIZE[0]), to_runs(mask.astype(np.int16)))
        found = told["prediction"]["mask"]
        assert (from_runs(found["runs"], SIZE, 2) == mask).mean() > 0.8
        assert page.save(0, told["version"])["bank"]["images"] == 1
        shown = Image.open(BytesIO(page.picture(0)[0]))
        assert (shown.size, shown.mode) == ((SIZE[1], SIZE[0]), "RGB")
        assert Image.open(BytesIO(page.thumbnail(1))).mode == "RGB"
        assert page.crop("train0", (0, 0, 8, 8)).startswith(b"\xff\xd8\xff")
    bank = MemoryBank.open(tmp_path / "bank")
    assert bank.info.input.limits == data_limits(sorted((tree / "train" / "images").iterdir()), input)
    assert bank.info.channels == (5 if channels == ("all",) else None)


def test_data_inspect_takes_channels(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "inspect", str(tree), "--out", str(tmp_path)]) == 1
    assert "name those to use by --input.channels" in capsys.readouterr().err
    options = ["--input.channels", "all", "--input.limits", "0,4000"]
    assert main(["data", "inspect", str(tree), "--out", str(tmp_path), *options]) == 0
    told = capsys.readouterr().out
    assert "--input.channels all --input.limits 0.0,4000.0 --backbone.name embedded" in told
    assert "16 bits or more" in told
    assert (tmp_path / "contact_sheet.png").is_file()


def test_audits_and_explanations_show_three_channels(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = build(tree, tiny_backbone, tmp_path / "bank", recipe("fungi", channels=("all",)))
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    images = SourceImages(bank)
    explained = segmenter.explain(tree / "val" / "images" / "val0.tif", at=(20, 20))
    assert explained.image.shape == (*SIZE, 3)
    assert explanation_sheet(explained, images).mode == "RGB"
    files = write_audit(audit_bank(bank), bank, images, tmp_path / "audit", 2)
    assert all(file.exists() for file in files)
    overlay = segmenter.predict(tree / "val" / "images" / "val0.tif").overlay()
    assert overlay.size == (SIZE[1], SIZE[0])


def test_decoders_are_fitted_on_joined_channels(tmp_path: Path, tiny_backbone: Backbone) -> None:
    root = cells_tree(tmp_path / "data", 6, 1)
    bank = build(root, tiny_backbone, tmp_path / "bank", recipe("fungi", channels=("all",), scaling="data"))
    features = bank.patch_features(backbone=tiny_backbone)
    found = fit_decoder(bank, images=SourceImages(bank), features=features)
    assert found.facts is not None
    assert found.facts["images"] == 6
