"""What fitting on the bank gains at pixels, and FUNGI over plain features where each is fitted."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.bank import BankConfig, BankRecipe, SourceImages, build_bank
from fungi_seg.datasets import Sample
from fungi_seg.errors import UsageError
from fungi_seg.evaluation.backbone_comparison import datasets_of, keep_figure, kept_figure, kept_figures
from fungi_seg.evaluation.cases import CASES, NAMES, Case
from fungi_seg.evaluation.evaluation import evaluate
from fungi_seg.evaluation.metrics import pixel_counts
from fungi_seg.features import Backbone, BackboneConfig, FeatureConfig, load_backbone
from fungi_seg.images import InputConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig, Segmentation, Segmenter, fit_decoder, mean_iou_interval, mean_iou_of

KINDS = ("plain", "fungi")
PROTOCOLS = ("native", "best")
HEADER = ("case", "plain native", "plain best", "FUNGI native", "FUNGI best", "mIoU: FUNGI best − native",
          "mIoU: FUNGI best − plain best")  # fmt: skip

log = logging.getLogger(__name__)


def compare_masks(
    root: Path,
    backbone: BackboneConfig,
    kept: Path,
    cases: Sequence[str] = NAMES,
    seeds: Sequence[int] = (0, 1, 2),
    rows: int = 60_000,
    size: tuple[int, int] | None = None,
) -> str:
    """Measure the protocols `native` and `best` with plain and FUNGI features; a table of them as Markdown.

    Args:
        root: folder with the data of `CASES`.
        backbone: what features are of.
        kept: JSON file that keeps the pixel counts, so that the work can be interrupted; what it holds isn't measured
            again.
        cases: names of those to measure.
        seeds: of sampling and of FUNGI's projections.
        rows: of each bank, at most.
        size: input size `(height, width)`, in place of that of the cases.

    Raises:
        UsageError: no case of such a name.
    """
    chosen = [replace(case, rows=rows, size=size or case.size) for case in CASES if case.name in cases]
    if len(chosen) < len(set(cases)):
        raise UsageError(f"cases has {list(cases)}; it must be among {', '.join(case.name for case in CASES)}")
    loaded = load_backbone(**vars(backbone))
    figures = kept_figures(kept)
    lines: list[tuple[str, ...]] = [HEADER]
    for case in chosen:
        found: dict[tuple[str, str], list[Any]] = {}
        classes: list[str] = []
        for seed in seeds:
            for kind in KINDS:
                key = {"case": asdict(case), "fingerprint": loaded.fingerprint, "kind": kind, "seed": seed}
                there = kept_figure(figures, key)
                if not there:
                    measured = measure_masks(case, root, loaded, kind, seed)
                    log.info("%s | %s | seed %d | %s", case.name, kind, seed, measured["decoder"])
                    there = keep_figure(figures, key, measured, kept)
                classes = there["classes"]
                for protocol in PROTOCOLS:
                    found.setdefault((kind, protocol), []).append(there[protocol])
        lines.append(row_of(case, classes, {what: np.array(counts) for what, counts in found.items()}))
    table = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([table[0], "|---" + "|---:" * (len(HEADER) - 1) + "|", *table[1:]]) + "\n"


def measure_masks(case: Case, root: Path, backbone: Backbone, kind: str, seed: int) -> dict[str, Any]:
    """By protocol, pixel counts `[images, 3, C]` as lists; and `classes`, and the `decoder` that was fitted."""
    train, test = datasets_of(case, root)
    with tempfile.TemporaryDirectory() as folder:
        recipe = BankRecipe(FeatureConfig(kind=kind, seed=seed), InputConfig(case.size), BankConfig(case.rows), seed)
        bank = build_bank(train, backbone, Path(folder) / "bank", recipe)
        features, images = bank.patch_features(backbone=backbone), SourceImages(bank, case.source(root))
        fitted = fit_decoder(bank, images=images, features=features).decoder
        found: dict[str, Any] = {"classes": list(test.classes), "decoder": asdict(fitted)}
        for protocol, decoder in zip(PROTOCOLS, (DecoderConfig(), fitted), strict=True):
            counts: list[list[list[int]]] = []

            def count(sample: Sample, one: Segmentation, counts: list[list[list[int]]] = counts) -> None:
                counts.append(pixel_counts(sample.mask, one.mask, len(test.classes)).tolist())

            evaluate(Segmenter(bank, features, decoder, IndexConfig("flat")), test, each=count)
            found[protocol] = counts
    return found


def row_of(case: Case, classes: Sequence[str], counts: Mapping[tuple[str, str], np.ndarray]) -> tuple[str, ...]:
    """A line of the table, in percent: over seeds the mean with lowest and highest, and differences of mIoU.

    Args:
        case: gives the name, and the class whose IoU is shown in place of the mean.
        classes: names.
        counts: by kind of features and protocol, `[S, images, 3, C]`.
    """
    shown = slice(None) if case.score is None else [classes.index(case.score)]
    cells = [case.name]
    for kind in KINDS:
        for protocol in PROTOCOLS:
            scores = 100 * mean_iou_of(counts[kind, protocol].sum(1)[..., shown])
            spread = f" ({scores.min():.2f}–{scores.max():.2f})" if len(scores) > 1 else ""
            cells.append(f"{scores.mean():.2f}{spread}")
    for one, other in ((("fungi", "best"), ("fungi", "native")), (("fungi", "best"), ("plain", "best"))):
        gain = float(np.mean(mean_iou_of(counts[one].sum(1)) - mean_iou_of(counts[other].sum(1))))
        interval = mean_iou_interval(counts[one], counts[other])
        within = "" if interval is None else " ({:+.2f} to {:+.2f})".format(*(100 * value for value in interval))
        cells.append(f"{100 * gain:+.2f}{within}")
    return tuple(cells)
