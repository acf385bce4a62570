"""k-NN, linear probe, clusters and PCA on arrays: against scikit-learn, numpy, and counting by hand."""

from __future__ import annotations

import itertools
import math
import warnings
from pathlib import Path

import numpy as np
import pytest

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.whole_images import classification
from fungi_seg.whole_images.classification import (
    STRENGTHS,
    Pca,
    accuracies,
    check_components,
    cluster,
    clustering_scores,
    few_shot,
    fit_pca,
    knn,
    linear_probe,
    neighbours,
    stored_pca,
    unit_length,
    validation_split,
    vote,
)

NAMES = tuple("abcdef")


def blobs(images: int, classes: int = 4, width: int = 12, spread: float = 1.0, seed: int = 0) -> tuple:
    """Features around one centre a class, and labels in turn."""
    centres = np.random.default_rng(99).normal(size=(classes, width))
    labels = np.arange(images) % classes
    noise = np.random.default_rng(seed).normal(size=(images, width))
    return (centres[labels] + spread * noise).astype(np.float32), labels


def test_accuracies_by_hand() -> None:
    """Class 2 has no image and counts for nothing."""
    labels, predictions = np.array([0, 0, 0, 1]), np.array([0, 0, 2, 0])
    assert accuracies(labels, predictions, 3) == pytest.approx((2 / 4, (2 / 3 + 0) / 2))


def test_rows_of_zeros_stay_zeros() -> None:
    np.testing.assert_allclose(unit_length(np.array([[0, 0], [3, 4]])), [[0, 0], [0.6, 0.8]], rtol=1e-6)


@pytest.mark.parametrize("weighting", ["majority", "similarity"])
@pytest.mark.parametrize(("k", "classes"), [(1, 4), (5, 2), (20, 4)])
def test_knn_agrees_with_scikit_learn(weighting: str, k: int, classes: int) -> None:
    from sklearn.neighbors import KNeighborsClassifier

    train, labels = blobs(90, classes, spread=2.0)
    queries, truth = blobs(60, classes, spread=2.0, seed=1)
    weights = "uniform" if weighting == "majority" else (lambda distance: np.exp((1 - distance) / 0.07))
    oracle = KNeighborsClassifier(k, weights=weights, metric="cosine", algorithm="brute").fit(train, labels)
    shares = np.sort(oracle.predict_proba(queries), axis=1)
    clear = shares[:, -1] - shares[:, -2] > 1e-4
    found = knn(3 * train, labels, queries, classes, k, weighting)
    np.testing.assert_array_equal(found[clear], oracle.predict(queries)[clear])
    assert clear.sum() >= 30
    assert 0.3 < (found == truth).mean() < 1


def test_neighbours_are_exact_and_sorted() -> None:
    train, _ = blobs(50)
    queries, _ = blobs(7, seed=1)
    cosines = unit_length(queries).astype(np.float64) @ unit_length(train).T.astype(np.float64)
    similarities, rows = neighbours(train, queries, 6)
    np.testing.assert_array_equal(rows, np.argsort(-cosines, axis=1)[:, :6])
    np.testing.assert_allclose(similarities, -np.sort(-cosines, axis=1)[:, :6], atol=1e-6)


def test_ties_of_heads_go_to_the_more_similar_class() -> None:
    """Two heads each for classes 1 and 0; class 2 has the nearest neighbour, but one head."""
    similarities = np.array([[0.95, 0.9, 0.5, 0.6, 0.7], [0.95, 0.9, 0.1, 0.6, 0.7]], np.float32)
    labels = np.array([[2, 1, 1, 0, 0]] * 2)
    np.testing.assert_array_equal(vote(similarities, labels, 4), [1, 0])


def test_ties_are_decided_among_negative_similarities_too() -> None:
    np.testing.assert_array_equal(vote(np.array([[-0.2, -0.1]], np.float32), np.array([[0, 1]]), 3), [1])


def test_weights_follow_the_temperature() -> None:
    """One neighbour at 0.9 against two at 0.8: outvoted unless the temperature is low."""
    similarities, labels = np.array([[0.9, 0.8, 0.8]], np.float32), np.array([[1, 0, 0]])
    assert math.exp(0.1 / 0.07) > 2 > math.exp(0.1 / 0.2)
    assert vote(similarities, labels, 2, "similarity") == [1]
    assert vote(similarities, labels, 2, "similarity", 0.2) == [0]
    assert vote(similarities, labels, 2, "majority") == [0]


def test_unknown_weighting() -> None:
    with pytest.raises(FungiSegError, match=r"weighting is 'mayority'; .*did you mean 'majority'"):
        vote(np.ones((1, 1), np.float32), np.zeros((1, 1), int), 1, "mayority")


@pytest.mark.parametrize("k", [0, 11])
def test_more_neighbours_than_images(k: int) -> None:
    train, _ = blobs(10)
    with pytest.raises(FungiSegError, match=rf"k is {k}, the neighbours come from 10 training images; .*--k"):
        neighbours(train, train, k)


def test_few_shot_is_balanced_and_drawn_by_seed() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [5, 20, 60]))
    rows = few_shot(labels, NAMES[:3], 5, seed=1)
    np.testing.assert_array_equal(np.bincount(labels[rows]), [5, 5, 5])
    assert len(set(rows)) == 15
    np.testing.assert_array_equal(rows, few_shot(labels, NAMES[:3], 5, seed=1))
    others = [few_shot(labels, NAMES[:3], 5, seed, draw) for seed, draw in [(2, 0), (1, 1), (2, 1)]]
    assert all(set(a) != set(b) for a, b in itertools.combinations([rows, *others], 2))


def test_few_shot_names_scarce_classes() -> None:
    with pytest.raises(DataError, match=r"shots is 3, but 2 classes .*:\n  b: 2\n  c: 0\nLower --shots"):
        few_shot(np.array([0, 0, 0, 1, 1]), NAMES[:3], 3, seed=0)


def test_validation_split_holds_back_a_fifth_of_each_class() -> None:
    labels = np.repeat([0, 1, 2], [2, 10, 50])
    held = validation_split(labels, NAMES[:3], seed=0)
    np.testing.assert_array_equal(np.bincount(labels[held]), [1, 2, 10])
    np.testing.assert_array_equal(held, validation_split(labels, NAMES[:3], seed=0))
    assert (held != validation_split(labels, NAMES[:3], seed=1)).any()


def test_validation_split_of_a_single_image() -> None:
    with pytest.raises(DataError, match=r"single one:\n  b\nGive them more training images, or leave linear out"):
        validation_split(np.array([0, 0, 1]), NAMES[:3], seed=0)


@pytest.mark.parametrize("classes", [2, 4])
def test_linear_probe_is_a_logistic_regression_of_the_best_strength(classes: int) -> None:
    """An oracle that starts every fit anew and runs until nothing changes."""
    from sklearn.linear_model import LogisticRegression

    train, labels = blobs(120, classes, spread=2.0)
    queries, _ = blobs(200, classes, spread=2.0, seed=1)
    found, strength = linear_probe(train, labels, queries, NAMES[:classes], seed=0)
    rows = train / np.linalg.norm(train, axis=1, keepdims=True)
    held = validation_split(labels, NAMES[:classes], seed=0)

    def fitted(c: float, of: np.ndarray) -> LogisticRegression:
        return LogisticRegression(C=c, tol=1e-9, max_iter=100_000).fit(rows[of].astype(np.float64), labels[of])

    scores = [fitted(c, ~held).score(rows[held], labels[held]) for c in STRENGTHS]
    assert strength == STRENGTHS[int(np.argmax(scores))]
    expected = fitted(strength, np.ones(len(labels), bool))
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    assert (found == expected.predict(unit)).mean() >= 0.99


def test_linear_probe_takes_the_smallest_of_equal_strengths() -> None:
    train, labels = blobs(40, spread=0.01)
    found, strength = linear_probe(train, labels, train, NAMES[:4], seed=0)
    assert strength == STRENGTHS[0]
    np.testing.assert_array_equal(found, labels)


def test_linear_probe_says_nothing_of_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "MAX_ITERATIONS", 1)
    train, labels = blobs(60, spread=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, strength = linear_probe(train, labels, train, NAMES[:4], seed=0)
    assert strength in STRENGTHS
    assert (found == labels).mean() > 0.5


def test_linear_probe_keeps_the_numbers_of_classes() -> None:
    """Class 1 of four has no image: it is never predicted, and the others keep their numbers."""
    train, labels = blobs(80, spread=0.1)
    kept = labels != 1
    found, _ = linear_probe(train[kept], labels[kept], train, NAMES[:4], seed=0)
    np.testing.assert_array_equal(found[kept], labels[kept])
    assert set(found) == {0, 2, 3}


def test_clusters_of_separate_blobs_are_the_classes() -> None:
    features, labels = blobs(60, spread=0.05)
    assignments = cluster(features * np.linspace(1, 9, 60)[:, None], 4, seed=0)
    assert clustering_scores(labels, assignments) == pytest.approx({"accuracy": 1, "nmi": 1, "ari": 1})
    np.testing.assert_array_equal(assignments, cluster(features, 4, seed=0))


def test_clusters_of_equal_images_raise_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(cluster(np.ones((5, 3), np.float32), 3, seed=0)) == 5


def test_more_clusters_than_images() -> None:
    with pytest.raises(DataError, match=r"3 images can't make 4 clusters; .*leave cluster out of --methods"):
        cluster(np.eye(3, dtype=np.float32), 4, seed=0)


def test_renamed_clusters_score_full() -> None:
    labels = np.arange(40) % 4
    renamed = np.array([2, 0, 3, 1])[labels]
    assert clustering_scores(labels, renamed) == pytest.approx({"accuracy": 1, "nmi": 1, "ari": 1})


@pytest.mark.parametrize(("classes", "clusters"), [(3, 3), (3, 5), (4, 2)])
def test_clustering_scores_by_counting(classes: int, clusters: int) -> None:
    """All matchings tried; entropies and agreeing pairs of images counted one by one."""
    generator = np.random.default_rng(classes * clusters)
    labels = generator.integers(classes, size=40)
    assignments = np.where(generator.random(40) < 0.5, labels % clusters, generator.integers(clusters, size=40))
    most = max(classes, clusters)
    best = max(
        sum(order[a] == t for a, t in zip(assignments, labels, strict=True))
        for order in itertools.permutations(range(most))
    )

    def entropy(names: list) -> float:
        return -sum(names.count(n) / len(names) * math.log(names.count(n) / len(names)) for n in set(names))

    alone = entropy(labels.tolist()), entropy(assignments.tolist())
    together = entropy(list(zip(labels.tolist(), assignments.tolist(), strict=True)))
    pairs = list(itertools.combinations(range(40), 2))
    a, b = ([x[i] == x[j] for i, j in pairs] for x in (labels, assignments))
    both, chance = sum(x and y for x, y in zip(a, b, strict=True)), sum(a) * sum(b) / len(pairs)
    expected = {
        "accuracy": best / 40,
        "nmi": 2 * (sum(alone) - together) / sum(alone),
        "ari": (both - chance) / ((sum(a) + sum(b)) / 2 - chance),
    }
    assert clustering_scores(labels, assignments) == pytest.approx(expected)


def test_pca_is_that_of_a_singular_value_decomposition() -> None:
    features, _ = blobs(80, width=10)
    others, _ = blobs(9, width=10, seed=1)
    mean = features.astype(np.float64).mean(0)
    axes = np.linalg.svd(features - mean)[2][:3]
    found = fit_pca(features, 3, seed=0)
    assert found.mean.dtype == found.components.dtype == found(others).dtype == np.float32
    expected = (others - mean) @ axes.T
    signs = np.sign((found.components * axes).sum(1))
    np.testing.assert_allclose(found(others), expected * signs, atol=1e-4)


def test_stored_pca_comes_back(tmp_path: Path) -> None:
    features, _ = blobs(30)
    fitted = fit_pca(features, 2, seed=0)
    fitted.save(tmp_path / "new" / "pca.safetensors")
    loaded = Pca.load(tmp_path / "new" / "pca.safetensors")
    np.testing.assert_array_equal(loaded(features), fitted(features))
    assert loaded.fitted_to == fitted.fitted_to != ""
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["pca.safetensors"]


def test_stored_pca_is_used_only_for_the_features_it_was_fitted_to(tmp_path: Path) -> None:
    path = tmp_path / "pca.safetensors"
    features, _ = blobs(30)
    first = stored_pca(path, features, 2, seed=0)
    Pca(first.mean, -first.components, first.fitted_to).save(path)
    np.testing.assert_array_equal(stored_pca(path, features, 2, seed=0).components, -first.components)
    for changed, components, seed in [(features + 1, 2, 0), (features, 3, 0), (features, 2, 1)]:
        found = stored_pca(path, changed, components, seed)
        np.testing.assert_array_equal(found.components, fit_pca(changed, components, seed).components)
        np.testing.assert_array_equal(found.components, Pca.load(path).components)
        Pca(first.mean, -first.components, first.fitted_to).save(path)


def test_damaged_pca(tmp_path: Path) -> None:
    path = tmp_path / "pca.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"pca.safetensors: not a stored PCA .*remove the file"):
        Pca.load(path)
    with pytest.raises(DataError, match="not a stored PCA"):
        Pca.load(tmp_path / "missing.safetensors")


def test_pca_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "taken").touch()
    features, _ = blobs(30)
    with pytest.raises(FungiSegError, match="can't be written"):
        fit_pca(features, 2, seed=0).save(tmp_path / "taken" / "pca.safetensors")


@pytest.mark.parametrize(("components", "images", "width"), [(5, 4, 9), (5, 9, 4), (0, 9, 9)])
def test_more_components_than_there_are(components: int, images: int, width: int) -> None:
    with pytest.raises(
        FungiSegError, match=rf"pca is {components}, for {images} training images of {width} dim.*--pca"
    ):
        check_components(components, images, width)
    with pytest.raises(FungiSegError, match="--pca"):
        fit_pca(np.eye(images, width, dtype=np.float32), components, seed=0)
