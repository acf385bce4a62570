"""Many images to a folder of results."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from fungi_seg.bank import SourceImages
from fungi_seg.errors import DataError, FungiSegError, listing
from fungi_seg.evaluation import CocoResults
from fungi_seg.files import replacing
from fungi_seg.images import RunConfig
from fungi_seg.rasters import file_of, is_video, plane_of, video_encoder
from fungi_seg.results.folder import ResultsFolder
from fungi_seg.results.own_kind import check_polygons
from fungi_seg.results.page import voter_pictures, write_page
from fungi_seg.results.settings import ResultsConfig, VideoConfig
from fungi_seg.results.stacks import TIME, stacks_of, write_stack
from fungi_seg.results.tables import write_tables
from fungi_seg.results.videos import write_overlays
from fungi_seg.results.writing import ImageWriter, Write, Written, settings_of, written_here
from fungi_seg.segmentation import OverlayConfig, Segmenter, class_indices

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
    write: Write | None = None,
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
        write: segments and writes images, in any order; here and now where not given.

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
    with ResultsFolder(out, settings_of(segmenter, config), overwrite) as results:
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
        writer = ImageWriter(segmenter, config, results.folder, corrections, coco)
        with closing((write or written_here)(writer, todo, run)) as written:
            outcome = Outcome(skipped=_kept(written, results, segmenter, config.masks.format))
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


def _kept(written: Iterator[Written], results: ResultsFolder, segmenter: Segmenter, masks: str) -> list[str]:
    """Keep records of what is written as it comes, and tell of what looks wrong; what was skipped."""
    skipped, misplaced, strange = list[str](), list[Path](), list[tuple[Path, float]]()
    usual = segmenter.bank_scale()
    for one in written:
        if one.record is None:
            skipped.append(one.skipped)
            continue
        results.add(one.record)
        if one.misplaced:
            misplaced.append(one.path)
        if one.scale is not None and not 1 / FAR <= one.scale / usual <= FAR:
            strange.append((one.path, one.scale))
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
            masks,
        )
    return skipped


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
