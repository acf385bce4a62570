"""A contact sheet of annotated images: each beside its mask, and what the colours mean."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from fungi_seg.datasets.inspection import DataReport
from fungi_seg.images import GAP, INK, PAPER, STRIPES, VOID, Display, displayed, hatched, joined, overlay, text_line

SIDE, ABREAST = 288, 3
OPACITY = 0.6
VISIBLE = 0.01  # share of the pixels
STRIPE = 5
SWATCH, COLUMN = 14, 200


def data_sheet(report: DataReport, count: int) -> Image.Image:
    """Images of a report beside their masks; void is hatched, classes whose colour is black leave the image as it is.

    Args:
        report: what was looked at.
        count: how many images; together they show as many classes as they can.
    """
    chosen = chosen_images(report, count)
    width = ABREAST * (2 * SIDE + GAP) + 2 * (ABREAST - 1) * GAP
    counted = {split: _pixels(report, split) for split in report.splits}
    pixels = np.array([counted[split][index] for split, index in chosen])
    pairs = [_pair(report, *place, held) for place, held in zip(chosen, pixels, strict=True)]
    rows = [joined(pairs[i : i + ABREAST], across=True, gap=2 * GAP) for i in range(0, len(pairs), ABREAST)]
    sheet = joined([_legend(report, pixels.sum(0) > 0, max(width, rows[0].width)), *rows], gap=2 * GAP)
    return ImageOps.expand(sheet, GAP, PAPER)


def chosen_images(report: DataReport, count: int) -> list[tuple[str, int]]:
    """Split and number among its readable images, of `count` images or all there are.

    First those that add the most classes that the others don't show: to at least a hundredth of the image, then at
    all; then at even distances.
    """
    places = [(split, index) for split, found in report.splits.items() for index in range(len(found.readable))]
    pixels = np.concatenate([_pixels(report, split) for split in report.splits])
    shares = pixels[:, :-1] / pixels.sum(1, keepdims=True)
    chosen: list[int] = []
    for least in (VISIBLE, 0.0):
        holds = shares > least
        while len(chosen) < count:
            gains = (holds & ~holds[chosen].any(0)).sum(1)
            if not gains.any():
                break
            chosen.append(int(gains.argmax()))
    rest = [place for place in range(len(places)) if place not in chosen]
    more = min(count - len(chosen), len(rest))
    chosen += [rest[int((i + 0.5) * len(rest) / more)] for i in range(more)]
    return [places[place] for place in sorted(chosen)]


def _pixels(report: DataReport, split: str) -> np.ndarray:
    """`[n, C + 1]` pixels of the split's readable images by the report's classes, void at last."""
    found = report.splits[split]
    pixels = np.zeros((len(found.readable), len(report.classes) + 1), np.int64)
    pixels[:, [*(report.classes.index(name) for name in found.dataset.classes), -1]] = found.pixels
    return pixels


def _pair(report: DataReport, split: str, index: int, pixels: np.ndarray) -> Image.Image:
    """An image and its mask above its id and its classes."""
    found = report.splits[split]
    numbers = [number for number, look in enumerate(found.looks) if not look.fault]
    sample = found.dataset[numbers[index]]
    display = displayed(sample.image, SIDE)
    shares = pixels / pixels.sum()
    largest = [int(i) for i in np.argsort(-shares, kind="stable") if shares[i] > 0]
    classes = ", ".join(f"{[*report.classes, 'void'][i]} {shares[i]:.1%}" for i in largest)
    width = 2 * SIDE + GAP
    colours = report.palette[[report.classes.index(name) for name in found.dataset.classes]]
    pictures = joined(_views(display, display.fit(sample.mask), colours), across=True)
    name = "   ".join(filter(None, (f"{split}: {sample.id}", display.note)))
    return joined([pictures, text_line(name, width, 13), text_line(classes, width)], gap=2)


def _views(display: Display, mask: np.ndarray, palette: np.ndarray) -> list[Image.Image]:
    """The image, and under its mask, centred across; stripes are as wide on every one."""
    painted = overlay(hatched(display.image, mask == VOID, STRIPE), mask, palette, OPACITY)
    width = display.image.shape[1]
    margin = (SIDE - width) // 2, 0, SIDE - width - (SIDE - width) // 2, 0
    return [ImageOps.expand(picture, margin, PAPER) for picture in (Image.fromarray(display.image), painted)]


def _legend(report: DataReport, shown: np.ndarray, width: int) -> Image.Image:
    """The colours of the classes that are `shown` (`[C + 1]` bool, void at last), in columns."""
    entries = [
        _entry(name, np.full((SWATCH, SWATCH, 3), colour, np.uint8), not colour.any())
        for name, colour, there in zip(report.classes, report.palette, shown[:-1], strict=True)
        if there
    ]
    if shown[-1]:
        grey, nowhere = np.full((SWATCH, SWATCH, 3), STRIPES[0], np.uint8), np.ones((SWATCH, SWATCH), bool)
        entries.append(_entry("void", hatched(grey, nowhere, STRIPE)))
    columns = max(1, width // (COLUMN + GAP))
    rows = [joined(entries[i : i + columns], across=True) for i in range(0, len(entries), columns)]
    return joined([*rows, text_line("", width, 1)], gap=2)


def _entry(name: str, swatch: np.ndarray, uncoloured: bool = False) -> Image.Image:
    """A swatch and a name; an empty swatch where the class leaves images as they are."""
    square = Image.fromarray(np.full_like(swatch, PAPER[0]) if uncoloured else swatch)
    ImageDraw.Draw(square).rectangle((0, 0, SWATCH - 1, SWATCH - 1), None, INK)
    text = f"{name} (not coloured)" if uncoloured else name
    return joined([square, text_line(text, COLUMN - SWATCH - GAP)], across=True)
