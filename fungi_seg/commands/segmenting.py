"""The command that segments images, and which files are images to it."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from time import perf_counter

from fungi_seg.errors import DataError, UsageError, as_usage, check_choice
from fungi_seg.evaluation import CocoConfig
from fungi_seg.features import PlacementConfig
from fungi_seg.images import LoadConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import CONFIDENCE, DecoderOptions, MaskConfig, ObjectConfig, check_pixel_size, check_unknown

log = logging.getLogger(__name__)

RESULTS = ("masks", "overlays", "scores", "confidence", "labels", "geojson", "rois")  # folders that segment writes


def segment(
    images: list[str],
    bank: str,
    out: str,
    decoder: DecoderOptions = DecoderOptions(),
    index: IndexConfig = IndexConfig(),
    backbone: PlacementConfig = PlacementConfig(),
    masks: MaskConfig = MaskConfig(),
    overlays: bool = True,
    scores: bool = False,
    unknown: float | None = None,
    confidence: list[str] | None = None,
    coco: CocoConfig = CocoConfig(),
    objects: bool = False,
    object: ObjectConfig = ObjectConfig(),
    pixel_size: float | None = None,
    load: LoadConfig = LoadConfig(),
    skip_bad: bool = False,
) -> None:
    """Segment images with a memory bank.

    Writes OUT/masks/ID.png (grey, values are class indices), OUT/overlays/ID.jpg, optionally OUT/scores/ID.npy
    ([C, H, W] float16) and OUT/confidence/ID.png or .tiff, and OUT/classes.txt. With --coco.file also COCO results, and
    the images and categories that they belong to beside them. With --objects also OUT/objects.csv, OUT/images.csv,
    OUT/labels/ID.tif, OUT/geojson/ID.geojson (QuPath) and OUT/rois/ID.zip (ImageJ), which all hold the same objects.

    Args:
        images: image files, folders (searched through) and quoted glob patterns.
        bank: folder of the bank.
        out: folder for the results.
        decoder: how neighbours vote.
        index: how neighbours are searched.
        backbone: where the bank's backbone runs.
        masks: how masks are written.
        overlays: write overlays.
        scores: write class scores.
        unknown: confidence, 0..1, below which pixels get no class but 255 (65535 where there are more than 255
            classes), as do patches unlike anything in the bank; the bank must be fitted.
        confidence: write the probability that each pixel's class is right, as png (0..255 for 0..1) and tiff (float32).
        coco: predictions as COCO results; with --objects an entry of each object.
        objects: count and measure the objects of each image.
        object: which regions count as objects.
        pixel_size: width of a pixel in micrometres, for lengths and areas of objects.
        load: how images are worked through.
        skip_bad: skip images that can't be used.
    """
    with as_usage():
        for suffix in confidence or ():
            check_choice("confidence", suffix, CONFIDENCE)
        if unknown is not None:
            check_unknown(unknown)
        _check_objects(objects, object, pixel_size, coco)
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.fitting import check_sure, decoder_for
    from fungi_seg.commands.output import report_skipped
    from fungi_seg.evaluation import CocoResults
    from fungi_seg.files import replacing
    from fungi_seg.progress import track
    from fungi_seg.segmentation import ObjectFiles, Segmenter, class_indices, segment_files

    remarks: list[str] = []
    skipped: list[str] = []
    target = Path(out).expanduser()
    found = find_images(images, remarks, target)
    for remark in remarks:
        log.warning(remark)
    opened = MemoryBank.open(bank)
    segmenter = Segmenter(opened, None, decoder_for(opened, decoder), index, **vars(backbone))
    if unknown is not None or confidence:
        check_sure(segmenter)
    results = CocoResults(coco, segmenter.bank.info.classes, found) if coco.file else None
    classes, counted = opened.info.classes, None
    if objects:
        class_indices(classes, object)
    files = ObjectFiles(target, classes, segmenter.palette, pixel_size) if objects else None
    shares: list[float] = []
    started = perf_counter()
    with (
        files or nullcontext(),
        closing(segment_files(segmenter, list(found.values()), load, unknown)) as segmented,
    ):
        for (name, path), result in zip(found.items(), track(segmented, len(found), "segmentation"), strict=True):
            try:
                if isinstance(result, DataError):
                    raise result
                if objects:
                    counted = result.objects(object)
                if results:
                    results.add(name, result, counted)
            except DataError as error:
                message = str(error) if str(path) in str(error) else f"{path}: {error}"
                if not skip_bad:
                    raise DataError(f"{message}\n(--skip-bad skips such images)") from error
                skipped.append(message)
                continue
            result.save(target, name, masks.format, overlays, scores, confidence or ())
            if files and counted:
                files.add(name, result, counted, perf_counter() - started)
            started = perf_counter()
            shares.append(result.unknown_share)
            void = result.void
    report_skipped(skipped)
    if len(skipped) == len(found):
        raise DataError("no image could be segmented")
    with replacing(target / "classes.txt") as draft:
        draft.write_text("".join(f"{name}\n" for name in segmenter.bank.info.classes), encoding="utf-8")
    if results:
        results.write()
        print(f"{coco.file}: {len(results.entries)} regions")
    print(f"{out}: {len(shares)} images segmented")
    if files:
        print(f"{target / 'objects.csv'}: {files.count} objects")
    if unknown is not None:
        rest = ", which COCO results leave out" if results else ""
        print(f"{100 * sum(shares) / len(shares):.1f} % of an image is unknown ({void} in masks, hatched){rest}")


def _check_objects(objects: bool, object: ObjectConfig, pixel_size: float | None, coco: CocoConfig) -> None:
    """Raise where objects are asked for in a way that changes nothing, or twice."""
    if pixel_size is not None:
        check_pixel_size(pixel_size)
    if not objects and (pixel_size is not None or object != ObjectConfig()):
        raise UsageError("--object.… and --pixel_size are of objects, which aren't asked for; add --objects")
    if objects and (coco.instances or coco.min_area):
        raise UsageError(
            "--coco.instances and --coco.min_area change nothing beside --objects, of which each becomes an entry; "
            "leave them out, and set --object.min_area"
        )


def find_images(patterns: Sequence[str], remarks: list[str] | None = None, out: Path | None = None) -> dict[str, Path]:
    """Image files by the name their results get: the path within the folder searched, without suffix.

    Args:
        patterns: image files, folders (searched through) and glob patterns.
        remarks: gets a line for what is left out.
        out: folder of results, whose masks and pictures are no images to segment.

    Raises:
        DataError: a pattern without an image, two images of one name, or a name that isn't UTF-8.
    """
    from fungi_seg.datasets import check_name
    from fungi_seg.files import files_below
    from fungi_seg.images import IMAGE_SUFFIXES, has_suffix, left_out

    found: dict[str, Path] = {}
    lines = [] if remarks is None else remarks
    others: set[Path] = set()
    results = [] if out is None else [(out / name).resolve() for name in RESULTS]
    for pattern in patterns:
        base = Path(pattern).expanduser()
        if base.is_file():
            files = paths = [base]
        else:
            files = files_below(base, lines) if base.is_dir() else _matching(str(base))
            files = [path for path in files if not _is_within(path, results)]
            paths = [path for path in files if has_suffix(path, IMAGE_SUFFIXES)]
            others.update(files)
        if not paths:
            why = "".join(f"; {line}" for line in left_out(files))
            raise DataError(f"{pattern!r}: no such image, folder with images, or pattern that finds some{why}")
        for path in paths:
            check_name(path)
            name = path.relative_to(base).with_suffix("").as_posix() if base.is_dir() else path.stem
            if found.get(name, path) != path:
                raise DataError(f"{found[name]} and {path} would both be written as {name!r}; segment them separately")
            found[name] = path
    lines += left_out(others)
    return found


def _is_within(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a file lies in one of some folders, whose links are resolved."""
    found = path.resolve() if folders else path
    return any(found.is_relative_to(folder) for folder in folders)


def _matching(pattern: str) -> list[Path]:
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if not path.is_dir())
