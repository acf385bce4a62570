"""Reports of an evaluation, held against counting pixel by pixel."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BankConfig,
    DataConfig,
    DataError,
    Dataset,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    LoadConfig,
    MemoryBank,
    MetricConfig,
    Segmenter,
    build_bank,
    evaluate,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.evaluation.protocols import protocol_notes
from fungi_seg.images.settings import RunConfig

USED = {"decoder": asdict(DecoderConfig()), "index": asdict(IndexConfig()), "metric": asdict(MetricConfig())}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four classes are named; the fourth, blue, is in no image."""
    root = folder_tree(tmp_path_factory.mktemp("data") / "tree", val=3)
    (root / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    return root


def opened(root: Path, split: str = "val", **options: Any) -> Dataset:
    return open_dataset(DataConfig(root=str(root), split=split, **options))


def make(root: Path, backbone: Backbone, out: Path, bank: BankConfig | None = None, **input: Any) -> MemoryBank:
    return build_bank(
        opened(root, "train"),
        backbone,
        out,
        BankRecipe(FeatureConfig(kind="plain"), InputConfig(**({"size": None} | input)), bank or BankConfig(size=None)),
    )


@pytest.fixture(scope="module")
def segmenter(tree: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    bank = make(tree, tiny_backbone, tmp_path_factory.mktemp("bank") / "bank")
    return Segmenter(bank, bank.patch_features(backbone=tiny_backbone))


def count(pairs: list[tuple[np.ndarray, np.ndarray]], classes: int = 4) -> np.ndarray:
    """`[C, C]` pixels by truth and prediction, 255 in the truth left out."""
    counts = np.zeros((classes, classes), int)
    for truth, mask in pairs:
        for t in range(classes):
            for p in range(classes):
                counts[t, p] += ((truth == t) & (mask == p)).sum()
    return counts


def test_each_image_and_its_prediction(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Handed over in the order of the images, the masks that were counted."""
    segmenter, dataset = (
        Segmenter(make(tree, tiny_backbone, tmp_path / "bank"), device="cpu", dtype="float32"),
        opened(tree),
    )
    found = []
    report = evaluate(segmenter, dataset, each=lambda sample, prediction: found.append((sample, prediction.mask)))
    assert [sample.id for sample, _ in found] == [item.id for item in dataset.items]
    agreeing = sum(int((sample.mask == mask).sum()) for sample, mask in found)
    assert agreeing == np.trace(report.confusion)


def ious(counts: np.ndarray) -> list[float | None]:
    """IoU of each class, none where the truth has no pixel of it."""
    return [
        counts[c, c] / (counts[c].sum() + counts[:, c].sum() - counts[c, c]) if counts[c].sum() else None
        for c in range(len(counts))
    ]


def mean(values: list[float | None]) -> float:
    return float(np.mean([value for value in values if value is not None]))


def val_scenes(count: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    return [scene(100 + i)[:2] for i in range(count)]  # type: ignore[misc]


def test_numbers_are_those_of_counting(segmenter: Segmenter, tree: Path) -> None:
    report = evaluate(segmenter, opened(tree))
    expected = count([(truth, segmenter.predict(image).mask) for image, truth in val_scenes()])
    assert report.confusion == expected.tolist()
    assert report.images == 3
    assert sum(map(sum, report.confusion)) == 3 * (48 * 64 - 36)
    assert report.miou == pytest.approx(mean(ious(expected)), abs=1e-9)
    assert report.pixel_accuracy == pytest.approx(np.trace(expected) / expected.sum(), abs=1e-9)
    for c, row in enumerate(report.classes[:3]):
        assert row["iou"] == pytest.approx(ious(expected)[c], abs=1e-9)
        assert row["accuracy"] == pytest.approx(expected[c, c] / expected[c].sum(), abs=1e-9)
        assert (row["truth_pixels"], row["predicted_pixels"]) == (expected[c].sum(), expected[:, c].sum())
        assert not row["absent"]


def nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask's pixel that holds each target pixel's centre."""
    rows = np.floor((np.arange(height) + 0.5) * mask.shape[0] / height).astype(int)
    columns = np.floor((np.arange(width) + 0.5) * mask.shape[1] / width).astype(int)
    return mask[rows][:, columns]


def test_input_size(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    """Masks of 48×64 squeezed to 40×40."""
    bank = make(tree, tiny_backbone, tmp_path / "bank", size=40, keep_aspect=False)
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    report = evaluate(segmenter, opened(tree), MetricConfig(mask_size="input"))
    pairs = []
    for image, truth in val_scenes():
        small = segmenter.fit(image).image.permute(1, 2, 0).numpy()
        assert small.shape == (40, 40, 3)
        pairs.append((nearest(truth, 40, 40), segmenter.predict(small).mask))
    assert report.confusion == count(pairs).tolist()
    assert report.miou == pytest.approx(mean(ious(count(pairs))), abs=1e-9)


def test_input_size_leaves_padding_out(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = make(tree, tiny_backbone, tmp_path / "bank", size=45, fit="pad")
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    report = evaluate(segmenter, opened(tree), MetricConfig(mask_size="input"))
    labelled = sum(int((nearest(truth, 45, 60) != 255).sum()) for _, truth in val_scenes())
    assert sum(map(sum, report.confusion)) == labelled


def test_absent_classes(segmenter: Segmenter, tree: Path) -> None:
    skipped = evaluate(segmenter, opened(tree))
    zero = evaluate(segmenter, opened(tree), MetricConfig(absent="zero"))
    blue = skipped.classes[3]
    assert blue == {
        "name": "blue",
        "iou": None,
        "interval": None,
        "accuracy": None,
        "truth_pixels": 0,
        "predicted_pixels": 0,
        "absent": True,
    }
    assert zero.miou == pytest.approx(skipped.miou * 3 / 4)
    assert any("left out of the mean: blue" in note for note in skipped.notes)
    assert any("counted as 0 in the mean: blue" in note for note in zero.notes)
    assert "| blue | absent | – | – | 0 | 0 |" in skipped.to_markdown()


def swapped_tree(root: Path) -> Path:
    """Validation masks with red and green exchanged."""
    folder_tree(root)
    for path in (root / "val" / "masks").iterdir():
        with Image.open(path) as mask:
            values = np.array(mask)
        values = np.where(values == 1, 2, np.where(values == 2, 1, values)).astype(np.uint8)
        Image.fromarray(values).save(path)
    return root


def test_hungarian_matching(tiny_backbone: Backbone, tmp_path: Path) -> None:
    data = swapped_tree(tmp_path / "data")
    bank = make(data, tiny_backbone, tmp_path / "bank")
    segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
    plain = evaluate(segmenter, opened(data))
    matched = evaluate(segmenter, opened(data), MetricConfig(matching="hungarian"))
    counts = np.array(plain.confusion)
    best = max(mean(ious(counts[:, list(order)])) for order in itertools.permutations(range(3)))
    assert matched.miou == pytest.approx(best, abs=1e-9)
    assert matched.miou > plain.miou + 0.2
    assert matched.confusion == plain.confusion
    assert matched.settings["metric"]["matching"] == "hungarian"


def test_void_truth_does_not_count(segmenter: Segmenter, tree: Path, tmp_path: Path) -> None:
    """An image that is void but for its left half counts that half."""
    data = folder_tree(tmp_path / "data", val=1)
    (data / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    image, truth = scene(100)
    truth[:, 32:] = 255
    Image.fromarray(truth).save(data / "val" / "masks" / "val_0.png")
    report = evaluate(segmenter, opened(data))
    assert report.confusion == count([(truth, segmenter.predict(image).mask)]).tolist()


def test_other_void_value(segmenter: Segmenter, tmp_path: Path) -> None:
    """With void = 2, green is void; 255 is then no class."""
    data = folder_tree(tmp_path / "data", val=1)
    (data / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    image, truth = scene(100, void=False)
    Image.fromarray(truth).save(data / "val" / "masks" / "val_0.png")
    report = evaluate(segmenter, opened(data, void=2))
    expected = count([(np.where(truth == 2, 255, truth), segmenter.predict(image).mask)])
    assert report.confusion == expected.tolist()


def test_all_void_truth(segmenter: Segmenter, tmp_path: Path) -> None:
    """Nothing to compare with: an error, or a report that is still JSON."""
    data = folder_tree(tmp_path / "data", val=1)
    (data / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    Image.fromarray(np.full((48, 64), 255, np.uint8)).save(data / "val" / "masks" / "val_0.png")
    with pytest.raises(DataError, match="void"):
        evaluate(segmenter, opened(data))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("background\nred\ngreen\n", "the bank has 4 classes, the data set 3"),
        ("background\nred\nlime\nblue\n", "2: bank 'green', data 'lime'"),
        ("background\ngreen\nred\nblue\n", "1: bank 'red', data 'green'"),
    ],
)
def test_other_classes_than_the_banks(segmenter: Segmenter, tmp_path: Path, names: str, message: str) -> None:
    data = folder_tree(tmp_path / "data")
    (data / "classes.txt").write_text(names)
    with pytest.raises(FungiSegError, match=message):
        evaluate(segmenter, opened(data))


def bad_tree(root: Path) -> Path:
    """Validation images: two sound, one whose mask is of another size, one without mask."""
    folder_tree(root, val=4)
    (root / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "val" / "masks" / "val_1.png")
    (root / "val" / "masks" / "val_2.png").unlink()
    return root


def test_bad_samples(segmenter: Segmenter, tmp_path: Path) -> None:
    data = bad_tree(tmp_path / "data")
    config = DataConfig(root=str(data), split="val")
    with pytest.raises(DataError, match=r"val_2\.png: image without mask"):
        open_dataset(config)
    dataset = open_dataset(config, skip_bad=True)
    with pytest.raises(DataError, match=r"val_1\.png: the mask is 10×10"):
        evaluate(segmenter, dataset)
    report = evaluate(segmenter, dataset, run=RunConfig(skip_bad=True))
    assert report.images == 2
    assert len(report.skipped) == 2
    assert "val_2.png" in report.skipped[0]
    assert "val_1.png" in report.skipped[1]
    sound = [scene(100), scene(103)]
    assert report.confusion == count([(truth, segmenter.predict(image).mask) for image, truth in sound]).tolist()
    for line in report.skipped:
        assert line in report.to_markdown()


def test_nothing_left(segmenter: Segmenter, tmp_path: Path) -> None:
    data = folder_tree(tmp_path / "data", val=1)
    (data / "classes.txt").write_text("background\nred\ngreen\nblue\n")
    (data / "val" / "images" / "val_0.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no image of 1 could be evaluated:\n.*val_0\.png"):
        evaluate(segmenter, opened(data), run=RunConfig(skip_bad=True))


def test_json_holds_everything(segmenter: Segmenter, tree: Path) -> None:
    report = evaluate(segmenter, opened(tree), settings={"data": {"root": "here"}}, notes=["by hand"])
    values = json.loads(report.to_json())
    assert values["miou"] == report.miou
    assert values["confusion"] == report.confusion
    assert values["notes"][0] == "by hand"
    assert [row["name"] for row in values["classes"]] == ["background", "red", "green", "blue"]
    settings = values["settings"]
    assert settings["decoder"] == asdict(DecoderConfig())
    assert settings["metric"] == {"mask_size": "own", "matching": "none", "absent": "skip"}
    assert settings["features"]["kind"] == "plain"
    assert settings["input"]["size"] is None
    assert settings["index"]["built"] == "flat"
    assert settings["index"]["recall@30 on the first image"] == 1.0
    assert settings["bank"]["rows"] == len(segmenter.bank)
    assert settings["bank"]["seed"] == 0
    assert settings["backbone"]["fingerprint"] == segmenter.bank.info.fingerprint
    assert settings["data"] == {"root": "here"}


def test_json_is_strict(segmenter: Segmenter, tree: Path) -> None:
    """No NaN or Infinity, which JSON doesn't have."""
    text = evaluate(segmenter, opened(tree)).to_json()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in the report"))


def test_markdown(segmenter: Segmenter, tree: Path) -> None:
    report = evaluate(segmenter, opened(tree), notes=["by hand"])
    text = report.to_markdown()
    red = report.classes[1]
    assert text.startswith(f"# mIoU {report.miou * 100:.2f}\n")
    low, high = (f"{100 * bound:.2f}" for bound in red["interval"])
    row = f"| red | {red['iou'] * 100:.2f} | {low} to {high} | {red['accuracy'] * 100:.2f} | {red['truth_pixels']} |"
    assert row in text
    assert "- by hand" in text
    assert "| features |" in text
    assert "Peak memory: process" in text
    settings = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert settings == json.loads(report.to_json())["settings"]


def test_seconds_and_memory(segmenter: Segmenter, tree: Path) -> None:
    report = evaluate(segmenter, opened(tree))
    assert report.seconds.keys() == {"total", "reading", "index", "features", "search", "decoding", "metric"}
    assert min(report.seconds.values()) >= 0
    assert sum(v for k, v in report.seconds.items() if k not in ("total", "index")) <= report.seconds["total"] * 1.01
    assert report.peak_memory_mb["process"] > 10


def test_same_numbers_however_it_is_loaded(segmenter: Segmenter, tree: Path) -> None:
    reports = [
        evaluate(segmenter, opened(tree), run=RunConfig(LoadConfig(*load))) for load in [(1, 0), (2, 1), (4, 3), (4, 3)]
    ]
    assert all(report.confusion == reports[0].confusion for report in reports)
    assert len({report.miou for report in reports}) == 1


def test_same_seed_same_numbers(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    found = []
    for number in range(2):
        bank = make(tree, tiny_backbone, tmp_path / str(number), BankConfig(60, 2, True), size=48)
        segmenter = Segmenter(bank, bank.patch_features(backbone=tiny_backbone))
        found.append(evaluate(segmenter, opened(tree)).confusion)
    assert found[0] == found[1]


@pytest.mark.parametrize("wrong", [{"mask_size": "big"}, {"matching": "hungary"}, {"absent": "ignore"}])
def test_metric_rules(wrong: dict[str, str]) -> None:
    (name,) = wrong
    with pytest.raises(FungiSegError, match=rf"metric\.{name} is '{wrong[name]}'; it must be one of"):
        MetricConfig(**wrong)


def test_notes_of_a_protocol_that_was_followed(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    assert (
        protocol_notes("native", make(tree, tiny_backbone, tmp_path / "bank"), USED | {"index": {"kind": "flat"}}) == []
    )


def test_notes_tell_how_bank_and_run_differ(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = make(tree, tiny_backbone, tmp_path / "bank", size=40, fit="pad")
    notes = protocol_notes("fungi", MemoryBank.open(bank.path), USED)
    own = [note for note in notes if note.startswith("protocol fungi: ")]
    assert [note.split(": ")[1].partition("=")[0] for note in own] == [
        "input.keep_aspect",
        "backbone.std",
        "bank.void",
        "metric.mask_size",
        "metric.matching",
        "metric.absent",
    ]
    different = [note.partition(": ")[2] for note in notes if note.startswith("not as protocol fungi has it")]
    assert different == [
        "the bank has input.size = 40, the protocol 512",
        "the bank has input.keep_aspect = True, the protocol False",
        "the bank has input.fit = pad, the protocol resize",
        "the bank has backbone.mean = [0.5, 0.5, 0.5], the protocol [0.485, 0.456, 0.406]",
        "the bank has backbone.std = [0.5, 0.5, 0.5], the protocol [0.229, 0.224, 0.255]",
        "the bank has bank.void = ignore, the protocol background",
        "this run has index.kind = auto, the protocol flat",
        "this run has metric.mask_size = own, the protocol input",
        "this run has metric.matching = none, the protocol hungarian",
        "this run has metric.absent = skip, the protocol zero",
    ]


def test_notes_of_an_augmented_bank(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    bank = make(tree, tiny_backbone, tmp_path / "bank", BankConfig(60, 3, True), size=48)
    notes = protocol_notes("hbird-v2", bank, USED)
    assert any("the bank has bank.epochs = 3, the protocol 2" in note for note in notes)
    assert not any("bank.augment =" in note for note in notes)


def test_unknown_protocol(segmenter: Segmenter) -> None:
    with pytest.raises(FungiSegError, match=r"protocol is 'hbird'.*did you mean 'hbird-v2'"):
        protocol_notes("hbird", segmenter.bank, USED)


def test_images_that_are_in_the_bank_are_told(segmenter: Segmenter, tree: Path) -> None:
    def told(split: str) -> bool:
        return any("have the id of an image in the bank" in n for n in evaluate(segmenter, opened(tree, split)).notes)

    assert told("train")
    assert not told("val")
