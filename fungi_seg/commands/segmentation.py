"""The commands that segment: build, segment, evaluate, inspect, demo."""

from __future__ import annotations

import glob
import json as json_module
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from fungi_seg.bank import BankConfig, BankRecipe, MemoryBank, build_bank, check_target
from fungi_seg.commands.demo import SIZE, run_demo
from fungi_seg.datasets import DataConfig, Dataset, check_name, open_dataset
from fungi_seg.errors import DataError, FungiSegError, listing
from fungi_seg.evaluation import (
    CocoConfig,
    CocoResults,
    MetricConfig,
    Report,
    evaluate as run_evaluation,
    evaluate_predictions,
    open_predictions,
    protocol_notes,
)
from fungi_seg.features import BackboneConfig, FeatureConfig, load_backbone
from fungi_seg.files import files_below, replacing
from fungi_seg.images import IMAGE_SUFFIXES, InputConfig, LoadConfig, RunConfig, has_suffix, left_out
from fungi_seg.progress import tell, track
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig, Segmentation, Segmenter

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
    train_list: str | None = None,
    skip_bad: bool = False,
    overwrite: bool = False,
    protocol: str | None = None,
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
        train_list: text file with the ids to build from, one a line (the same as --data.file_list).
        skip_bad: pass over images and masks that can't be used.
        overwrite: replace the bank that is at --out.
        protocol: take the build settings of native, hbird-v2, fungi, dip, or a .yaml file.
    """
    if train_list:
        data = replace(data, file_list=train_list)
    check_target(Path(out).expanduser(), overwrite)
    dataset = open_told(data, skip_bad)
    made = build_bank(
        dataset,
        load_backbone(**vars(backbone)),
        out,
        BankRecipe(features, input, bank, seed),
        RunConfig(load, skip_bad=skip_bad, progress=True),
        overwrite,
        {"data": asdict(data), "protocol": protocol},
    )
    tell_skipped(made.info.build["skipped"])
    without = [name for name, rows in zip(made.info.classes, made.class_rows(), strict=True) if not rows]
    if without:
        what = f"no row of {len(without)} of {len(made.info.classes)} classes"
        tell(f"{what}, which can't be found in images:\n{listing(without)}")
    print(f"{out}: {len(made)} rows of {made.info.dim} from {made.info.build['images']} images")


def segment(
    images: list[str],
    bank: str,
    out: str,
    decoder: DecoderConfig = DecoderConfig(),
    index: IndexConfig = IndexConfig(),
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overlays: bool = True,
    scores: bool = False,
    coco: CocoConfig = CocoConfig(),
    skip_bad: bool = False,
) -> None:
    """Segment images with a memory bank.

    Writes OUT/masks/ID.png (palette PNG, values are class indices), OUT/overlays/ID.jpg, optionally OUT/scores/ID.npy
    ([C, H, W] float16), and OUT/classes.txt. With --coco.file also COCO results, and the images and categories
    that they belong to beside them.

    Args:
        images: image files, folders (searched through) and quoted glob patterns.
        bank: folder of the bank.
        out: folder for the results.
        decoder: how neighbours vote.
        index: how neighbours are searched.
        weights: local weights file, where it isn't where it was when the bank was built.
        device: auto, cpu, cuda, cuda:1, …
        dtype: auto, bfloat16 or float32.
        overlays: write overlays.
        scores: write class scores.
        coco: predictions as COCO results.
        skip_bad: pass over images that can't be used.
    """
    remarks: list[str] = []
    found = find_images(images, remarks)
    for remark in remarks:
        tell(remark)
    segmenter = Segmenter(bank, None, decoder, index, weights, device, dtype)
    results = CocoResults(coco, segmenter.bank.info.classes, found) if coco.file else None
    target, skipped = Path(out).expanduser(), []
    for name, path in track(found.items(), len(found), "segmentation"):
        try:
            result = segmenter.predict(path)
            if results:
                results.add(name, result)
        except DataError as error:
            message = str(error) if str(path) in str(error) else f"{path}: {error}"
            if not skip_bad:
                raise DataError(f"{message}\n(--skip-bad passes over such images)") from error
            skipped.append(message)
            continue
        write_segmentation(result, target, name, overlays, scores)
    tell_skipped(skipped)
    if len(skipped) == len(found):
        raise DataError("no image could be segmented")
    with replacing(target / "classes.txt") as draft:
        draft.write_text("".join(f"{name}\n" for name in segmenter.bank.info.classes), encoding="utf-8")
    if results:
        results.write()
        print(f"{coco.file}: {len(results.entries)} regions")
    print(f"{out}: {len(found) - len(skipped)} images segmented")


def evaluate(
    bank: str | None = None,
    predictions: str | None = None,
    like: str | None = None,
    data: DataConfig = DataConfig(),
    decoder: DecoderConfig = DecoderConfig(),
    index: IndexConfig = IndexConfig(),
    metric: MetricConfig = MetricConfig(),
    load: LoadConfig = LoadConfig(),
    protocol: str | None = None,
    weights: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
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
        index: how a bank's neighbours are searched.
        metric: how predictions are compared.
        load: how images are worked through.
        protocol: take the evaluation settings of native, hbird-v2, fungi, dip, or a .yaml file.
        weights: local weights file, where it isn't where it was when the bank was built.
        device: auto, cpu, cuda, cuda:1, …
        dtype: auto, bfloat16 or float32.
        json: file to write the report to, as JSON.
        markdown: file to write the report to, as Markdown.
        skip_bad: pass over images and masks that can't be used.
    """
    if bool(bank) == bool(predictions):
        given = f"bank is {bank!r} and predictions {predictions!r}" if bank else "neither bank nor predictions is given"
        raise FungiSegError(
            f"{given}; give one of them: --bank FOLDER or --predictions PATH (and --bank null where the recipe has one)"
        )
    if data.layout in LEARNS_BY_DEFAULT and not (data.split or data.file_list):
        raise FungiSegError("data.split is empty; name the images to evaluate on, such as --data.split val")
    dataset = open_told(data, skip_bad)
    settings = {"data": asdict(data), "protocol": protocol}
    if predictions:
        found = open_predictions(predictions, dataset, like)
        options = {"decoder": decoder != DecoderConfig(), "index": index != IndexConfig(), "weights": bool(weights)}
        notes = [f"{name} isn't used: the predictions lie on disk" for name, set_ in options.items() if set_]
        if protocol:
            notes = [f"how the predictions were made isn't known, so they aren't held against protocol {protocol}"]
        report = evaluate_predictions(
            found, dataset, metric, RunConfig(load, skip_bad=skip_bad, progress=True), settings, notes
        )
    else:
        segmenter = Segmenter(str(bank), None, decoder, index, weights, device, dtype)
        used = {"decoder": asdict(decoder), "index": asdict(index), "metric": asdict(metric)}
        notes = protocol_notes(protocol, segmenter.bank, used) if protocol else []
        report = run_evaluation(
            segmenter, dataset, metric, RunConfig(load, skip_bad=skip_bad, progress=True), settings, notes
        )
    _print_report(report)
    for file, text in ((json, report.to_json()), (markdown, report.to_markdown())):
        if file:
            with replacing(Path(file).expanduser()) as draft:
                draft.write_text(text, encoding="utf-8")


def inspect(bank: str, json: bool = False) -> None:
    """Verify a memory bank and show what is in it.

    Args:
        bank: folder of the bank.
        json: print JSON in place of tables.
    """
    opened = MemoryBank.open(bank)
    info, rows = opened.info, opened.class_rows()
    facts = {
        "rows": len(opened),
        "width": info.dim,
        "images": len(info.sources),
        "created": info.created,
        "backbone": info.backbone.name,
        "fingerprint": info.fingerprint,
        "features": asdict(info.features),
        "input": asdict(info.input),
        "build": info.build,
        "made by": info.made_by,
        "support rows": 0 if opened.support is None else len(opened.support),
    }
    if json:
        classes = [{"name": n, "rows": int(r)} for n, r in zip(info.classes, rows, strict=True)]
        print(json_module.dumps(facts | {"classes": classes}, indent=1, ensure_ascii=False))
        return
    console = Console()
    summary = Table("bank", escape(str(opened.path)))
    for key, value in facts.items():
        text = json_module.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)
        summary.add_row(key, escape(text))
    console.print(summary)
    table = Table("class", _right("rows that hold it"), _right("share %"), "colour")
    for name, count, colour in zip(info.classes, rows, info.palette, strict=True):
        block = f"[rgb({colour[0]},{colour[1]},{colour[2]})]██[/]"
        table.add_row(escape(name), str(count), f"{100 * count / len(opened):.1f}", block)
    console.print(table)


def demo(
    out: str = "outputs/demo",
    shots: int = 8,
    backbone: BackboneConfig = BackboneConfig("embedded"),
    input: InputConfig = InputConfig(SIZE),
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
    result = run_demo(Path(out).expanduser(), shots, backbone, input, seed, progress=True)
    table = Table(f"{shots} annotated images", *map(_right, result.reports))
    for row in result.rows():
        table.add_row(*row)
    Console().print(table)
    print("Look at:", *map(str, result.files[:2]))


def open_told(data: DataConfig, skip_bad: bool) -> Dataset:
    """Open a data set, and name on standard error what was taken although it looks wrong."""
    dataset = open_dataset(data, skip_bad)
    if dataset.remarks:
        tell(f"taken, but look at {len(dataset.remarks)}:\n{listing(dataset.remarks)}")
    return dataset


def find_images(patterns: Sequence[str], remarks: list[str] | None = None) -> dict[str, Path]:
    """Image files by the name their results get: the path within the folder searched, without suffix.

    Args:
        patterns: image files, folders (searched through) and glob patterns.
        remarks: gets lines that tell of images left out.

    Raises:
        DataError: a pattern without an image, two images of one name, or a name that isn't UTF-8.
    """
    found: dict[str, Path] = {}
    told = [] if remarks is None else remarks
    others: set[Path] = set()
    for pattern in patterns:
        base = Path(pattern).expanduser()
        if base.is_file():
            files = paths = [base]
        else:
            files = files_below(base, told) if base.is_dir() else _matching(str(base))
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
    told += left_out(others)
    return found


def _matching(pattern: str) -> list[Path]:
    return sorted(path for path in map(Path, glob.glob(pattern, recursive=True)) if not path.is_dir())


def write_segmentation(result: Segmentation, out: Path, name: str, overlays: bool = True, scores: bool = False) -> None:
    """Write `masks/NAME.png` and, as asked, `overlays/NAME.jpg` and `scores/NAME.npy`, each whole or not at all."""
    with replacing(out / "masks" / f"{name}.png") as draft:
        result.palette_image().save(draft)
    if overlays:
        with replacing(out / "overlays" / f"{name}.jpg") as draft:
            result.overlay().save(draft, quality=92)
    if scores:
        with replacing(out / "scores" / f"{name}.npy") as draft:
            np.save(draft, result.scores.astype(np.float16))


def _right(header: str) -> Column:
    return Column(header, justify="right")


def _print_report(report: Report) -> None:
    tell_skipped(report.skipped)
    table = Table("class", *(_right(h) for h in ("IoU %", "accuracy %", "truth pixels", "predicted pixels")))
    for row in report.class_rows():
        table.add_row(*map(escape, row))
    console = Console()
    console.print(table)
    for note in report.notes:
        console.print(f"note: {note}", style="dim", markup=False)
    stages = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.seconds.items())
    memory = ", ".join(f"{where} {peak:.0f} MB" for where, peak in report.peak_memory_mb.items())
    print(f"{report.images} images; {stages}; peak memory: {memory}")
    print(f"mIoU {report.miou * 100:.2f} %, pixel accuracy {report.pixel_accuracy * 100:.2f} %")
    for doubt in report.doubts:
        tell(f"DON'T TRUST THESE FIGURES: {doubt}")


def tell_skipped(skipped: Sequence[str]) -> None:
    """Name on standard error what was passed over, if anything was."""
    if skipped:
        tell(f"passed over {len(skipped)}:\n{listing(skipped)}")
