"""The regression that gives a second opinion: its equations, and how edits of a bank keep them up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import built
from PIL import Image
from trees import scene

from fungi_seg import (
    Backbone,
    BankError,
    DataConfig,
    DecoderConfig,
    InputConfig,
    MemoryBank,
    Segmenter,
    append_images,
    open_dataset,
)
from fungi_seg.bank import FULL, Equations, Lift, class_weights, replace_images
from fungi_seg.bank.ridge import waves_for
from fungi_seg.features import FeatureConfig
from fungi_seg.segmentation.ridge import as_scores

SETTINGS = {"ridge": "feature", "ridge_share": 0.5, "ridge_penalty": 1e-3, "ridge_bandwidth": 1.0}


@pytest.fixture
def bank(tmp_path: Path, tiny_backbone: Backbone) -> MemoryBank:
    """Six images, FUNGI features, with a regression on them."""
    return make(tmp_path, tiny_backbone, "bank", range(6)).keep_decoder({"settings": SETTINGS})


def make(folder: Path, backbone: Backbone, name: str, images: range, **options: object) -> MemoryBank:
    write_folder(folder / f"data-{name}", images)
    data = open_dataset(DataConfig(root=str(folder / f"data-{name}"), split="train"))
    return built(data, backbone, folder / name, input=InputConfig(None), **options)


def write_folder(root: Path, images: range, shift: int = 0) -> None:
    """Scenes in the layout `folder`, named by their numbers; with a shift the masks are those of other scenes."""
    for kind in ("images", "masks"):
        (root / "train" / kind).mkdir(parents=True)
    for number in images:
        Image.fromarray(scene(number)[0]).save(root / "train" / "images" / f"{number}.png")
        Image.fromarray(scene(number + shift)[1]).save(root / "train" / "masks" / f"{number}.png")
    (root / "classes.txt").write_text("background\nred\ngreen\n")


def solved_by_loop(bank: MemoryBank, weights: np.ndarray, penalty: float) -> np.ndarray:
    """Weighted ridge regression in float64, row by row; the last input is the constant."""
    keys = np.asarray(bank.rows.keys).astype(np.float64) * np.sqrt(2)
    keys = np.concatenate([keys, np.ones((len(keys), 1))], 1)
    classes = len(bank.info.classes)
    squares, targets = np.zeros((keys.shape[1],) * 2), np.zeros((keys.shape[1], classes))
    for row, key in enumerate(keys):
        labels = np.zeros(classes)
        for entry in range(bank.rows.labels.offsets[row], bank.rows.labels.offsets[row + 1]):
            labels[bank.rows.labels.ids[entry]] += bank.rows.labels.weights[entry] / FULL
        weight = (labels * weights).sum()
        squares += weight * np.outer(key, key)
        targets += weight * np.outer(key, labels)
    size = np.trace(squares[:-1, :-1]) / (len(squares) - 1)
    return np.linalg.solve(squares + penalty * size * np.diag([1.0] * (len(squares) - 1) + [0.0]), targets)


def mass(bank: MemoryBank) -> np.ndarray:
    return bank.rows.labels.dense(len(bank.info.classes)).astype(np.float64).sum(0)


def assert_as_fresh(bank: MemoryBank, weights: np.ndarray) -> None:
    """The bank's equations are those of all its rows, to 1e-5, and so is what they say."""
    carried = bank.regression("feature", 1.0)
    assert bank.manifest.ridge is not None
    np.testing.assert_allclose(carried.class_weights, weights)
    expected = solved_by_loop(bank, carried.class_weights, 1e-3)
    found = carried.solved(1e-3)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    assert not bank.verify()


def test_the_solution_is_that_of_a_loop_in_float64(bank: MemoryBank) -> None:
    assert_as_fresh(bank, 1 / mass(bank))


def test_all_classes_count_the_same(bank: MemoryBank) -> None:
    equations = bank.regression("feature", 1.0)
    assert equations.squares[-1, -1] == pytest.approx((mass(bank) > 0).sum(), rel=1e-5)
    assert class_weights(np.array([0.0, 4.0])).tolist() == [1, 0.25]


def test_images_removed_are_taken_from_the_equations(bank: MemoryBank) -> None:
    weights = bank.regression("feature", 1.0).class_weights
    assert_as_fresh(bank.remove(images=bank.info.sources[1:3]), weights)


def test_rows_removed_by_class_are_taken_from_the_equations(bank: MemoryBank) -> None:
    weights = bank.regression("feature", 1.0).class_weights
    assert_as_fresh(bank.remove(classes=[bank.info.classes[-1]]), weights)


def test_images_appended_and_replaced_are_added(bank: MemoryBank, tmp_path: Path, tiny_backbone: Backbone) -> None:
    weights = bank.regression("feature", 1.0).class_weights
    write_folder(tmp_path / "more", range(6, 8))
    more = append_images(bank, open_dataset(DataConfig(root=str(tmp_path / "more"), split="train")), tiny_backbone)
    assert_as_fresh(more, weights)
    write_folder(tmp_path / "again", range(2), shift=5)
    again = replace_images(more, open_dataset(DataConfig(root=str(tmp_path / "again"), split="train")), tiny_backbone)
    assert_as_fresh(again, weights)


def test_a_bank_merged_into_it_is_added(bank: MemoryBank, tmp_path: Path, tiny_backbone: Backbone) -> None:
    weights = bank.regression("feature", 1.0).class_weights
    assert_as_fresh(bank.merge(make(tmp_path, tiny_backbone, "other", range(10, 13))), weights)


def test_relabelling_and_other_keys_are_summed_anew(bank: MemoryBank) -> None:
    one, two = bank.info.classes[:2]
    fused = bank.relabel(fuse={"both": [one, two]})
    assert_as_fresh(fused, 1 / mass(fused))
    compacted = fused.compact("int8")
    assert_as_fresh(compacted, 1 / mass(compacted))


def test_an_index_leaves_the_equations_as_they_are(bank: MemoryBank) -> None:
    assert bank.make_index().manifest.ridge == bank.manifest.ridge


def test_equations_are_stored_and_read_again(bank: MemoryBank) -> None:
    equations = bank.regression("feature", 1.0)
    again = Equations.from_arrays(equations.arrays(), len(bank.info.classes), "here")
    assert again.lift == equations.lift
    np.testing.assert_array_equal(again.squares, equations.squares)


@pytest.mark.parametrize("name", ["lift", "class_weights", "squares", "targets"])
def test_what_cannot_be_equations_is_refused(bank: MemoryBank, name: str) -> None:
    arrays = bank.regression("feature", 1.0).arrays()
    for wrong in (np.full_like(arrays[name], np.nan), arrays[name][:-1], arrays[name].astype(np.float32)):
        with pytest.raises(BankError, match=r"isn't a regression of this bank; fit it again: fungi-seg bank fit"):
            Equations.from_arrays({**arrays, name: wrong}, len(bank.info.classes), "here")


def test_fourier_features_stand_for_the_gaussian_kernel() -> None:
    keys = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    tokens = keys[:, :8] / np.linalg.norm(keys[:, :8], axis=1, keepdims=True)

    lifted = Lift("fourier", 8, 12, 0.8, waves=2048)(keys)
    assert lifted.shape == (40, 2048 + 1)
    distances = ((tokens[:, None] - tokens[None]) ** 2).sum(-1)
    kernel = np.exp(-distances / (2 * 0.8**2))
    assert np.abs(lifted[:, :-1] @ lifted[:, :-1].T - kernel).max() < 0.15
    np.testing.assert_array_equal(lifted, Lift("fourier", 8, 12, 0.8, waves=2048)(keys))


def test_fourier_features_are_as_many_as_the_rows_can_use(bank: MemoryBank) -> None:
    """And stay as many when rows come and go, so that equations are kept up."""
    assert [waves_for(rows) for rows in (0, 1, 100, 10_000, 10**6)] == [64, 64, 64, 921, 1024]
    kept = bank.keep_decoder({"settings": {**SETTINGS, "ridge": "fourier"}})
    before = kept.regression("fourier", 1.0)
    assert before.lift.waves == waves_for(len(kept)) > 64
    less = kept.remove(images=kept.info.sources[1:4])
    assert less.regression("fourier", 1.0).lift.waves == before.lift.waves != waves_for(len(less))


def test_scores_are_shares() -> None:
    found = as_scores(np.array([[0.5, 1.5, -2.0], [-1.0, -1.0, -1.0]], np.float32))
    np.testing.assert_allclose(found, [[0.25, 0.75, 0], [1 / 3, 1 / 3, 1 / 3]], rtol=1e-6)


def test_a_segmenter_averages_vote_and_regression(bank: MemoryBank, tiny_backbone: Backbone) -> None:
    features = bank.patch_features(backbone=tiny_backbone)
    image = np.random.default_rng(3).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    share, only = 0.3, DecoderConfig(k=5)
    both = Segmenter(bank, features, DecoderConfig(k=5, ridge="feature", ridge_share=share))
    fitted = both.fit(image)
    queries = features(fitted.image[None].float() / 255)[0].numpy().astype(np.float64) * np.sqrt(2)
    weights = solved_by_loop(bank, 1 / mass(bank), 1e-3)
    regression = np.maximum(np.concatenate([queries, np.ones((len(queries), 1))], 1) @ weights, 0)
    regression /= regression.sum(1, keepdims=True)
    votes = Segmenter(bank, features, only).predict(image).patch_scores.flatten(1).T.numpy()
    found = both.predict(image).patch_scores.flatten(1).T.numpy()
    np.testing.assert_allclose(found, (1 - share) * votes + share * regression, atol=1e-4)
    told = both.explain(image, at=(20, 20))
    assert told.regression is not None
    assert '"regression": {' in told.to_json()
    assert told.regression_share == share


def test_the_regression_weighs_gradients_as_the_vote_does(bank: MemoryBank) -> None:
    """Token and gradient are inputs whose squares are as 1 − a to a; a half is both as they are."""
    keys, width = np.asarray(bank.rows.keys).astype(np.float64), bank.info.token_width
    for weight in (0.0, 0.3, 1.0):
        lifted = bank.lift("feature", 1.0, weight)(bank.rows.keys[:9])[:, :-1]
        shares = np.square(lifted[:, :width]).sum(1), np.square(lifted[:, width:]).sum(1)
        np.testing.assert_allclose(shares, np.outer([2 * (1 - weight), 2 * weight], np.ones(9)), atol=2e-3)
        inner = 4 * (
            (1 - weight) * keys[:9, :width] @ keys[:9, :width].T + weight * keys[:9, width:] @ keys[:9, width:].T
        )
        np.testing.assert_allclose(lifted @ lifted.T, inner, atol=1e-5)
    assert bank.lift("feature", 1.0) == bank.lift("feature", 1.0, 0.5) != bank.lift("feature", 1.0, 0.3)
    assert bank.lift("token", 1.0, 0.3) == bank.lift("token", 1.0)
    kept = bank.keep_decoder({"settings": {**SETTINGS, "gradient_weight": 0.3}})
    again = kept.regression("feature", 1.0, 0.3)
    assert again.lift.gradient_weight == 0.3
    np.testing.assert_array_equal(again.squares, again.squares.T)


def test_a_regression_on_gradients_needs_some(tmp_path: Path, tiny_backbone: Backbone) -> None:
    plain = make(tmp_path, tiny_backbone, "plain", range(3), features=FeatureConfig(kind="plain"))
    with pytest.raises(BankError, match=r"decoder.ridge is 'feature'.*features are plain; use token"):
        plain.regression("feature", 1.0)
    assert plain.regression("token", 1.0).lift.width == plain.info.dim + 1
