"""The commands that segment: build, segment, evaluate, demo."""

from __future__ import annotations

import glob
import logging
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from time import perf_counter

from fungi_seg.bank import BankConfig, BankRecipe
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import DataError, UsageError, as_usage, check_choice, listing
from fungi_seg.evaluation import CocoConfig, MetricConfig, protocol_notes
from fungi_seg.features import BackboneConfig, FeatureConfig, PlacementConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import CONFIDENCE, DecoderOptions, MaskConfig, ObjectConfig, check_pixel_size, check_unknown

log = logging.getLogger(__name__)

DEMO_SIZE = 384
RESULTS = ("masks", "overlays", "scores", "confidence", "labels", "geojson", "rois")  # folders that segment writes
LEARNS_BY_DEFAULT = ("voc", "ade20k", "cityscapes", "mmseg")  # with no split named they take the training images


def build(
    out: str,
    data: DataConfig = DataConfig(),
    backbone: BackboneConfig = BackboneConfig(),
    features: FeatureConfig = FeatureConfig(),
    input: InputConfig = InputConfig(),
    bank: BankConfig = BankConfig(),
    load: LoadConfig = LoadConfig(),
    seed: int = 0,
    skip_bad: bool = False,
    overwrite: bool = False,
    protocol: str | None = None,
    fit: bool = True,
) -> None:
    """Build a memory bank from annotated images.

    Args:
        out: folder of the bank.
        data: the annotated images.
        backbone: the frozen vision transformer.
        features: what a patch feature is made of.
        input: how an image becomes the backbone's input.
        bank: which patches are kept.
        load: how images are worked through.
        seed: fixes sampling and augmentation.
        skip_bad: skip images and masks that can't be used.
        overwrite: replace the bank that is at --out.
        protocol: take the build settings of native, best, hbird-v2, fungi, dip, or a .yaml file.
        fit: choose how the bank's rows vote on the bank itself once it is built (the same as fungi-seg bank fit).
    """
    with as_usage():
        recipe = BankRecipe(features, input, bank, seed)
    from fungi_seg.bank import build_bank, check_target
    from fungi_seg.commands.fitting import fit_and_keep, print_fit
    from fungi_seg.commands.output import open_with_remarks, report_skipped
    from fungi_seg.features import load_backbone

    check_target(Path(out).expanduser(), overwrite)
    dataset = open_with_remarks(data, skip_bad)
    loaded = load_backbone(**vars(backbone))
    made = build_bank(
        dataset,
        loaded,
        out,
        recipe,
        RunConfig(load, skip_bad=skip_bad, progress=True),
        overwrite,
        {"data": asdict(data), "protocol": protocol},
    )
    report_skipped(made.info.build["skipped"])
    without = [name for name, rows in zip(made.info.classes, made.class_rows(), strict=True) if not rows]
    if without:
        what = f"no row of {len(without)} of {len(made.info.classes)} classes"
        log.warning("%s, which can't be found in images:\n%s", what, listing(without))
    print(f"{out}: {len(made)} rows of {made.info.dim} from {made.info.build['images']} images")
    if fit:
        print_fit(out, fit_and_keep(made, data, made.patch_features(backbone=loaded))[1])


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


def evaluate_(
    bank: str | None = None,
    predictions: str | None = None,
    like: str | None = None,
    data: DataConfig = DataConfig(),
    decoder: DecoderOptions = DecoderOptions(),
    fitted: bool | None = None,
    index: IndexConfig = IndexConfig(),
    metric: MetricConfig = MetricConfig(),
    load: LoadConfig = LoadConfig(),
    protocol: str | None = None,
    backbone: PlacementConfig = PlacementConfig(),
    json: str | None = None,
    markdown: str | None = None,
    skip_bad: bool = False,
) -> None:
    """Segment annotated images, or take predictions on disk, and report mIoU.

    Args:
        bank: folder of the bank.
        predictions: in place of a bank, what was predicted: the folder that segment wrote, a folder of masks, or COCO
            results.
        like: the COCO JSON whose image and category ids such results use, where it neither lies beside them nor is the
            data set's own.
        data: the annotated images to compare with.
        decoder: how a bank's neighbours vote.
        fitted: take what the decoder leaves open as fitted on the bank; by default unless a protocol is named, of which
            only best does.
        index: how a bank's neighbours are searched.
        metric: how predictions are compared.
        load: how images are worked through.
        protocol: take the evaluation settings of native, best, hbird-v2, fungi, dip, or a .yaml file.
        backbone: where the bank's backbone runs.
        json: file to write the report to, as JSON; - prints it in place of tables.
        markdown: file to write the report to, as Markdown.
        skip_bad: skip images and masks that can't be used.
    """
    if bool(bank) == bool(predictions):
        both = f"bank is {bank!r} and predictions {predictions!r}" if bank else "neither bank nor predictions is given"
        raise UsageError(
            f"{both}; give one of them: --bank FOLDER or --predictions PATH (and --bank null where the recipe has one)"
        )
    if data.layout in LEARNS_BY_DEFAULT and not (data.split or data.file_list):
        raise UsageError("data.split is empty; name the images to evaluate on, such as --data.split val")
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.fitting import decoder_for, unfitted_notes
    from fungi_seg.commands.output import STANDARD_OUTPUT, open_with_remarks, report_skipped, write
    from fungi_seg.commands.reports import print_report
    from fungi_seg.evaluation import evaluate, evaluate_predictions, open_predictions
    from fungi_seg.segmentation import Segmenter

    dataset = open_with_remarks(data, skip_bad)
    settings, run = {"data": asdict(data), "protocol": protocol}, RunConfig(load, skip_bad=skip_bad, progress=True)
    if predictions:
        found = open_predictions(predictions, dataset, like)
        given = {"decoder": decoder != DecoderOptions(), "fitted": fitted is not None, "index": index != IndexConfig()}
        given["backbone"] = backbone != PlacementConfig()
        notes = [f"{name} isn't used: the predictions lie on disk" for name, is_given in given.items() if is_given]
        if protocol:
            notes = [f"how the predictions were made isn't known, so they aren't held against protocol {protocol}"]
        report = evaluate_predictions(found, dataset, metric, run, settings, notes)
    else:
        opened = MemoryBank.open(str(bank))
        chosen = decoder_for(opened, decoder, protocol is None if fitted is None else fitted)
        segmenter = Segmenter(opened, None, chosen, index, **vars(backbone))
        used = {"decoder": asdict(chosen), "index": asdict(index), "metric": asdict(metric)}
        notes = [
            *(protocol_notes(protocol, opened, used) if protocol else ()),
            *(unfitted_notes(opened) if fitted else ()),
        ]
        report = evaluate(segmenter, dataset, metric, run, settings, notes)
    report_skipped(report.skipped)
    if json != STANDARD_OUTPUT:
        print_report(report)
    write(json, report.to_json())
    write(markdown, report.to_markdown())


def demo(
    out: str = "outputs/demo",
    shots: int = 8,
    backbone: BackboneConfig = BackboneConfig("embedded"),
    input: InputConfig = InputConfig(DEMO_SIZE),
    seed: int = 0,
) -> None:
    """Segment microscopy images that come with the package from a few annotated ones, and show why.

    Writes OUT/index.html, OUT/contact_sheet.png, OUT/report.json and two banks.

    Args:
        out: folder for the results.
        shots: annotated images in the bank, 1 to 24.
        backbone: the frozen vision transformer.
        input: how an image becomes the backbone's input.
        seed: fixes the sampling of patches.
    """
    from fungi_seg.commands.demo import run_demo
    from fungi_seg.commands.output import print_table

    result = run_demo(Path(out).expanduser(), shots, backbone, input, seed, progress=True)
    print_table((f"{shots} annotated images", *result.reports), result.rows())
    print("Look at:", *map(str, result.files[:2]))


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
