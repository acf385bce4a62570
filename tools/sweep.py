"""Measure settings of bank, search and vote: `python tools/sweep.py [configs/RECIPE.yaml] [options]`."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from fungi_seg import (
    BackboneConfig,
    DataConfig,
    DataError,
    FungiSegError,
    InputConfig,
    load_backbone,
    open_dataset,
)
from fungi_seg.cli import tool
from fungi_seg.commands.classification import FILE_WIDTH
from fungi_seg.features.settings import FeatureConfig
from fungi_seg.files import replacing
from fungi_seg.images import RunConfig
from fungi_seg.images.settings import LoadConfig
from fungi_seg.sweep.settings import SweepConfig
from fungi_seg.sweep.sweeping import sweep as run_sweep


def sweep(
    out: str,
    data: DataConfig = DataConfig(),
    val_split: str = "val",
    backbone: BackboneConfig = BackboneConfig(),
    features: FeatureConfig = FeatureConfig(),
    input: InputConfig = InputConfig(),
    load: LoadConfig = LoadConfig(),
    k: tuple[int, ...] = SweepConfig.k,
    temperature: tuple[float, ...] = SweepConfig.temperature,
    size: tuple[int | None, ...] = SweepConfig.size,
    sampling: tuple[str, ...] = SweepConfig.sampling,
    index: tuple[str, ...] = SweepConfig.index,
    seeds: tuple[int, ...] = SweepConfig.seeds,
) -> None:
    """Measure every combination of settings of bank, search and vote, from features that are computed once.

    Writes OUT/sweep.json, .csv, .md and .png; features stay in OUT/cache.

    Args:
        out: folder for the results.
        data: the annotated images for the banks.
        val_split: the annotated images to measure on: another split of the same data.
        backbone: the frozen vision transformer.
        features: what a patch feature is made of.
        input: how an image becomes the backbone's input.
        load: how images are worked through.
        k: neighbours a patch, such as 5,30,90.
        temperature: of the vote, such as 0.005,0.02,0.1.
        size: rows of the bank, such as 10000,102400,null; null keeps every labelled patch (alone: [null]).
        sampling: which patches are kept, of balanced,uniform.
        index: how neighbours are searched: auto, flat or FAISS factory strings.
        seeds: of the choice of patches.
    """
    config = SweepConfig(k, temperature, size, sampling, index, seeds)
    if not val_split:
        raise FungiSegError("val_split is empty; name the split to measure on, such as --val_split val")
    train = open_dataset(data)
    try:
        val = open_dataset(replace(data, split=val_split, file_list=None))
    except DataError as error:
        raise DataError(f"val_split is {val_split!r}, which must be a split beside data.split: {error}") from error
    record = {"images": asdict(data) | {"val_split": val_split}}
    loaded = load_backbone(**vars(backbone))
    report = run_sweep(train, val, loaded, out, config, features, input, RunConfig(load, progress=True))
    report = replace(report, settings=report.settings | record)
    header, rows = report.table()
    table = Table(*(Column(name, justify="right") for name in header))
    for row in rows:
        table.add_row(*row)
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    console.print(table)
    for note in (report.explanation(), *report.notes):
        console.print(note, style="dim", markup=False)
    folder = Path(out).expanduser()
    for ending, text in (("json", report.to_json()), ("csv", report.to_csv()), ("md", report.to_markdown())):
        with replacing(folder / f"sweep.{ending}") as draft:
            draft.write_text(text, encoding="utf-8")
    report.chart(folder / "sweep.png")
    print(report.summary())
    print(f"Look at: {folder / 'sweep.png'} {folder / 'sweep.md'}")


if __name__ == "__main__":
    sys.exit(tool(sweep))
