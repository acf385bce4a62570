"""Pictures of an audit: what is annotated, what the other images say, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from fungi_seg.audit.audit import CLASS_HEADER, IMAGE_HEADER, REDUNDANT_HEADER, Audit, dispute_line
from fungi_seg.bank import MemoryBank, SourceImages
from fungi_seg.datasets import Sample
from fungi_seg.errors import DataError
from fungi_seg.files import replacing
from fungi_seg.images import (
    GAP,
    PAPER,
    TILE,
    VOID,
    Figure,
    Section,
    Table,
    html_page,
    in_square,
    joined,
    overlay,
    text_line,
)

FILES = ("index.html", "suspicious.png", "audit.json", "audit.md")
GREY, DISPUTED = 205, np.array([[255, 40, 60]], np.uint8)
MIXED = 0.6


def write_audit(audit: Audit, bank: MemoryBank, images: SourceImages, out: Path, top: int) -> tuple[Path, ...]:
    """Write `FILES` into the folder `out`: a page, a sheet of the `top` most suspicious images, all figures.

    Args:
        audit: of `bank`.
        bank: an open bank.
        images: its annotated images; where one isn't found it is grey, with the bank's labels as its annotation.
        out: folder.
        top: how many images are shown.

    Returns:
        The files, in the order of `FILES`.
    """
    shown = {image["id"]: suspicious_views(audit, bank, images, image["id"]) for image in audit.images[:top]}
    captions = {image["id"]: suspicion_line(image) for image in audit.images[:top]}
    files = tuple(out / name for name in FILES)
    with replacing(files[1]) as draft:
        suspicious_sheet(shown, captions).save(draft)
    texts = (_page(audit, shown, captions), audit.to_json(), audit.to_markdown())
    for file, text in zip((files[0], *files[2:]), texts, strict=True):
        with replacing(file) as draft:
            draft.write_text(text, encoding="utf-8")
    return files


def suspicion_line(image: Mapping[str, Any]) -> str:
    """One line about an image of `Audit.images`."""
    return f"suspicion {image['suspicion']:.3f}, agreement {image['agreement']:.0%}; mostly {dispute_line(image)}"


def suspicious_views(audit: Audit, bank: MemoryBank, images: SourceImages, source: str) -> dict[str, Image.Image]:
    """By title: an image, its annotation, what the other images say, and where that is another class, in red.

    The latter two are painted patch by patch, where the bank holds rows of the image. Classes whose colour is black
    leave the image as it is.
    """
    rows = np.flatnonzero(np.asarray(bank.rows.source) == bank.info.sources.index(source))
    boxes = np.asarray(bank.rows.box)[rows]
    annotated = bank.rows.labels.take(rows).dense(len(bank.info.classes)).argmax(1)
    found, palette = audit.winners[rows], np.array(bank.info.palette, np.uint8)
    try:
        sample = images[source]
    except DataError:
        size = (int(np.ceil(boxes[:, 3].max())), int(np.ceil(boxes[:, 2].max())))
        sample = Sample(source, np.full((*size, 3), GREY, np.uint8), painted(boxes, annotated, size))
    size = (sample.mask.shape[0], sample.mask.shape[1])
    wrong = np.where(found == annotated, VOID, 0)
    return {
        "image": Image.fromarray(sample.image),
        "annotation": overlay(sample.image, sample.mask, palette, MIXED),
        "what the others say": overlay(sample.image, painted(boxes, found, size), palette, MIXED),
        "where they disagree": overlay(sample.image, painted(boxes, wrong, size), DISPUTED, MIXED),
    }


def painted(boxes: np.ndarray, values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Patches painted onto void.

    Args:
        boxes: `[n, 4]` `x0, y0, x1, y1` in pixels.
        values: `[n]` integers.
        size: `(H, W)`.

    Returns:
        `[H, W]` int16, void (−1) where no patch is.
    """
    canvas = np.full(size, VOID, np.int16)
    for (left, top, right, bottom), value in zip(np.rint(boxes).astype(int).tolist(), values.tolist(), strict=True):
        canvas[top:bottom, left:right] = value
    return canvas


def suspicious_sheet(shown: dict[str, dict[str, Image.Image]], captions: dict[str, str]) -> Image.Image:
    """The views of each image side by side, one image beneath the other."""
    titles = list(next(iter(shown.values())))
    width = len(titles) * (TILE + GAP) - GAP
    strips = [joined([text_line(title, TILE) for title in titles], across=True)]
    for source, views in shown.items():
        tiles = joined([in_square(view, TILE) for view in views.values()], across=True)
        strips.append(joined([tiles, text_line(f"{source}   {captions[source]}", width)], gap=1))
    return ImageOps.expand(joined(strips), GAP, PAPER)


def _page(audit: Audit, shown: dict[str, dict[str, Image.Image]], captions: dict[str, str]) -> str:
    text = [
        f"Each of the {len(audit.images)} annotated images of the bank {audit.settings['bank']} was segmented by all "
        f"the others. Suspicion says how confidently they contradict its annotation, beyond what is usual for such "
        f"votes: about 0 for most images. What stands first is worth a look; it isn't wrong for certain.",
        f"Redundant images: {audit.redundant_line()}",
        *filter(None, [audit.thin_line()]),
    ]
    tables = [Table(CLASS_HEADER, audit.class_rows()), Table(IMAGE_HEADER, audit.image_rows(len(shown)))]
    if audit.redundant:
        tables.append(Table(REDUNDANT_HEADER, audit.redundant_rows()))
    sections = [
        Section(source, captions[source], [Figure(picture, [title]) for title, picture in views.items()])
        for source, views in shown.items()
    ]
    return html_page("Audit", text, tables, sections)
