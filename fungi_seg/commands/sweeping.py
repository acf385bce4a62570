"""The command that measures settings: sweep."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from fungi_seg.datasets import DataConfig
from fungi_seg.errors import DataError, UsageError, as_usage
from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig
from fungi_seg.sweep import SweepConfig


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
    with as_usage():
        config = SweepConfig(k, temperature, size, sampling, index, seeds)
    if not val_split:
        raise UsageError("val_split is empty; name the split to measure on, such as --val_split val")
    from fungi_seg.commands.reports import print_sweep
    from fungi_seg.datasets import open_dataset
    from fungi_seg.features import load_backbone
    from fungi_seg.sweep import sweep as run_sweep

    train = open_dataset(data)
    try:
        val = open_dataset(replace(data, split=val_split, file_list=None))
    except DataError as error:
        raise DataError(f"val_split is {val_split!r}, which must be a split beside data.split: {error}") from error
    record = {"images": asdict(data) | {"val_split": val_split}}
    loaded = load_backbone(**vars(backbone))
    report = run_sweep(train, val, loaded, out, config, features, input, RunConfig(load, progress=True))
    print_sweep(replace(report, settings=report.settings | record), Path(out).expanduser())
