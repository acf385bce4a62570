"""A comparison as a page: tables, the chart, and pictures of the images that changed most."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fungi_seg.datasets import Dataset, Item, Sample
from fungi_seg.evaluation.comparison import Comparison
from fungi_seg.evaluation.comparison_report import class_table, comparison_explanation, image_table, result_table
from fungi_seg.images import (
    FALSE,
    MISSED,
    PAGE_SIDE,
    VOID,
    Figure,
    Section,
    Table,
    displayed,
    html_page,
    on_pale,
    outlined,
)

PICTURED = 12  # images
NEITHER, FIRST, OTHER = 1, 2, 3  # where two results differ: which is right
COLOURS = ((0, 0, 0), (90, 90, 90), MISSED, FALSE)

Colour = tuple[int, int, int]
Mask = Callable[[Item, Sample], np.ndarray]


def comparison_html(
    comparison: Comparison, chart: Path, dataset: Dataset | None = None, masks: Mapping[str, Mask] | None = None
) -> str:
    """An HTML file: the tables, the chart, and what changed in the images that changed most.

    Args:
        comparison: what was found.
        chart: the PNG that `draw_comparison` drew.
        dataset: the images; without them there are no pictures.
        masks: by name of a result, what it predicts for an image: `[H, W]` class indices, void −1. Those of the first
            and of another one are needed for pictures.
    """
    with Image.open(chart) as drawn:
        sections = [Section("Figures and differences", "", [Figure(drawn.convert("RGB"), [])])]
    first, shown = comparison.names[0], masks or {}
    others = [name for name in comparison.names[1:] if name in shown]
    text = [comparison_explanation(comparison), *(f"Note: {note}." for note in comparison.notes)]
    legend: list[tuple[str, Colour]] = []
    if dataset is not None and first in shown and others:
        colours = [(int(red), int(green), int(blue)) for red, green, blue in dataset.palette]
        legend = [pair for pair in zip(comparison.classes, colours, strict=True) if any(pair[1])]
        for name in others:
            sections += _sections(comparison, name, dataset, shown)
    else:
        without = [name for name in comparison.names if name not in shown]
        text.append(
            f"No pictures: {', '.join(without)} came as reports, which hold counts and no masks. In their place, name "
            f"the banks or folders of masks that they are of."
        )
    found = {"Results": result_table, "Classes": class_table, "Images": image_table}
    tables = [table for name, make in found.items() if (table := Table(*make(comparison), name=name)).rows]
    if len(tables) < len(found):
        text.append("No image differs.")
    return html_page(f"{first} and {', '.join(comparison.names[1:])}", text, tables, sections, legend)


def _sections(comparison: Comparison, other: str, dataset: Dataset, masks: Mapping[str, Mask]) -> Iterator[Section]:
    """Pictures of the images that move the difference of one result to the first most."""
    first, place = comparison.names[0], comparison.names.index(other)
    numbers = {item.id: number for number, item in enumerate(dataset.items)}
    moving = [image for image in comparison.images if image["moves"][place] and image["id"] in numbers]
    for image in sorted(moving, key=lambda image: -abs(image["moves"][place]))[:PICTURED]:
        number = numbers[image["id"]]
        sample, item = dataset[number], dataset.items[number]
        found = {name: masks[name](item, sample) for name in (first, other)}
        display, kinds = displayed(sample.image, PAGE_SIDE), difference_map(sample.mask, *found.values())
        shares = [100 * np.mean(kinds == kind) for kind in (OTHER, FIRST, NEITHER)]
        own = [f"{name}, mIoU {_percent(image['miou'][p])}" for name, p in ((first, 0), (other, place))]
        views = [
            Figure(Image.fromarray(display.image), ["image", *filter(None, [display.note])]),
            Figure(outlined(display, sample.mask, dataset.palette), ["annotation"]),
            *(
                Figure(outlined(display, mask, dataset.palette), [line])
                for mask, line in zip(found.values(), own, strict=True)
            ),
            Figure(
                on_pale(display, kinds, np.array(COLOURS, np.uint8)),
                [
                    "where they differ, % of pixels",
                    f"{other} right (blue): {shares[0]:.1f}",
                    f"{first} right (vermilion): {shares[1]:.1f}",
                    f"neither (grey): {shares[2]:.1f}",
                ],
            ),
        ]
        moved = f"Moves the difference in mIoU by {100 * image['moves'][place]:+.2f} points."
        yield Section(f"{image['id']}: {other} and {first}", moved, views, rows=2)


def difference_map(truth: np.ndarray, first: np.ndarray, other: np.ndarray) -> np.ndarray:
    """`[H, W]` uint8: 0 where two masks agree or the truth is void, else which of them is right.

    Args:
        truth: `[H, W]` class indices, void −1.
        first, other: `[H, W]` class indices.
    """
    first, other = first.astype(np.int32), other.astype(np.int32)
    kinds = np.where(first == truth, FIRST, np.where(other == truth, OTHER, NEITHER))
    return np.where((first != other) & (truth != VOID), kinds, 0).astype(np.uint8)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.2f} %"
