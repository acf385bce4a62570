"""A first result: microscopy images that come with the package, segmented from a few annotated ones."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

from fungi_seg.bank import BankRecipe, build_bank
from fungi_seg.commands.fitting import fit_and_keep
from fungi_seg.datasets import DataConfig, Dataset, Sample, open_dataset
from fungi_seg.evaluation import ConfusionMatrix, Report, evaluate, intersection_over_union
from fungi_seg.features import Backbone, BackboneConfig, FeatureConfig, KeptFeatures, load_backbone
from fungi_seg.files import replacing
from fungi_seg.images import InputConfig, RunConfig, Table
from fungi_seg.segmentation import Panel, Segmentation, Segmenter, Vote, contact_sheet, page

NUCLEI = Path(__file__).parent.parent / "assets" / "nuclei"
TITLES = {"plain": "plain", "fungi": "FUNGI"}
FEATURE_KINDS = tuple(TITLES)


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes:
        reports: by kind of features.
        files: what was written: page, contact sheet, figures.
    """

    reports: dict[str, Report]
    files: tuple[Path, Path, Path]

    def rows(self) -> list[tuple[str, ...]]:
        """The comparison as text: what, then a column for each kind of features."""
        reports = list(self.reports.values())
        names = [c["name"] for c in reports[0].classes]
        lines = [
            (f"IoU % {name}", *(f"{100 * r.classes[i]['iou']:.2f}" for r in reports)) for i, name in enumerate(names)
        ]
        lines.append(("mIoU %", *(f"{100 * r.miou:.2f}" for r in reports)))
        lines.append(("seconds an image", *(f"{seconds_an_image(r):.2f}" for r in reports)))
        return lines


def run_demo(
    out: Path,
    shots: int,
    backbone: BackboneConfig,
    input: InputConfig,
    seed: int = 0,
    progress: bool = False,
) -> DemoResult:
    """Build banks from `shots` annotated images, plain and FUNGI, segment others, and show what came of it.

    Args:
        out: folder for the banks, `index.html`, `contact_sheet.png` and `report.json`.
        shots: annotated images in the bank, taken evenly from those there are.
        backbone: the frozen vision transformer.
        input: how an image becomes the backbone's input.
        seed: of the bank.
        progress: report on standard error.

    Raises:
        FungiSegError: fewer images than `shots`, or `out` can't be written.
    """
    where = DataConfig(root=str(NUCLEI), split="train")
    train = open_dataset(where).evenly(shots)
    test = open_dataset(DataConfig(root=str(NUCLEI), split="val"))
    loaded, run, reports = load_backbone(**vars(backbone)), RunConfig(progress=progress), {}
    segmented: dict[str, list[tuple[Sample, Segmentation]]] = {}
    for kind in FEATURE_KINDS:
        recipe = BankRecipe(FeatureConfig(kind=kind), input, seed=seed)
        bank = build_bank(train, loaded, out / f"bank_{kind}", recipe, run, overwrite=True)
        features = KeptFeatures(loaded, recipe.features)
        bank = fit_and_keep(bank, where, features, progress)[0]
        segmenter, found = Segmenter(bank, features), list[tuple[Sample, Segmentation]]()
        reports[kind] = evaluate(segmenter, test, run=run, each=lambda *pair, found=found: found.append(pair))
        segmented[TITLES[kind]] = found
    panels = _panels(segmenter, segmented, train)  # the voters are those of the last kind, FUNGI
    files = (out / "index.html", out / "contact_sheet.png", out / "report.json")
    result = DemoResult(reports, files)
    with replacing(files[0]) as draft:
        draft.write_text(_page(result, panels, loaded, train), encoding="utf-8")
    with replacing(files[1]) as draft:
        contact_sheet(panels).save(draft)
    with replacing(files[2]) as draft:
        draft.write_text(
            json.dumps({kind: asdict(report) for kind, report in reports.items()}, indent=1), encoding="utf-8"
        )
    return result


def seconds_an_image(report: Report) -> float:
    """Time from an image at input size to its mask: features, search and decoding."""
    return sum(report.seconds[stage] for stage in ("features", "search", "decoding")) / report.images


def _panels(
    segmenter: Segmenter, segmented: Mapping[str, Sequence[tuple[Sample, Segmentation]]], train: Dataset
) -> list[Panel]:
    """What was predicted for each image, the worst first, and who voted for the middle of its largest object."""
    images = {sample.id: sample.image for sample in train}
    side = segmenter.features.backbone.patch_size[0]
    panels = []
    classes = segmenter.bank.info.classes
    for pairs in zip(*segmented.values(), strict=True):
        sample, found = pairs[0][0], dict(zip(segmented, (prediction for _, prediction in pairs), strict=True))
        height, width = (
            side * own / new for own, new in zip(sample.mask.shape, segmenter.fit(sample.image).content, strict=True)
        )
        x, y = _middle_of_largest(sample.mask == len(classes) - 1)
        pixel = int((x // width + 0.5) * width), int((y // height + 0.5) * height)  # the middle of its patch
        votes = [Vote(n, images[n.source]) for n in segmenter.neighbours(sample.image, *pixel)]
        ious = {name: _iou(sample.mask, one) for name, one in found.items()}
        caption = f"IoU {classes[-1]}: {', '.join(f'{name} {100 * iou:.0f} %' for name, iou in ious.items())}"
        panels.append((ious[list(ious)[-1]], Panel(sample.id, sample.mask, found, pixel, height, votes, caption)))
    return [panel for _, panel in sorted(panels, key=lambda pair: np.nan_to_num(pair[0], nan=1.0))]


def _iou(truth: np.ndarray, found: Segmentation) -> float:
    """Of the last class, in one image."""
    matrix = ConfusionMatrix(len(found.classes))
    matrix.add(truth, found.mask)
    return float(intersection_over_union(matrix.counts)[-1])


def _middle_of_largest(region: np.ndarray) -> tuple[int, int]:
    """The pixel `(x, y)` farthest from the border of `region`."""
    distance = cv2.distanceTransform(np.pad(region.astype(np.uint8), 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return int(x), int(y)


def _page(result: DemoResult, panels: Sequence[Panel], backbone: Backbone, train: Dataset) -> str:
    shots = len(train)
    text = [
        f"{len(panels)} microscopy images, segmented from {shots} annotated ones by the frozen backbone "
        f"{backbone.config.name!r}. Nothing was trained on the annotations: each patch takes the labels of the "
        f"annotated patches whose features are most like its own.",
        "How the annotated patches vote was fitted on each bank by itself: every annotated image was segmented by the "
        "others.",
        "The images with the worst predictions come first. Beneath each: the annotated patches that voted for the "
        "patch marked, with their share of the vote, as FUNGI features find them.",
        "Images: BBBC038v1, CC0.",
    ]
    return page("fungi_seg demo", text, [Table(("", *FEATURE_KINDS), result.rows())], panels)
