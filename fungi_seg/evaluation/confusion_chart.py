"""A confusion matrix to look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from fungi_seg.evaluation.metrics import matched_order, reordered
from fungi_seg.evaluation.report import Report
from fungi_seg.evaluation.seeds import SeedReport
from fungi_seg.files import replacing
from fungi_seg.images import DPI

MOST_NUMBERS = 30  # classes up to which shares are written into the cells
LEAST_NUMBER = 0.5  # percent; what is less is left out of the cells
NAME_LENGTH = 28
NO_PIXEL = "#d9d9d9"


def draw_confusion(report: Report | SeedReport, path: Path) -> None:
    """A report's confusion matrix as a PNG: rows the truth, in percent of its pixels; grey where it has none.

    Args:
        report: of an evaluation; of several seeds, their pixels together.
        path: of the PNG.

    Raises:
        FungiSegError: the file can't be written.
    """
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    one = report.reports[0] if isinstance(report, SeedReport) else report
    shares, columns = row_shares(replace(one, confusion=report.confusion))
    rows = [_short(c["name"]) for c in one.classes]
    count = len(rows)
    inch = 0.62 if count <= 12 else 0.42 if count <= MOST_NUMBERS else 0.135
    size = 9 if count <= MOST_NUMBERS else 6
    margin = 1.6 + size / 110 * max(map(len, columns))
    figure = Figure(figsize=(max(2.0, inch * len(columns)) + margin + 0.6, max(1.2, inch * count) + margin),
                    layout="constrained")  # fmt: skip
    panel = figure.subplots()
    # by the square root, so that a few percent are seen beside the diagonal
    shown = panel.imshow(np.ma.masked_invalid(shares), cmap="Blues", norm=PowerNorm(0.5, 0, 100), aspect="auto")
    panel.set_facecolor(NO_PIXEL)
    panel.set_xticks(range(len(columns)), columns, rotation=90, fontsize=size)
    panel.set_yticks(range(count), rows, fontsize=size)
    panel.set_xlabel("predicted")
    panel.set_ylabel("truth")
    panel.tick_params(length=0)
    if count <= MOST_NUMBERS:
        for (row, column), share in np.ndenumerate(shares):
            if share >= LEAST_NUMBER:
                text = f"{share:.1f}" if count <= 12 else f"{share:.0f}"
                panel.text(column, row, text, ha="center", va="center", fontsize=size - 1,
                           color="white" if share > 45 else "black")  # fmt: skip
    bar = figure.colorbar(shown, ax=panel, fraction=0.03, pad=0.02, aspect=40, ticks=(0, 1, 5, 10, 25, 50, 100))
    bar.set_label("% of the class's pixels", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    panel.set_title(f"mIoU {100 * report.miou:.2f} %, {one.images} images", fontsize=10)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=DPI)


def row_shares(report: Report) -> tuple[np.ndarray, list[str]]:
    """`[C, C]` or `[C, C + 1]` percent of each class's pixels by what they are predicted as, and names of the columns.

    Rows of classes that the truth doesn't hold are NaN. Where predicted classes were matched to those of the truth,
    columns are in the order of the match.
    """
    counts = np.array(report.confusion, np.float64)
    names = [_short(c["name"]) for c in report.classes]
    if report.settings["metric"]["matching"] == "hungarian":
        order = matched_order(counts)
        counts = reordered(counts, order)
        names = [names[index] for index in order]
    pixels = counts.sum(1, keepdims=True)
    shares = np.divide(100 * counts, pixels, out=np.full_like(counts, np.nan), where=pixels > 0)
    return shares, [*names, "no class"][: counts.shape[1]]


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 1]}…"
