"""Hold a backbone against the baselines it has to beat: `python tools/compare_backbones.py --data_root DIR`.

The baselines are the same network with random weights and the 24-number descriptor. Every figure is made under the
`native` protocol (exact search, K = 30, τ = 0.02, masks at their own size). What is measured already stays in the JSON
file, so that the work can be interrupted.
"""

from __future__ import annotations

import json as json_module
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fungi_seg import (
    BackboneConfig,
    BankConfig,
    DataConfig,
    Dataset,
    DecoderConfig,
    FeatureConfig,
    FungiSegError,
    IndexConfig,
    InputConfig,
    Segmenter,
    build_bank,
    evaluate,
    load_backbone,
    open_dataset,
)
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.cli import tool
from fungi_seg.files import replacing

BEGIN, END = "<!-- begin results -->", "<!-- end results -->"


@dataclass(frozen=True)
class Case:
    """A data set, how much of it, and at what size.

    Attributes:
        name: column of the table.
        data: without root and split.
        folder: under the root.
        size: input size `(height, width)`.
        splits: to build from, to measure on.
        shots: images in the bank, taken evenly; all where not given.
        rows: of the bank, at most.
        score: class whose IoU counts; the mean where not given.
        sampled: whether there are more patches than rows, so that plain features too depend on the seed.
    """

    name: str
    data: DataConfig
    folder: str
    size: tuple[int, int] = (256, 336)
    splits: tuple[str, str] = ("train", "val")
    shots: int | None = None
    rows: int = 150_000
    score: str | None = None
    sampled: bool = False


NUCLEI = DataConfig(layout="folder")
CASES = (
    Case("CamVid", DataConfig(layout="folder", void=11), "camvid", sampled=True),
    Case("nuclei 71", NUCLEI, "nuclei", score="nucleus"),
    Case("nuclei 8", NUCLEI, "nuclei", shots=8, score="nucleus"),
    Case("VOC subset", DataConfig(layout="voc"), "voc", splits=("trainaug", "val"), sampled=True),
    Case("nuclei 8, 512×672", NUCLEI, "nuclei", (512, 672), shots=8, score="nucleus"),
    Case("nuclei 71, 512×672", NUCLEI, "nuclei", (512, 672), rows=50_000, score="nucleus", sampled=True),
)


NAMES = tuple(case.name for case in CASES)


def compare(
    data_root: str,
    backbone: BackboneConfig = BackboneConfig("embedded"),
    seeds: Sequence[int] = (0, 1, 2),
    cases: Sequence[str] = NAMES,
    temperature: float = 0.02,
    json: str = "outputs/comparison.json",
    markdown: Sequence[str] = (),
) -> None:
    """Measure a backbone, plain and with FUNGI, beside its baselines.

    Args:
        data_root: folder with camvid, nuclei and voc.
        backbone: what is measured.
        seeds: of sampling and of FUNGI's projections; the baselines take the first alone.
        cases: names of the data sets.
        temperature: of the vote.
        json: file that keeps the figures; what it holds already isn't measured again.
        markdown: files in which to replace the table between two marks.
    """
    name = backbone.name
    random = BackboneConfig(**(asdict(backbone) | {"weights": "random"}))
    own = load_backbone(**vars(backbone))
    rows = [("descriptor", load_backbone("descriptor"), "plain", seeds[:1])]
    rows += [(f"{name}, random weights", load_backbone(**vars(random)), "plain", seeds[:1])]
    rows += [(f"{name}, plain", own, "plain", seeds), (f"{name}, FUNGI", own, "fungi", seeds)]
    unknown = [case for case in cases if case not in {known.name for known in CASES}]
    if unknown:
        raise FungiSegError(f"cases has {unknown}; it must be among {', '.join(case.name for case in CASES)}")
    files = [Path(name) for name in markdown]
    for file in files:
        if any(file.read_text("utf-8").count(mark) != 1 for mark in (BEGIN, END)):
            raise FungiSegError(f"{file}: must hold {BEGIN} and {END} once each; the table goes between them")
    kept = Path(json)
    figures: list[dict[str, Any]] = json_module.loads(kept.read_text("utf-8")) if kept.is_file() else []
    shown = []
    for case in CASES:
        for label, loaded, kind, row_seeds in rows:
            for seed in row_seeds if case.sampled or kind == "fungi" else row_seeds[:1]:
                key = {"case": asdict(case), "fingerprint": loaded.fingerprint, "kind": kind, "seed": seed,
                       "temperature": temperature}  # fmt: skip
                key = json_module.loads(json_module.dumps(key))
                found = [figure for figure in figures if key.items() <= figure.items()]
                if not found and case.name in cases:
                    score = measure(case, Path(data_root), loaded, kind, seed, temperature)
                    print(f"{case.name} | {label} | seed {seed} | {100 * score:.2f}", flush=True)
                    found = [{**key, "row": label, "score": score}]
                    figures += found
                    with replacing(kept) as draft:
                        draft.write_text(json_module.dumps(figures, indent=1), encoding="utf-8")
                shown += found
    table = as_table(shown, [label for label, *_ in rows], temperature)
    print(table)
    for file in files:
        before, rest = file.read_text("utf-8").split(BEGIN)
        with replacing(file) as draft:
            draft.write_text(f"{before}{BEGIN}\n{table}{END}{rest.split(END)[1]}", encoding="utf-8")


def measure(case: Case, root: Path, backbone: Any, kind: str, seed: int, temperature: float) -> float:
    """mIoU, or the IoU of one class, 0..1."""

    def split(name: str) -> Dataset:
        return open_dataset(DataConfig(**(asdict(case.data) | {"root": str(root / case.folder), "split": name})))

    train, test = map(split, case.splits)
    with tempfile.TemporaryDirectory() as folder:
        bank = build_bank(
            train.evenly(case.shots) if case.shots else train,
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


if __name__ == "__main__":
    sys.exit(tool(compare))
