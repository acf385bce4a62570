"""The commands that make banks: build, demo."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from fungi_seg.bank import BankConfig, BankRecipe, Share
from fungi_seg.datasets import DataConfig
from fungi_seg.errors import UsageError, as_usage, listing
from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig

log = logging.getLogger(__name__)

DEMO_SIZE = 384


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
    shard: str | None = None,
    cluster: str | None = None,
    workers: int | None = None,
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
        shard: build one part only, such as 3/64 for the third of 64; fungi-seg bank merge --sharded makes one bank of
            all parts.
        cluster: a Ray that builds the parts, which are then joined: local (this machine), auto (the one that runs
            here), host:port or ray://host:port of its head.
        workers: its processes; by default as many as it has cores (or GPUs) for, each with --threads (1 by default).
    """
    if cluster is not None and shard is not None:
        raise UsageError(f"--shard is {shard} and --cluster {cluster}, which builds all shards; leave one of them out")
    with as_usage():
        recipe = BankRecipe(features, input, bank, seed)
        share = Share.of(shard) if shard is not None else None
    from fungi_seg.bank import ShardedBuild, build_bank, check_target
    from fungi_seg.commands.clusters import on_cluster
    from fungi_seg.commands.fitting import fit_and_keep, print_fit
    from fungi_seg.commands.output import open_with_remarks, report_skipped
    from fungi_seg.distributed import build_on
    from fungi_seg.features import load_backbone

    check_target(Path(out).expanduser(), overwrite or share is not None)
    dataset = open_with_remarks(data, skip_bad, input)
    loaded = load_backbone(**vars(backbone))
    run, record = RunConfig(load, skip_bad=skip_bad, progress=True), {"data": asdict(data), "protocol": protocol}
    if share:
        build = ShardedBuild(dataset, loaded, out, share.count, recipe, run, record)
        report_shard(out, share, build.write(share.number))
        return
    with on_cluster(cluster, workers) as machines:
        if machines:
            made = build_on(machines, dataset, loaded, out, recipe, run, overwrite, record)
        else:
            made = build_bank(dataset, loaded, out, recipe, run, overwrite, record)
    report_skipped(made.info.build["skipped"])
    without = [name for name, rows in zip(made.info.classes, made.class_rows(), strict=True) if not rows]
    if without:
        what = f"no row of {len(without)} of {len(made.info.classes)} classes"
        log.warning("%s, which can't be found in images:\n%s", what, listing(without))
    print(f"{out}: {len(made)} rows of {made.info.dim} from {made.info.build['images']} images")
    if fit:
        print_fit(out, fit_and_keep(made, data, made.patch_features(backbone=loaded))[1])


def report_shard(out: str, share: Share, folder: Path) -> None:
    """Tell what a part of a bank holds, and what is next."""
    from fungi_seg.bank import read_manifest
    from fungi_seg.commands.output import report_skipped

    manifest = read_manifest(folder)
    report_skipped(manifest.info.build["skipped"])
    print(f"{folder}: {len(manifest)} candidate rows of {len(manifest.info.sources)} images")
    print(f"when all {share.count} are there: fungi-seg bank merge --sharded --bank {out}")


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
