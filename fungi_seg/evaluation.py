"""Evaluate a bank on annotated images: mIoU, per-class table, time and memory."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from fungi_seg.build import LoadConfig
from fungi_seg.datasets import Dataset, Sample
from fungi_seg.datasets.common import about
from fungi_seg.errors import DataError, FungiSegError, check_choice, listing
from fungi_seg.images import Fitted, fit_mask
from fungi_seg.metrics import ConfusionMatrix, intersection_over_union, match_classes, mean_iou
from fungi_seg.progress import Stopwatch, prefetch, track
from fungi_seg.segmenter import Segmenter
from fungi_seg.stream import same_size_batches


@dataclass(frozen=True)
class MetricConfig:
    """How predictions are held against the truth.

    Args:
        mask_size: compare at the masks' `own` size, or at the backbone's `input` size with masks resized (nearest).
        matching: take classes as they are (`none`), or rename predicted classes by `hungarian` matching first.
        absent: classes without a pixel in the truth: `skip` them in the mean, or count them as `zero`.
    """

    mask_size: str = "own"
    matching: str = "none"
    absent: str = "skip"

    def __post_init__(self) -> None:
        check_choice("metric.mask_size", self.mask_size, ("own", "input"))
        check_choice("metric.matching", self.matching, ("none", "hungarian"))
        check_choice("metric.absent", self.absent, ("skip", "zero"))


@dataclass(frozen=True)
class Report:
    """What an evaluation found.

    Attributes:
        miou: mean IoU, 0..1.
        pixel_accuracy: share of labelled pixels that are right.
        classes: a dictionary per class: name, iou (none if absent), accuracy, truth_pixels, predicted_pixels, absent.
        images, skipped: how many were evaluated; which were passed over and why.
        confusion: `[C][C]` pixel counts, rows the truth, as predicted (before any matching).
        settings: everything that the number depends on.
        notes: deviations from common practice, and from the protocol named.
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

    def to_json(self) -> str:
        """The whole report as JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False)

    def to_markdown(self) -> str:
        """The report as a person reads it."""
        lines = [
            f"# mIoU {self.miou * 100:.2f}",
            "",
            f"{self.images} images, pixel accuracy {self.pixel_accuracy * 100:.2f} %, "
            f"{len(self.skipped)} images passed over.",
            "",
            "| class | IoU % | accuracy % | truth pixels | predicted pixels |",
            "|---|---:|---:|---:|---:|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in self.class_rows()]
        if self.notes:
            lines += ["", "Notes:", "", *(f"- {note}" for note in self.notes)]
        if self.skipped:
            lines += ["", "Passed over:", "", *(f"- {line}" for line in self.skipped)]
        lines += ["", "| stage | seconds |", "|---|---:|"]
        lines += [f"| {stage} | {seconds:.2f} |" for stage, seconds in self.seconds.items()]
        lines += ["", f"Peak memory: {', '.join(f'{k} {v:.0f} MB' for k, v in self.peak_memory_mb.items())}.", ""]
        lines += ["Settings:", "", "```json", json.dumps(self.settings, indent=1, ensure_ascii=False), "```", ""]
        return "\n".join(lines)

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


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    metric: MetricConfig | None = None,
    load: LoadConfig | None = None,
    skip_bad: bool = False,
    progress: bool = False,
    settings: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
) -> Report:
    """Segment every image of `dataset` and compare with its mask over the whole data set at once.

    Args:
        segmenter: bank, decoder and index.
        dataset: annotated images with the bank's classes.
        metric: how to compare.
        load: batch size and reading threads; changes the speed, not the numbers beyond rounding.
        skip_bad: pass over images or masks that can't be used.
        progress: report on standard error.
        settings, notes: added to the report.

    Raises:
        DataError: an image or mask can't be used, or nothing is left.
        FungiSegError: the data set has other classes than the bank.
    """
    metric, load = metric or MetricConfig(), load or LoadConfig()
    info = segmenter.bank.info
    if dataset.classes != info.classes:
        different = [
            f"{i}: bank {b!r}, data {d!r}"
            for i, (b, d) in enumerate(zip(info.classes, dataset.classes, strict=False))
            if b != d
        ]
        raise FungiSegError(
            f"the bank has {len(info.classes)} classes, the data set {len(dataset.classes)}; they must "
            f"be the same, in the same order:\n{listing(different) or '  (one list is longer)'}\n"
            f"Where the bank was built with data.classes or data.merge, give them here too"
        )
    clock, before, start = Stopwatch(), dict(segmenter.seconds), time.perf_counter()
    matrix = ConfusionMatrix(len(info.classes))
    bad = list(dataset.problems)
    images, first = 0, None
    prepared = _prepared(segmenter, dataset, load, skip_bad, progress, bad)
    batches = same_size_batches(prepared, load.batch_size, lambda pair: pair[1])
    while True:
        with clock("reading"):
            batch = next(batches, None)
        if batch is None:
            break
        grounds, truths = _at_size(batch, metric.mask_size, segmenter)
        predictions = segmenter.predict_fitted([fitted for _, fitted in batch], grounds)
        with clock("metric"):
            for truth, prediction in zip(truths, predictions, strict=True):
                matrix.add(truth, prediction.mask)
        images += len(batch)
        first = first or batch[0][0]
    if first is None:
        raise DataError(f"no image of {len(dataset)} could be evaluated:\n{listing(bad)}")
    if not matrix.counts.any():
        raise DataError(f"every pixel of the {images} masks is void: there is nothing to compare with; check data.void")
    used = {stage: total - before.get(stage, 0.0) for stage, total in segmenter.seconds.items()}
    seconds = dict(clock.seconds) | used | {"total": time.perf_counter() - start, "index": segmenter.seconds["index"]}
    memory = peak_memory(segmenter.features.backbone.device)  # before the check below, which needs some of its own
    recall = segmenter.recall(first.image)
    return _report(
        segmenter, dataset, matrix.counts, metric, images, bad, recall, seconds, memory, settings or {}, list(notes)
    )


def _at_size(
    batch: list[tuple[Sample, Fitted]], mask_size: str, segmenter: Segmenter
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images that give the size of the predictions, and masks of that size."""
    if mask_size == "own":
        return [sample.image for sample, _ in batch], [sample.mask for sample, _ in batch]
    images, masks = [], []
    for sample, fitted in batch:
        height, width = fitted.content
        mask = fit_mask(sample.mask, segmenter.bank.info.input, segmenter.features.backbone.patch_size)
        images.append(fitted.image[:, :height, :width].permute(1, 2, 0).numpy())
        masks.append(mask[:height, :width])
    return images, masks


def _prepared(
    segmenter: Segmenter, dataset: Dataset, load: LoadConfig, skip_bad: bool, progress: bool, bad: list[str]
) -> Iterator[tuple[Sample, Fitted]]:
    def prepare(index: int) -> tuple[Sample, Fitted] | DataError:
        try:
            sample = dataset[index]
            return sample, segmenter.fit(sample.image)
        except DataError as error:
            return about(dataset.items[index], error)

    indices = range(len(dataset))
    for result in track(prefetch(prepare, indices, load.workers), len(dataset), "evaluation", show=progress):
        if not isinstance(result, DataError):
            yield result
        elif skip_bad:
            bad.append(str(result))
        else:
            raise DataError(f"{result}\n(--skip-bad passes over such images)") from result


def _report(
    segmenter: Segmenter,
    dataset: Dataset,
    counts: np.ndarray,
    metric: MetricConfig,
    images: int,
    bad: list[str],
    recall: float,
    seconds: dict[str, float],
    memory: dict[str, float],
    settings: dict[str, Any],
    notes: list[str],
) -> Report:
    info = segmenter.bank.info
    compared = match_classes(counts) if metric.matching == "hungarian" else counts
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
        for i, name in enumerate(info.classes)
    ]
    shared = len(set(info.sources) & {item.id for item in dataset.items})
    if shared:
        notes = [*notes, f"{shared} of the images have the id of an image in the bank: are they the same ones?"]
    if recall < 1:
        notes = [*notes, f"search is approximate: on the first image it finds {recall:.2%} of the true neighbours"]
    absent = [name for name, pixels in zip(info.classes, truth, strict=True) if not pixels]
    if absent:
        what = "left out of the mean" if metric.absent == "skip" else "counted as 0 in the mean"
        notes = [*notes, f"{len(absent)} classes have no pixel in the truth and are {what}: {', '.join(absent)}"]
    backbone = segmenter.features.backbone
    return Report(
        miou=mean_iou(compared, metric.absent),
        pixel_accuracy=float(hits.sum() / max(1, compared.sum())),
        classes=classes,
        images=images,
        skipped=bad,
        confusion=counts.tolist(),
        settings={
            "bank": {"path": str(segmenter.bank.path), "rows": len(segmenter.bank), "dim": info.dim, **info.build},
            "backbone": {
                "name": info.backbone.name,
                "fingerprint": info.fingerprint,
                "device": str(backbone.device),
                "dtype": str(backbone.dtype).removeprefix("torch."),
                "mean": backbone.mean,
                "std": backbone.std,
            },
            "features": asdict(info.features),
            "input": asdict(info.input),
            "decoder": asdict(segmenter.decoder),
            "index": {"factory": segmenter.index.factory, f"recall@{segmenter.decoder.k} on the first image": recall},
            "metric": asdict(metric),
            "software": info.made_by | {"evaluated_with_torch": torch.__version__},
            "machine": {"processor": platform.machine(), "threads": torch.get_num_threads()},
            **settings,
        },
        notes=notes,
        seconds=seconds,
        peak_memory_mb=memory,
    )


def peak_memory(device: torch.device) -> dict[str, float]:
    """MB used at most so far, by this process and on the GPU."""
    memory = {}
    if sys.platform != "win32":
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        memory["process"] = peak / (1e6 if sys.platform == "darwin" else 1e3)
    if device.type == "cuda":
        memory["gpu"] = torch.cuda.max_memory_allocated(device) / 1e6
    return memory
