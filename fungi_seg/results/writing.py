"""Images to the files of their results, and to the record of each."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

from fungi_seg.errors import DataError
from fungi_seg.evaluation import CocoResults
from fungi_seg.files import digest
from fungi_seg.images import RunConfig, image_sha256, is_large, opened_view
from fungi_seg.progress import track
from fungi_seg.provenance import software
from fungi_seg.rasters import plane_of
from fungi_seg.results.corrections import corrected_by
from fungi_seg.results.folder import digest_of
from fungi_seg.results.large import LargeJob
from fungi_seg.results.object_files import ObjectFiles
from fungi_seg.results.own_kind import check_polygons, image_file, save_polygons
from fungi_seg.results.polygons import check_place
from fungi_seg.results.records import ImageRecord, record_of
from fungi_seg.results.settings import ResultsConfig
from fungi_seg.results.stacks import TIME
from fungi_seg.results.thumbnails import save_views
from fungi_seg.segmentation import Segmentation, Segmenter, segment_files


class Written(NamedTuple):
    """What came of an image.

    Attributes:
        path: the image's file.
        record: of what was written; none where it can't be used.
        skipped: why it can't be used.
        scale: pixels of the input to a pixel of the image; none of large images.
        misplaced: its mask keeps no place on the earth, although the image has one.
    """

    path: Path
    record: ImageRecord | None = None
    skipped: str = ""
    scale: float | None = None
    misplaced: bool = False


@dataclass(frozen=True)
class ImageWriter:
    """Segments images, and writes what is asked for of each.

    Attributes:
        segmenter: bank, decoder and index.
        config: what is written.
        folder: where.
        corrections: mask files by the names of images.
        coco: finds the entries of COCO results, if they are wanted.
    """

    segmenter: Segmenter
    config: ResultsConfig
    folder: Path
    corrections: Mapping[str, Path]
    coco: CocoResults | None = None

    def write(self, images: Mapping[str, Path], run: RunConfig) -> Generator[Written, None, None]:
        """Segment and write images that are held as a whole; yields what comes of each, in their order.

        Raises:
            DataError: one can't be used, unless such are skipped.
            FungiSegError: a file can't be written.
        """
        config, files = self.config, None
        if config.objects:
            classes = self.segmenter.bank.info.classes
            files = ObjectFiles(self.folder, classes, self.segmenter.palette, config.pixel_size)
        started, paths = perf_counter(), list(images.values())
        found_in = segment_files(self.segmenter, paths, run.load, config.unknown, config.video.memory)
        with closing(found_in) as segmented:
            for (name, path), found in zip(images.items(), segmented, strict=True):
                why = list[str]()
                with _skipping(path, why, run):
                    if isinstance(found, DataError):
                        raise found
                    yield self._written(name, path, found, files, started)
                yield from (Written(path, skipped=message) for message in why)
                started = perf_counter()

    def write_large(self, name: str, path: Path, run: RunConfig) -> Written:
        """Segment and write an image piece by piece; it raises as `write` does."""
        why = list[str]()
        with _skipping(path, why, run):
            return Written(path, self._large_record(name, path, run))
        return Written(path, skipped=why[0])

    def is_large(self, path: Path) -> bool:
        """Whether an image is too large to be held as a whole."""
        with suppress(DataError):  # which is told when its turn comes
            return is_large(path, self.segmenter.input)
        return False

    def _large_record(self, name: str, path: Path, run: RunConfig) -> ImageRecord:
        if self.config.video.memory and TIME in plane_of(path):
            raise DataError(f"{path}: is segmented piece by piece, which --video.memory doesn't go with; leave it out")
        if name in self.corrections:
            raise DataError(f"{path}: is segmented piece by piece, which knows no corrections; leave that one out")
        if self.config.polygons:
            check_polygons([path], self.config.polygons, self.segmenter.input.projection)
        segmenter, known = self.segmenter, image_sha256(path)
        purpose = [settings_of(segmenter, self.config), known, str(path)]
        with opened_view(path, segmenter.input, segmenter.features.backbone.patch_size) as view:
            record = LargeJob(segmenter, view, name, self.folder, self.config, purpose, run).run()
        return replace(record, file=str(path), sha256=known)

    def _written(
        self, name: str, path: Path, found: Segmentation, files: ObjectFiles | None, started: float
    ) -> Written:
        config, folder, correction = self.config, self.folder, self.corrections.get(name)
        kept = image_file(path, (found.mask.shape[0], found.mask.shape[1]), self.segmenter.input.projection)
        for suffix in config.polygons:
            check_place(f".{suffix}", kept.info, path)
        if kept.valid is not None:
            found = found.within(kept.valid)
        if correction:
            found = corrected_by(found, correction)
        objects = found.objects(config.objects) if config.objects else None
        entries = self.coco.found_in(name, found, objects) if self.coco else None
        masks, confidence = config.masks.format, config.confidence
        written = found.save(folder, name, masks, config.overlays, config.scores, confidence, kept.info)
        written += save_polygons(folder, name, found, kept.info, config.polygons)
        if files and objects:
            written += files.write(name, objects)
        views, notes = save_views(found, folder, name) if config.report else ([], [])
        seconds = perf_counter() - started
        record = record_of(found, name, path, image_sha256(path), seconds, objects, entries)
        files_of, note = (*written, *views), "; ".join(notes)
        record = replace(record, files=files_of, note=note, correction=digest_of(correction))
        misplaced = bool(kept.info.geo) and masks != "auto"
        return Written(path, record, scale=found.scale(self.segmenter.patch_size), misplaced=misplaced)


Write = Callable[[ImageWriter, Mapping[str, Path], RunConfig], Generator[Written, None, None]]


def written_here(writer: ImageWriter, images: Mapping[str, Path], run: RunConfig) -> Generator[Written, None, None]:
    """Segment and write images by this process, those last that are too large to be held as a whole."""
    large = {name: path for name, path in images.items() if writer.is_large(path)}
    whole = {name: path for name, path in images.items() if name not in large}
    with closing(writer.write(whole, run)) as written:
        yield from track(written, len(whole), "segmentation", show=run.progress)
    for name, path in large.items():
        yield writer.write_large(name, path, run)


def settings_of(segmenter: Segmenter, config: ResultsConfig) -> dict[str, Any]:
    """Everything that results depend on."""
    manifest, backbone = asdict(segmenter.bank.manifest), segmenter.features.backbone
    return {
        "bank": digest({key: value for key, value in manifest.items() if key != "history"}),
        "decoder": asdict(segmenter.decoder),
        "index": asdict(segmenter.index_config),
        **({} if segmenter.input == segmenter.bank.info.input else {"input": asdict(segmenter.input)}),
        "backbone": {"device": backbone.device.type, "dtype": str(backbone.dtype).removeprefix("torch.")},
        "fungi-seg": software()["fungi-seg"],
        **asdict(config),
        "coco": {**asdict(config.coco), "file": None} if config.coco.file else None,
        "video": {"memory": config.video.memory},  # the files of whole videos are made of what is there
    }


@contextmanager
def _skipping(path: Path, skipped: list[str], run: RunConfig) -> Iterator[None]:
    """An image that can't be used is skipped, if that is wanted."""
    try:
        yield
    except DataError as error:
        message = str(error) if str(path) in str(error) else f"{path}: {error}"
        if not run.skip_bad:
            raise DataError(f"{message}\n(--skip-bad skips such images)") from error
        skipped.append(message)
