"""The command that segments images."""

from __future__ import annotations

import logging
from pathlib import Path

from fungi_seg.errors import UsageError, as_usage
from fungi_seg.evaluation import CocoConfig
from fungi_seg.features import PlacementConfig
from fungi_seg.images import InputConfig, InputOptions, LoadConfig, RunConfig
from fungi_seg.results import ResultsConfig, VideoConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderOptions, MaskConfig, ObjectConfig, OverlayConfig

log = logging.getLogger(__name__)


def segment(
    images: list[str],
    bank: str,
    out: str,
    decoder: DecoderOptions = DecoderOptions(),
    index: IndexConfig = IndexConfig(),
    input: InputOptions = InputOptions(),
    backbone: PlacementConfig = PlacementConfig(),
    masks: MaskConfig = MaskConfig(),
    overlays: OverlayConfig = OverlayConfig(),
    scores: bool = False,
    unknown: float | None = None,
    confidence: list[str] | None = None,
    polygons: list[str] | None = None,
    coco: CocoConfig = CocoConfig(),
    objects: bool = False,
    object: ObjectConfig = ObjectConfig(),
    pixel_size: float | None = None,
    report: bool = True,
    video: VideoConfig = VideoConfig(),
    corrections: str | None = None,
    load: LoadConfig = LoadConfig(),
    skip_bad: bool = False,
    overwrite: bool = False,
    cluster: str | None = None,
    workers: int | None = None,
) -> None:
    """Segment images with a memory bank.

    Writes OUT/index.html (a page of all images, the most doubtful first), OUT/images.csv, OUT/masks/ID.png (grey,
    values are class indices; of GeoTIFFs, OME-TIFFs, slides and OME-Zarr a file of that kind), OUT/overlays/ID.jpg or
    .png, optionally OUT/scores/ID.npy ([C, H, W] float16), OUT/confidence/ID.png or .tiff and OUT/polygons/ID.gpkg or
    .geojson, and OUT/classes.txt. With --coco.file also COCO results, and the images and categories that they belong
    to beside them. With --objects also OUT/objects.csv, OUT/labels/ID.tif,
    OUT/geojson/ID.geojson (QuPath) and OUT/rois/ID.zip (ImageJ), which all hold the same objects.

    Planes of stacks and frames of videos are images of their own, such as ID[z=3] and ID[t=12]. All masks of a file
    together are OUT/stacks/ID.tif, of the same axes; with --video.output also OUT/videos/ID.mp4, which shows them.

    Called again with the same settings, it segments the images that are new.

    Args:
        images: image files, folders (searched through) and quoted glob patterns.
        bank: folder of the bank.
        out: folder for the results.
        decoder: how neighbours vote.
        index: how neighbours are searched.
        input: how images enter, where it isn't as the bank's images did.
        backbone: where the bank's backbone runs.
        masks: how masks are written.
        overlays: how images are shown with their masks.
        scores: write class scores.
        unknown: confidence, 0..1, below which pixels get no class but 255 (65535 where there are more than 255
            classes), as do patches unlike anything in the bank; the bank must be fitted.
        confidence: write the probability that each pixel's class is right, as png (0..255 for 0..1) and tiff (float32).
        polygons: write masks as polygons, too, as gpkg and geojson: in the coordinates of GeoTIFFs, of others (geojson
            only) in pixels, as QuPath reads them.
        coco: predictions as COCO results; with --objects an entry of each object.
        objects: count and measure the objects of each image.
        object: which regions count as objects.
        pixel_size: width of a pixel in micrometres, for lengths and areas of objects.
        report: write the page.
        video: what is made of whole videos, and whether their frames help each other.
        corrections: folder of masks painted on the page, or by other means, under the names of their images: class
            indices, and 255 (65535) where nothing was painted. They take the place of predictions.
        load: how images are worked through.
        skip_bad: skip images that can't be used.
        overwrite: make all results anew, and then replace those at --out.
        cluster: a Ray that does the work: local (this machine), auto (the one that runs here), host:port or
            ray://host:port of its head.
        workers: its processes; by default as many as it has cores (or GPUs) for, each with --threads (1 by default).
    """
    with as_usage():
        if not objects and (pixel_size is not None or object != ObjectConfig()):
            raise UsageError("--object.… and --pixel_size are of objects, which aren't asked for; add --objects")
        config = ResultsConfig(
            masks,
            overlays,
            scores,
            tuple(confidence or ()),
            unknown,
            object if objects else None,
            pixel_size,
            coco,
            report,
            tuple(polygons or ()),
            video,
        )
    from fungi_seg.bank import MemoryBank
    from fungi_seg.commands.clusters import on_cluster
    from fungi_seg.commands.fitting import check_sure, decoder_for
    from fungi_seg.commands.output import report_skipped
    from fungi_seg.datasets import void_value
    from fungi_seg.distributed import written_by
    from fungi_seg.results import find_corrections, find_images, segment_to_folder
    from fungi_seg.segmentation import Segmenter

    remarks: list[str] = []
    found = find_images(images, remarks, Path(out).expanduser(), InputConfig(projection=input.projection))
    opened = MemoryBank.open(bank)
    entering = input.over(opened.info.input)
    if entering.projection != input.projection:  # planes of stacks are other images than they seemed
        remarks.clear()
        found = find_images(images, remarks, Path(out).expanduser(), entering)
    painted = find_corrections(corrections, found, opened.info.classes, remarks) if corrections else None
    for remark in remarks:
        log.warning(remark)
    segmenter = Segmenter(opened, None, decoder_for(opened, decoder), index, **vars(backbone)).entering(input)
    if unknown is not None or confidence:
        check_sure(segmenter)
    run = RunConfig(load, skip_bad=skip_bad, progress=True)
    with on_cluster(cluster, workers) as machines:
        write = written_by(machines) if machines else None
        outcome = segment_to_folder(segmenter, found, out, config, run, overwrite, painted, write)
    report_skipped(outcome.skipped)
    before = outcome.total - outcome.segmented
    looks = f"; look at {Path(out) / 'index.html'}" if report else ""
    print(f"{out}: {outcome.segmented} images segmented" + (f", {before} were there" if before else "") + looks)
    for file in outcome.whole:
        print(f"{Path(out) / file}: all of its planes")
    if coco.file:
        print(f"{coco.file}: {outcome.regions} regions")
    if objects:
        print(f"{Path(out) / 'objects.csv'}: {outcome.objects} objects")
    if unknown is not None:
        void = void_value(len(opened.info.classes))
        rest = ", which COCO results leave out" if coco.file else ""
        print(f"{100 * outcome.unknown:.1f} % of an image is unknown ({void} in masks, hatched){rest}")
