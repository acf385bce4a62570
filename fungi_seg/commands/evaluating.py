"""The command that measures a bank, or predictions on disk, on annotated images."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from fungi_seg.datasets import DataConfig
from fungi_seg.errors import UsageError, as_usage
from fungi_seg.evaluation import MetricConfig, check_seeds, protocol_notes
from fungi_seg.features import PlacementConfig
from fungi_seg.images import InputConfig, LoadConfig, RunConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderOptions, ObjectConfig

LEARNS_BY_DEFAULT = ("voc", "ade20k", "cityscapes", "mmseg")  # with no split named they take the training images


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
    seeds: tuple[int, ...] | None = None,
    objects: bool = False,
    object: ObjectConfig = ObjectConfig(),
    backbone: PlacementConfig = PlacementConfig(),
    json: str | None = None,
    markdown: str | None = None,
    chart: str | None = None,
    skip_bad: bool = False,
    cluster: str | None = None,
    workers: int | None = None,
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
        seeds: build the bank again with each of these seeds, such as 0,1,2, from the images that its record names,
            and report mean, spread and interval.
        objects: compare the objects of both masks too: how many there are, and which of them are the same.
        object: which regions count as objects; those of the truth aren't split.
        backbone: where the bank's backbone runs.
        json: file to write the report to, as JSON; - prints it in place of tables.
        markdown: file to write the report to, as Markdown.
        chart: file to draw the confusion matrix to, as PNG.
        skip_bad: skip images and masks that can't be used.
        cluster: a Ray that does the work: local (this machine), auto (the one that runs here), host:port or
            ray://host:port of its head.
        workers: its processes; by default as many as it has cores (or GPUs) for, each with --threads (1 by default).
    """
    if bool(bank) == bool(predictions):
        both = f"bank is {bank!r} and predictions {predictions!r}" if bank else "neither bank nor predictions is given"
        raise UsageError(
            f"{both}; give one of them: --bank FOLDER or --predictions PATH (and --bank null where the recipe has one)"
        )
    check_split(data)
    if seeds is not None and predictions:
        raise UsageError("--seeds is of a bank, which is built again with each; predictions on disk have none")
    if seeds is not None:
        with as_usage():
            check_seeds(seeds)
    if cluster is not None and (seeds is not None or predictions):
        what = "--seeds, which builds banks" if seeds is not None else "--predictions, which needs no backbone"
        raise UsageError(f"--cluster doesn't go with {what}; leave it out")
    if not objects and object != ObjectConfig():
        raise UsageError("--object.… is of objects, which aren't asked for; add --objects")
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.clusters import on_cluster
    from fungi_seg.commands.fitting import decoder_for, unfitted_notes
    from fungi_seg.commands.output import STANDARD_OUTPUT, open_with_remarks, report_skipped, write
    from fungi_seg.commands.reports import print_report, print_seeds
    from fungi_seg.distributed import tallied_by
    from fungi_seg.evaluation import (
        Measurement,
        Report,
        SeedReport,
        banks_of_seeds,
        draw_confusion,
        evaluate,
        evaluate_predictions,
        open_predictions,
        seed_note,
    )
    from fungi_seg.segmentation import Segmenter

    opened = None if predictions else MemoryBank.open(str(bank))
    dataset = open_with_remarks(data, skip_bad, opened.info.input if opened else InputConfig())
    wanted = object if objects else None
    settings = {"data": asdict(data), "protocol": protocol} | ({"object": asdict(object)} if objects else {})
    run = RunConfig(load, skip_bad=skip_bad, progress=True)
    report: Report | SeedReport
    if opened is None:
        found = open_predictions(str(predictions), dataset, like)
        given = {"decoder": decoder != DecoderOptions(), "fitted": fitted is not None, "index": index != IndexConfig()}
        given["backbone"] = backbone != PlacementConfig()
        notes = [f"{name} isn't used: the predictions lie on disk" for name, is_given in given.items() if is_given]
        if protocol:
            notes = [f"how the predictions were made isn't known, so they aren't held against protocol {protocol}"]
        report = evaluate_predictions(found, dataset, metric, run, settings, notes, objects=wanted)
    else:
        chosen = decoder_for(opened, decoder, protocol is None if fitted is None else fitted)
        used = {"decoder": asdict(chosen), "index": asdict(index), "metric": asdict(metric)}
        notes = [
            *(protocol_notes(protocol, opened, used) if protocol else ()),
            *(unfitted_notes(opened) if fitted else ()),
        ]
        features = opened.patch_features(**vars(backbone))
        if seeds is None:
            segmenter = Segmenter(opened, features, chosen, index)
            job = Measurement.of(segmenter, dataset, metric, run, wanted)
            with on_cluster(cluster, workers) as machines:
                report = job.report(tallied_by(machines, job) if machines else job.tallies, settings, notes)
        else:
            files = [Path(name).expanduser() for name in (json, markdown, chart) if name and name != STANDARD_OUTPUT]
            near = files[0].parent if files else None
            reports = {}
            for seed, one, of_seed in banks_of_seeds(opened, seeds, features.backbone, run, data.root or None, near):
                segmenter = Segmenter(one, of_seed, chosen, index)
                told = settings | {"seed": seed, "built again from": str(opened.path)}
                reports[seed] = evaluate(segmenter, dataset, metric, run, told, notes, objects=wanted)
            report = SeedReport(tuple(reports), tuple(reports.values()), (seed_note(opened), *notes))
    report_skipped(report.skipped)
    if json != STANDARD_OUTPUT:
        if isinstance(report, SeedReport):
            print_seeds(report)
        else:
            print_report(report)
    write(json, report.to_json())
    write(markdown, report.to_markdown())
    if chart:
        draw_confusion(report, Path(chart).expanduser())


def check_split(data: DataConfig) -> None:
    """Raise where images to learn from would be measured on, for want of a split."""
    if data.layout in LEARNS_BY_DEFAULT and not (data.split or data.file_list):
        raise UsageError("data.split is empty; name the images to evaluate on, such as --data.split val")
