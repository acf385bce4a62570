"""Masks by a bank as it would be, held against the bank that it becomes."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import built
from trees import folder_tree, scene

from fungi_seg import Backbone, BankConfig, DataConfig, FungiSegError, InputConfig, MemoryBank, Segmenter, open_dataset
from fungi_seg.annotating.live import START, Answer, Live, Query
from fungi_seg.annotating.runs import as_json, from_runs, to_runs
from fungi_seg.bank import ChangedBank, ImageRows, append_images, replace_images, rows_of_image
from fungi_seg.datasets import Dataset, Sample
from fungi_seg.segmentation import DecoderConfig

INPUT = InputConfig(size=None)
RIDGE = DecoderConfig(k=10, refine=1.0, class_share=0.5, ridge="token", ridge_share=0.5)
FOURIER = DecoderConfig(k=10, gradient_weight=0.3, ridge="fourier", ridge_share=0.3)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return open_dataset(DataConfig(root=str(folder_tree(tmp_path / "data", train=5)), split="train"))


@pytest.fixture
def of_three(data: Dataset, tiny_backbone: Backbone, tmp_path: Path) -> MemoryBank:
    """A bank of the first three images."""
    first = replace(data, items=data.items[:3])
    return built(first, tiny_backbone, tmp_path / "bank", input=INPUT, bank=BankConfig(None))


def rows_of(bank: MemoryBank, sample: Sample, backbone: Backbone) -> ImageRows:
    features = bank.patch_features(backbone=backbone)
    fitted = features.fit_image(sample.image, bank.info.input)
    found = features(fitted.image[None])[0].numpy()
    return rows_of_image(sample.mask, fitted, found, backbone.patch_size, len(bank.info.classes))


def query_of(bank: MemoryBank, name: str, image: np.ndarray, backbone: Backbone) -> Query:
    features, (height, width) = bank.patch_features(backbone=backbone), backbone.patch_size
    fitted = features.fit_image(image, bank.info.input)
    grid = fitted.image.shape[1] // height, fitted.image.shape[2] // width
    found = features(fitted.image[None])[0].numpy().astype(np.float16)
    return Query(name, found.reshape(*grid, -1), (fitted.content[0] / height, fitted.content[1] / width))


def answered(live: Live, query: Query, images: dict[str, ImageRows]) -> Answer:
    found = live.answer(query, images)
    assert found is not None
    return found


def test_rows_of_an_image_are_those_that_a_bank_of_it_holds(
    of_three: MemoryBank, data: Dataset, tiny_backbone: Backbone
):
    for number in range(3):
        own = np.flatnonzero(of_three.rows.source == number)
        own = own[np.lexsort(of_three.rows.box[own, :2].T)]  # a bank draws them in another order
        held, found = of_three.rows.take(own), rows_of(of_three, data[number], tiny_backbone)
        np.testing.assert_allclose(found.keys.astype(float), np.asarray(held.keys, float), atol=1e-3)
        np.testing.assert_array_equal(found.box, held.box)
        np.testing.assert_array_equal(found.labels.dense(3), held.labels.dense(3))


@pytest.mark.parametrize("settings", [START, RIDGE, FOURIER], ids=["start", "ridge", "fourier"])
@pytest.mark.parametrize("changed", ["added", "replaced", "both"])
def test_masks_are_those_of_the_bank_that_it_becomes(
    settings: DecoderConfig, changed: str, of_three: MemoryBank, data: Dataset, tiny_backbone: Backbone
):
    before = of_three.keep_decoder({"settings": asdict(settings)})
    old, new = data.items[1], data.items[3]
    repainted = Sample(old.id, data[1].image, np.where(data[1].mask == 1, 2, -1).astype(np.int16))
    images: dict[str, ImageRows] = {}
    after = before
    if changed != "added":
        images[old.id] = rows_of(before, repainted, tiny_backbone)
        read = data.read
        other = replace(
            data, items=(old,), read=lambda item, size: np.where(read(item, size) == 1, 2, -1).astype(np.int16)
        )
        after = replace_images(after, other, tiny_backbone)
    if changed != "replaced":
        images[new.id] = rows_of(before, data[3], tiny_backbone)
        after = append_images(after, replace(data, items=(new,)), tiny_backbone)
    features = before.patch_features(backbone=tiny_backbone)
    live, later = Live(before, features, 3), Segmenter(after, features)
    for name, image in [("new", scene(40)[0]), (old.id, data[1].image), (new.id, data[3].image)]:
        query, wanted = query_of(before, name, image, tiny_backbone), later.predict(image)
        found = answered(live, query, images)
        np.testing.assert_allclose(found.scores.numpy(), wanted.patch_scores.numpy(), atol=0.02)
        assert (live.mask(found, image, query.covered) == wanted.mask).mean() > 0.995
    assert len(ChangedBank(before, images, 3)) == len(after)
    np.testing.assert_allclose(ChangedBank(before, images, 3).class_share(), after.class_share(), atol=0.01)


def test_a_stroke_changes_what_is_remembered_of_an_image(of_three: MemoryBank, data: Dataset, tiny_backbone: Backbone):
    """Neighbours in other images are looked up once; those that a stroke brings or takes are seen all the same."""
    live = Live(of_three, of_three.patch_features(backbone=tiny_backbone), 3)
    query, rows = query_of(of_three, "x", data[3].image, tiny_backbone), rows_of(of_three, data[3], tiny_backbone)
    alone = answered(live, query, {})
    for images in ({"x": rows}, {"y": rows}, {data.items[0].id: rows}, {"x": rows, "y": rows}):
        fresh = Live(of_three, of_three.patch_features(backbone=tiny_backbone), 3)
        np.testing.assert_array_equal(
            answered(live, query, images).scores.numpy(), answered(fresh, query, images).scores.numpy()
        )
        assert not np.array_equal(answered(live, query, images).scores.numpy(), alone.scores.numpy())
    np.testing.assert_array_equal(answered(live, query, {}).scores.numpy(), alone.scores.numpy())


def test_without_a_bank_masks_follow_from_two_classes_on(of_three: MemoryBank, data: Dataset, tiny_backbone: Backbone):
    live = Live(None, of_three.patch_features(backbone=tiny_backbone), 3)
    query, sample = query_of(of_three, "x", data[3].image, tiny_backbone), data[3]
    one = Sample("x", sample.image, np.where(sample.mask == 1, 1, -1).astype(np.int16))
    none = Sample("x", sample.image, np.full_like(sample.mask, -1))
    assert live.answer(query, {}) is None
    assert live.answer(query, {"x": rows_of(of_three, none, tiny_backbone)}) is None
    assert live.answer(query, {"x": rows_of(of_three, one, tiny_backbone)}) is None
    found = answered(live, query, {"x": rows_of(of_three, sample, tiny_backbone)})
    mask = live.mask(found, sample.image, query.covered)
    assert (mask == sample.mask)[sample.mask >= 0].mean() > 0.8
    assert found.bank.origin(0)[0] == "x"


def test_a_class_that_the_bank_has_not_is_found_once_it_is_painted(
    of_three: MemoryBank, data: Dataset, tiny_backbone: Backbone
):
    bank = of_three.keep_decoder({"settings": asdict(RIDGE)})
    features, sample = bank.patch_features(backbone=tiny_backbone), data[3]
    fitted = features.fit_image(sample.image, INPUT)
    mask = np.where(sample.mask == 1, 3, -1).astype(np.int16)
    rows = rows_of_image(mask, fitted, features(fitted.image[None])[0].numpy(), tiny_backbone.patch_size, 4)
    live, query = Live(bank, features, 4), query_of(bank, "x", sample.image, tiny_backbone)
    found = live.mask(answered(live, query, {"x": rows}), sample.image, query.covered)
    assert (found[sample.mask == 1] == 3).mean() > 0.5


def test_runs_are_row_by_row() -> None:
    labels = np.array([[-1, -1, 2], [2, 0, 0]], np.int16)
    assert to_runs(labels) == [-1, 2, 2, 2, 0, 2]
    assert as_json(labels) == {"width": 3, "height": 2, "runs": [-1, 2, 2, 2, 0, 2]}
    np.testing.assert_array_equal(from_runs(to_runs(labels), (2, 3), 3), labels)
    many = np.random.default_rng(0).integers(-1, 7, (61, 47)).astype(np.int16)
    np.testing.assert_array_equal(from_runs(to_runs(many), many.shape, 7), many)


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([1, 2, 3], "pairs"),
        ([1, 5], "must fill 3×2"),
        ([1, 7, 0, -1], "must fill"),
        ([1, 3, 5, 3], "runs hold 5"),
        ([-2, 6], "runs hold -2"),
        ([], "must fill"),
    ],
)
def test_runs_that_cannot_be_are_refused(runs: list[int], said: str) -> None:
    with pytest.raises(FungiSegError, match=said):
        from_runs(runs, (2, 3), 3)
