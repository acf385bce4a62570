"""A backbone held against the baselines it has to beat, under the `native` protocol.

The baselines are the same network with random weights and the 24-number descriptor.
"""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from fungi_seg.bank import BankConfig, BankRecipe, build_bank
from fungi_seg.datasets import Dataset, open_dataset
from fungi_seg.errors import UsageError
from fungi_seg.evaluation.cases import CASES, NAMES, Case
from fungi_seg.evaluation.evaluation import evaluate
from fungi_seg.features import Backbone, BackboneConfig, FeatureConfig, load_backbone
from fungi_seg.files import replacing
from fungi_seg.images import InputConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderConfig, Segmenter

log = logging.getLogger(__name__)


def compare_backbone(
    root: Path,
    backbone: BackboneConfig,
    kept: Path,
    seeds: Sequence[int] = (0, 1, 2),
    cases: Sequence[str] = NAMES,
    temperature: float = DecoderConfig.temperature,
) -> str:
    """Measure a backbone, plain and with FUNGI, and its baselines; a table of them as Markdown.

    Args:
        root: folder with the data of `CASES`.
        backbone: what is measured.
        kept: JSON file that keeps the figures, so that the work can be interrupted; what it holds isn't measured again.
        seeds: of sampling and of FUNGI's projections; the baselines take the first alone.
        cases: names of those to measure; others are in the table where the file holds them.
        temperature: of the vote.

    Raises:
        UsageError: no case of such a name.
    """
    known = [case.name for case in CASES]
    unknown = [name for name in cases if name not in known]
    if unknown:
        raise UsageError(f"cases has {unknown}; it must be among {', '.join(known)}")
    rows = _rows(backbone, seeds)
    figures, shown = kept_figures(kept), list[dict[str, Any]]()
    for case in CASES:
        for label, loaded, kind, row_seeds in rows:
            for seed in row_seeds if case.sampled or kind == "fungi" else row_seeds[:1]:
                key = {"case": asdict(case), "fingerprint": loaded.fingerprint, "kind": kind, "seed": seed,
                       "temperature": temperature}  # fmt: skip
                found = kept_figure(figures, key)
                if not found and case.name in cases:
                    score = measure_case(case, root, loaded, kind, seed, temperature)
                    log.info("%s | %s | seed %d | %.2f", case.name, label, seed, 100 * score)
                    found = keep_figure(figures, key, {"row": label, "score": score}, kept)
                shown += [found] if found else []
    return as_table(shown, [label for label, *_ in rows], temperature)


def kept_figures(file: Path) -> list[dict[str, Any]]:
    """All that was measured and kept in a JSON file; nothing where there is none yet."""
    figures: list[dict[str, Any]] = json.loads(file.read_text("utf-8")) if file.is_file() else []
    return figures


def kept_figure(figures: Sequence[dict[str, Any]], key: Mapping[str, Any]) -> dict[str, Any] | None:
    """What was measured for `key`, if it was."""
    wanted = json.loads(json.dumps(key))
    return next((figure for figure in figures if wanted.items() <= figure.items()), None)


def keep_figure(
    figures: list[dict[str, Any]], key: Mapping[str, Any], measured: Mapping[str, Any], file: Path
) -> dict[str, Any]:
    """Add what was measured for `key` to `figures`, and write them all to `file`."""
    figure: dict[str, Any] = json.loads(json.dumps({**key, **measured}))
    figures.append(figure)
    with replacing(file) as draft:
        draft.write_text(json.dumps(figures), encoding="utf-8")
    return figure


def _rows(backbone: BackboneConfig, seeds: Sequence[int]) -> list[tuple[str, Backbone, str, Sequence[int]]]:
    """What is measured: label, backbone, kind of features, seeds."""
    name, own = backbone.name, load_backbone(**vars(backbone))
    random = load_backbone(**vars(replace(backbone, weights="random")))
    return [
        ("descriptor", load_backbone("descriptor"), "plain", seeds[:1]),
        (f"{name}, random weights", random, "plain", seeds[:1]),
        (f"{name}, plain", own, "plain", seeds),
        (f"{name}, FUNGI", own, "fungi", seeds),
    ]


def datasets_of(case: Case, root: Path) -> tuple[Dataset, Dataset]:
    """What the bank is built from, and what is measured on."""
    train, test = open_dataset(case.source(root)), open_dataset(case.source(root, 1))
    return (train.evenly(case.shots) if case.shots else train), test


def measure_case(case: Case, root: Path, backbone: Backbone, kind: str, seed: int, temperature: float) -> float:
    """mIoU, or the IoU of one class, 0..1."""
    train, test = datasets_of(case, root)
    with tempfile.TemporaryDirectory() as folder:
        bank = build_bank(
            train,
            backbone,
            Path(folder) / "bank",
            BankRecipe(FeatureConfig(kind=kind, seed=seed), InputConfig(case.size), BankConfig(size=case.rows), seed),
        )
        features = bank.patch_features(backbone=backbone)
        segmenter = Segmenter(bank, features, DecoderConfig(temperature=temperature), IndexConfig("flat"))
        report = evaluate(segmenter, test)
    if case.score is None:
        return report.miou
    return float(next(c["iou"] for c in report.classes if c["name"] == case.score))


def as_table(figures: Sequence[dict[str, Any]], rows: Sequence[str], temperature: float) -> str:
    """Markdown: a line a row, a column a case; of several seeds the mean and, in brackets, lowest and highest."""
    names = [case.name for case in CASES if any(f["case"]["name"] == case.name for f in figures)]
    lines = [f"| IoU %, τ = {temperature} | " + " | ".join(names) + " |", "|---" + "|---:" * len(names) + "|"]
    for row in rows:
        cells = []
        for name in names:
            scores = [100 * f["score"] for f in figures
                      if (f["case"]["name"], f["row"], f["temperature"]) == (name, row, temperature)]  # fmt: skip
            mean = f"{sum(scores) / len(scores):.2f}" if scores else "–"
            cells.append(f"{mean} ({min(scores):.2f}–{max(scores):.2f})" if len(scores) > 1 else mean)
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
