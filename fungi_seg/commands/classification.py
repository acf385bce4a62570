"""The commands for features of whole images: extract, classify."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from fungi_seg.datasets import ImageDataConfig
from fungi_seg.errors import UsageError, as_usage
from fungi_seg.features import BackboneConfig, ImageFeatureConfig
from fungi_seg.images import LoadConfig, RunConfig
from fungi_seg.whole_images import ClassifyConfig


def extract_(
    out: str,
    data: ImageDataConfig = ImageDataConfig(),
    backbone: BackboneConfig = BackboneConfig(),
    features: ImageFeatureConfig = ImageFeatureConfig(),
    load: LoadConfig = LoadConfig(),
    fast: bool = False,
    download: bool = False,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> None:
    """Write features of whole images to disk, to be evaluated by classify; goes on where it was interrupted.

    Args:
        out: folder of the features.
        data: the images, with a class each.
        backbone: the frozen vision transformer.
        features: what a feature is made of.
        load: how images are worked through.
        fast: the same as --features.fast.
        download: the same as --data.download.
        skip_bad: skip images and class folders that can't be used.
        overwrite: start anew, in place of the features that are at --out.
    """
    from fungi_seg.commands.output import report_skipped
    from fungi_seg.datasets import open_images
    from fungi_seg.features import load_backbone
    from fungi_seg.whole_images import extract

    features, data = replace(features, fast=fast or features.fast), replace(data, download=download or data.download)
    images = open_images(data, skip_bad)
    store = extract(
        images,
        load_backbone(**vars(backbone)),
        out,
        features,
        run=RunConfig(load, skip_bad=skip_bad, progress=True),
        overwrite=overwrite,
        record={"data": asdict(data)},
    )
    report_skipped(store.skipped)
    print(f"{out}: {len(store.ids('train'))} + {len(store.ids('val'))} images, {', '.join(store.parts)}")


def classify(
    folders: list[str],
    methods: tuple[str, ...] = ClassifyConfig.methods,
    combinations: tuple[str, ...] = ClassifyConfig.combinations,
    k: int = ClassifyConfig.k,
    shots: tuple[int, ...] = ClassifyConfig.shots,
    shot_seeds: int = ClassifyConfig.shot_seeds,
    pca: int | None = ClassifyConfig.pca,
    seed: int = ClassifyConfig.seed,
    json: str | None = None,
    markdown: str | None = None,
    chart: str | None = None,
) -> None:
    """Evaluate extracted features: k-NN, few-shot, linear probe, clustering, retrieval, for all combinations of parts.

    Args:
        folders: what extract wrote; several are the same images by other seeds, and give mean and spread.
        methods: knn (majority of k neighbours), knn_weighted (weighted by similarity), linear (logistic regression),
            cluster (k-means on the validation images), retrieval (validation images are queries); such as knn,linear.
        combinations: parts joined by a plus, such as embedding,embedding+kl; by default every combination there is.
        k: neighbours.
        shots: learn from so many images a class too, such as 5 or 1,5.
        shot_seeds: how often these are drawn.
        pca: reduce features to so many components, fitted to the training images, kept beside the features.
        seed: of draws, the linear probe's held-back images, clusters and PCA.
        json: file to write the report to, as JSON; - prints it in place of a table.
        markdown: file to write the report to, as Markdown.
        chart: file to write a bar chart to, as PNG.
    """
    for argument, file in (("json", json), ("markdown", markdown), ("chart", chart)):
        if file and Path(file).expanduser().is_dir():
            raise UsageError(f"--{argument} {file}: is a folder; name a file in it")
    if chart and not chart.lower().endswith(".png"):
        raise UsageError(f"--chart {chart}: the chart is a PNG; let the name end in .png")
    with as_usage():
        config = ClassifyConfig(methods, combinations, k, shots, shot_seeds, pca, seed)
    from fungi_seg.commands.output import STANDARD_OUTPUT, write
    from fungi_seg.commands.reports import print_image_report
    from fungi_seg.whole_images import FeatureStore, evaluate_images

    report = evaluate_images([FeatureStore.open(folder) for folder in folders], config, progress=True)
    if json != STANDARD_OUTPUT:
        print_image_report(report)
    write(json, report.to_json())
    write(markdown, report.to_markdown())
    if chart:
        report.chart(Path(chart).expanduser())
