"""Confusion matrices, IoU and matching: against counting and the published numbers."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from fungi_seg import FungiSegError
from fungi_seg.evaluation.metrics import ConfusionMatrix, intersection_over_union, matched_order, mean_iou, reordered
from fungi_seg.images.settings import VOID

Pair = tuple[np.ndarray, np.ndarray]


def confusion(classes: int, *images: Pair) -> np.ndarray:
    matrix = ConfusionMatrix(classes)
    for truth, prediction in images:
        matrix.add(truth, prediction)
    return matrix.counts


def match_classes(counts: np.ndarray) -> np.ndarray:
    return reordered(counts, matched_order(counts))


def pair(seed: int, classes: int = 4, size: tuple[int, int] = (13, 17), void: float = 0.0) -> Pair:
    """A random truth with a share of void, and a prediction that is right about half of the time."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(classes, size=size)
    prediction = np.where(generator.random(size) < 0.5, truth, generator.integers(classes, size=size))
    return np.where(generator.random(size) < void, VOID, truth), prediction


def counted_ious(truth: np.ndarray, prediction: np.ndarray, classes: int) -> list[float]:
    """IoU of each class by sets of pixels, void left out."""
    seen = {tuple(p) for p in np.argwhere(truth != VOID)}
    ious = []
    for index in range(classes):
        a = {tuple(p) for p in np.argwhere(truth == index)}
        b = {tuple(p) for p in np.argwhere(prediction == index)} & seen
        ious.append(len(a & b) / len(a | b) if a | b else math.nan)
    return ious


def test_reference_miou(reference: dict[str, np.ndarray]) -> None:
    truth = reference["miou/target"].reshape(40, 100)
    plain = confusion(4, (truth, reference["miou/prediction"].reshape(40, 100)))
    assert mean_iou(plain) == pytest.approx(float(reference["miou/plain"]), abs=1e-6)


def test_reference_miou_after_hungarian_matching(reference: dict[str, np.ndarray]) -> None:
    truth = reference["miou/target"].reshape(40, 100)
    counts = confusion(4, (truth, reference["miou/permuted_prediction"].reshape(40, 100)))
    expected = float(reference["miou/hungarian_of_permuted"])
    assert mean_iou(match_classes(counts)) == pytest.approx(expected, abs=1e-6)
    assert mean_iou(counts) < expected


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6), void=st.sampled_from([0.0, 0.3, 1.0]))
def test_ious_are_those_of_counting(seed: int, classes: int, void: float) -> None:
    truth, prediction = pair(seed, classes, (5, 6), void)
    counts = confusion(classes, (truth, prediction))
    expected = counted_ious(truth, prediction, classes)
    np.testing.assert_allclose(intersection_over_union(counts), expected, rtol=1e-12)
    present = [iou for index, iou in enumerate(expected) if (truth == index).any()]
    if present:
        assert mean_iou(counts) == pytest.approx(np.mean(present))
    else:
        assert math.isnan(mean_iou(counts))
    assert mean_iou(counts, "zero") == pytest.approx(np.nan_to_num(expected).mean())


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    counts = confusion(3, (np.array([[0, 0, 1]]), np.array([[0, 2, 1]])))
    np.testing.assert_array_equal(counts, [[1, 0, 1], [0, 1, 0], [0, 0, 0]])


def test_void_counts_for_nothing() -> None:
    counts = confusion(3, (np.array([[VOID, 1], [VOID, 2]]), np.array([[0, 1], [1, 2]])))
    assert counts.sum() == 2
    assert mean_iou(counts) == 1.0
    assert np.isnan(intersection_over_union(counts)[0])


def test_several_images_count_like_one() -> None:
    pairs = [pair(seed, void=0.1) for seed in range(3)]
    together = (np.concatenate([t for t, _ in pairs]), np.concatenate([p for _, p in pairs]))
    np.testing.assert_array_equal(confusion(4, *pairs), confusion(4, together))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int64])
def test_predictions_of_any_integer_type(dtype: type) -> None:
    truth, prediction = pair(0, void=0.2)
    expected = confusion(4, (truth.astype(np.int16), prediction.astype(dtype)))
    np.testing.assert_array_equal(expected, confusion(4, (truth, prediction)))


def test_class_predicted_but_never_true_is_left_out_or_zero() -> None:
    """Its false positives still cost the class they were taken from."""
    counts = confusion(3, (np.array([[0, 0, 1, 1]]), np.array([[0, 2, 1, 1]])))
    assert mean_iou(counts) == pytest.approx((0.5 + 1) / 2)
    assert mean_iou(counts, "zero") == pytest.approx((0.5 + 1 + 0) / 3)


@given(seed=st.integers(0, 10_000), void=st.sampled_from([0.0, 0.5, 1.0]))
def test_predicted_classes_count_as_zero(seed: int, void: float) -> None:
    """The mean over classes that are in the truth or in the prediction, as MMSegmentation's `nanmean`."""
    truth, prediction = pair(seed, 6, (2, 3), void)
    ious = [iou for iou in counted_ious(truth, prediction, 6) if not math.isnan(iou)]
    found = mean_iou(confusion(6, (truth, prediction)), "predicted")
    assert found == pytest.approx(np.mean(ious)) if ious else math.isnan(found)


@given(seed=st.integers(0, 10_000))
def test_void_in_a_prediction_is_wrong(seed: int) -> None:
    """It counts for the union of the true class, and for no class that is predicted."""
    truth, prediction = pair(seed, 4, (5, 6), 0.2)
    prediction = np.where(pair(seed + 1, 2, (5, 6))[0] == 0, VOID, prediction)
    counts = confusion(4, (truth, prediction))
    expected = counted_ious(truth, prediction, 4)
    np.testing.assert_allclose(intersection_over_union(counts), expected, rtol=1e-12)
    assert counts[:, 4].tolist() == [int(((truth == c) & (prediction == VOID)).sum()) for c in range(4)]
    renamed = np.where(prediction == VOID, VOID, np.array([2, 0, 3, 1])[prediction])
    matched, other = match_classes(counts), match_classes(confusion(4, (truth, renamed)))
    np.testing.assert_array_equal(matched[:, 4], counts[:, 4])
    assert np.nansum(intersection_over_union(matched)) == pytest.approx(np.nansum(intersection_over_union(other)))
    assert np.nansum(intersection_over_union(matched)) >= np.nansum(expected) - 1e-12


def test_nothing_counted_gives_nan() -> None:
    assert math.isnan(mean_iou(confusion(3)))
    assert math.isnan(mean_iou(confusion(3), "predicted"))
    assert np.isnan(intersection_over_union(confusion(3))).all()
    assert math.isnan(mean_iou(confusion(3, (np.full((2, 2), VOID), np.zeros((2, 2), np.int64)))))


def test_matching_undoes_a_renaming() -> None:
    truth, prediction = pair(0)
    counts = confusion(4, (truth, prediction))
    renamed = np.array([2, 0, 3, 1])[prediction]
    np.testing.assert_array_equal(match_classes(confusion(4, (truth, renamed))), counts)


@given(seed=st.integers(0, 10_000))
def test_matching_is_the_best_of_all_renamings(seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 30, (4, 4))
    best = max(
        np.nan_to_num(intersection_over_union(counts[:, list(order)])).sum()
        for order in itertools.permutations(range(4))
    )
    assert np.nan_to_num(intersection_over_union(match_classes(counts))).sum() == pytest.approx(best)


@pytest.mark.parametrize(("truth", "prediction"), [(4, 0), (0, 4), (-2, 0), (0, -2)])
def test_indices_that_are_no_class(truth: int, prediction: int) -> None:
    with pytest.raises(
        FungiSegError, match=r"holds class indices from .* there are 4 classes, from 0 on, and -1 for none"
    ):
        confusion(4, (np.array([[truth]]), np.array([[prediction]])))


@given(seed=st.integers(0, 10_000), classes=st.integers(1, 5), void=st.sampled_from([0.0, 0.4]))
def test_counts_are_those_of_counting(seed: int, classes: int, void: float) -> None:
    truth, prediction = pair(seed, classes, (4, 5), void)
    prediction[0] = np.where(np.arange(5) % 2, VOID, prediction[0])
    counts = confusion(classes, (truth, prediction.astype(np.int16)))
    for one in range(classes):
        for other, column in [*((c, c) for c in range(classes)), (VOID, classes)]:
            expected = sum(t == one and p == other for t, p in zip(truth.flat, prediction.flat, strict=True))
            assert (counts[one, column] if column < counts.shape[1] else 0) == expected
