"""Pixel counts to the report of an evaluation."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from fungi_seg.datasets import Sample
from fungi_seg.evaluation.metrics import intersection_over_union, match_classes, mean_iou
from fungi_seg.evaluation.settings import MetricConfig
from fungi_seg.provenance import settings_section


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        miou: mean IoU, 0..1.
        pixel_accuracy: share of labelled pixels that are right.
        classes: a dictionary per class: name, iou (none if absent), accuracy, truth_pixels, predicted_pixels, absent.
        images, skipped: how many were evaluated; which were skipped and why.
        confusion: `[C][C]` pixel counts, rows the truth, as predicted (before any matching); `[C][C + 1]` where
            predictions on disk leave pixels without a class, the last column.
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

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def to_markdown(self) -> str:
        """The report as a person reads it."""
        lines = [
            f"# mIoU {self.miou * 100:.2f}",
            "",
            f"{self.images} images, pixel accuracy {self.pixel_accuracy * 100:.2f} %, "
            f"{len(self.skipped)} images skipped.",
            "",
            *(line for doubt in self.doubts for line in (f"**Don't trust these figures:** {doubt}", "")),
            "| class | IoU % | accuracy % | truth pixels | predicted pixels |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in self.class_rows()]
        lines += self._confidence_lines()
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

    def class_rows(self) -> list[tuple[str, str, str, str, str]]:
        """The per-class table as text: class, IoU %, accuracy %, truth pixels, predicted pixels."""
        return [
            (
                c["name"],
                "absent" if c["absent"] else f"{c['iou'] * 100:.2f}",
                "–" if c["absent"] else f"{c['accuracy'] * 100:.2f}",
                str(c["truth_pixels"]),
                str(c["predicted_pixels"]),
            )
            for c in self.classes
        ]


@dataclass(frozen=True)
class Counted:
    """Images compared with their masks.

    Attributes:
        counts: as `ConfusionMatrix` gives them.
        images: how many.
        first: of them.
        doubts, confidence: as in `Report`.
    """

    counts: np.ndarray
    images: int
    first: Sample
    doubts: tuple[str, ...] = ()
    confidence: dict[str, Any] | None = None


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
        bad: what was skipped.
        settings, notes, seconds, memory: as in `Report`; what follows from the counts is added.
    """
    compared = match_classes(counted.counts) if metric.matching == "hungarian" else counted.counts
    iou, truth, hits = intersection_over_union(compared), compared.sum(1), np.diag(compared)
    classes = [
        {
            "name": name,
            "iou": float(iou[i]) if truth[i] else None,
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
        images=counted.images,
        skipped=skipped,
        confusion=counted.counts.tolist(),
        settings={
            "metric": asdict(metric),
            "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
            **settings,
        },
        notes=[*notes, *_count_notes(compared, classes, metric.absent)],
        seconds=seconds,
        peak_memory_mb=memory,
        doubts=list(counted.doubts),
        confidence=counted.confidence,
    )


def _count_notes(compared: np.ndarray, classes: list[dict[str, Any]], absent: str) -> Iterator[str]:
    """What the mean leaves out or counts without a truth."""
    unnamed = int(compared[:, len(classes) :].sum())
    if unnamed:
        yield f"{unnamed} labelled pixels have no class in the predictions; they count as wrong"
    without = [c for c in classes if c["absent"]]
    zero = [c["name"] for c in without if absent == "zero" or (absent == "predicted" and c["predicted_pixels"])]
    left = [c["name"] for c in without if c["name"] not in zero]
    for found, what in ((left, "left out of the mean"), (zero, "counted as 0 in the mean")):
        if found:
            yield f"{len(found)} classes have no pixel in the truth and are {what}: {', '.join(found)}"
