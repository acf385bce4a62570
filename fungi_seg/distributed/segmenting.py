"""Images to the files of a folder of results, by the machines of a cluster that share it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

from fungi_seg.cluster import check_seen, check_shared
from fungi_seg.distributed.opening import SameSegmenter, runs
from fungi_seg.distributed.spreading import Cluster, spread
from fungi_seg.evaluation import CocoResults
from fungi_seg.images import RunConfig
from fungi_seg.progress import track
from fungi_seg.rasters import file_of, plane_of
from fungi_seg.results import ImageWriter, ResultsConfig, Write, Written


@dataclass(frozen=True)
class Part:
    """A unit of work: images by the names of their results, and whether they are worked through piece by piece."""

    images: dict[str, Path]
    large: bool = False


@dataclass(frozen=True)
class SegmentJob:
    """What a worker needs to segment images and write their files.

    Attributes:
        segmenter: to be opened there.
        config: what is written.
        folder: where.
        corrections: mask files by the names of images.
        images: all images by name, where COCO results are written.
        run: how images are worked through.
    """

    segmenter: SameSegmenter
    config: ResultsConfig
    folder: Path
    corrections: Mapping[str, Path]
    images: Mapping[str, Path] | None
    run: RunConfig

    def open(self) -> Callable[[Part], list[Written]]:
        """What segments and writes a part."""
        segmenter, config, coco = self.segmenter.open(), self.config, None
        if self.images is not None:
            found = replace(config.coco, file=str(self.folder / "none.json"))  # which the command alone writes
            coco = CocoResults(found, segmenter.bank.info.classes, self.images)
        writer = ImageWriter(segmenter, config, self.folder, self.corrections, coco)

        def work(part: Part) -> list[Written]:
            if part.large:
                return [writer.write_large(name, path, self.run) for name, path in part.images.items()]
            return list(writer.write(part.images, self.run))

        return work


def written_by(cluster: Cluster) -> Write:
    """What segments and writes images by the machines of a cluster, for `segment_to_folder`."""

    def write(writer: ImageWriter, images: Mapping[str, Path], run: RunConfig) -> Generator[Written, None, None]:
        if not images:
            return
        folder = writer.folder.absolute()
        check_shared(cluster.connection, folder)
        check_seen(cluster.connection, [Path(writer.segmenter.bank.path), file_of(next(iter(images.values())))])
        parts = list(_parts(writer, images, run.load.batch_size, cluster))
        job = SegmentJob(
            SameSegmenter.of(writer.segmenter),
            writer.config,
            folder,
            writer.corrections,
            writer.coco.images if writer.coco else None,
            replace(run, progress=False),
        )
        on_gpu = writer.segmenter.features.backbone.device.type == "cuda"
        with closing(spread(cluster, job, parts, on_gpu)) as done:
            each = (written for part in done for written in part.result)
            yield from track(each, len(images), "segmentation", show=run.progress)

    return write


def _parts(writer: ImageWriter, images: Mapping[str, Path], batch: int, cluster: Cluster) -> Iterator[Part]:
    """Units of work: runs of images, those of one file together; and each large image, the ones that take longest."""
    large = {name: path for name, path in images.items() if writer.is_large(path)}
    yield from (Part({name: path}, large=True) for name, path in large.items())
    whole = [(name, path) for name, path in images.items() if name not in large]
    for is_plane, some in groupby(whole, lambda pair: bool(plane_of(pair[1]))):
        pairs = list(some)
        if is_plane:
            yield from (Part(dict(of_file)) for _, of_file in groupby(pairs, lambda pair: file_of(pair[1])))
        else:
            yield from (Part(dict(pairs[run.start : run.stop])) for run in runs(len(pairs), batch, cluster.likely))
