"""Settings of the vote fitted on a bank's rows."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import built
from trees import folder_tree

from fungi_seg import (
    Backbone,
    BankError,
    DataConfig,
    DecoderConfig,
    FungiSegError,
    InputConfig,
    MemoryBank,
    Segmenter,
    open_dataset,
)
from fungi_seg.bank import BankConfig, SparseLabels
from fungi_seg.bank.shares import without
from fungi_seg.features import FeatureConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderOptions, Grid, fit_decoder, fitted_decoder
from fungi_seg.segmentation.fit import Trial, gain_of
from fungi_seg.segmentation.intervals import mean_iou_interval, mean_iou_of

GRID = Grid(
    gradient_weight=(0.0, 0.3, 0.5),
    k=(3, 30),
    temperature=(0.02, 0.1),
    class_share=(0.0, 0.5),
    ridge=(("token", 1.0), ("feature", 1.0)),
    penalty=(1e-2,),
    share=(0.5,),
)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_tree(tmp_path_factory.mktemp("data") / "data", train=6)


def make(tree: Path, backbone: Backbone, out: Path, kind: str = "fungi", images: int = 6, **bank: object) -> MemoryBank:
    data = open_dataset(DataConfig(root=str(tree), split="train")).evenly(images)
    return built(data, backbone, out, input=InputConfig(None), features=FeatureConfig(kind=kind), **bank)


@pytest.fixture(scope="module")
def bank(tree: Path, tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    return make(tree, tiny_backbone, tmp_path_factory.mktemp("bank") / "bank")


def scores_by_loop(bank: MemoryBank, row: int, settings: DecoderConfig, share: np.ndarray) -> np.ndarray:
    """What all rows of other images say of a row, in float64 and one by one."""
    keys = np.asarray(bank.rows.keys).astype(np.float64) * np.sqrt(2)
    labels = bank.rows.labels.dense(len(bank.info.classes)).astype(np.float64)
    source, width = bank.rows.source, bank.info.token_width
    others = np.flatnonzero(source != source[row])
    weight = settings.gradient_weight
    assert weight is not None
    tokens = keys[others, :width] @ keys[row, :width]
    gradients = keys[others, width:] @ keys[row, width:]
    similarity = (1 - weight) * tokens + weight * gradients
    nearest = np.argsort(-similarity, kind="stable")[: settings.k]
    power = np.exp((similarity[nearest] - similarity[nearest].max()) / settings.temperature)
    votes = (power / power.sum()) @ labels[others[nearest]] / share**settings.class_share
    votes /= votes.sum()
    if settings.ridge == "none":
        return votes
    scaled = np.concatenate([keys[:, :width] * np.sqrt(1 - weight), keys[:, width:] * np.sqrt(weight)], 1)
    inputs = np.concatenate([keys[:, :width] if settings.ridge == "token" else scaled, np.ones((len(keys), 1))], 1)
    counts = labels @ (1 / labels.sum(0))
    squares = (inputs[others] * counts[others, None]).T @ inputs[others]
    targets = (inputs[others] * counts[others, None]).T @ labels[others]
    penalty = settings.ridge_penalty * np.trace(squares[:-1, :-1]) / (len(squares) - 1)
    ridge = penalty * np.diag([1.0] * (len(squares) - 1) + [0.0])
    said = np.maximum(inputs[row] @ np.linalg.solve(squares + ridge, targets), 0)
    return (1 - settings.ridge_share) * votes + settings.ridge_share * said / said.sum()


def counts_by_loop(bank: MemoryBank, settings: DecoderConfig) -> np.ndarray:
    """`[images, 3, C]`, every row counting for its classes as much as they cover of the annotated images."""
    labels = bank.rows.labels.dense(len(bank.info.classes)).astype(np.float64)
    share = np.array(bank.manifest.class_pixels, float) / sum(bank.manifest.class_pixels or ())
    truth = labels * share / (labels.sum(0) / labels.sum())
    counts = np.zeros((len(bank.info.sources), 3, labels.shape[1]))
    for row, image in enumerate(bank.rows.source):
        predicted = int(scores_by_loop(bank, row, settings, share).argmax())
        counts[image, 0, predicted] += truth[row, predicted]
        counts[image, 1] += truth[row]
        counts[image, 2, predicted] += truth[row].sum()
    return counts


SOME = [
    {"gradient_weight": 0.0, "k": 3, "temperature": 0.1},
    {"gradient_weight": 0.3, "k": 30, "class_share": 0.5},
    {"gradient_weight": 0.5, "ridge": "token", "ridge_share": 0.5, "ridge_penalty": 1e-2},
    {"gradient_weight": 0.0, "ridge": "token", "ridge_share": 0.7, "ridge_penalty": 1e-2, "temperature": 0.05},
    {"gradient_weight": 0.3, "k": 3, "class_share": 0.5, "ridge": "feature", "ridge_share": 0.5, "ridge_penalty": 1e-2},
]


@pytest.mark.parametrize("settings", SOME)
def test_a_setting_is_scored_as_a_loop_over_images_left_out_scores_it(
    bank: MemoryBank, settings: dict[str, float]
) -> None:
    chosen = DecoderConfig(**settings)  # type: ignore[arg-type]
    np.testing.assert_allclose(Trial(bank, GRID).score(chosen), counts_by_loop(bank, chosen), rtol=1e-4, atol=1e-6)


def test_the_fit_is_the_best_of_the_grid_by_brute_force(bank: MemoryBank) -> None:
    def best_of(tried: list[DecoderConfig]) -> tuple[DecoderConfig, float]:
        figures = [float(mean_iou_of(counts_by_loop(bank, one).sum(0))) for one in tried]
        return tried[int(np.argmax(figures))], max(figures)

    def settled(best: DecoderConfig, backs: list[dict[str, object]]) -> DecoderConfig:
        for back in backs:
            other = replace(best, **back)  # type: ignore[arg-type]
            level = 68 if "ridge" in back else 95
            interval = mean_iou_interval(counts_by_loop(bank, best)[None], counts_by_loop(bank, other)[None], level)
            assert interval is not None
            best = best if interval[0] > 0 else other
        return best

    published = DecoderConfig(gradient_weight=0.5)
    votes = product(GRID.gradient_weight, GRID.k, GRID.temperature)
    first = [published, *(replace(published, gradient_weight=a, k=k, temperature=t) for a, k, t in votes)]
    vote = best_of(first)[0]
    for weight in sorted(GRID.gradient_weight, key=lambda a: abs(a - 0.5)):  # towards the best as far as need be
        other = replace(vote, gradient_weight=weight)
        interval = mean_iou_interval(counts_by_loop(bank, vote)[None], counts_by_loop(bank, other)[None], 68)
        if weight == vote.gradient_weight or not (interval and interval[0] > 0):
            vote = other
            break
    vote = settled(vote, [{"k": 30}, {"temperature": 0.02}])
    second = [vote]
    for power in GRID.class_share:
        second.append(replace(vote, class_share=power))
        for (kind, _), share in product(GRID.ridge, GRID.share):
            second.append(
                replace(vote, class_share=power, ridge=kind, ridge_share=share, ridge_penalty=GRID.penalty[0])
            )
    expected = settled(
        best_of(second)[0], [{"class_share": 0.0}, {"ridge": "none", "ridge_share": 0.0, "ridge_penalty": 1e-3}]
    )
    found = fit_decoder(bank, GRID)
    assert replace(found.decoder, refine=0.0) == replace(expected, ridge_bandwidth=found.decoder.ridge_bandwidth)
    assert found.decoder.refine == GRID.refine[-1]
    assert [c.setting for c in found.choices] == ["gradient_weight", "k", "temperature", "class_share", "ridge"]
    assert found.facts is not None
    assert found.facts["fitted"] == pytest.approx(float(mean_iou_of(counts_by_loop(bank, expected).sum(0))), abs=1e-6)


def test_a_bank_of_balanced_rows_counts_classes_as_the_images_do(
    tree: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:

    small = make(tree, tiny_backbone, tmp_path / "small", bank=BankConfig(size=90))
    whole = [
        np.bincount(s.mask[s.mask >= 0], minlength=3) for s in open_dataset(DataConfig(root=str(tree), split="train"))
    ]
    assert small.manifest.class_pixels == tuple(np.sum(whole, axis=0).tolist())
    assert len(small) == 90
    np.testing.assert_allclose(small.class_share(), np.sum(whole, axis=0) / np.sum(whole))


def test_a_class_that_has_rows_keeps_a_share() -> None:
    """Of none, a vote would be divided by 0."""
    many = SparseLabels.from_histograms(np.repeat([[4, 0], [3, 1]], [9, 5], axis=0))
    assert without((100, 2), many, many.take(np.arange(10))) == (76, 1)
    assert without((100, 2), many, many.take(np.arange(9))) == (71, 0)
    assert without(None, many, many) is None


def test_ties_go_to_the_published_value() -> None:
    one = np.random.default_rng(0).random((20, 3, 4)) + 1
    assert gain_of(one, one) == (0, (0, 0))
    better = one.copy()
    better[:, 0] *= 1.1
    gain, interval = gain_of(better, one)
    assert 0 < interval[0] < gain < interval[1]


def test_few_images_keep_the_published_settings(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    for images in (1, 4):
        found = fit_decoder(make(tree, tiny_backbone, tmp_path / str(images), images=images))
        assert found.decoder == DecoderConfig()
        assert found.notes == (f"not fitted, as published: the bank has {images} images, fewer than 5",)


def test_one_class_keeps_the_published_settings(
    bank: MemoryBank, tree: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    alone = make(tree, tiny_backbone, tmp_path / "one").remove(classes=["red", "green"])
    assert fit_decoder(alone).notes == ("not fitted, as published: the bank has rows of one class alone",)


def test_plain_banks_are_fitted_without_a_weight(tree: Path, tiny_backbone: Backbone, tmp_path: Path) -> None:
    plain = make(tree, tiny_backbone, tmp_path / "plain", kind="plain")
    found = fit_decoder(plain, GRID)
    assert found.decoder.gradient_weight is None
    assert found.decoder.ridge in ("none", "token")
    with pytest.raises(BankError, match=r"decoder.gradient_weight is 0.3, but the bank's features are plain"):
        Segmenter(plain, plain.patch_features(backbone=tiny_backbone), DecoderConfig(gradient_weight=0.3))


def test_a_fit_is_kept_and_used_unless_other_settings_are_given(
    tree: Path, tiny_backbone: Backbone, tmp_path: Path
) -> None:
    bank = make(tree, tiny_backbone, tmp_path / "bank")
    features = bank.patch_features(backbone=tiny_backbone)
    assert Segmenter(bank, features).decoder == DecoderConfig()
    found = fit_decoder(bank, GRID)
    kept = bank.keep_decoder(found.record())
    again = MemoryBank.open(kept.path)
    assert not again.verify()
    assert again.history[-1]["action"] == "fit"
    assert Segmenter(again, features).decoder == found.decoder
    assert Segmenter(again, features, DecoderConfig(k=5)).decoder == DecoderConfig(k=5)
    assert fitted_decoder(again.remove(images=again.info.sources[:1]).manifest.decoder, "here") == found.decoder


def test_options_win_over_the_fit() -> None:
    fitted = DecoderConfig(k=10, gradient_weight=0.3, refine=1.0, ridge="token", ridge_share=0.5)
    assert DecoderOptions().over(fitted) == fitted
    assert DecoderOptions(k=7, refine=0.0).over(fitted) == replace(fitted, k=7, refine=0.0)
    off = replace(fitted, ridge="none", ridge_share=0.0)
    assert DecoderOptions(ridge="none").over(fitted) == off
    assert DecoderOptions(ridge_share=0.0).over(fitted) == off
    assert DecoderOptions(ridge="token").over(DecoderConfig()).ridge_share == 0.5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DecoderOptions(ridge="none", ridge_penalty=0.1), "decoder.ridge_penalty is 0.1, but decoder.ridge is 'none'"),
        (DecoderOptions(ridge_bandwidth=2.0), "decoder.ridge_bandwidth is 2.0, but decoder.ridge is 'token'"),
        (DecoderOptions(ridge="none", ridge_share=0.5), "name a regression and a share above 0, or neither"),
    ],
)
def test_options_that_change_nothing_are_errors(options: DecoderOptions, words: str) -> None:
    with pytest.raises(FungiSegError, match=re.escape(words)):
        options.over(DecoderConfig(ridge="token", ridge_share=0.5))


def test_options_have_the_rules_of_settings() -> None:
    with pytest.raises(FungiSegError, match=r"decoder.refine is 2; it must be 0 to 1"):
        DecoderOptions(refine=2)


def test_an_unknown_fitted_setting_is_an_error() -> None:
    with pytest.raises(FungiSegError, match=r"bank: the fitted decoder has the unknown key 'kk'"):
        fitted_decoder({"settings": {"kk": 3}}, "bank")


@pytest.mark.parametrize("kind", ["flat", "int8", "lists"])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_weighted_similarities_are_those_of_a_loop(bank: MemoryBank, kind: str, weight: float) -> None:
    keys, width = np.asarray(bank.rows.keys).astype(np.float64), bank.info.token_width
    queries = keys[::37].astype(np.float32)
    recall = {"recall": 1.0} if kind == "lists" else {}
    index = bank.neighbour_index(IndexConfig(kind, device="cpu", **recall), weight)
    similarities, rows = index.search(queries, 5)
    halves = (slice(0, width), 1 - weight), (slice(width, None), weight)
    unit = [2 * share * queries[:, half].astype(np.float64) @ keys[:, half].T for half, share in halves]
    expected = -np.sort(-sum(unit), axis=1)[:, :5]
    np.testing.assert_allclose(similarities, expected, atol=2e-3 if kind == "lists" else 2e-5)
    assert rows.shape == (len(queries), 5)


def test_a_half_changes_no_bit(bank: MemoryBank) -> None:
    queries = np.asarray(bank.rows.keys)[::37].astype(np.float32)
    config = IndexConfig("flat", device="cpu")
    as_is, half = (bank.neighbour_index(config, weight).search(queries, 9) for weight in (None, 0.5))
    for one, other in zip(as_is, half, strict=True):
        np.testing.assert_array_equal(one, other)
