"""Intervals of mIoU over images: how often they hold the truth, and what the jackknife is by counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from fungi_seg.evaluation.metrics import intersection_over_union, mean_iou
from fungi_seg.segmentation import class_iou, class_iou_intervals, mean_iou_interval, mean_iou_of


@dataclass(frozen=True)
class World:
    """Where images come from.

    Attributes:
        presence: how often an image holds a class; the first is everywhere. Of `twice` images the last one.
        quality: how much of a class is found, in the middle.
        spread: of that on the logistic scale, by image and class.
        shared: the same, by image: what all its classes have in common.
        shape: of the gamma distribution of areas; small is heavy-tailed.
        twice: the last class is in exactly two images of every set.
    """

    presence: tuple[float, ...]
    quality: tuple[float, ...]
    spread: float
    shared: float = 0.0
    shape: float = 2.0
    twice: bool = False

    def draw(self, generator: np.random.Generator, sets: int, images: int) -> tuple[np.ndarray, np.ndarray]:
        """Counts `[sets, images, 3, C]` of two settings on the same images, of which the second is a bit better."""
        shape = (sets, images, len(self.presence))
        there = generator.random(shape) < self.presence
        there[..., 0] = True
        if self.twice:
            there[..., -1] = np.argsort(generator.random(shape[:2]), axis=1) < 2
        truth = there * (1 + np.rint(generator.gamma(self.shape, 1000 / self.shape, shape)))
        skill = logit(self.quality) + self.spread * generator.standard_normal(shape)
        skill += self.shared * generator.standard_normal((sets, images, 1))
        gain = 0.1 + 0.3 * generator.standard_normal(shape) + 0.15 * generator.standard_normal((sets, images, 1))
        taken_for = generator.gamma(0.5, 1, shape) * (there.mean((0, 1)) + 0.02)  # common classes more often
        taken_for /= taken_for.sum(-1, keepdims=True)
        results = []
        for level in (skill, skill + gain):
            right = np.rint(truth * expit(level))
            wrong = truth - right
            mistaken = np.rint((wrong.sum(-1, keepdims=True) - wrong) * taken_for)
            results.append(np.stack([right, truth, right + mistaken], 2).astype(np.int64))
        return results[0], results[1]


WORLDS = {
    "common and easy": World((1, 0.95, 0.9, 0.8, 0.7), (0.95, 0.9, 0.85, 0.8, 0.75), 1.0, shape=4),
    "rare and hard": World(
        (1, 0.9, 0.8, 0.6, 0.08, 0.08, 0.06, 0.05, 0.04, 0.03),
        (0.95, 0.9, 0.85, 0.8, 0.5, 0.4, 0.3, 0.3, 0.2, 0.1),
        1.5,
        shape=1.5,
    ),
    "in two images": World((1, 0.9, 0.8, 0.6, 0), (0.9, 0.8, 0.7, 0.6, 0.5), 1.5, twice=True),
    "image quality": World((1, 0.8, 0.5, 0.3, 0.15, 0.1), (0.9, 0.8, 0.7, 0.6, 0.5, 0.4), 0.7, shared=1.2),
    "many classes": World(tuple(np.geomspace(1, 0.02, 30)), tuple(np.linspace(0.9, 0.2, 30)), 1.5, 0.7, 1.5),
    "one object": World((1, 0.5), (0.97, 0.5), 1.5, shared=1.0, shape=0.7),
}


def coverage(world: World, images: int, sets: int) -> list[tuple[bool, bool]]:
    """Whether the intervals of each set hold the truth: of mIoU, and of the paired difference.

    The truth is the mIoU of very many images, over the classes that a set holds.
    """
    generator = np.random.default_rng(images)
    pixels = [counts.sum((0, 1)) for counts in world.draw(generator, 20_000 // images, images)]
    held = []
    for first, second in zip(*world.draw(generator, sets, images), strict=True):
        met = first[:, 1].any(0)
        true = [float(mean_iou_of(counts[:, met])) for counts in pixels]
        single = mean_iou_interval(first[None])
        paired = mean_iou_interval(second[None], first[None])
        assert single is not None
        assert paired is not None
        measured = [float(mean_iou_of(counts.sum(0))) for counts in (first, second)]
        assert 0 <= single[0] <= measured[0] <= single[1] <= 1
        assert -1 <= paired[0] <= measured[1] - measured[0] <= paired[1] <= 1
        held.append((single[0] <= true[0] <= single[1], paired[0] <= true[1] - true[0] <= paired[1]))
    return held


@pytest.mark.parametrize("name", WORLDS)
def test_intervals_hold_the_truth_in_nine_of_ten_cases(name: str) -> None:
    """And not in all, as they would if they were far too wide."""
    held = [each for images in (20, 40, 100) for each in coverage(WORLDS[name], images, sets=200)]
    single, paired = np.mean(held, axis=0)
    assert 0.9 <= single <= 0.98
    assert 0.92 <= paired <= 0.98


def test_intervals_cover_the_true_value() -> None:
    """Of 95 % intervals, at least 90 % hold the mIoU of the population that the images are drawn from."""
    generator = np.random.default_rng(1)
    truth = generator.integers(0, 900, (4000, 3)) * (generator.random((4000, 3)) < [1, 0.6, 0.2])
    right = np.rint(truth * generator.beta(4, 2, truth.shape)).astype(np.int64)
    population = np.stack([right, truth, truth], 1)
    value = float(mean_iou_of(population.sum(0)))
    covered = 0
    for _ in range(100):
        found = mean_iou_interval(population[generator.integers(0, 4000, 80)][None])
        assert found is not None
        covered += found[0] <= value <= found[1]
    assert covered >= 90


def class_coverage(world: World, images: int, sets: int) -> np.ndarray:
    """For each class of each set that two images hold: how many do, and whether the intervals hold the truth."""
    generator = np.random.default_rng(images)
    pixels = [counts.sum((0, 1)) for counts in world.draw(generator, 20_000 // images, images)]
    true = [class_iou(counts) for counts in pixels]
    held = []
    for first, second in zip(*world.draw(generator, sets, images), strict=True):
        holding = (first[:, 1] > 0).sum(0)
        single, paired = class_iou_intervals(first[None]), class_iou_intervals(second[None], first[None])
        for c, (one, two) in enumerate(zip(single, paired, strict=True)):
            assert (one is None) == (two is None) == (holding[c] < 2)
            if one is not None and two is not None:
                gain = true[1][c] - true[0][c]
                held.append((holding[c], one[0] <= true[0][c] <= one[1], two[0] <= gain <= two[1]))
    return np.array(held)


def test_intervals_of_classes_hold_the_truth_however_few_images_hold_them() -> None:
    """Those of rare classes may be too wide: two or three images say little."""
    rows = np.concatenate([class_coverage(WORLDS[name], n, sets=60) for name in WORLDS for n in (20, 60)])
    for fewest, most in ((2, 2), (3, 4), (5, 9), (10, 30), (31, 60)):
        some = rows[(rows[:, 0] >= fewest) & (rows[:, 0] <= most), 1:]
        assert len(some) > 200
        assert (some.mean(0) >= 0.9).all()
    assert (rows[rows[:, 0] > 30, 1:].mean(0) <= 0.98).all()


def test_intervals_of_no_difference_hold_nought() -> None:
    """Two results that differ by chance alone, as two seeds do: image by image neither is the better one."""
    generator = np.random.default_rng(3)
    held, of_classes = [], []
    for world in WORLDS.values():
        first, _ = world.draw(generator, 60, 30)
        right, truth, predicted = np.moveaxis(first, 2, 0)
        pair = []
        for _ in range(2):
            kept = np.rint(right * generator.uniform(0.8, 1, right.shape)).astype(np.int64)
            pair.append(np.stack([kept, truth, predicted - right + kept], 2))
        for one, other in zip(*pair, strict=True):
            low, high = mean_iou_interval(one[None], other[None]) or (np.nan, np.nan)
            held.append(low <= 0 <= high)
            of_classes += [b[0] <= 0 <= b[1] for b in class_iou_intervals(one[None], other[None]) if b]
    assert 0.9 <= np.mean(held) <= 0.99
    assert 0.9 <= np.mean(of_classes) <= 0.99


def counts_of(matrices: np.ndarray) -> np.ndarray:
    """`[…, C, C]` confusion matrices as `[…, 3, C]`."""
    return np.stack([np.diagonal(matrices, axis1=-2, axis2=-1), matrices.sum(-1), matrices.sum(-2)], axis=-2)


def test_mean_iou_is_that_of_the_confusion_matrix() -> None:
    matrices = np.random.default_rng(0).integers(0, 4, (50, 4, 4)) * np.array([[1], [1], [0], [1]])
    expected = [mean_iou(matrix) for matrix in matrices]
    np.testing.assert_allclose(mean_iou_of(counts_of(matrices)), expected, rtol=1e-12)
    assert np.isnan(mean_iou_of(np.zeros((3, 4), np.int64)))


def left_out(matrices: np.ndarray) -> list[float]:
    """mIoU `[images]` without each in turn, of `[S, images, C, C]`, by counting; classes that go with it are 0."""
    found = []
    for image in range(matrices.shape[1]):
        by_seed = []
        for seed in matrices:
            rest = sum(matrix for number, matrix in enumerate(seed) if number != image)
            iou = intersection_over_union(np.asarray(rest))
            by_seed.append(sum(iou[c] for c in range(len(rest)) if rest[c].sum()) / np.count_nonzero(seed.sum((0, 2))))
        found.append(float(np.mean(by_seed)))
    return found


def by_loop(value: float, left: list[float], lowest: float) -> list[float]:
    n, mean = len(left), sum(left) / len(left)
    variance = (n - 1) / n * sum((one - mean) ** 2 for one in left)
    freedom = sum((one - mean) ** 2 for one in left) ** 2 / sum((one - mean) ** 4 for one in left)
    freedom = min(max((3.16 - 2.77 / n**0.5) * freedom, 1), n - 1)
    reach = t.ppf(0.975, freedom) * variance**0.5
    return [max(lowest, value - reach), min(1, value + reach)]


@pytest.mark.parametrize("images", [2, 3, 6, 25])
def test_intervals_by_counting(images: int) -> None:
    """Two seeds; a class that only the first image holds, and one that none does."""
    generator = np.random.default_rng(images)
    first = generator.integers(1, 50, (2, images, 4, 4)) * np.array([[1], [1], [1], [0]])
    first[:, 1:, 2] = 0
    first += np.diag([300, 200, 0, 0])
    second = first.copy()  # the truth is the same
    moved = generator.integers(0, 2, first.shape[:3]) * np.minimum(first[..., 0], 3)
    second[..., 0] -= moved
    second[..., 1] += moved
    values = [float(np.mean([mean_iou(seed.sum(0)) for seed in each])) for each in (first, second)]
    left = [left_out(each) for each in (first, second)]
    single, paired = mean_iou_interval(counts_of(first)), mean_iou_interval(counts_of(second), counts_of(first))
    np.testing.assert_allclose(single, by_loop(values[0], left[0], 0), rtol=1e-9)
    difference = [b - a for a, b in zip(*left, strict=True)]
    np.testing.assert_allclose(paired, by_loop(values[1] - values[0], difference, -1), rtol=1e-7)


def test_intervals_of_classes_by_counting() -> None:
    """Two seeds; the third class is in two images, the fourth in one, the fifth in none."""
    generator = np.random.default_rng(8)
    matrices = generator.integers(1, 50, (2, 9, 5, 5)) + np.diag([300, 200, 40, 40, 0])
    matrices[:, 2:, 2] = matrices[:, 1:, 3] = matrices[:, :, 4] = 0
    found = class_iou_intervals(counts_of(matrices))
    for c in range(5):
        holding = int((matrices[0, :, c].sum(1) > 0).sum())
        if holding < 2:
            assert found[c] is None
            continue
        value = np.mean([intersection_over_union(seed.sum(0))[c] for seed in matrices])
        left = []
        for image in range(9):
            rest = [np.delete(seed, image, 0).sum(0) for seed in matrices]
            left.append(float(np.mean([intersection_over_union(one)[c] for one in rest])))
        variance = 8 / 9 * sum((one - np.mean(left)) ** 2 for one in left)
        parts = [(one - np.mean(left)) ** 2 for one in left]
        freedom = (3.16 - 2.77 / holding**0.5) * sum(parts) ** 2 / sum(part**2 for part in parts)
        reach = t.ppf(0.975, min(max(freedom, 1), holding - 1)) * variance**0.5
        np.testing.assert_allclose(found[c], [max(0, value - reach), min(1, value + reach)], rtol=1e-7)


def test_intervals_over_classes_that_are_named() -> None:
    """A class that no image holds counts as 0 where it is named."""
    matrices = np.random.default_rng(4).integers(1, 9, (1, 6, 3, 3)) * np.array([[1], [1], [0]])
    every = mean_iou_interval(counts_of(matrices), classes=np.ones(3, bool))
    two = mean_iou_interval(counts_of(matrices))
    assert every is not None
    assert two is not None
    np.testing.assert_allclose(every, np.array(two) * 2 / 3)


def drawn(images: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = WORLDS["image quality"].draw(np.random.default_rng(5), 1, images)
    return first, second


def test_one_image_gives_no_interval() -> None:
    first, second = drawn(3)
    void = np.zeros_like(first)
    for images in (first[:, :0], first[:, :1], np.concatenate([first[:, :1], void], 1), void):
        assert mean_iou_interval(images) is None
        assert mean_iou_interval(images, images) is None
    assert mean_iou_interval(first[:, :2]) is not None
    assert mean_iou_interval(first[:, :2], second[:, :2]) is not None


def test_images_without_labels_tell_nothing() -> None:
    first, second = drawn(8)
    void = np.zeros_like(first[:, :5])
    with_void = [np.concatenate([counts[:, :4], void, counts[:, 4:]], 1) for counts in (first, second)]
    assert mean_iou_interval(with_void[0]) == mean_iou_interval(first)
    assert mean_iou_interval(with_void[1], with_void[0]) == mean_iou_interval(second, first)


def test_a_difference_is_that_of_the_other_sign_the_other_way_round() -> None:
    first, second = drawn(12)
    there, back = mean_iou_interval(second, first), mean_iou_interval(first, second)
    assert there is not None
    assert back is not None
    np.testing.assert_allclose(there, [-back[1], -back[0]])
    assert mean_iou_interval(first, first) == [0, 0]


def test_images_that_are_alike_leave_no_doubt() -> None:
    alike = np.repeat(np.array([[[[30, 20], [50, 50], [60, 40]]]]), 5, axis=1)
    np.testing.assert_allclose(mean_iou_interval(alike), float(mean_iou_of(alike[0, 0])), atol=1e-12)


@pytest.mark.parametrize("right", [0, 100])
def test_nothing_or_everything_is_right(right: int) -> None:
    counts = np.array([[[right], [100], [100]]] * 4)[None]
    assert mean_iou_interval(counts) == [right / 100, right / 100]


def test_a_class_that_only_one_image_holds_makes_the_interval_wider() -> None:
    """What is in one image doesn't vary, but nobody knows that."""
    counts = np.zeros((1, 20, 3, 2), np.int64)
    counts[..., 0] = np.array([80, 100, 100])
    counts[0, 3, :, 1] = (60, 100, 90)
    found = mean_iou_interval(counts)
    assert found is not None
    assert found[1] - found[0] > 0.5
    counts[0, :, :, 1] = (60, 100, 90)
    np.testing.assert_allclose(mean_iou_interval(counts), float(mean_iou_of(counts[0, 0])), atol=1e-12)


def test_rare_classes_that_are_never_found_do_not_lift_the_interval() -> None:
    """Nine classes of one image each, of which nothing is right, and one that is right everywhere."""
    counts = np.zeros((1, 30, 3, 10), np.int64)
    counts[0, :, :, 0] = 100
    counts[0, np.arange(9), 1, np.arange(1, 10)] = 50
    found = mean_iou_interval(counts)
    assert found is not None
    assert found[0] <= 0.1 <= found[1] < 0.12


def test_classes_that_few_images_hold() -> None:
    """Two of ten classes are in one image each: the interval stays about the mIoU over all ten."""
    generator = np.random.default_rng(0)
    truth = generator.integers(500, 1500, (40, 10))
    truth[:, 8:] = 0
    truth[3, 8], truth[17, 9] = 900, 40
    right = np.rint(truth * generator.uniform(0.3, 0.9, truth.shape)).astype(np.int64)
    right[:, 8:] = 0  # never found
    counts = np.stack([right, truth, truth], 1)[None]
    found = mean_iou_interval(counts)
    assert found is not None
    assert found[0] < mean_iou_of(counts.sum(1))[0] < found[1]
    assert found[1] < (right.sum(0)[:8] / (2 * truth.sum(0)[:8] - right.sum(0)[:8])).mean()  # that of eight classes
