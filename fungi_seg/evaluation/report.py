"""Pixel counts to the report of an evaluation."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fungi_seg.evaluation.counting import COUNT_HEADER, count_rows
from fungi_seg.evaluation.image_counts import ImageCounts
from fungi_seg.evaluation.metrics import counted_classes, intersection_over_union, matched_order, mean_iou, reordered
from fungi_seg.evaluation.settings import MetricConfig
from fungi_seg.evaluation.words import interval_words, table_lines
from fungi_seg.provenance import settings_section
from fungi_seg.segmentation import LEVEL, class_iou_intervals, mean_iou_interval, mean_iou_of, mean_iou_without_each

WORST = 10  # images that are shown
CLASS_HEADER = ("class", "IoU %", f"{LEVEL} % interval", "accuracy %", "truth pixels", "predicted pixels")
IMAGE_HEADER = ("worst images", "mIoU % of its classes", "what it adds to mIoU", "most pixels taken for another class")
BY_LINE = ("confusion", "images_counted", "images")  # of JSON: an item of these lists a line


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        miou: mean IoU, 0..1.
        interval: `[low, high]` of it over images, 95 % (`mean_iou_interval`); none where fewer than two have a label.
        pixel_accuracy: share of labelled pixels that are right.
        classes: a dictionary per class: name, iou (none if absent), interval (none where fewer than two images hold
            it), accuracy, truth_pixels, predicted_pixels, absent.
        images, skipped: how many were evaluated; which were skipped and why.
        confusion: `[C][C]` pixel counts, rows the truth, as predicted (before any matching); `[C][C + 1]` where
            predictions on disk leave pixels without a class, the last column.
        images_counted: a dictionary per image: id; miou, the mean IoU of the classes that it holds (none if it holds
            none); adds, mIoU less what it would be without the image; counts, its confusion matrix as predicted, where
            it isn't 0: truth, prediction (`C` for no class), pixels, truth, prediction, pixels, …
        settings: everything that the number depends on.
        notes: deviations from common practice, and from the protocol named.
        doubts: why the figures are likely to be worthless.
        confidence: whether it is worth what it says, where the bank is calibrated for the settings in use: expected
            calibration error over bins of one width and reliability by bin, both without pixels unlike the bank; the
            error among the most confident pixels by the share of all that are kept, and the area under it; the share of
            pixels unlike the bank, and of those that are wrong.
        seconds: by stage; `reading` is the time spent waiting for images, `index` was spent before, not in `total`.
        peak_memory_mb: of this process; of the GPU, if one was used.
    """

    miou: float
    pixel_accuracy: float
    classes: list[dict[str, Any]]
    images: int
    skipped: list[str]
    confusion: list[list[int]]
    settings: dict[str, Any]
    notes: list[str]
    seconds: dict[str, float]
    peak_memory_mb: dict[str, float]
    doubts: list[str] = field(default_factory=list)
    confidence: dict[str, Any] | None = None
    interval: list[float] | None = None
    images_counted: list[dict[str, Any]] = field(default_factory=list)
    objects: list[dict[str, Any]] | None = None

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json_text(asdict(self))

    def to_markdown(self) -> str:
        """The report as a person reads it."""
        lines = [
            f"# mIoU {self.miou * 100:.2f}",
            "",
            f"{LEVEL} % interval over images: {interval_words(self.interval)}. "
            f"{self.images} images, pixel accuracy {self.pixel_accuracy * 100:.2f} %, "
            f"{len(self.skipped)} images skipped.",
            "",
            *(line for doubt in self.doubts for line in (f"**Don't trust these figures:** {doubt}", "")),
            *table_lines(CLASS_HEADER, self.class_rows()),
            "",
            *table_lines(IMAGE_HEADER, self.image_rows()),
        ]
        lines += self._object_lines() + self._confidence_lines()
        if self.notes:
            lines += ["", "Notes:", "", *(f"- {note}" for note in self.notes)]
        if self.skipped:
            lines += ["", "Skipped:", "", *(f"- {line}" for line in self.skipped)]
        lines += ["", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in self.seconds.items()]
        lines += ["", f"Peak memory: {', '.join(f'{k} {v:.0f} MB' for k, v in self.peak_memory_mb.items())}.", ""]
        lines += settings_section(self.settings)
        return "\n".join(lines)

    def confidence_line(self) -> str:
        """What confidence is worth, in a line; empty where it isn't known."""
        if not self.confidence:
            return ""
        found, wrong = self.confidence, self.confidence["wrong_where_unlike"]
        unlike = f"{100 * found['unlike_the_bank']:.2f} % of pixels unlike the bank"
        return (
            f"Confidence: expected calibration error {100 * found['expected_calibration_error']:.2f} % "
            f"({found['bins']} bins), area under the risk-coverage curve {found['area_under_risk_coverage']:.4f}, "
            f"{unlike}{'' if wrong is None else f', {100 * wrong:.2f} % of them wrong'}"
        )

    def _object_lines(self) -> list[str]:
        return ["", *table_lines(COUNT_HEADER, count_rows(self.objects))] if self.objects else []

    def _confidence_lines(self) -> list[str]:
        if not self.confidence:
            return []
        lines = ["", f"{self.confidence_line()}.", "", "| confidence | pixels | mean confidence % | right % |"]
        lines.append("|---|---:|---:|---:|")
        for row in self.confidence["reliability"]:
            means = (f"{100 * row[name]:.2f}" if row["pixels"] else "–" for name in ("confidence", "right"))
            lines.append(f"| {row['from']:.2f}–{row['to']:.2f} | {row['pixels']} | {' | '.join(means)} |")
        lines += ["", "| most confident pixels kept % | wrong % |", "|---:|---:|"]
        return lines + [f"| {100 * r['kept']:.0f} | {100 * r['error']:.2f} |" for r in self.confidence["risk_coverage"]]

    def class_rows(self) -> list[tuple[str, ...]]:
        """The table of `CLASS_HEADER` as text."""
        return [
            (
                c["name"],
                "absent" if c["absent"] else f"{c['iou'] * 100:.2f}",
                "–" if c["interval"] is None else interval_words(c["interval"]),
                "–" if c["absent"] else f"{c['accuracy'] * 100:.2f}",
                str(c["truth_pixels"]),
                str(c["predicted_pixels"]),
            )
            for c in self.classes
        ]

    def worst_images(self, count: int = WORST) -> list[dict[str, Any]]:
        """Of `images_counted`, those that lower mIoU most, the worst first."""
        lowering = [image for image in self.images_counted if image["adds"] < 0]
        return sorted(lowering, key=lambda image: float(image["adds"]))[:count]

    def image_rows(self, count: int = WORST) -> list[tuple[str, ...]]:
        """The table of `IMAGE_HEADER` as text."""
        return [
            (
                image["id"],
                "–" if image["miou"] is None else f"{100 * image['miou']:.2f}",
                f"{100 * image['adds']:+.2f}",
                self._largest_mistake(np.array(image["counts"]).reshape(-1, 3)),
            )
            for image in self.worst_images(count)
        ]

    def _largest_mistake(self, cells: np.ndarray) -> str:
        """The class of the truth that most pixels of an image were taken from, for what, and their share."""
        if self.settings["metric"]["matching"] != "none":
            return "–"  # predicted classes have other names
        wrong = cells[cells[:, 0] != cells[:, 1]]
        if not len(wrong):
            return "–"
        truth, predicted, pixels = wrong[wrong[:, 2].argmax()].tolist()
        names = [*(c["name"] for c in self.classes), "no class"]
        return f"{names[truth]} → {names[predicted]}: {100 * pixels / cells[:, 2].sum():.1f} % of its pixels"


@dataclass(frozen=True)
class Counted:
    """Images compared with their masks.

    Attributes:
        counts: as `ConfusionMatrix` gives them.
        images: those of each.
        doubts, confidence, objects: as in `Report`.
    """

    counts: np.ndarray
    images: ImageCounts
    doubts: tuple[str, ...] = ()
    confidence: dict[str, Any] | None = None
    objects: list[dict[str, Any]] | None = None


def make_report(
    names: tuple[str, ...],
    counted: Counted,
    metric: MetricConfig,
    skipped: list[str],
    settings: dict[str, Any],
    notes: list[str],
    seconds: dict[str, float],
    memory: dict[str, float],
) -> Report:
    """The report of what was counted.

    Args:
        names: of the classes.
        counted: pixels by truth and prediction.
        metric: how they are compared.
        skipped: what was.
        settings, notes, seconds, memory: as in `Report`; what follows from the counts is added.
    """
    order = matched_order(counted.counts) if metric.matching == "hungarian" else np.arange(len(names))
    compared, by_image = reordered(counted.counts, order), counted.images.by_class(order)
    iou, truth, hits = intersection_over_union(compared), compared.sum(1), np.diag(compared)
    intervals = class_iou_intervals(by_image[None])
    classes = [
        {
            "name": name,
            "iou": float(iou[i]) if truth[i] else None,
            "interval": intervals[i],
            "accuracy": float(hits[i] / truth[i]) if truth[i] else None,
            "truth_pixels": int(truth[i]),
            "predicted_pixels": int(compared[:, i].sum()),
            "absent": not truth[i],
        }
        for i, name in enumerate(names)
    ]
    return Report(
        miou=mean_iou(compared, metric.absent),
        pixel_accuracy=float(hits.sum() / max(1, compared.sum())),
        classes=classes,
        images=len(counted.images),
        skipped=skipped,
        confusion=counted.counts.tolist(),
        settings={
            "metric": asdict(metric),
            "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
            **settings,
        },
        notes=[*notes, *_count_notes(compared, classes, metric)],
        seconds=seconds,
        peak_memory_mb=memory,
        doubts=list(counted.doubts),
        confidence=counted.confidence,
        objects=counted.objects,
        interval=mean_iou_interval(by_image[None], classes=counted_classes(compared, metric.absent)),
        images_counted=image_records(counted.images, by_image, counted_classes(compared, metric.absent)),
    )


def image_records(images: ImageCounts, by_image: np.ndarray, classes: np.ndarray) -> list[dict[str, Any]]:
    """What `Report.images_counted` says of images.

    Args:
        images: their confusion matrices.
        by_image: `[images, 3, C]` pixels of each class: right, of the truth, predicted.
        classes: `[C]` bool of which the mean is taken.
    """
    value, left = mean_iou_without_each(by_image[None], classes)
    own = mean_iou_of(by_image)
    return [
        {
            "id": record["id"],
            "miou": None if np.isnan(own[i]) else round(float(own[i]), 6),
            "adds": round(float(value - left[i]), 8),
            "counts": record["counts"],
        }
        for i, record in enumerate(images.record())
    ]


def json_text(values: dict[str, Any]) -> str:
    """A report as JSON: indented, but for the long lists of `BY_LINE`, an item of which is a line."""
    parts = []
    for name, value in values.items():
        if name in BY_LINE and isinstance(value, list) and value:
            items = (json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in value)
            text = "[\n  " + ",\n  ".join(items) + "\n ]"
        else:
            text = json.dumps(value, indent=1, ensure_ascii=False).replace("\n", "\n ")
        parts.append(f' "{name}": {text}')
    return "{\n" + ",\n".join(parts) + "\n}"


def _count_notes(compared: np.ndarray, classes: list[dict[str, Any]], metric: MetricConfig) -> Iterator[str]:
    """What the mean leaves out or counts without a truth, and what intervals don't say."""
    absent = metric.absent
    if metric.matching == "hungarian":
        yield "intervals are for predicted classes as they were matched on all images"
    unnamed = int(compared[:, len(classes) :].sum())
    if unnamed:
        yield f"{unnamed} labelled pixels have no class in the predictions; they count as wrong"
    without = [c for c in classes if c["absent"]]
    zero = [c["name"] for c in without if absent == "zero" or (absent == "predicted" and c["predicted_pixels"])]
    left = [c["name"] for c in without if c["name"] not in zero]
    for found, what in ((left, "left out of the mean"), (zero, "counted as 0 in the mean")):
        if found:
            yield f"{len(found)} classes have no pixel in the truth and are {what}: {', '.join(found)}"
