"""Results on the same images held against each other: paired differences, classes, the images that changed most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, listing, where_lists_differ
from fungi_seg.evaluation.image_counts import ImageCounts
from fungi_seg.evaluation.metrics import matched_order
from fungi_seg.evaluation.report import Report
from fungi_seg.segmentation import (
    class_iou,
    class_iou_intervals,
    mean_iou_interval,
    mean_iou_of,
    mean_iou_without_each,
)


@dataclass(frozen=True)
class Result:
    """What was counted of one result.

    Attributes:
        name: what tables call it.
        classes: names.
        ids: of the images.
        counts: `[S, images, 3, C]` int64 by seed and image: labelled pixels of each class that are right, that the
            truth holds, that were predicted.
        metric: how predictions were compared, as in `MetricConfig`.
        data: settings of the data set, as far as they are known.
    """

    name: str
    classes: tuple[str, ...]
    ids: tuple[str, ...]
    counts: np.ndarray
    metric: Mapping[str, str]
    data: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, *reports: Report) -> Result:
        """What a report counted; of several, one a seed, on the same images.

        Raises:
            DataError: it holds no counts of single images, or they are damaged.
        """
        first, found = reports[0], []
        classes = tuple(c["name"] for c in first.classes)
        for report in reports:
            if not report.images_counted:
                raise DataError(
                    f"{name}: the report holds no counts of single images, as those of older versions; evaluate again, "
                    f"with fungi-seg evaluate … --json FILE, and compare that"
                )
            try:
                images = ImageCounts.of_record(report.images_counted, len(classes))
                metric = dict(report.settings["metric"])
                order = matched_order(np.array(report.confusion)) if metric["matching"] == "hungarian" else None
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{name}: the report is damaged ({error!r}); evaluate again") from error
            found.append(images.by_class(order))
        return cls(name, classes, images.ids, np.stack(found), metric, first.settings.get("data") or {})

    def only(self, ids: Sequence[str]) -> Result:
        """The same of some of the images, in their order."""
        place = {name: number for number, name in enumerate(self.ids)}
        counts = self.counts[:, [place[name] for name in ids]]
        return Result(self.name, self.classes, tuple(ids), counts, self.metric, self.data)

    @property
    def counted(self) -> np.ndarray:
        """`[C]` bool of which classes the mean is taken."""
        truth, predicted = self.counts.sum((0, 1))[1:] > 0
        counted: dict[str, np.ndarray] = {
            "skip": truth,
            "predicted": truth | predicted,
            "zero": np.ones(len(truth), bool),
        }
        return counted[self.metric["absent"]]


@dataclass(frozen=True)
class Comparison:
    """Results on the same images, held against the first of them.

    Attributes:
        classes: names.
        results: a dictionary per result, in 0..1: name, seeds (how many), values (mIoU by seed), miou (their mean), std
            (their sample standard deviation, 0 for one), interval (of miou, over images), difference to the first and
            its paired interval difference_interval, differs (whether that excludes 0), and the same of each class in
            `classes`: name, iou, interval, difference, difference_interval, differs. Intervals are none where fewer
            than two images have a label, or hold the class; a class without a pixel in the truth has none of it.
        images: a dictionary per image: id; miou, by result, the mean IoU of the classes that it holds; moves, by
            result, the difference less what it would be without the image.
        metric, data: how predictions were compared, and the settings of the data set.
        notes: what to know when reading it.
    """

    classes: tuple[str, ...]
    results: list[dict[str, Any]]
    images: list[dict[str, Any]]
    metric: dict[str, str]
    data: dict[str, Any]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """Of the results."""
        return [result["name"] for result in self.results]

    def changed_images(self, count: int) -> list[dict[str, Any]]:
        """Of `images`, those that move a difference most; without those that move none."""
        by_move = sorted(self.images, key=lambda image: -max(map(abs, image["moves"])))
        return [image for image in by_move if any(image["moves"])][:count]


def compare(results: Sequence[Result], skip_missing: bool = False) -> Comparison:
    """Hold results against the first of them, image by image.

    Args:
        results: two or more, on the same images.
        skip_missing: where a result lacks images that another has, compare on those that all have.

    Raises:
        DataError: other classes, another way to compare, other images, or images of another truth.
    """
    if len(results) < 2:
        raise DataError(f"{len(results)} result to compare; it takes two or more")
    for other in results[1:]:
        _check_alike(results[0], other)
    ids, notes = _shared_images(results, skip_missing)
    there = [result.only(ids) for result in results]
    for other in there[1:]:
        _check_truth(there[0], other)
    figures = [_figures(result, there[0]) for result in there]
    if any(len(result.counts) > 1 for result in there):
        notes.append("intervals are over images, of the mean over seeds; what seeds alone do is the sd beside it")
    lengths, first = [len(result.counts) for result in there], there[0]
    if len(set(lengths)) > 1:
        words = ", ".join(f"{result.name}: {len(result.counts)}" for result in there)
        notes.append(f"results have different numbers of seeds ({words})")
    return Comparison(first.classes, figures, _images(there), dict(first.metric), dict(first.data), notes)


def _figures(result: Result, first: Result) -> dict[str, Any]:
    values = mean_iou_of(result.counts.sum(1), result.counted)
    value, against = (mean_iou_without_each(one.counts, one.counted)[0] for one in (result, first))
    paired = mean_iou_interval(result.counts, first.counts, classes=result.counted, reference_classes=first.counted)
    iou, other = (class_iou(one.counts.sum(1)).mean(0) for one in (result, first))
    own, differences = class_iou_intervals(result.counts), class_iou_intervals(result.counts, first.counts)
    return {
        "name": result.name,
        "seeds": len(values),
        "values": values.tolist(),
        "miou": value,
        "std": float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        "interval": mean_iou_interval(result.counts, classes=result.counted),
        "difference": value - against,
        "difference_interval": paired,
        "differs": _excludes_nought(paired),
        "classes": [
            {
                "name": name,
                "iou": None if np.isnan(iou[c]) else float(iou[c]),
                "interval": own[c],
                "difference": None if np.isnan(iou[c]) else float(iou[c] - other[c]),
                "difference_interval": differences[c],
                "differs": _excludes_nought(differences[c]),
            }
            for c, name in enumerate(result.classes)
        ],
    }


def _images(results: Sequence[Result]) -> list[dict[str, Any]]:
    own = [mean_iou_of(result.counts).mean(0) for result in results]
    adds = []
    for result in results:
        value, left = mean_iou_without_each(result.counts, result.counted)
        adds.append(value - left)
    return [
        {
            "id": name,
            "miou": [None if np.isnan(values[i]) else float(values[i]) for values in own],
            "moves": [float(one[i] - adds[0][i]) for one in adds],
        }
        for i, name in enumerate(results[0].ids)
    ]


def _excludes_nought(bounds: Sequence[float] | None) -> bool:
    return bounds is not None and (bounds[0] > 0 or bounds[1] < 0)


def _check_alike(first: Result, other: Result) -> None:
    """Raise unless two results have the same classes, and were compared with the truth in the same way."""
    if first.classes != other.classes:
        raise DataError(
            f"{first.name} has {len(first.classes)} classes, {other.name} {len(other.classes)}; they must be the same, "
            f"in the same order:\n{where_lists_differ(first.classes, other.classes)}\nEvaluate both on the same data"
        )
    for key, value in first.metric.items():
        if other.metric.get(key) != value:
            raise DataError(
                f"metric.{key} is {value!r} in {first.name}, {other.metric.get(key)!r} in {other.name}; figures must "
                f"be made in the same way: evaluate one of them again"
            )


def _shared_images(results: Sequence[Result], skip_missing: bool) -> tuple[list[str], list[str]]:
    """Ids that all results have, and notes on those that some lack."""
    every = list(dict.fromkeys(name for result in results for name in result.ids))
    having = [set(result.ids) for result in results]
    shared = [name for name in every if all(name in one for one in having)]
    if not shared:
        raise DataError(
            f"{results[0].name} and {_words_of(results[1:])} have no image in common: they are of other data\n"
            f"{listing(map(_place, results))}"
        )
    lacking = [(result, [n for n in every if n not in one]) for result, one in zip(results, having, strict=True)]
    lines = [f"{result.name} lacks {len(ids)} of {len(every)} images" for result, ids in lacking if ids]
    if lines and not skip_missing:
        ids = [f"{result.name}: {name}" for result, missing in lacking for name in missing]
        raise DataError(
            f"{'; '.join(lines)}:\n{listing(ids)}\n(--skip-bad compares the {len(shared)} images that all have)"
        )
    return shared, [f"{line}; compared are the {len(shared)} images that all have" for line in lines]


def _check_truth(first: Result, other: Result) -> None:
    """Raise unless the truth holds as many pixels of each class in each image."""
    same = (first.counts[0, :, 1] == other.counts[0, :, 1]).all(-1)
    apart = [name for name, alike in zip(first.ids, same, strict=True) if not alike]
    if apart:
        raise DataError(
            f"{first.name} and {other.name} are of other annotations: {len(apart)} of {len(first.ids)} images have "
            f"other labelled pixels:\n{listing(apart)}\nThey were measured on\n"
            f"{listing(map(_place, (first, other)))}\nEvaluate both on the same data, at the same size"
        )


def _place(result: Result) -> str:
    told = ", ".join(f"{key} {value}" for key, value in result.data.items() if value not in (None, "", [], ()))
    return f"{result.name}: {told or 'data that the report does not name'}"


def _words_of(results: Sequence[Result]) -> str:
    return ", ".join(result.name for result in results)
