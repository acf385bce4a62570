"""Annotated images to what each adds to an evaluation, by the machines of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from fungi_seg.cluster import check_seen
from fungi_seg.datasets import Dataset
from fungi_seg.distributed.opening import SameSegmenter, runs
from fungi_seg.distributed.spreading import Cluster, in_order, spread
from fungi_seg.evaluation import Measurement, MetricConfig, Tally
from fungi_seg.images import RunConfig
from fungi_seg.progress import track
from fungi_seg.rasters import file_of
from fungi_seg.segmentation import ObjectConfig


@dataclass(frozen=True)
class Counts:
    """What came of a run of images: what each adds, which were skipped, and seconds by stage."""

    tallies: list[Tally]
    skipped: list[str]
    seconds: dict[str, float]


@dataclass(frozen=True)
class EvaluateJob:
    """What a worker needs to compare images with their masks.

    Attributes:
        segmenter: to be opened there.
        dataset: all images.
        metric, run, objects: as in `Measurement`.
    """

    segmenter: SameSegmenter
    dataset: Dataset
    metric: MetricConfig
    run: RunConfig
    objects: ObjectConfig | None

    def open(self) -> Callable[[range], Counts]:
        """What compares a run of images, which is given by their indices."""
        segmenter = self.segmenter.open()

        def work(part: range) -> Counts:
            some = replace(self.dataset, items=self.dataset.items[part.start : part.stop])
            job, skipped = Measurement(segmenter, some, self.metric, self.run, self.objects), list[str]()
            return Counts(list(job.tallies(skipped)), skipped, dict(job.clock.seconds))

        return work


def tallied_by(cluster: Cluster, job: Measurement) -> Callable[[list[str]], Iterator[Tally]]:
    """What gives the tallies of a measurement by the machines of a cluster, for its report."""

    def tallied(skipped: list[str]) -> Iterator[Tally]:
        dataset, run = job.dataset, job.run
        if not len(dataset):
            return
        first = dataset.items[0]
        check_seen(cluster.connection, [Path(job.segmenter.bank.path), file_of(first.image), file_of(first.mask)])
        parts = runs(len(dataset), run.load.batch_size, cluster.likely)
        sent = EvaluateJob(
            SameSegmenter.of(job.segmenter), dataset, job.metric, replace(run, progress=False), job.objects
        )
        on_gpu = job.segmenter.features.backbone.device.type == "cuda"
        with closing(spread(cluster, sent, parts, on_gpu)) as done:
            each = (one if last else None for one in done for last in _lasts(parts[one.number]))
            shown = track(each, len(dataset), "evaluation", show=run.progress)
            for one in in_order(one for one in shown if one is not None):
                counts: Counts = one.result
                skipped += counts.skipped
                for stage, seconds in counts.seconds.items():
                    job.clock.seconds[stage] += seconds
                yield from counts.tallies

    return tallied


def _lasts(part: range) -> Iterator[bool]:
    """For each image of a part, whether it is the last one."""
    yield from (index == part[-1] for index in part)
