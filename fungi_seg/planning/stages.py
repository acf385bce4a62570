"""The stages of a build in parts, timed on this machine: workers of one core each, and what joins their parts."""

from __future__ import annotations

import math
import multiprocessing
import time
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from fungi_seg.bank import BankRecipe, ShardedBuild, ShardJob, seconds_to_join
from fungi_seg.datasets import Dataset
from fungi_seg.features import Backbone, BackboneConfig, PatchFeatures, load_backbone
from fungi_seg.hardware import cores, use_threads
from fungi_seg.images import RunConfig
from fungi_seg.planning.calibration import beside

AIM = 4.0  # seconds of a trial
WORKERS = (1, 2, 4)  # with which the model is held against the machine
SAMPLE = 2000  # images whose place in memory is measured


@dataclass(frozen=True)
class Stages:
    """What a build in parts takes here; seconds, if nothing else is said.

    Attributes:
        start: until a worker has begun: imports, backbone, first batch.
        part: of each part, beside its images.
        image: of one image by one core.
        busy: speed of a core when all are busy, as a share of its speed when it is alone.
        joining: of each candidate row, by one process.
        item: bytes of memory that an image takes in the list of all.
        errors: for numbers of workers, how far the model is off: predicted / measured − 1.
    """

    start: float
    part: float
    image: float
    busy: float
    joining: float
    item: float
    errors: dict[int, float]

    def build(self, images: float, parts: int, workers: int, own: int) -> float:
        """Seconds that some workers on one machine of `own` cores take for all parts, once they have begun."""
        turns = math.ceil(parts / workers)
        alone = turns * (self.part + images / parts * self.image)
        return alone * max(1.0, workers / own) / self.speed(min(workers, own), own)

    def speed(self, used: int, own: int) -> float:
        """Speed of a core when so many of its machine's are used."""
        return 1 - (1 - self.busy) * (used - 1) / (own - 1) if own > 1 else 1.0


def time_stages(dataset: Dataset, backbone: Backbone, out: str | Path, recipe: BankRecipe, run: RunConfig) -> Stages:
    """Build small banks in parts beside `out`, by 1, 2 and 4 workers and by one for each core; about a minute.

    What is fitted and what the model is held against are different runs, with different numbers of images.

    Raises:
        DataError: an image or mask can't be used.
        BankError: nothing can be written beside `out`.
    """
    own, batch = cores(), run.load.batch_size
    recipe = replace(recipe, bank=replace(recipe.bank, epochs=1, size=None))
    run = replace(run, progress=False)
    with beside(out) as folder:
        with _Workers(1, dataset, backbone, recipe, run, folder) as one:
            first = one.time(batch, 1)
            runs = max(4, min(32, math.ceil(AIM / max(first, 1e-3) / 4) * 4))  # batches in a trial
            whole, cut = one.time(runs * batch, 1), one.time(runs * batch, 4)
            part = max(0.0, (cut - whole) / 3)
            image = max(1e-9, (whole - part) / (runs * batch))
            fitted = Stages(one.start, part, image, 1.0, seconds_to_join(folder), _bytes_of_item(dataset), {})
            trials = {1: (one.time(batch * (runs // 2), 2), batch * (runs // 2), 2)}
        for count in sorted({*WORKERS, own} - {1}):
            with _Workers(count, dataset, backbone, recipe, run, folder) as several:
                if count == own:
                    measured = several.time(runs * batch, own)
                    fitted = replace(fitted, busy=min(1.0, fitted.build(runs * batch, own, own, own) / measured))
                if count in WORKERS:
                    images = batch * count * max(1, runs // 2)
                    trials[count] = several.time(images, 2 * count), images, 2 * count
    errors = {
        workers: fitted.build(images, parts, workers, own) / seconds - 1
        for workers, (seconds, images, parts) in trials.items()
    }
    return replace(fitted, errors=errors)


class _Workers:
    """Some processes of one thread each that build parts, as the workers of a cluster do.

    Attributes:
        start: seconds until all had begun.
    """

    def __init__(
        self, count: int, dataset: Dataset, backbone: Backbone, recipe: BankRecipe, run: RunConfig, folder: Path
    ):
        self._count, self._folder, self._dataset, self._run = count, folder, dataset, run
        self._backbone, self._recipe = backbone, recipe
        self._trials = 0

    def __enter__(self) -> _Workers:
        started = time.perf_counter()
        context = multiprocessing.get_context("spawn")
        first = self._jobs(1, 1)[0]
        self._pool = ProcessPoolExecutor(self._count, context, _begin, (self._backbone.config, first))
        self.time(self._count * self._run.load.batch_size, self._count)  # a part for each, which warms up
        self.start = time.perf_counter() - started
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def time(self, images: int, parts: int) -> float:
        """Seconds that so many images in so many parts take."""
        jobs = self._jobs(images, parts)
        started = time.perf_counter()
        for done in [self._pool.submit(_build, job) for job in jobs]:
            done.result()
        return time.perf_counter() - started

    def _jobs(self, images: int, parts: int) -> list[ShardJob]:
        self._trials += 1
        out = self._folder / f"{self._count}-{self._trials}"
        build = ShardedBuild(repeated(self._dataset, images), self._backbone, out, parts, self._recipe, self._run)
        return [build.part(number) for number in range(1, parts + 1)]


_features: PatchFeatures | None = None  # of a worker


def _begin(config: BackboneConfig, first: ShardJob) -> None:
    global _features
    use_threads(1)
    _features = first.features(load_backbone(**vars(config)))


def _build(job: ShardJob) -> None:
    assert _features is not None
    job.attempt(_features)


def repeated(dataset: Dataset, count: int) -> Dataset:
    """So many images: those of a data set at even distances, or over and over again under other names."""
    step = max(1, len(dataset) // count)
    chosen = [dataset.items[number * step % len(dataset)] for number in range(count)]
    items = tuple(replace(item, id=f"{item.id}~{number}") for number, item in enumerate(chosen))
    return replace(dataset, items=items)


def _bytes_of_item(dataset: Dataset) -> float:
    tracemalloc.start()
    kept = [
        replace(
            item, id=f"{item.id}~{number}", image=Path(f"{item.image}~{number}"), mask=Path(f"{item.mask}~{number}")
        )
        for number, item in zip(range(SAMPLE), dataset.items * (1 + SAMPLE // len(dataset)), strict=False)
    ]
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return taken / len(kept)
