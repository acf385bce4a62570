"""Images that hold none of the classes: read, added to a bank, and what they change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import built
from PIL import Image
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankConfig,
    DataConfig,
    DataError,
    InputConfig,
    MemoryBank,
    Segmenter,
    append_images,
    build_bank,
    evaluate,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank import BankRecipe, SourceImages
from fungi_seg.cli import main

NUCLEI = Path(__file__).parents[1] / "fungi_seg" / "assets" / "nuclei"


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (96, 128, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def nuclei(tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    dataset = open_dataset(DataConfig(root=str(NUCLEI), split="train")).evenly(8)
    out = tmp_path_factory.mktemp("nuclei") / "bank"
    recipe = BankRecipe(input=InputConfig(160), bank=BankConfig(size=4000))
    return build_bank(dataset, load_backbone("embedded", device="cpu"), out, recipe)


def test_all_of_each_image_is_background(tmp_path: Path) -> None:
    for name in ("a.png", "more/b.png"):
        noise(tmp_path / name, 0)
    dataset = open_dataset(DataConfig("negative", str(tmp_path)))
    assert (dataset.classes, [item.id for item in dataset.items]) == (("background",), ["a", "more/b"])
    sample = dataset[1]
    assert sample.image.shape == (96, 128, 3)
    assert sample.mask.dtype == np.int16
    assert not sample.mask.any()
    part = open_dataset(DataConfig("negative", str(tmp_path), split="more"))
    assert [item.id for item in part.items] == ["b"]


def test_what_looks_alike_is_no_longer_found(nuclei: MemoryBank, tmp_path: Path) -> None:
    """Nuclei of one tissue aren't wanted: half of an image of it says so."""
    tissue = np.asarray(Image.open(NUCLEI / "val" / "images" / "histology_0d3640c1.png").convert("RGB"))
    middle = tissue.shape[1] // 2
    wanted = NUCLEI / "val" / "images" / "fluorescence_3a22fe59.png"
    before = [np.mean(Segmenter(nuclei).predict(image).mask == 1) for image in (tissue[:, middle:].copy(), wanted)]
    assert before[0] > 0.1
    copy = MemoryBank.import_file(nuclei.export(tmp_path / "bank.tar"), tmp_path / "copy")
    (tmp_path / "tissue").mkdir()
    Image.fromarray(tissue[:, :middle]).save(tmp_path / "tissue" / "left.png")
    after = append_images(copy, open_dataset(DataConfig("negative", str(tmp_path / "tissue"))))
    assert after.info.classes == nuclei.info.classes
    found = [np.mean(Segmenter(after).predict(image).mask == 1) for image in (tissue[:, middle:].copy(), wanted)]
    assert found[0] < before[0] / 4
    assert found[1] > 0.9 * before[1]


def test_a_bank_without_background_gets_the_class(tmp_path: Path, tiny_backbone: Backbone) -> None:
    root = folder_tree(tmp_path / "tree", classes=3)
    (root / "classes.txt").write_text("road\ncar\ntree\n")
    train, val = (open_dataset(DataConfig(root=str(root), split=split)) for split in ("train", "val"))
    bank = built(train, tiny_backbone, tmp_path / "bank")
    noise(tmp_path / "none" / "x.png", 1)
    after = append_images(bank, open_dataset(DataConfig("negative", str(tmp_path / "none"))), tiny_backbone)
    assert after.info.classes == ("road", "car", "tree", "background")
    own = after.rows.source == len(after.info.sources) - 1
    labels = after.rows.labels.take(np.flatnonzero(own)).dense(4)
    assert own.any()
    assert (labels.argmax(1) == 3).all()
    segmenter = Segmenter(after, after.patch_features(backbone=tiny_backbone))
    report = evaluate(segmenter, val)
    assert [entry["name"] for entry in report.classes] == ["road", "car", "tree", "background"]
    assert any("no pixel in the truth" in note for note in report.notes)


def test_command(nuclei: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = MemoryBank.import_file(nuclei.export(tmp_path / "bank.tar"), tmp_path / "copy")
    noise(tmp_path / "none" / "1.png", 1)
    command = ["bank", "append", "--bank", str(copy.path), "--data.root", str(tmp_path / "none"), "--negative"]
    assert main(command) == 0
    opened = MemoryBank.open(copy.path)
    assert opened.history[-1]["data"]["layout"] == "negative"
    assert opened.info.sources[-1] == "1"
    assert not SourceImages(opened)["1"].mask.any()  # found again, as audit and explain do
    capsys.readouterr()
    assert main(command) == 1
    assert "1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--data.layout", "voc"], 2, "hold none of the classes have no annotation to be read"),
        (["--data.void", "255"], 1, "with layout negative it isn't read"),
        (["--data.split", "nothing"], 1, "is not a folder"),
    ],
)
def test_mistakes(
    nuclei: MemoryBank, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, message: str
) -> None:
    noise(tmp_path / "none" / "1.png", 1)
    command = ["bank", "append", "--bank", str(nuclei.path), "--data.root", str(tmp_path / "none"), "--negative"]
    assert main([*command, *options]) == code
    assert message in capsys.readouterr().err
    assert len(MemoryBank.open(nuclei.path)) == len(nuclei)


def test_a_folder_without_an_image(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(DataError, match="holds no image; name a folder of images"):
        open_dataset(DataConfig("negative", str(tmp_path)))


def test_a_list_of_images(tmp_path: Path) -> None:
    for name in "ab":
        noise(tmp_path / "images" / f"{name}.png", 0)
    (tmp_path / "list.txt").write_text("b\n")
    config = DataConfig("negative", str(tmp_path / "images"), file_list=str(tmp_path / "list.txt"))
    assert [item.id for item in open_dataset(config).items] == ["b"]
    (tmp_path / "list.txt").write_text("c\n")
    with pytest.raises(DataError, match="c"):
        open_dataset(config)
