"""What a program of a user does with the package; `tests/test_typed.py` has its types checked, nobody runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from typing_extensions import assert_type

from fungi_seg import (
    BankConfig,
    BankError,
    BankRecipe,
    DataConfig,
    Dataset,
    DecoderConfig,
    LoadConfig,
    MemoryBank,
    Report,
    RunConfig,
    Segmentation,
    Segmenter,
    append_images,
    build_bank,
    evaluate,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank import Difference
from fungi_seg.evaluation import CountQuality, count_quality
from fungi_seg.results import Outcome, ResultsConfig, find_images, segment_to_folder
from fungi_seg.segmentation import Object, ObjectConfig, Objects, OverlayConfig


def build(root: Path, out: Path) -> MemoryBank:
    dataset = open_dataset(DataConfig(root=str(root), split="train"))
    assert_type(dataset, Dataset)
    backbone = load_backbone("embedded", device="cpu")
    recipe = BankRecipe(bank=BankConfig(size=1000, key_dtype="int8"), seed=1)
    bank = build_bank(dataset, backbone, out, recipe, RunConfig(LoadConfig(batch_size=4), progress=True))
    assert_type(bank, MemoryBank)
    return append_images(bank, open_dataset(DataConfig("negative", str(root / "photos"))), backbone)


def change(path: Path) -> tuple[str, ...]:
    bank = MemoryBank.open(path)
    try:
        bank = bank.remove(classes=["glare"]).relabel({"car": "auto"}).undo()
    except BankError as error:
        print(error)
    difference = bank.checkout(bank.revisions[0]).diff()
    assert_type(difference, Difference)
    return difference.images_changed


def segment(bank: MemoryBank, photos: list[Path], out: Path) -> list[int]:
    segmenter = Segmenter(bank, decoder=DecoderConfig(k=10))
    found = segmenter.predict(photos[0], unknown=0.6)
    assert_type(found, Segmentation)
    assert_type(segmenter.predict_batch(photos), list[Segmentation])
    share = float(np.mean(found.mask == 1))
    assert_type(found.save(out, "photo"), list[str])
    found.overlay(OverlayConfig("fill", 0.4)).save(out / f"{share:.2f}.png")
    objects = found.objects(ObjectConfig(min_area=20, split=True))
    assert_type(objects, Objects)
    assert_type(objects.found, tuple[Object, ...])
    config = ResultsConfig(objects=ObjectConfig(), pixel_size=0.5)
    assert_type(segment_to_folder(segmenter, find_images(["photos"]), out, config), Outcome)
    return [one.area for one in objects.found]


def measure(bank: MemoryBank, dataset: Dataset) -> float:
    report = evaluate(Segmenter(bank), dataset)
    assert_type(report, Report)
    labels = np.zeros((4, 4), np.int32)
    assert_type(count_quality(labels, labels), CountQuality)
    return report.miou
