"""A bank evaluated with several seeds: mean, spread, and the interval of the mean."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.bank import MemoryBank, rebuild_bank, recipe_of, training_images
from fungi_seg.evaluation.comparison import Result
from fungi_seg.evaluation.report import IMAGE_HEADER, WORST, Report, json_text
from fungi_seg.evaluation.settings import check_seeds
from fungi_seg.evaluation.words import interval_words, table_lines
from fungi_seg.features import Backbone, FeatureFiles, KeptFeatures, PatchFeatures
from fungi_seg.images import RunConfig
from fungi_seg.segmentation import LEVEL, class_iou, class_iou_intervals, mean_iou_interval, mean_iou_without_each

SEED_HEADER = ("class", "IoU %", "sd over seeds", f"{LEVEL} % interval")


@dataclass(frozen=True)
class SeedReport:
    """What evaluations with several seeds found, on the same images.

    Attributes:
        seeds: of sampling, and of FUNGI's head and projections.
        reports: of each.
        notes: what to know when reading them.
    """

    seeds: tuple[int, ...]
    reports: tuple[Report, ...]
    notes: tuple[str, ...] = ()

    @property
    def values(self) -> list[float]:
        """mIoU by seed, 0..1."""
        return [report.miou for report in self.reports]

    @property
    def miou(self) -> float:
        """The mean of `values`."""
        return float(np.mean(self.values))

    @property
    def std(self) -> float:
        """Their sample standard deviation; 0 for one seed."""
        return float(np.std(self.values, ddof=1)) if len(self.values) > 1 else 0.0

    @property
    def interval(self) -> list[float] | None:
        """Of `miou`, over images."""
        result = Result.of("seeds", *self.reports)
        return mean_iou_interval(result.counts, classes=result.counted)

    @property
    def confusion(self) -> list[list[int]]:
        """Of all seeds together, as in `Report`."""
        widest = max(len(report.confusion[0]) for report in self.reports)
        total = np.zeros((len(self.reports[0].confusion), widest), np.int64)
        for report in self.reports:
            total[:, : len(report.confusion[0])] += np.array(report.confusion)
        found: list[list[int]] = total.tolist()
        return found

    @property
    def skipped(self) -> list[str]:
        """What was skipped, and why."""
        return list(dict.fromkeys(line for report in self.reports for line in report.skipped))

    def classes(self) -> list[dict[str, Any]]:
        """A dictionary per class: name, iou (mean over seeds; none if absent), std over seeds, interval over images."""
        result = Result.of("seeds", *self.reports)
        iou, intervals = class_iou(result.counts.sum(1)), class_iou_intervals(result.counts)
        return [
            {
                "name": name,
                "iou": None if np.isnan(iou[:, c]).any() else float(iou[:, c].mean()),
                "std": None if np.isnan(iou[:, c]).any() else float(iou[:, c].std(ddof=1 if len(iou) > 1 else 0)),
                "interval": intervals[c],
            }
            for c, name in enumerate(result.classes)
        ]

    def to_json(self) -> str:
        """All of it as JSON; `reports` holds those of the seeds, which `read_reports` finds."""
        summary = {name: getattr(self, name) for name in ("seeds", "miou", "values", "std", "interval", "notes")}
        text = json_text(summary | {"classes": self.classes()})
        return text[:-2] + ',\n "reports": [\n' + ",\n".join(report.to_json() for report in self.reports) + "\n]\n}"

    def to_markdown(self) -> str:
        """As a person reads it, with the settings of the first seed."""
        lines = [f"# mIoU {100 * self.miou:.2f}", "", self.summary(), ""]
        lines += [*table_lines(SEED_HEADER, self.class_rows()), "", *table_lines(IMAGE_HEADER[:3], self.image_rows())]
        lines += ["", "Notes:", "", *(f"- {note}" for note in self.notes), "", f"Seed {self.seeds[0]}:", ""]
        return "\n".join([*lines, self.reports[0].to_markdown()])

    def summary(self) -> str:
        """The figures in a line."""
        by_seed = ", ".join(f"{100 * v:.2f} (seed {s})" for s, v in zip(self.seeds, self.values, strict=True))
        return (
            f"mIoU {100 * self.miou:.2f} %, sd over seeds {100 * self.std:.2f}, {LEVEL} % interval over images "
            f"{interval_words(self.interval)}: {by_seed}"
        )

    def class_rows(self) -> list[tuple[str, ...]]:
        """The table of `SEED_HEADER` as text."""
        return [
            (
                c["name"],
                "absent" if c["iou"] is None else f"{100 * c['iou']:.2f}",
                "–" if c["std"] is None else f"{100 * c['std']:.2f}",
                "–" if c["interval"] is None else interval_words(c["interval"]),
            )
            for c in self.classes()
        ]

    def image_rows(self, count: int = WORST) -> list[tuple[str, ...]]:
        """The images that lower mIoU most, means over the seeds, as text."""
        result = Result.of("seeds", *self.reports)
        value, left = mean_iou_without_each(result.counts, result.counted)
        rows: list[tuple[str, ...]] = []
        for place in np.argsort(value - left, kind="stable")[:count]:
            own = [report.images_counted[place]["miou"] for report in self.reports]
            if value < left[place]:
                shown = "–" if own[0] is None else f"{100 * np.mean(own):.2f}"
                rows.append((result.ids[place], shown, f"{100 * (value - left[place]):+.2f}"))
        return rows


def banks_of_seeds(
    bank: MemoryBank, seeds: Sequence[int], backbone: Backbone, run: RunConfig, root: str | None, near: Path | None
) -> Iterator[tuple[int, MemoryBank, PatchFeatures]]:
    """A bank as it would be with other seeds, one after another, and its features; each is gone when the next is made.

    The bank's own seed is the bank itself. Plain features, on which no seed has a say, are computed once for each
    image, those of new images too.

    Args:
        bank: an open bank that wasn't changed since it was built.
        seeds: of the choice of patches, of augmentation, and of FUNGI's head and projections.
        backbone: that of the bank.
        run: how images are worked through.
        root: where the bank's own data set lies, if it isn't where its record says.
        near: a folder beside whose contents banks and features are kept meanwhile; the system's by default.

    Raises:
        FungiSegError: no seed, one twice, or one below 0.
        BankError: the bank was changed since it was built, or its record doesn't name its data set.
        DataError: its annotated images aren't there.
    """
    check_seeds(seeds)
    recipes = {seed: recipe_of(bank, seed) for seed in seeds}
    own, images = recipe_of(bank), None
    if any(recipe != own for recipe in recipes.values()):
        images = training_images(bank, root)
    if near:
        near.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="seeds-", dir=near) as folder:
        own_features = bank.info.features
        files = FeatureFiles(Path(folder) / "features")
        kept = KeptFeatures(backbone, own_features, files) if own_features.kind == "plain" else None
        for seed, recipe in recipes.items():
            if images is None or recipe == own:
                yield seed, bank, kept or bank.patch_features(backbone=backbone)
                continue
            with tempfile.TemporaryDirectory(prefix="bank-", dir=folder) as place:
                features = kept or (None if recipe.features.needs_support else PatchFeatures(backbone, recipe.features))
                made = rebuild_bank(bank, seed, images, backbone, Path(place) / f"seed_{seed}", run, features)
                yield seed, made, features or made.patch_features(backbone=backbone)


def seed_note(bank: MemoryBank) -> str:
    """What varies between the seeds of a bank, and what doesn't."""
    parts = ["which patches the bank holds"]
    if bank.info.build.get("augment"):
        parts.append("how images are cropped and jittered")
    if bank.info.features.kind != "plain":
        parts.append("FUNGI's head and projections")
    return (
        f"from seed to seed differs {', and '.join(parts)}; the annotated images and the settings of the vote, with "
        f"those that were fitted on {bank.path}, are the same"
    )
