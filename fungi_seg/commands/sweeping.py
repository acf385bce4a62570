"""The command that measures settings: sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from fungi_seg.datasets import DataConfig
from fungi_seg.errors import DataError, FungiSegError, UsageError, as_usage
from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig
from fungi_seg.sweep import SweepConfig


def sweep(
    out: str,
    data: DataConfig = DataConfig(),
    val_split: str = "val",
    val_file_list: str | None = None,
    backbone: BackboneConfig = BackboneConfig(),
    features: FeatureConfig = FeatureConfig(),
    input: InputConfig = InputConfig(),
    load: LoadConfig = LoadConfig(),
    k: tuple[int, ...] = SweepConfig.k,
    temperature: tuple[float, ...] = SweepConfig.temperature,
    size: tuple[int | None, ...] = SweepConfig.size,
    sampling: tuple[str, ...] = SweepConfig.sampling,
    index: tuple[str, ...] = SweepConfig.index,
    kind: tuple[str, ...] = SweepConfig.kind,
    gradient_weight: tuple[float, ...] = SweepConfig.gradient_weight,
    backbones: tuple[str, ...] = (),
    seeds: tuple[int, ...] = SweepConfig.seeds,
) -> None:
    """Measure every combination of settings of bank, search and vote, from features that are computed once.

    Writes OUT/sweep.json, .csv, .md and .png; features and what was measured stay in OUT/cache, so that a sweep that
    was interrupted goes on from there.

    Args:
        out: folder for the results.
        data: the annotated images for the banks.
        val_split: the annotated images to measure on: another split of the same data.
        val_file_list: text file of ids, one a line, of the images to measure on: those of that split, or those of the
            list in place of the split's own.
        backbone: the frozen vision transformer.
        features: what a patch feature is made of.
        input: how an image becomes the backbone's input.
        load: how images are worked through.
        k: neighbours a patch, such as 5,30,90.
        temperature: of the vote, such as 0.005,0.02,0.1.
        size: rows of the bank, such as 10000,102400,null; null keeps every labelled patch (alone: [null]).
        sampling: which patches are kept, of balanced,uniform.
        index: how neighbours are searched: auto, flat or FAISS factory strings.
        kind: of features, plain,fungi; what features.kind says by default.
        gradient_weight: of fungi, such as 0,0.15,0.3,0.5: a in (1 − a)·cos(token) + a·cos(gradient).
        backbones: several, by name, in place of one: embedded,descriptor,vit_small_patch16_224.dino; NAME=FILE gives
            the weights of a timm name. One that is called as backbone.name is as the other options of backbone say.
        seeds: of the choice of patches.
    """
    with as_usage():
        config = SweepConfig(k, temperature, size, sampling, index, seeds, kind, gradient_weight)
        chosen = backbones_of(backbones, backbone)
    if not val_split:
        raise UsageError("val_split is empty; name the split to measure on, such as --val_split val")
    from fungi_seg.commands.reports import print_sweep
    from fungi_seg.datasets import open_dataset
    from fungi_seg.features import load_backbone
    from fungi_seg.sweep import sweep as run_sweep

    train = open_dataset(data, input=input)
    try:
        val = open_dataset(replace(data, split=val_split, file_list=val_file_list), input=input)
    except DataError as error:
        beside = f"val_split is {val_split!r}, which must be a split beside data.split"
        listed = f"val_file_list is {val_file_list!r}, ids in the split {val_split!r}"
        raise DataError(f"{listed if val_file_list else beside}: {error}") from error
    record = {"images": asdict(data) | {"val_split": val_split, "val_file_list": val_file_list}}
    loaded = {name: load_backbone(**vars(one)) for name, one in chosen.items()}
    report = run_sweep(train, val, loaded, out, config, features, input, RunConfig(load, progress=True))
    print_sweep(replace(report, settings=report.settings | record), Path(out).expanduser())


def backbones_of(names: Sequence[str], given: BackboneConfig) -> dict[str, BackboneConfig]:
    """How each backbone is loaded, by its name; the one that is given where none is named.

    Raises:
        FungiSegError: one is named twice.
    """
    if not names:
        return {given.name: given}
    found: dict[str, BackboneConfig] = {}
    for text in names:
        name, _, weights = text.partition("=")
        if text in found:
            raise FungiSegError(f"backbones is {list(names)}; it must hold none twice")
        other = BackboneConfig(name, weights or None, device=given.device, dtype=given.dtype)
        found[text] = given if text == given.name else other
    return found
