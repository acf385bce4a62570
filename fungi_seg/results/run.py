"""Many images to a folder of results."""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

from fungi_seg.bank import SourceImages
from fungi_seg.errors import DataError, FungiSegError, listing
from fungi_seg.evaluation import CocoResults
from fungi_seg.files import digest, replacing
from fungi_seg.images import RunConfig, image_sha256, is_large, opened_view
from fungi_seg.progress import track
from fungi_seg.provenance import software
from fungi_seg.rasters import file_of, is_video, plane_of, video_encoder
from fungi_seg.results.corrections import corrected_by
from fungi_seg.results.folder import ResultsFolder, digest_of
from fungi_seg.results.large import LargeJob
from fungi_seg.results.object_files import ObjectFiles
from fungi_seg.results.own_kind import check_polygons, image_file, save_polygons
from fungi_seg.results.page import voter_pictures, write_page
from fungi_seg.results.polygons import check_place
from fungi_seg.results.records import record_of
from fungi_seg.results.settings import ResultsConfig, VideoConfig
from fungi_seg.results.stacks import TIME, stacks_of, write_stack
from fungi_seg.results.tables import write_tables
from fungi_seg.results.thumbnails import save_views
from fungi_seg.results.videos import write_overlays
from fungi_seg.segmentation import OverlayConfig, Segmentation, Segmenter, class_indices, segment_files

FAR = 4.0  # times larger or smaller than in the bank, from which on images that enter so are told of
log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What came of many images.

    Attributes:
        segmented: images of this run.
        total: images in the folder, those of earlier runs among them.
        skipped: which images couldn't be used, and why.
        objects: how many were counted in all of them.
        regions: entries of the COCO results.
        unknown: mean share of an image without a class.
        whole: files of whole stacks and videos, relative to the folder.
    """

    segmented: int = 0
    total: int = 0
    skipped: list[str] = field(default_factory=list)
    objects: int = 0
    regions: int = 0
    unknown: float = 0.0
    whole: list[str] = field(default_factory=list)


def segment_to_folder(
    segmenter: Segmenter,
    images: Mapping[str, Path],
    out: str | Path,
    config: ResultsConfig | None = None,
    run: RunConfig | None = None,
    overwrite: bool = False,
    corrections: Mapping[str, Path] | None = None,
) -> Outcome:
    """Segment image files, and write a folder of masks, tables and a page that shows them.

    Called again with the same settings, it segments what is new; after it was stopped, what is left.

    Args:
        segmenter: bank, decoder and index.
        images: files by the names of their results, as `find_images` gives them.
        out: the folder.
        config: what is written.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped.
        overwrite: make all results anew, and then replace those in the folder.
        corrections: mask files by the names of images, as `find_corrections` gives them. Where they have labels, these
            take the place of what was found in all that is written but scores.

    Raises:
        DataError: an image or its correction can't be used, or no image can.
        FungiSegError: the folder holds results of other settings, images or corrections and `overwrite` isn't set, or
            something else; a file can't be written; confidence is asked for but isn't known; a class that isn't there;
            a correction of no image.
        MissingExtra: polygons are asked for without the extra `geo`; or an image's kind needs another one.
    """
    config, run, out = config or ResultsConfig(), run or RunConfig(), Path(out).expanduser()
    if config.unknown is not None or config.confidence:
        segmenter.check_calibrated()
    classes = segmenter.bank.info.classes
    if config.objects:
        class_indices(classes, config.objects)
    corrections = corrections or {}
    _check_named(corrections, images)
    _check_video(config.video, images)
    if config.video.memory and (config.unknown is not None or config.confidence):
        log.warning("confidence was learnt without a memory of frames; with --video.memory it is an approximation")
    with ResultsFolder(out, _settings(segmenter, config), overwrite) as results:
        todo = results.missing(images, corrections)
        if config.video.memory:
            todo = _whole_clips(todo, images)
        coco = CocoResults(config.coco, classes, {**results.images, **images}) if config.coco.file else None
        gone = sorted(set(results.images) - set(images))
        if gone:
            log.warning(
                "%s: also holds %d images that weren't named now, and counts them:\n%s", out, len(gone), listing(gone)
            )
        if config.polygons:
            check_polygons([] if run.skip_bad else todo.values(), config.polygons, segmenter.input.projection)
        writer = _Writer(segmenter, config, results, coco, corrections)
        outcome = Outcome(skipped=writer.write_all(todo, run))
        outcome.segmented, outcome.total = len(todo) - len(outcome.skipped), len(results)
        if not outcome.total:
            raise DataError(f"no image could be segmented:\n{listing(outcome.skipped)}")
        with replacing(results.folder / "classes.txt") as draft:
            draft.write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
        counted = config.objects is not None
        outcome.objects = write_tables(results.folder, results.records(), classes, counted, config.pixel_size)
        if config.unknown is not None:
            shares = (record.unknown / (record.width * record.height) for record in results.records())
            outcome.unknown = sum(shares) / len(results)
        if coco:
            for record in results.records():
                coco.put(record.name, record.coco or {})
            outcome.regions = len(coco.entries)
        outcome.whole = _put_together(segmenter, results, config.video, config.overlays)
        if config.report:
            _report(segmenter, results, outcome.skipped)
        results.finish()
        if coco:
            coco.write()
    return outcome


@dataclass(frozen=True)
class _Writer:
    segmenter: Segmenter
    config: ResultsConfig
    results: ResultsFolder
    coco: CocoResults | None
    corrections: Mapping[str, Path]

    def write_all(self, images: Mapping[str, Path], run: RunConfig) -> list[str]:
        """Segment and write images, those last that are too large to be held as a whole; what was skipped."""
        large = {name: path for name, path in images.items() if self._is_large(path)}
        skipped = self._write_whole({name: path for name, path in images.items() if name not in large}, run)
        for name, path in large.items():
            with self._skipping(path, skipped, run):
                self._write_large(name, path, run)
        return skipped

    def _write_whole(self, images: Mapping[str, Path], run: RunConfig) -> list[str]:
        config, classes = self.config, self.segmenter.bank.info.classes
        files = None
        if config.objects:
            files = ObjectFiles(self.results.folder, classes, self.segmenter.palette, config.pixel_size)
        skipped, misplaced, started = list[str](), list[Path](), perf_counter()
        strange: list[tuple[Path, float]] = []
        usual = self.segmenter.bank_scale()
        with closing(self._segmented(list(images.values()), run)) as segmented:
            shown = track(segmented, len(images), "segmentation", show=run.progress)
            for (name, path), found in zip(images.items(), shown, strict=True):
                with self._skipping(path, skipped, run):
                    if isinstance(found, DataError):
                        raise found
                    self._write(name, path, found, files, started, misplaced)
                    scale = found.scale(self.segmenter.patch_size)
                    if not 1 / FAR <= scale / usual <= FAR:
                        strange.append((path, scale))
                started = perf_counter()
        if strange:
            path, scale = strange[0]
            log.warning(
                "%d images, such as %s, enter at %.3g of their size, those of the bank at %.3g: things look %.3g times "
                "as large as there; if pixels are as wide in both, give --input.scale %.3g",
                len(strange),
                path,
                scale,
                usual,
                scale / usual,
                usual,
            )
        if misplaced:
            log.warning(
                "masks of %d GeoTIFFs, such as %s, are %s as asked for, which keeps no place on the earth; leave out "
                "--masks.format to have it kept",
                len(misplaced),
                misplaced[0],
                config.masks.format,
            )
        return skipped

    def _segmented(self, paths: list[Path], run: RunConfig) -> Generator[Segmentation | DataError, None, None]:
        return segment_files(self.segmenter, paths, run.load, self.config.unknown, self.config.video.memory)

    def _is_large(self, path: Path) -> bool:
        with suppress(DataError):  # which is told when its turn comes
            return is_large(path, self.segmenter.input)
        return False

    def _write_large(self, name: str, path: Path, run: RunConfig) -> None:
        """Segment and write an image piece by piece."""
        if self.config.video.memory and TIME in plane_of(path):
            raise DataError(f"{path}: is segmented piece by piece, which --video.memory doesn't go with; leave it out")
        if name in self.corrections:
            raise DataError(f"{path}: is segmented piece by piece, which knows no corrections; leave that one out")
        if self.config.polygons:
            check_polygons([path], self.config.polygons, self.segmenter.input.projection)
        segmenter, known = self.segmenter, image_sha256(path)
        purpose = [_settings(segmenter, self.config), known, str(path)]
        with opened_view(path, segmenter.input, segmenter.features.backbone.patch_size) as view:
            job = LargeJob(segmenter, view, name, self.results.folder, self.config, purpose, run)
            record = job.run()
        self.results.add(replace(record, file=str(path), sha256=known))

    @contextmanager
    def _skipping(self, path: Path, skipped: list[str], run: RunConfig) -> Iterator[None]:
        """An image that can't be used is skipped, if that is wanted."""
        try:
            yield
        except DataError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            if not run.skip_bad:
                raise DataError(f"{message}\n(--skip-bad skips such images)") from error
            skipped.append(message)

    def _write(
        self,
        name: str,
        path: Path,
        found: Segmentation,
        files: ObjectFiles | None,
        started: float,
        misplaced: list[Path],
    ) -> None:
        config, folder, correction = self.config, self.results.folder, self.corrections.get(name)
        kept = image_file(path, (found.mask.shape[0], found.mask.shape[1]), self.segmenter.input.projection)
        for suffix in config.polygons:
            check_place(f".{suffix}", kept.info, path)
        if kept.valid is not None:
            found = found.within(kept.valid)
        if kept.info.geo and config.masks.format != "auto":
            misplaced.append(path)
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
        self.results.add(replace(record, files=files_of, note=note, correction=digest_of(correction)))


def _check_named(corrections: Mapping[str, Path], images: Mapping[str, Path]) -> None:
    others = [f"{name!r}: {path}" for name, path in corrections.items() if name not in images]
    if others:
        raise FungiSegError(
            f"{len(others)} of {len(corrections)} corrections are of none of the images:\n{listing(others)}\n"
            f"Leave them out, or name them as their images"
        )


def _check_video(config: VideoConfig, images: Mapping[str, Path]) -> None:
    """Raise where videos are wanted that can't be written, or a memory that nothing would use."""
    if config.output in ("overlay", "both") and any(is_video(file_of(path)) for path in images.values()):
        video_encoder()
    if config.memory and not any(TIME in plane_of(path) for path in images.values()):
        raise FungiSegError(
            f"video.memory is {config.memory}, but none of the images is a frame of a video or of a stack along t, so "
            f"that it changes nothing; leave it out"
        )


def _whole_clips(todo: Mapping[str, Path], images: Mapping[str, Path]) -> dict[str, Path]:
    """What is to be done with a memory: of files of which a frame is missing all, as each depends on those before."""
    files = {file_of(path) for path in todo.values() if TIME in plane_of(path)}
    return {name: path for name, path in images.items() if name in todo or file_of(path) in files}


def _put_together(
    segmenter: Segmenter, results: ResultsFolder, config: VideoConfig, overlays: OverlayConfig
) -> list[str]:
    """Write the files of whole stacks and videos; which they are."""
    written = []
    for stack in stacks_of(results.records(), results.folder, segmenter.input.projection):
        wanted = config.output if is_video(stack.file) else "masks"
        if wanted in ("masks", "both"):
            written.append(write_stack(stack, results.folder, len(segmenter.bank.info.classes)))
        if wanted in ("overlay", "both"):
            written.append(write_overlays(stack, results.folder, segmenter.palette, overlays))
    return [file for file in written if file]


def _settings(segmenter: Segmenter, config: ResultsConfig) -> dict[str, Any]:
    """Everything that results depend on."""
    manifest, backbone = asdict(segmenter.bank.manifest), segmenter.features.backbone
    return {
        "bank": digest({key: value for key, value in manifest.items() if key != "history"}),
        "decoder": asdict(segmenter.decoder),
        "index": segmenter.index_config.record(),
        **({} if segmenter.input == segmenter.bank.info.input else {"input": asdict(segmenter.input)}),
        "backbone": {"device": backbone.device.type, "dtype": str(backbone.dtype).removeprefix("torch.")},
        "fungi-seg": software()["fungi-seg"],
        **asdict(config),
        "coco": {**asdict(config.coco), "file": None} if config.coco.file else None,
        "video": {"memory": config.video.memory},  # the files of whole videos are made of what is there
    }


def _report(segmenter: Segmenter, results: ResultsFolder, skipped: list[str]) -> None:
    bank, remarks = segmenter.bank, []
    if skipped:
        remarks.append(f"{len(skipped)} images couldn't be used in the last run:\n{listing(skipped)}")
    lost = results.lost()
    if lost:
        remarks.append(f"{len(lost)} files are no longer there as they were written:\n{listing(lost)}")
        log.warning("%s: %s", results.folder, remarks[-1])
    pictures = voter_pictures(results.folder, results.records(), SourceImages(bank), segmenter.palette)
    write_page(
        results.folder, results.records(), bank.info.classes, segmenter.palette, str(bank.path), pictures, remarks
    )
