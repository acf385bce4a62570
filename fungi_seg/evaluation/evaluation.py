"""Evaluate a bank, or predictions on disk, on annotated images: mIoU, per-class table, time and memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch

from fungi_seg.datasets import BACKGROUND, Dataset, Item, Sample, about
from fungi_seg.errors import DataError, FungiSegError, listing, where_lists_differ
from fungi_seg.evaluation.predictions import Predictions
from fungi_seg.evaluation.report import Report, make_report
from fungi_seg.evaluation.settings import MetricConfig
from fungi_seg.evaluation.tallies import Tallier, Tally, Totals
from fungi_seg.images import Fitted, RunConfig, fit_mask, same_size_batches
from fungi_seg.progress import Stopwatch, prefetch, track
from fungi_seg.provenance import software
from fungi_seg.segmentation import ObjectConfig, Segmentation, Segmenter, changes_since_fit

T = TypeVar("T")


@dataclass(frozen=True)
class Measurement:
    """A bank that is measured on annotated images.

    Attributes:
        segmenter: bank, decoder and index.
        dataset: with the bank's classes; see `of`.
        metric: how to compare.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped.
        objects: which regions are objects, if their counts are compared too.
        clock: time spent by stage.
    """

    segmenter: Segmenter
    dataset: Dataset
    metric: MetricConfig
    run: RunConfig
    objects: ObjectConfig | None = None
    clock: Stopwatch = field(default_factory=Stopwatch)

    @classmethod
    def of(
        cls,
        segmenter: Segmenter,
        dataset: Dataset,
        metric: MetricConfig | None,
        run: RunConfig | None,
        objects: ObjectConfig | None,
    ) -> Measurement:
        """With the data set as the bank needs it.

        Raises:
            FungiSegError: it has other classes than the bank.
        """
        info = segmenter.bank.info
        dataset = dataset.entering(segmenter.input)
        if info.classes == (*dataset.classes, BACKGROUND):  # negatives were appended to a bank without such a class
            dataset = replace(dataset, classes=info.classes, palette=np.array(info.palette, np.uint8))
        if dataset.classes != info.classes:
            different = where_lists_differ(info.classes, dataset.classes, ("bank", "data"))
            raise FungiSegError(
                f"the bank has {len(info.classes)} classes, the data set {len(dataset.classes)}; they must "
                f"be the same, in the same order:\n{different}\n"
                f"Where the bank was built with data.classes or data.merge, give them here too"
            )
        return cls(segmenter, dataset, metric or MetricConfig(), run or RunConfig(), objects)

    @property
    def _sure(self) -> bool:
        """Whether confidence is held against the truth, which is by classes as they are."""
        return self.segmenter.calibration is not None and self.metric.matching == "none"

    def tallies(
        self, skipped: list[str], each: Callable[[Sample, Segmentation], None] | None = None
    ) -> Iterator[Tally]:
        """What each image adds, in their order.

        Args:
            skipped: gets a line for each image that can't be used.
            each: called with every image and what is predicted for it.

        Raises:
            DataError: an image or mask can't be used, unless such are skipped.
        """
        tally = Tallier(self.dataset.classes, self.objects, self.clock)
        for sample, truth, found in self._segmented(skipped):
            made = tally(sample.id, truth, found.mask, found.confidence if self._sure else None)
            if each:
                each(sample, found)
            yield made

    def report(
        self, tallied: Callable[[list[str]], Iterable[Tally]], settings: dict[str, Any] | None, notes: Iterable[str]
    ) -> Report:
        """The report of what `tallied` gives, called with a list that gets a line for each image that is skipped."""
        start, skipped, segmenter, clock = time.perf_counter(), list(self.dataset.problems), self.segmenter, self.clock
        totals = Totals(self.dataset.classes, self.objects, self._sure)
        for tally in tallied(skipped):
            totals.add(tally)
        counted = totals.counted(self.dataset, skipped, self.run.load.workers)
        seconds = dict(clock.seconds) | {"total": time.perf_counter() - start, "index": segmenter.seconds["index"]}
        memory = peak_memory(segmenter.features.backbone.device)  # before the check below, which needs some of its own
        first = next(number for number, item in enumerate(self.dataset.items) if item.id == counted.images.ids[0])
        recall = segmenter.recall(self.dataset[first].image)
        all_notes = [*notes, *_bank_notes(segmenter, self.dataset, recall)]
        all_settings = _bank_settings(segmenter, recall) | (settings or {})
        return make_report(
            self.dataset.classes, counted, self.metric, skipped, all_settings, all_notes, seconds, memory
        )

    def _segmented(self, skipped: list[str]) -> Iterator[tuple[Sample, np.ndarray, Segmentation]]:
        """Samples with truth and prediction of one size."""
        segmenter, clock = self.segmenter, self.clock
        prepared = _prepared(
            self.dataset, lambda _, sample: segmenter.fit(sample.image, sample.pixel_size), self.run, skipped
        )
        for batch in _timed(same_size_batches(prepared, self.run.load.batch_size, lambda pair: pair[1]), clock):
            grounds, truths = _at_size(batch, self.metric.mask_size, segmenter)
            names = [sample.id for sample, _ in batch]
            predictions = segmenter.predict_fitted([fitted for _, fitted in batch], grounds, names, clock)
            for (sample, _), truth, prediction in zip(batch, truths, predictions, strict=True):
                yield sample, truth, prediction


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    metric: MetricConfig | None = None,
    run: RunConfig | None = None,
    settings: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
    each: Callable[[Sample, Segmentation], None] | None = None,
    objects: ObjectConfig | None = None,
) -> Report:
    """Segment every image of `dataset` and compare with its mask over the whole data set at once.

    Args:
        segmenter: bank, decoder and index.
        dataset: annotated images with the bank's classes.
        metric: how to compare.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped; changes the
            speed, not the numbers beyond rounding.
        settings, notes: added to the report.
        each: called with every image and what is predicted for it, in their order.
        objects: which regions are objects, if their counts are compared too (`ObjectTally`).

    Raises:
        DataError: an image or mask can't be used, or nothing is left.
        FungiSegError: the data set has other classes than the bank.
    """
    job = Measurement.of(segmenter, dataset, metric, run, objects)
    return job.report(lambda skipped: job.tallies(skipped, each), settings, notes)


def evaluate_predictions(
    predictions: Predictions,
    dataset: Dataset,
    metric: MetricConfig | None = None,
    run: RunConfig | None = None,
    settings: dict[str, Any] | None = None,
    notes: Iterable[str] = (),
    objects: ObjectConfig | None = None,
) -> Report:
    """Compare predictions on disk with the masks of `dataset`, over the whole data set at once.

    Args:
        predictions: as `open_predictions` finds them for `dataset`. A pixel without a class, where an entry was left
            out and there is no background, is wrong.
        dataset, metric, run, settings, notes, objects: as for `evaluate`; images without a prediction are skipped with
            `skip_bad`.

    Raises:
        DataError: an image, mask or prediction is missing or can't be used, or nothing is left.
        FungiSegError: `metric.mask_size` is `input`.
    """
    metric, run = metric or MetricConfig(), run or RunConfig()
    if metric.mask_size == "input":
        raise FungiSegError(
            "metric.mask_size is 'input', the size at which a backbone sees an image; predictions on disk know none: "
            "compare at metric.mask_size own"
        )
    clock, start = Stopwatch(), time.perf_counter()
    missing = [item.id for item in dataset.items if item.id not in predictions.names]
    if missing and not run.skip_bad:
        raise DataError(
            f"{predictions.path}: {len(missing)} of {len(dataset)} images have no prediction:\n{listing(missing)}\n"
            f"(--skip-bad skips such images)"
        )
    skipped = [*dataset.problems, *(f"{name}: no prediction in {predictions.path}" for name in missing)]
    there = replace(dataset, items=tuple(item for item in dataset.items if item.id in predictions.names))

    def found(item: Item, sample: Sample) -> np.ndarray:
        return predictions.mask(item, (sample.image.shape[0], sample.image.shape[1]))

    read = _prepared(there, found, run, skipped)
    tally, totals = Tallier(dataset.classes, objects, clock), Totals(dataset.classes, objects)
    for sample, mask in _timed(read, clock):
        totals.add(tally(sample.id, sample.mask, mask))
    counted = totals.counted(dataset, skipped, run.load.workers)
    seconds = dict(clock.seconds) | {"total": time.perf_counter() - start}
    all_settings = {
        "predictions": str(predictions.path),
        "software": {"evaluated_with": software()},
        **(settings or {}),
    }
    all_notes, memory = [*notes, *predictions.notes], peak_memory(torch.device("cpu"))
    return make_report(dataset.classes, counted, metric, skipped, all_settings, all_notes, seconds, memory)


def _timed(items: Iterator[T], clock: Stopwatch) -> Iterator[T]:
    """`items`, and the time that was spent waiting for them."""
    while True:
        with clock("reading"):
            item = next(items, None)
        if item is None:
            return
        yield item


def _at_size(
    batch: list[tuple[Sample, Fitted]], mask_size: str, segmenter: Segmenter
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Images that give the size of the predictions, and masks of that size."""
    if mask_size == "own":
        return [sample.image for sample, _ in batch], [sample.mask for sample, _ in batch]
    images, masks = [], []
    for sample, fitted in batch:
        height, width = fitted.content
        mask = fit_mask(sample.mask, fitted.input, segmenter.features.backbone.patch_size)
        images.append(fitted.image[:, :height, :width].permute(1, 2, 0).numpy())
        masks.append(mask[:height, :width])
    return images, masks


def _prepared(
    dataset: Dataset,
    prepare: Callable[[Item, Sample], T],
    run: RunConfig,
    skipped: list[str],
) -> Iterator[tuple[Sample, T]]:
    """Samples and what `prepare` makes of them, ahead of their use."""

    def read(index: int) -> tuple[Sample, T] | DataError:
        try:
            sample = dataset[index]
            return sample, prepare(dataset.items[index], sample)
        except DataError as error:
            return about(dataset.items[index], error)

    indices = range(len(dataset))
    for result in track(prefetch(read, indices, run.load.workers), len(dataset), "evaluation", show=run.progress):
        if not isinstance(result, DataError):
            yield result
        elif run.skip_bad:
            skipped.append(str(result))
        else:
            raise DataError(f"{result}\n(--skip-bad skips such images)") from result


def _bank_notes(segmenter: Segmenter, dataset: Dataset, recall: float) -> Iterator[str]:
    shared = len(set(segmenter.bank.info.sources) & {item.id for item in dataset.items})
    if shared:
        yield f"{shared} of the images have the id of an image in the bank: are they the same ones?"
    changes = changes_since_fit(segmenter.bank.history)
    if segmenter.calibration and changes:
        yield f"how sure classes are was learnt before the bank was changed ({', '.join(changes)})"
    if recall < 1:
        yield f"search is approximate: on the first image it finds {recall:.2%} of the true neighbours"


def _bank_settings(segmenter: Segmenter, recall: float) -> dict[str, Any]:
    """What a prediction depends on."""
    info, backbone = segmenter.bank.info, segmenter.features.backbone
    return {
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
        "index": {"built": segmenter.index.kind, f"recall@{segmenter.decoder.k} on the first image": recall},
        "software": {"built_with": info.made_by, "evaluated_with": software()},
    }


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
