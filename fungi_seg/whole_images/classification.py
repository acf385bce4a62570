"""What features of whole images are worth: nearest neighbours, a linear probe, clusters, fewer dimensions.

Features are `[n, D]` float32, labels `[n]` int64 with values 0…C−1. Cosine: rows are brought to length 1 here.
"""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from fungi_seg.errors import DataError, FungiSegError, check_choice, listing, reason
from fungi_seg.files import save_arrays
from fungi_seg.search import IndexConfig, NeighbourIndex, neighbour_weights

WEIGHTINGS = ("majority", "similarity")
TEMPERATURE = 0.07
STRENGTHS = tuple(10.0**power for power in range(-1, 6))
TOLERANCE = 1e-6
MAX_ITERATIONS = 1000
VALIDATION_SHARE = 0.2
GPU_NEIGHBOURS = 2048
SMALL = 10_000_000  # numbers in the features, below which one thread is faster than two
PROCESS = threading.Lock()  # warnings and limits are those of the process: of two that end in turn, one would stay


def unit_length(features: np.ndarray) -> np.ndarray:
    """`[n, D]` float32 rows of length 1; rows of zeros stay zeros."""
    features = np.asarray(features, np.float32)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.maximum(lengths, np.finfo(np.float32).tiny)


def accuracies(labels: np.ndarray, predictions: np.ndarray, classes: int) -> tuple[float, float]:
    """Top-1 accuracy, and its mean over the classes that `labels` holds; both 0..1."""
    right = labels == predictions
    images = np.bincount(labels, minlength=classes)
    hits = np.bincount(labels[right], minlength=classes)
    present = images > 0
    return float(right.mean()), float((hits[present] / images[present]).mean())


def check_k(k: int, images: int) -> None:
    """Raise unless `k` neighbours can be found among so many images."""
    if not 1 <= k <= images:
        raise FungiSegError(
            f"k is {k}, the neighbours come from {images} training images; k must be between 1 and that: lower --k, "
            f"raise --shots if that is what makes them few, or give more training images"
        )


def neighbours(train: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The `k` training images nearest to each query, nearest first, by an exact search.

    Args:
        train: `[n, D]`.
        queries: `[Q, D]`.
        k: 1 ≤ k ≤ n.

    Returns:
        Cosine similarities `[Q, K]` float32 and rows of `train` `[Q, K]` int64.

    Raises:
        FungiSegError: fewer training images than `k`.
    """
    check_k(k, len(train))
    device = "auto" if k <= GPU_NEIGHBOURS else "cpu"  # FAISS finds no more than that on a GPU
    return NeighbourIndex(unit_length(train), IndexConfig("flat", device=device)).search(unit_length(queries), k)


def vote(
    similarities: np.ndarray,
    labels: np.ndarray,
    classes: int,
    weighting: str = "majority",
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """The class that the neighbours of each query vote for.

    `majority` counts heads (FUNGI, Simoncini et al. 2024); a tie goes to the tied class with the larger sum of
    similarities. `similarity` weighs neighbours by exp(cosine / temperature) (DINO, Caron et al. 2021).

    Args:
        similarities: `[Q, K]` cosines.
        labels: `[Q, K]` classes of the neighbours.
        classes: `C`.
        weighting: `majority` or `similarity`.
        temperature: of `similarity`.

    Returns:
        `[Q]` int64.
    """
    check_choice("weighting", weighting, WEIGHTINGS)
    cells = (np.arange(len(labels))[:, None] * classes + labels).ravel()

    def per_class(weights: np.ndarray) -> np.ndarray:
        return np.bincount(cells, weights.ravel(), minlength=len(labels) * classes).reshape(len(labels), classes)

    if weighting == "similarity":
        return per_class(neighbour_weights(similarities, temperature)).argmax(1)
    heads = per_class(np.ones(labels.shape))
    leading = heads == heads.max(1, keepdims=True)
    return np.where(leading, per_class(similarities), -np.inf).argmax(1)


def knn(
    train: np.ndarray,
    train_labels: np.ndarray,
    queries: np.ndarray,
    classes: int,
    k: int = 20,
    weighting: str = "majority",
    temperature: float = TEMPERATURE,
) -> np.ndarray:
    """Classes `[Q]` int64 of the queries by their `k` nearest training images; see `neighbours` and `vote`."""
    similarities, rows = neighbours(train, queries, k)
    return vote(similarities, train_labels[rows], classes, weighting, temperature)


def few_shot(labels: np.ndarray, classes: Sequence[str], shots: int, seed: int, draw: int = 0) -> np.ndarray:
    """`shots` images of each class, drawn without replacement.

    Args:
        labels: `[n]`.
        classes: names.
        shots: images a class.
        seed: with `shots` and `draw`, what the images depend on.
        draw: number of the draw.

    Returns:
        `[shots · C]` int64 indices, rising.

    Raises:
        DataError: a class has fewer images.
    """
    images = np.bincount(labels, minlength=len(classes))
    scarce = [f"{name}: {count}" for name, count in zip(classes, images, strict=True) if count < shots]
    if scarce:
        raise DataError(
            f"shots is {shots}, but {len(scarce)} classes have fewer training images:\n{listing(scarce)}\n"
            f"Lower --shots, or leave these classes out of the data"
        )
    generator = np.random.default_rng([seed, shots, draw])
    parts = [generator.choice(np.flatnonzero(labels == c), shots, replace=False) for c in range(len(classes))]
    return np.sort(np.concatenate(parts))


def validation_split(labels: np.ndarray, classes: Sequence[str], seed: int) -> np.ndarray:
    """Which training images to hold back: a fifth of each class, at least one.

    Args:
        labels: `[n]`.
        classes: names.
        seed: of the draw.

    Returns:
        `[n]` bool.

    Raises:
        DataError: a class has a single image, which can't be on both sides.
    """
    images = np.bincount(labels, minlength=len(classes))
    if (images == 1).any():
        raise DataError(
            f"the linear probe holds back at least one training image of each class, and these have a single one:\n"
            f"{listing(name for name, count in zip(classes, images, strict=True) if count == 1)}\n"
            f"Give them more training images, or leave linear out of --methods"
        )
    generator = np.random.default_rng(seed)
    held = np.zeros(len(labels), bool)
    for c in np.flatnonzero(images):
        count = max(1, round(VALIDATION_SHARE * images[c]))
        held[generator.choice(np.flatnonzero(labels == c), count, replace=False)] = True
    return held


def linear_probe(
    train: np.ndarray, train_labels: np.ndarray, queries: np.ndarray, classes: Sequence[str], seed: int
) -> tuple[np.ndarray, float]:
    """Multinomial logistic regression, its strength C chosen on a fifth of the training images, then fitted to all.

    A fit that hasn't converged after `MAX_ITERATIONS` counts as it is: it is one that was stopped early, and is chosen
    only if it does best on the images held back.

    Args:
        train: `[n, D]`.
        train_labels: `[n]`, of at least two classes.
        queries: `[Q, D]`.
        classes: names.
        seed: of the images held back.

    Returns:
        Classes `[Q]` int64, and the C of `STRENGTHS` with the most held-back images right, the smallest of equals.

    Raises:
        DataError: a class has a single training image.
    """
    from sklearn.linear_model import LogisticRegression

    held = validation_split(train_labels, classes, seed)
    train = unit_length(train)
    model = LogisticRegression(tol=TOLERANCE, max_iter=MAX_ITERATIONS, warm_start=True)
    best, chosen, start = -1.0, STRENGTHS[0], (np.empty(0), np.empty(0))
    with _learning(train):
        for strength in STRENGTHS:
            model.set_params(C=strength).fit(train[~held], train_labels[~held])
            right = model.score(train[held], train_labels[held])
            if right > best:
                best, chosen, start = right, strength, (model.coef_, model.intercept_)
        model.coef_, model.intercept_ = start
        model.set_params(C=chosen).fit(train, train_labels)
    return model.predict(unit_length(queries)), chosen


def cluster(features: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Clusters `[n]` int64 of images, by k-means on rows of length 1, the best of ten starts.

    Raises:
        DataError: fewer images than clusters.
    """
    from sklearn.cluster import KMeans

    if len(features) < clusters:
        raise DataError(
            f"{len(features)} images can't make {clusters} clusters; give more images, or leave cluster out of "
            f"--methods"
        )
    with _learning(features):
        assignments = KMeans(clusters, n_init=10, random_state=seed).fit_predict(unit_length(features))
    return assignments.astype(np.int64)


def clustering_scores(labels: np.ndarray, assignments: np.ndarray) -> dict[str, float]:
    """How well clusters `[n]` fit the classes `[n]`.

    Returns:
        `accuracy` after the best one-to-one matching of clusters with classes, 0..1 (images of a cluster left over are
        wrong); `nmi`, mutual information by the mean of both entropies, 0..1; `ari`, adjusted Rand index, −0.5..1.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    table = np.zeros((labels.max() + 1, assignments.max() + 1), np.int64)
    np.add.at(table, (labels, assignments), 1)
    return {
        "accuracy": float(table[linear_sum_assignment(table, maximize=True)].sum() / len(labels)),
        "nmi": float(normalized_mutual_info_score(labels, assignments)),
        "ari": float(adjusted_rand_score(labels, assignments)),
    }


@dataclass(frozen=True)
class Pca:
    """Principal components of some features.

    Attributes:
        mean: `[D]` float32.
        components: `[c, D]` float32 orthonormal rows, largest variance first.
        fitted_to: `fingerprint` of what they were fitted to.
    """

    mean: np.ndarray
    components: np.ndarray
    fitted_to: str = ""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """`[n, D]` features to `[n, c]` float32."""
        return (features - self.mean) @ self.components.T

    def save(self, path: Path) -> None:
        """Write as safetensors, whole or not at all."""
        save_arrays(path, {"mean": self.mean, "components": self.components}, {"fitted_to": self.fitted_to})

    @classmethod
    def load(cls, path: Path) -> Pca:
        """Read what `save` wrote.

        Raises:
            DataError: another kind of file, or a damaged one.
        """
        try:
            with safe_open(path, "numpy") as file:
                fitted_to = (file.metadata() or {}).get("fitted_to", "")
                return cls(file.get_tensor("mean"), file.get_tensor("components"), fitted_to)
        except (OSError, SafetensorError) as error:
            raise DataError(
                f"{path}: not a stored PCA ({reason(error)}); remove the file, and it is made again"
            ) from error


def fingerprint(features: np.ndarray, seed: int) -> str:
    """SHA-256 of what a PCA depends on apart from its number of components."""
    digest = hashlib.sha256(f"{features.shape} {features.dtype} {seed}".encode())
    digest.update(np.ascontiguousarray(features).data)
    return digest.hexdigest()


def fit_pca(train: np.ndarray, components: int, seed: int) -> Pca:
    """Principal components of `train` `[n, D]`; `seed` is that of the randomised solver, used for large ones.

    Raises:
        FungiSegError: more components than images or dimensions.
    """
    from sklearn.decomposition import PCA

    check_components(components, *train.shape)
    fitted = PCA(components, random_state=seed).fit(train)
    mean, axes = fitted.mean_.astype(np.float32), fitted.components_.astype(np.float32)
    return Pca(mean, axes, fingerprint(train, seed))


def stored_pca(path: Path, train: np.ndarray, components: int, seed: int) -> Pca:
    """`fit_pca`, read from `path` if it was fitted to the very same there, and kept there otherwise."""
    if path.exists():
        stored = Pca.load(path)
        if stored.fitted_to == fingerprint(train, seed) and len(stored.components) == components:
            return stored
    fitted = fit_pca(train, components, seed)
    fitted.save(path)
    return fitted


def check_components(components: int, images: int, width: int) -> None:
    """Raise unless a PCA with so many components can be fitted to `images` features of that width."""
    if not 1 <= components <= min(images, width):
        raise FungiSegError(
            f"pca is {components}, for {images} training images of {width} dimensions; it must be between 1 and the "
            f"smaller of the two: lower --pca, or leave it out"
        )


@contextmanager
def _learning(features: np.ndarray) -> Iterator[None]:
    """Without scikit-learn's warnings about convergence; on few features without threads that wait for each other."""
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    threads = 1 if features.size < SMALL else None
    with PROCESS, warnings.catch_warnings(), threadpool_limits(threads):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield
