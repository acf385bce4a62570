"""Results that a comparison measures itself, and the files that it writes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fungi_seg.bank import MemoryBank
from fungi_seg.commands.fitting import decoder_for
from fungi_seg.commands.output import report_skipped, write
from fungi_seg.datasets import DataConfig, Dataset
from fungi_seg.evaluation import (
    Comparison,
    Mask,
    MetricConfig,
    Report,
    comparison_csv,
    comparison_html,
    comparison_json,
    comparison_latex,
    comparison_markdown,
    draw_comparison,
    evaluate,
    evaluate_predictions,
    open_predictions,
)
from fungi_seg.features import PlacementConfig
from fungi_seg.images import RunConfig
from fungi_seg.search import IndexConfig
from fungi_seg.segmentation import DecoderOptions, Segmenter

BANK = "bank.json"  # what makes a folder a bank


@dataclass(frozen=True)
class Measuring:
    """Results that aren't reports yet, measured on annotated images."""

    dataset: Dataset
    data: DataConfig
    like: str | None
    decoder: DecoderOptions
    index: IndexConfig
    metric: MetricConfig
    backbone: PlacementConfig
    run: RunConfig
    masks: dict[str, Mask] = field(default_factory=dict)

    def report(self, name: str, path: Path) -> Report:
        """The report of a bank or of predictions on disk, what they predict being kept in `masks`."""
        settings = {"data": asdict(self.data)}
        if (path / BANK).is_file():
            report = self._of_bank(name, path, settings)
        else:
            found = open_predictions(path, self.dataset, self.like)
            self.masks[name] = lambda item, sample: found.mask(item, (sample.image.shape[0], sample.image.shape[1]))
            report = evaluate_predictions(found, self.dataset, self.metric, self.run, settings)
        report_skipped(report.skipped)
        return report

    def _of_bank(self, name: str, path: Path, settings: dict[str, Any]) -> Report:
        bank = MemoryBank.open(path)
        segmenter = Segmenter(bank, None, decoder_for(bank, self.decoder), self.index, **vars(self.backbone))
        self.masks[name] = lambda _, sample: segmenter.predict(sample.image).mask
        return evaluate(segmenter, self.dataset, self.metric, self.run, settings)


def write_comparison(found: Comparison, folder: Path, dataset: Dataset | None, masks: Mapping[str, Mask]) -> None:
    """Write a comparison in all its forms, with pictures where masks of the first result and of others are known."""
    forms = {"json": comparison_json, "csv": comparison_csv, "md": comparison_markdown, "tex": comparison_latex}
    for ending, form in forms.items():
        write(str(folder / f"compare.{ending}"), form(found))
    chart, page = folder / "compare.png", folder / "index.html"
    draw_comparison(found, chart)
    write(str(page), comparison_html(found, chart, dataset, masks))
    print(f"Look at: {page} {chart} {folder / 'compare.md'}")
