"""Evaluate features of whole images: every combination of their parts, by every method, over several extractions."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import combinations, product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from fungi_seg.errors import DataError, FungiSegError, check_choice, listing
from fungi_seg.progress import Stopwatch, track
from fungi_seg.whole_images import classification, retrieval
from fungi_seg.whole_images.report import ImageReport
from fungi_seg.whole_images.settings import LEARNING, METHODS, ClassifyConfig
from fungi_seg.whole_images.store import SPLITS

WEIGHTING_OF = {"knn": "majority", "knn_weighted": "similarity"}
INCIDENTAL = ("seed", "root", "download", "device")
SOFTWARE = ("numpy", "scipy", "scikit-learn")


class Features(Protocol):
    """Stored features of the training and validation images of a data set."""

    @property
    def path(self) -> Path:
        """Its folder."""

    @property
    def parts(self) -> tuple[str, ...]:
        """What features are made of; the first is `embedding`."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names."""

    @property
    def fingerprint(self) -> str:
        """Of backbone and recipe, the seed among it."""

    @property
    def settings(self) -> dict[str, Any]:
        """Everything the features depend on, for JSON; `seed` is that of the extraction."""

    @property
    def ground_truth(self) -> dict[str, Any] | None:
        """Of revisited retrieval, where the images have no classes."""

    def features(self, split: str, parts: Sequence[str]) -> np.ndarray:
        """`[n, D]` float32: the parts, each of length 1, side by side."""

    def labels(self, split: str) -> np.ndarray:
        """`[n]` int64."""

    def ids(self, split: str) -> tuple[str, ...]:
        """A name for each image."""


@dataclass(frozen=True)
class _Measured:
    """One number."""

    method: str
    shots: int | None
    metric: str
    value: float
    chosen_c: float | None = None


def evaluate_images(stores: Sequence[Features], config: ClassifyConfig, progress: bool = False) -> ImageReport:
    """Compare combinations of the parts of features.

    Args:
        stores: features of one data set; several are extractions with other seeds, over which the report gives mean
            and standard deviation.
        config: what to measure.
        progress: report on standard error.

    Raises:
        DataError: images or features that can't be compared.
        FungiSegError: settings that don't fit the data.
    """
    start, clock = time.perf_counter(), Stopwatch()
    if not stores:
        raise FungiSegError("stores is empty; give the features of at least one extraction")
    chosen = parse_combinations(config.combinations, stores[0].parts)
    methods = _methods(config, stores[0])
    with clock("checks"):
        _check_alike(stores)
        _check_images(stores[0])
        widths = {part: width for store in stores for part, width in _check_features(store).items()}
        if config.pca is not None:
            for parts in chosen:
                width = sum(widths[part] for part in parts)
                classification.check_components(config.pca, len(stores[0].ids("train")), width)
        subsets = _subsets(stores[0], config, methods)
    measured: dict[tuple[str, str, int | None, str], list[_Measured]] = {}
    runs = list(product(chosen, stores))
    for parts, store in track(runs, len(runs), "evaluation", unit="combinations", show=progress):
        for found in _measure(store, parts, config, methods, subsets, clock):
            key = ("+".join(parts), found.method, found.shots, found.metric)
            measured.setdefault(key, []).append(found)
    seconds = dict(clock.seconds) | {"total": time.perf_counter() - start}
    return _report(stores, config, methods, measured, seconds)


def parse_combinations(wanted: Sequence[str], parts: Sequence[str]) -> list[tuple[str, ...]]:
    """Combinations of `parts` as tuples in the order of `parts`; without any `wanted`, all of them, smallest first.

    Raises:
        FungiSegError: an unknown part, or one named twice.
    """
    if not wanted:
        return [chosen for size in range(1, len(parts) + 1) for chosen in combinations(parts, size)]
    found = []
    for combination in wanted:
        names = [name.strip() for name in combination.split("+")]
        for name in names:
            check_choice(f"combinations has {combination!r}, where a part", name, parts)
        if len(set(names)) < len(names):
            raise FungiSegError(f"combinations has {combination!r}, which names a part twice; name each once")
        found.append(tuple(part for part in parts if part in names))
    return list(dict.fromkeys(found))


def _methods(config: ClassifyConfig, store: Features) -> tuple[str, ...]:
    """What can be run: with a ground truth retrieval alone."""
    if store.ground_truth is None:
        return tuple(m for m in METHODS if m in config.methods)
    if set(config.methods) not in ({*METHODS}, {"retrieval"}):
        raise FungiSegError(
            f"methods is {', '.join(config.methods)}, but {store.path} has a ground truth for retrieval and no "
            f"classes; use --methods retrieval"
        )
    if config.shots:
        raise FungiSegError(
            f"shots is {list(config.shots)}, but {store.path} has a ground truth for retrieval, and nothing learns "
            f"from it; leave --shots out"
        )
    return ("retrieval",)


def _check_alike(stores: Sequence[Features]) -> None:
    """Raise unless all stores hold the same images, classes and parts."""
    first = stores[0]
    for other in stores[1:]:
        same = {
            "parts": first.parts == other.parts,
            "classes": first.classes == other.classes,
            "ground truth": first.ground_truth == other.ground_truth,
        }
        for split in SPLITS:
            same[f"ids of {split} images"] = first.ids(split) == other.ids(split)
            if first.ground_truth is None and other.ground_truth is None:
                same[f"labels of {split} images"] = np.array_equal(first.labels(split), other.labels(split))
        different = [what for what, alike in same.items() if not alike]
        if different:
            raise DataError(
                f"{first.path} and {other.path} have different {', '.join(different)}; only extractions of the same "
                f"images can be averaged: evaluate them one by one"
            )


def _check_images(store: Features) -> None:
    """Raise unless there are images to learn from and to be tested on."""
    for split in SPLITS:
        if not store.ids(split):
            raise DataError(f"{store.path}: no {split} images; extract features of both splits")
    if store.ground_truth is not None:
        retrieval.check_ground_truth(store.ground_truth, len(store.ids("val")), len(store.ids("train")))
        return
    known, asked = (np.unique(store.labels(split)) for split in SPLITS)
    if len(known) < 2:
        raise DataError(
            f"{store.path}: the training images have a single class, {store.classes[known[0]]!r}; two are needed"
        )
    unknown = [store.classes[c] for c in np.setdiff1d(asked, known)]
    if unknown:
        raise DataError(
            f"{store.path}: {len(unknown)} classes have validation images but no training image:\n{listing(unknown)}\n"
            f"Give them training images, or leave them out of the validation images"
        )


def _check_features(store: Features) -> dict[str, int]:
    """The width of each part; raises unless every feature is finite and belongs to an image."""
    widths = {}
    for split, part in product(SPLITS, store.parts):
        features, ids = store.features(split, (part,)), store.ids(split)
        if len(features) != len(ids):
            raise DataError(f"{store.path}: {len(features)} features of {len(ids)} {split} images; extract them again")
        broken = np.flatnonzero(~np.isfinite(features).all(1))
        if len(broken):
            lines = listing(ids[i] for i in broken)
            raise DataError(
                f"{store.path}: part {part!r} is not finite for {len(broken)} {split} images:\n{lines}\n"
                f"Extract them again in float32, or leave these images out"
            )
        widths[part] = features.shape[1]
    return widths


def _subsets(
    store: Features, config: ClassifyConfig, methods: Sequence[str]
) -> list[tuple[int | None, np.ndarray | slice]]:
    """Which training images to learn from: all of them, then every draw of so many a class."""
    if not set(methods) & set(LEARNING):
        return []
    labels = store.labels("train")
    draws = [
        (shots, classification.few_shot(labels, store.classes, shots, config.seed, draw))
        for shots in dict.fromkeys(config.shots)
        for draw in range(config.shot_seeds)
    ]
    if set(methods) & set(WEIGHTING_OF):
        for images in (labels, *(rows for _, rows in draws)):
            classification.check_k(config.k, len(images))
    if "linear" in methods:
        classification.validation_split(labels, store.classes, config.seed)
    return [(None, slice(None)), *draws]


def _measure(
    store: Features,
    parts: tuple[str, ...],
    config: ClassifyConfig,
    methods: Sequence[str],
    subsets: Sequence[tuple[int | None, np.ndarray | slice]],
    clock: Stopwatch,
) -> Iterator[_Measured]:
    """Every number for one combination of one extraction."""
    with clock("features"):
        train, val = (store.features(split, parts) for split in SPLITS)
    if config.pca is not None:
        with clock("pca"):
            path = store.path / f"pca-{config.pca}-{'+'.join(parts)}.safetensors"
            reduce = classification.stored_pca(path, train, config.pca, config.seed)
            train, val = reduce(train), reduce(val)
    for shots, rows in subsets:
        yield from _learn(store, train[rows], val, rows, shots, config, methods, clock)
    if "cluster" in methods:
        labels = store.labels("val")
        with clock("cluster"):
            assignments = classification.cluster(val, len(np.unique(labels)), config.seed)
        for metric, value in classification.clustering_scores(labels, assignments).items():
            yield _Measured("cluster", None, metric, value)
    if "retrieval" in methods:
        with clock("retrieval"):
            found = _retrieve(store, train, val)
        for method, scores in found.items():
            for metric, value in scores.items():
                yield _Measured(method, None, metric, value)


def _learn(
    store: Features,
    train: np.ndarray,
    val: np.ndarray,
    rows: np.ndarray | slice,
    shots: int | None,
    config: ClassifyConfig,
    methods: Sequence[str],
    clock: Stopwatch,
) -> Iterator[_Measured]:
    """Accuracies of the methods that learn, from these rows of the training images."""
    labels, truth, count = store.labels("train")[rows], store.labels("val"), len(store.classes)
    predictions: dict[str, np.ndarray] = {}
    chosen_c = None
    if set(methods) & set(WEIGHTING_OF):
        with clock("knn"):
            similarities, nearest = classification.neighbours(train, val, config.k)
            for method in (m for m in methods if m in WEIGHTING_OF):
                predictions[method] = classification.vote(similarities, labels[nearest], count, WEIGHTING_OF[method])
    if "linear" in methods:
        with clock("linear"):
            predictions["linear"], chosen_c = classification.linear_probe(
                train, labels, val, store.classes, config.seed
            )
    for method, predicted in predictions.items():
        top1, mean = classification.accuracies(truth, predicted, count)
        yield _Measured(method, shots, "top1", top1, chosen_c if method == "linear" else None)
        yield _Measured(method, shots, "mean_per_class", mean)


def _retrieve(store: Features, train: np.ndarray, val: np.ndarray) -> dict[str, dict[str, float]]:
    """Scores by method: validation images are the queries, training images the database."""
    if store.ground_truth is None:
        ranked = retrieval.rankings(train, val)
        return {"retrieval": retrieval.label_retrieval(store.labels("train"), store.labels("val"), ranked)}
    ranking = retrieval.rank(train, val)
    return {
        f"retrieval_{protocol}": retrieval.revisited_retrieval(ranking, store.ground_truth, protocol)
        for protocol in retrieval.PROTOCOLS
    }


def _report(
    stores: Sequence[Features],
    config: ClassifyConfig,
    methods: Sequence[str],
    measured: dict[tuple[str, str, int | None, str], list[_Measured]],
    seconds: dict[str, float],
) -> ImageReport:
    results, notes = [], _notes(stores)
    queries = len(stores[0].ids("val"))
    for (features, method, shots, metric), found in measured.items():
        values = [f.value for f in found]
        if metric == "queries":
            note = f"{method}: {queries - values[0]:.0f} of {queries} queries have no positive and are left out"
            notes += [note] if values[0] < queries and note not in notes else []
            continue
        result: dict[str, Any] = {"features": features, "method": method, "shots": shots, "metric": metric}
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        result |= {"values": values, "mean": float(np.mean(values)), "std": spread}
        if found[0].chosen_c is not None:
            result["chosen_c"] = [f.chosen_c for f in found]
        results.append(result)
    first = stores[0]
    settings = {
        "classify": asdict(config) | {"methods": methods},
        "data": {"train": len(first.ids("train")), "val": queries, "classes": first.classes, "parts": first.parts},
        "stores": [{"path": str(s.path), "fingerprint": s.fingerprint, "settings": s.settings} for s in stores],
        "software": {name: version(name) for name in SOFTWARE},
    }
    return ImageReport(results, settings, notes, seconds)


def _notes(stores: Sequence[Features]) -> list[str]:
    """What speaks against reading the spread as that of the seed."""
    notes = []
    first = stores[0]
    if len({store.fingerprint for store in stores}) < len(stores):
        notes.append("some of the extractions have the same fingerprint, seed included: they are not independent")
    for other in stores[1:]:
        ours, theirs = _that_matter(first.settings), _that_matter(other.settings)
        different = [name for name in sorted({*ours, *theirs}) if ours.get(name) != theirs.get(name)]
        if different:
            notes.append(f"{first.path} and {other.path} differ in more than the seed: {', '.join(different)}")
    return notes


def _that_matter(settings: Any) -> Any:
    """Nested settings without what sets apart extractions that are to be averaged, and where and how they ran."""
    if isinstance(settings, dict):
        return {key: _that_matter(value) for key, value in settings.items() if key not in INCIDENTAL}
    return [_that_matter(value) for value in settings] if isinstance(settings, list) else settings
