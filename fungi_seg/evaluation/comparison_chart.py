"""A comparison to look at: figures with their intervals, and what each class gained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.evaluation.comparison import Comparison
from fungi_seg.files import replacing
from fungi_seg.images import DARK, DPI, GREY
from fungi_seg.segmentation import LEVEL

MOST_CLASSES = 40  # that are drawn
LINE = 0.22  # inches a class, or a result
COLOURS = (DARK, "#c9731a", "#3f8f5f", "#8a5aa8", "#b8433f", "#5f6b76")


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """mIoU of each result, and differences to the first one: of mIoU, and of each class; a PNG.

    Bars are intervals over images; a filled mark is a difference whose paired interval excludes 0. Of more than 40
    classes those with the largest differences are drawn.

    Raises:
        FungiSegError: the file can't be written.
    """
    from matplotlib.figure import Figure

    shown = _shown_classes(comparison)
    results, others = comparison.results, comparison.results[1:]
    rows = [1 + len(results), 1 + (1 + len(shown)) * max(1, len(others) / 2)]
    figure = Figure(figsize=(7.6, LINE * sum(rows) + 2.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, height_ratios=rows)
    for place, result in enumerate(results):
        _mark(upper, place, result["miou"], result["interval"], GREY if not place else _colour(place - 1), True)
    upper.set_yticks(range(len(results)), comparison.names, fontsize=8)
    upper.set_ylim(len(results) - 0.4, -0.6)
    upper.set_xlabel(f"mIoU %, {LEVEL} % interval over {len(comparison.images)} images", fontsize=8)
    lower.axvline(0, color=GREY, linewidth=1)
    for number, other in enumerate(others):
        offset = (number - (len(others) - 1) / 2) * 0.7 / len(others)
        lines = [other, *(other["classes"][c] for c in shown)]
        for place, one in enumerate(lines):
            if one["difference"] is not None:
                bounds, colour = one["difference_interval"], _colour(number)
                _mark(lower, place + offset, one["difference"], bounds, colour, one["differs"])
        lower.plot([], [], "o-", color=_colour(number), markersize=4, label=f"{other['name']} − {results[0]['name']}")
    lower.axhline(0.5, color="#e4e4e4")
    lower.set_yticks(range(1 + len(shown)), ["mIoU", *(comparison.classes[c] for c in shown)], fontsize=8)
    lower.set_ylim(len(shown) + 0.6, -0.6)
    left_out = len(comparison.classes) - len(shown)
    more = f"; {left_out} classes with smaller ones aren't shown" if left_out else ""
    lower.set_xlabel(f"difference in IoU, points; filled: the paired interval excludes 0{more}", fontsize=8)
    lower.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    for panel in (upper, lower):
        panel.grid(axis="x", color="#e4e4e4")
        panel.set_axisbelow(True)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    with replacing(path) as draft:
        figure.savefig(draft, format="png", dpi=DPI)


def _mark(panel: Any, place: float, value: float, bounds: list[float] | None, colour: str, filled: bool) -> None:
    if bounds:
        panel.plot([100 * bounds[0], 100 * bounds[1]], [place, place], color=colour, linewidth=1.2)
    panel.scatter([100 * value], [place], s=22, c=colour if filled else "white", edgecolors=colour, zorder=3)


def _shown_classes(comparison: Comparison) -> list[int]:
    """Classes that are drawn, in their order."""
    found = [[r["classes"][c]["difference"] or 0.0 for r in comparison.results] for c in range(len(comparison.classes))]
    largest = np.argsort(-np.abs(found).max(1), kind="stable")
    return sorted(int(c) for c in largest[:MOST_CLASSES])


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]
