"""Combinations of parts end to end, on features held in memory: what is measured, told, drawn and refused."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.whole_images import classification, retrieval
from fungi_seg.whole_images.evaluation import evaluate_images, parse_combinations
from fungi_seg.whole_images.report import ImageReport
from fungi_seg.whole_images.settings import ClassifyConfig

CLASSES = ("ant", "bee", "cat")
PARTS = ("embedding", "kl", "noise")
QUICK = ClassifyConfig(methods=("knn",), k=5)


@dataclass(frozen=True)
class Store:
    """Features by split and part."""

    path: Path
    arrays: dict[tuple[str, str], np.ndarray]
    indices: dict[str, np.ndarray]
    parts: tuple[str, ...] = PARTS
    classes: tuple[str, ...] = CLASSES
    fingerprint: str = "0"
    settings: dict[str, Any] = field(default_factory=lambda: {"seed": 0})
    ground_truth: dict[str, Any] | None = None

    def features(self, split: str, parts: Sequence[str]) -> np.ndarray:
        return np.concatenate([self.arrays[split, part] for part in parts], axis=1)

    def labels(self, split: str) -> np.ndarray:
        if self.ground_truth is not None:
            raise AssertionError("images of a ground truth have no labels")
        return self.indices[split]

    def ids(self, split: str) -> tuple[str, ...]:
        return tuple(f"{split}{i}.jpg" for i in range(len(self.indices[split])))


def make(path: Path, seed: int = 0, train: int = 45, val: int = 60) -> Store:
    """`embedding` tells the classes somewhat, `kl` better, `noise` nothing."""
    generator = np.random.default_rng(seed)
    indices = {"train": np.arange(train) % 3, "val": np.arange(val) % 3}
    arrays = {}
    for part, spread in zip(PARTS, (1.6, 0.6, None), strict=True):
        centres = np.random.default_rng(len(part)).normal(size=(3, 8))
        for split, labels in indices.items():
            noise = generator.normal(size=(len(labels), 8))
            values = noise if spread is None else centres[labels] + spread * noise
            arrays[split, part] = classification.unit_length(values)
    return Store(path, arrays, indices, fingerprint=str(seed), settings={"seed": seed, "layer": 11})


def with_values(store: Store, split: str, part: str, values: np.ndarray) -> Store:
    return replace(store, arrays=store.arrays | {(split, part): values})


def with_labels(store: Store, split: str, labels: list[int]) -> Store:
    """Another number of images too: as many as labels."""
    count = len(labels)
    arrays = {key: values[:count] if key[0] == split else values for key, values in store.arrays.items()}
    return replace(store, arrays=arrays, indices=store.indices | {split: np.array(labels, np.int64)})


def revisited(store: Store) -> Store:
    """Images of the query's class: two easy, two hard ones; the first query has no hard one."""
    queries = []
    for number, label in enumerate(store.indices["val"]):
        rows = np.flatnonzero(store.indices["train"] == label).tolist()
        queries.append({"easy": rows[:2], "hard": rows[2:4] if number else [], "junk": rows[4:6]})
    return replace(store, ground_truth={"queries": queries})


def mean(report: ImageReport, features: str, method: str, metric: str, shots: int | None = None) -> float:
    return one(report, features, method, metric, shots)["mean"]


def one(report: ImageReport, features: str, method: str, metric: str, shots: int | None = None) -> dict[str, Any]:
    wanted = {"features": features, "method": method, "shots": shots, "metric": metric}
    [found] = [r for r in report.results if all(r[name] == value for name, value in wanted.items())]
    return found


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> ImageReport:
    """Every method, all training images and five a class, one extraction."""
    return evaluate_images([make(tmp_path_factory.mktemp("store"))], ClassifyConfig(k=7, shots=(5,)))


def test_every_combination_is_measured_smallest_first(full: ImageReport) -> None:
    header, rows = full.table()
    assert [row[0] for row in rows] == [
        "embedding", "kl", "noise", "embedding+kl", "embedding+noise", "kl+noise", "embedding+kl+noise",
    ]  # fmt: skip
    assert header == [
        "features", "knn top-1", "weighted top-1", "linear top-1", "knn, 5 a class", "weighted, 5 a class",
        "linear, 5 a class", "cluster accuracy", "retrieval mAP",
    ]  # fmt: skip
    assert all(len(row) == len(header) for row in rows)


@pytest.mark.parametrize(
    ("method", "metric", "shots"),
    [
        ("knn", "top1", None),
        ("knn_weighted", "top1", None),
        ("linear", "top1", None),
        ("knn", "mean_per_class", 5),
        ("linear", "top1", 5),
        ("cluster", "accuracy", None),
        ("cluster", "ari", None),
        ("retrieval", "map", None),
        ("retrieval", "mp@10", None),
    ],
)
def test_informative_parts_come_first_and_noise_last(
    full: ImageReport, method: str, metric: str, shots: int | None
) -> None:
    kl, embedding, noise = (mean(full, part, method, metric, shots) for part in ("kl", "embedding", "noise"))
    assert 1 >= kl > embedding > noise + 0.05


def test_numbers_are_those_of_the_methods(tmp_path: Path) -> None:
    store = make(tmp_path)
    report = evaluate_images([store], ClassifyConfig(combinations=("noise+embedding",), k=7, seed=3))
    name = "embedding+noise"
    train, val = (store.features(split, ("embedding", "noise")) for split in ("train", "val"))
    labels, truth = store.labels("train"), store.labels("val")
    for method, weighting in {"knn": "majority", "knn_weighted": "similarity"}.items():
        found = classification.knn(train, labels, val, 3, 7, weighting)
        assert mean(report, name, method, "top1") == pytest.approx((found == truth).mean())
    found, strength = classification.linear_probe(train, labels, val, CLASSES, 3)
    assert mean(report, name, "linear", "top1") == pytest.approx((found == truth).mean())
    assert one(report, name, "linear", "top1")["chosen_c"] == [strength]
    scores = classification.clustering_scores(truth, classification.cluster(val, 3, 3))
    assert {m: mean(report, name, "cluster", m) for m in scores} == pytest.approx(scores)
    scores = retrieval.label_retrieval(labels, truth, retrieval.rank(train, val))
    assert scores.pop("queries") == 60
    assert {m: mean(report, name, "retrieval", m) for m in scores} == pytest.approx(scores)


def test_shots_learn_from_the_drawn_images(tmp_path: Path) -> None:
    store = make(tmp_path)
    config = replace(QUICK, combinations=("embedding",), shots=(3, 4), shot_seeds=2, seed=1)
    report = evaluate_images([store], config)
    for shots in (3, 4):
        values = []
        for draw in range(2):
            rows = classification.few_shot(store.labels("train"), CLASSES, shots, 1, draw)
            train, labels = store.features("train", ("embedding",))[rows], store.labels("train")[rows]
            found = classification.knn(train, labels, store.features("val", ("embedding",)), 3, 5)
            values.append(float((found == store.labels("val")).mean()))
        result = one(report, "embedding", "knn", "top1", shots)
        assert result["values"] == pytest.approx(values)
        assert result["std"] == pytest.approx(statistics.stdev(values))


def test_two_extractions_give_mean_and_deviation(tmp_path: Path) -> None:
    stores = [make(tmp_path / "a", 0), make(tmp_path / "b", 1)]
    report = evaluate_images(stores, QUICK)
    alone = [mean(evaluate_images([store], QUICK), "embedding", "knn", "top1") for store in stores]
    result = one(report, "embedding", "knn", "top1")
    assert alone[0] != alone[1]
    assert result["values"] == alone
    text = f"{50 * sum(alone):.2f} ± {100 * statistics.stdev(alone):.2f}"
    assert report.table()[1][0] == ["embedding", text]
    assert text in report.to_markdown()
    assert report.notes == []


def test_one_extraction_has_no_deviation(full: ImageReport) -> None:
    result = one(full, "kl", "cluster", "nmi")
    assert result["std"] == 0
    assert len(result["values"]) == 1
    assert "±" not in full.table()[1][0][1]
    assert "±" in full.table()[1][0][4]  # three draws


def test_odd_extractions_are_noted(tmp_path: Path) -> None:
    first = make(tmp_path / "a")
    other = replace(first, path=tmp_path / "b", settings={"seed": 1, "layer": 5, "crop": 2})
    notes = evaluate_images([first, other], QUICK).notes
    assert notes[0].startswith("some of the extractions have the same fingerprint")
    assert notes[1] == f"{tmp_path / 'a'} and {tmp_path / 'b'} differ in more than the seed: crop, layer"


def test_json_holds_everything(full: ImageReport) -> None:
    loaded = json.loads(full.to_json())
    assert loaded["results"] == full.results
    assert loaded["settings"]["classify"]["shots"] == [5]
    assert loaded["settings"]["stores"][0]["settings"] == {"seed": 0, "layer": 11}
    assert loaded["settings"]["data"] == {"train": 45, "val": 60, "classes": list(CLASSES), "parts": list(PARTS)}
    assert {"checks", "features", "knn", "linear", "cluster", "retrieval", "total"} <= set(loaded["seconds"])


def test_markdown_has_a_table_for_each_kind_of_figure(full: ImageReport) -> None:
    lines = full.to_markdown().splitlines()
    headers = [lines[i - 1] for i, line in enumerate(lines) if line.startswith("|---")]
    assert headers == [
        "| features | knn top-1 | weighted top-1 | linear top-1 | knn, 5 a class | weighted, 5 a class "
        "| linear, 5 a class | cluster accuracy | retrieval mAP |",
        "| features | knn mean per class | weighted mean per class | linear mean per class | knn, 5 a class "
        "| weighted, 5 a class | linear, 5 a class |",
        "| features | cluster NMI | cluster ARI |",
        "| features | retrieval mP@1 | retrieval mP@5 | retrieval mP@10 |",
        "| stage | seconds |",
    ]


def result(features: str, value: float, metric: str = "top1") -> dict[str, Any]:
    return {"features": features, "method": "knn", "shots": None, "metric": metric, "values": [value], "mean": value,
            "std": 0.0}  # fmt: skip


def test_best_of_a_column_is_bold_and_so_is_what_reads_the_same() -> None:
    results = [result("embedding", 0.34), result("kl", 0.344011), result("dino", 0.343999)]
    settings = {"data": {"train": 1, "val": 1, "parts": ["embedding", "kl", "dino"]}}
    lines = ImageReport(results, settings, ["mind the gap"], {"total": 1.0}).to_markdown().splitlines()
    assert lines[4:9] == [
        "| features | knn top-1 |",
        "|---|---:|",
        "| embedding | 34.00 |",
        "| kl | **34.40** |",
        "| dino | **34.40** |",
    ]
    assert "- mind the gap" in lines


@pytest.mark.parametrize(
    ("methods", "shots", "inches"),
    [(("knn",), (), (1.8 + 2.6, 1.3 + 7 * 0.24)), (("knn", "knn_weighted", "cluster"), (5,), (1.8 + 4 * 2.6, 5.66))],
)
def test_chart_is_a_picture_of_all_panels(
    tmp_path: Path, methods: tuple[str, ...], shots: tuple[int, ...], inches: tuple[float, float]
) -> None:
    """One panel, and five in two rows of four."""
    report = evaluate_images([make(tmp_path)], ClassifyConfig(methods, k=5, shots=shots))
    report.chart(tmp_path / "new" / "chart.png")
    with Image.open(tmp_path / "new" / "chart.png") as picture:
        assert picture.format == "PNG"
        assert picture.size == pytest.approx([150 * side for side in inches], abs=1)
        shades = np.asarray(picture.convert("L"))
    panels = len(report.table()[0]) - 1
    rows, columns = (1, 1) if panels == 1 else (2, 4)
    height, width = (shades.shape[0] - 45) // rows, (shades.shape[1] - 150 * 1.8) / columns
    for number in range(rows * columns):
        top, left = number // columns * height, int(150 * 1.8 + number % columns * width)
        inked = (shades[top : top + height, left : left + int(width)] < 200).mean()
        assert (inked > 0.03) == (number < panels)


def test_chart_draws_figures_of_nothing(tmp_path: Path) -> None:
    report = ImageReport([result("kl", 0.0), result("kl+dino", 0.0)], {}, [], {})
    report.chart(tmp_path / "chart.png")
    with Image.open(tmp_path / "chart.png") as picture:
        assert picture.size == (660, 303)


def test_chart_that_cannot_be_written(tmp_path: Path, full: ImageReport) -> None:
    (tmp_path / "taken").touch()
    with pytest.raises(FungiSegError, match="can't be written"):
        full.chart(tmp_path / "taken" / "chart.png")


def test_pca_is_kept_beside_the_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make(tmp_path)
    config = replace(QUICK, pca=2, combinations=("kl", "kl+noise"))
    report = evaluate_images([store], config)
    train, val = (store.features(split, ("kl", "noise")) for split in ("train", "val"))
    reduce = classification.fit_pca(train, 2, 0)
    found = classification.knn(reduce(train), store.labels("train"), reduce(val), 3, 5)
    assert mean(report, "kl+noise", "knn", "top1") == pytest.approx((found == store.labels("val")).mean())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pca-2-kl+noise.safetensors", "pca-2-kl.safetensors"]

    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(classification, "fit_pca", refuse)
    assert evaluate_images([store], config).results == report.results


def test_ground_truth_runs_both_protocols(tmp_path: Path) -> None:
    store = revisited(make(tmp_path))
    report = evaluate_images([store], ClassifyConfig(combinations=("kl",)))
    ranking = retrieval.rank(store.features("train", ("kl",)), store.features("val", ("kl",)))
    for protocol, queries in {"medium": 60, "hard": 59}.items():
        expected = retrieval.revisited_retrieval(ranking, store.ground_truth or {}, protocol)
        assert expected.pop("queries") == queries
        assert {m: mean(report, "kl", f"retrieval_{protocol}", m) for m in expected} == pytest.approx(expected)
    assert report.table()[0] == ["features", "medium mAP", "hard mAP"]
    assert report.notes == ["retrieval_hard: 1 of 60 queries have no positive and are left out"]
    assert report.settings["classify"]["methods"] == ("retrieval",)


def test_left_out_queries_are_noted_once(tmp_path: Path) -> None:
    report = evaluate_images([revisited(make(tmp_path))], ClassifyConfig(methods=("retrieval",)))
    assert len(report.notes) == 1


def test_progress_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_images([make(tmp_path)], QUICK)
    assert capsys.readouterr().err == ""
    evaluate_images([make(tmp_path), make(tmp_path, 1)], QUICK, progress=True)
    assert "evaluation: 14/14 combinations" in capsys.readouterr().err


def test_combinations_are_put_in_order_and_once() -> None:
    assert parse_combinations(["kl + embedding", "embedding+kl", "kl"], PARTS) == [("embedding", "kl"), ("kl",)]
    assert parse_combinations([], ("a", "b")) == [("a",), ("b",), ("a", "b")]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("embedding+ki", r"combinations has 'embedding\+ki', where a part is 'ki'; .*embedding, kl, noise"),
        ("kl+kl", r"combinations has 'kl\+kl', which names a part twice"),
    ],
)
def test_bad_combinations(wanted: str, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        parse_combinations([wanted], PARTS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("kn",)}, "methods is 'kn'; it must be one of .*did you mean 'knn'"),
        ({"methods": ()}, "methods is empty; name at least one of knn"),
        ({"k": 0}, "k is 0; it must be at least 1"),
        ({"shot_seeds": 0}, "shot_seeds is 0; it must be at least 1"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"pca": 0}, "pca is 0; it must be at least 1, or left out"),
        ({"shots": (5, 1)}, r"shots is \[5, 1\]; each must be at least 2; the linear probe .*leave linear out"),
        ({"shots": (0,), "methods": ("knn",)}, r"shots is \[0\]; each must be at least 1$"),
        ({"k": 9, "methods": ("cluster",)}, "k is 9, but methods has neither knn nor knn_weighted, so that it changes"),
        ({"shot_seeds": 9}, "shot_seeds is 9, but shots is empty, .* leave it out, or name --shots"),
        ({"shots": (5,), "methods": ("cluster",)}, r"shots is \[5\], but methods has none that learns; add one of knn"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        ClassifyConfig(**options)


def test_one_shot_without_the_linear_probe() -> None:
    assert ClassifyConfig(methods=("knn",), shots=(1,)).shots == (1,)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClassifyConfig(k=46), "k is 46, the neighbours come from 45 training images; .*--k"),
        (ClassifyConfig(k=16, shots=(5,)), "k is 16, the neighbours come from 15 training images; .*--k"),
        (ClassifyConfig(shots=(16,)), r"shots is 16, but 3 classes have fewer training images:\n  ant: 15"),
        (ClassifyConfig(pca=9), "pca is 9, for 45 training images of 8 dimensions"),
    ],
)
def test_settings_that_do_not_fit_the_data(tmp_path: Path, config: ClassifyConfig, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        evaluate_images([make(tmp_path)], config)


@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        ("train", [], "no train images; extract features of both splits"),
        ("val", [], "no val images; extract features of both splits"),
        ("train", [1] * 45, "the training images have a single class, 'bee'; two are needed"),
        ("train", [0, 1] * 20, r"1 classes have validation images but no training image:\n  cat\nGive them"),
        ("train", [0, 1] * 20 + [2], r"single one:\n  cat\nGive them more training images, or leave linear out"),
    ],
)
def test_images_that_cannot_be_evaluated(tmp_path: Path, split: str, labels: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate_images([with_labels(make(tmp_path), split, labels)], ClassifyConfig(k=5))


@pytest.mark.parametrize(("split", "value"), [("train", np.nan), ("val", np.inf)])
def test_values_that_are_not_finite(tmp_path: Path, split: str, value: float) -> None:
    store = make(tmp_path)
    values = store.arrays[split, "kl"].copy()
    values[4, 2] = value
    message = rf"part 'kl' is not finite for 1 {split} images:\n  {split}4.jpg\nExtract"
    with pytest.raises(DataError, match=message):
        evaluate_images([store, with_values(store, split, "kl", values)], QUICK)


def test_features_that_are_too_few(tmp_path: Path) -> None:
    store = make(tmp_path)
    with pytest.raises(DataError, match="44 features of 45 train images; extract them again"):
        evaluate_images([with_values(store, "train", "kl", store.arrays["train", "kl"][1:])], QUICK)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: replace(s, parts=("embedding", "kl")), "parts"),
        (lambda s: replace(s, classes=("ant", "bee", "dog")), "classes"),
        (revisited, "ground truth"),
        (lambda s: with_labels(s, "val", [0, 1, 2]), "ids of val images"),
        (lambda s: with_labels(s, "train", [2, 1, 0] * 15), "labels of train images"),
    ],
)
def test_extractions_of_other_images(tmp_path: Path, change: Callable[[Store], Store], what: str) -> None:
    first = make(tmp_path / "a")
    with pytest.raises(DataError, match=rf"/a and .*/b have different {what}.*: evaluate them one by one"):
        evaluate_images([first, replace(change(first), path=tmp_path / "b")], ClassifyConfig())


def test_extractions_with_other_ground_truths(tmp_path: Path) -> None:
    first = revisited(make(tmp_path / "a"))
    with pytest.raises(DataError, match="have different ground truth; only extractions of the same images"):
        evaluate_images([first, replace(first, ground_truth={"queries": []})], ClassifyConfig())


def test_no_extraction() -> None:
    with pytest.raises(FungiSegError, match="stores is empty"):
        evaluate_images([], QUICK)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ClassifyConfig(methods=("knn", "retrieval")), "methods is knn, retrieval, but .* use --methods retrieval"),
        (ClassifyConfig(shots=(5,)), r"shots is \[5\], but .* leave --shots out"),
    ],
)
def test_ground_truth_refuses_what_learns(tmp_path: Path, config: ClassifyConfig, message: str) -> None:
    with pytest.raises(FungiSegError, match=message):
        evaluate_images([revisited(make(tmp_path))], config)


def test_ground_truth_of_other_images(tmp_path: Path) -> None:
    store = replace(make(tmp_path), ground_truth={"queries": []})
    with pytest.raises(DataError, match="0 queries; it must have one for each of the 60 query images"):
        evaluate_images([store], ClassifyConfig())
