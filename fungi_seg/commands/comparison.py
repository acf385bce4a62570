"""The command that holds results on the same images against each other: compare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fungi_seg.commands.evaluating import check_split
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import DataError, UsageError
from fungi_seg.evaluation import MetricConfig
from fungi_seg.features import PlacementConfig
from fungi_seg.images import LoadConfig, RunConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderOptions
from fungi_seg.storage import is_address


def compare(
    results: list[str],
    out: str | None = None,
    data: DataConfig = DataConfig(),
    like: str | None = None,
    decoder: DecoderOptions = DecoderOptions(),
    index: IndexConfig = IndexConfig(),
    metric: MetricConfig = MetricConfig(),
    load: LoadConfig = LoadConfig(),
    backbone: PlacementConfig = PlacementConfig(),
    skip_bad: bool = False,
) -> None:
    """Hold results on the same images against the first of them: mIoU, classes, and the images that changed most.

    Each is a report (evaluate --json), a bank, the folder that segment wrote, a folder of masks, or COCO results. With
    --out writes OUT/compare.json, .csv, .md, .tex and .png, and OUT/index.html, which shows what changed where the
    first one and another have masks at hand.

    Args:
        results: the first, and those that are held against it.
        out: folder for the results.
        data: the annotated images that all but reports are measured on.
        like: the COCO JSON whose image and category ids COCO results use, where it neither lies beside them nor is the
            data set's own.
        decoder: how banks' neighbours vote; what it leaves open as fitted on each.
        index: how banks' neighbours are searched.
        metric: how predictions are compared.
        load: how images are worked through.
        backbone: where banks' backbones run.
        skip_bad: skip images and masks that can't be used, and compare on the images that all results have.
    """
    if len(results) < 2:
        raise UsageError(f"{len(results)} result to compare: {results[0]}; name two or more")
    from fungi_seg.commands.measuring import Measuring, write_comparison
    from fungi_seg.commands.output import open_with_remarks
    from fungi_seg.commands.reports import print_comparison
    from fungi_seg.evaluation import Result, compare as hold_against, is_report, read_reports

    files = named(results)
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        raise DataError(f"{missing[0]}: no such report, bank, folder of predictions or COCO results")
    reports = {name: read_reports(path) for name, path in files.items() if path.is_file() and is_report(path)}
    there = None
    if len(reports) < len(files):
        _check_data(data, [path for name, path in files.items() if name not in reports])
        run = RunConfig(load, skip_bad=skip_bad, progress=True)
        there = Measuring(open_with_remarks(data, skip_bad), data, like, decoder, index, metric, backbone, run)
        reports |= {name: (there.report(name, path),) for name, path in files.items() if name not in reports}
    found = hold_against([Result.of(name, *reports[name]) for name in files], skip_missing=skip_bad)
    print_comparison(found)
    if out:
        write_comparison(found, Path(out).expanduser(), there.dataset if there else None, there.masks if there else {})


def named(results: Sequence[str]) -> dict[str, Path]:
    """What was given, by the shortest names that tell them apart: of the file or folder, or the whole path."""
    from fungi_seg.bank import MemoryBank

    paths = [MemoryBank.open(result).path if is_address(result) else Path(result).expanduser() for result in results]
    short = [path.stem if path.suffix == ".json" else path.name or str(path) for path in paths]
    found: dict[str, Path] = {}
    for name, path in zip(short, paths, strict=True):
        own = name if short.count(name) == 1 else str(path)
        count = 1 + sum(path == other for other in found.values())
        found[own if count == 1 else f"{own} ({count})"] = path
    return found


def _check_data(data: DataConfig, files: Sequence[Path]) -> None:
    """Raise unless it is said what results that aren't reports are measured on."""
    if not data.root and not data.annotations:
        raise UsageError(
            f"{files[0]} is no report, so it is measured on annotated images; name them: --data.root DIR --data.split "
            f"val"
        )
    check_split(data)
