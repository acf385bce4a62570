"""Pictures of an audit: what is annotated, what the other images say, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    PAGE_SIDE,
    PAPER,
    TILE,
    VOID,
    Display,
    Figure,
    Section,
    Table,
    displayed,
    html_page,
    in_square,
    joined,
    outlined,
    overlay,
    text_line,
)

FILES = ("index.html", "suspicious.png", "audit.json", "audit.md")
GREY, MIXED = 205, 0.6
MOST_SIDE = 4096  # of a picture in place of an image that is gone, in pixels
DISPUTED_COLOUR = (255, 40, 60)
DISPUTED = np.array([DISPUTED_COLOUR], np.uint8)
IMAGE_WORDS = (
    "Suspicion says how confidently the others contradict an annotation, beyond what is usual for such votes: about 0 "
    "for most images, and 1 where all of it is contradicted. What stands first is worth a look; it isn't wrong for "
    "certain.",
    "Agreed is the share of the annotation that the others' votes confirm. Same is the share of patches whose largest "
    "class wins the vote. Rows are the patches of the image in the bank. The main disagreement is the contradiction "
    "that explains most of the suspicion, and of how many patches.",
)
CLASS_WORDS = (
    "Rows are the patches that hold the class, images those that do. Agreed is the share of its annotation that the "
    "others' votes confirm; IoU is what both say, divided by what either says. Confused is the class that the others "
    "say in its place most often, and for how much of it.",
)
REDUNDANT_WORDS = (
    "Without these images the bank votes about the same. Votes changed alone is the share of votes that change where "
    "that image alone goes.",
)


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
    small, large, captions = {}, {}, {}
    for image in audit.images[:top]:
        name = image["id"]
        sample, gone = annotated(bank, images, name)
        display = displayed(sample.image, PAGE_SIDE)
        large[name] = suspicious_views(audit, bank, sample, display)
        small[name] = suspicious_views(audit, bank, sample, displayed(sample.image, TILE))
        captions[name] = [suspicion_line(image), *filter(None, (display.note, gone))]
    files = tuple(out / name for name in FILES)
    with replacing(files[1]) as draft:
        suspicious_sheet(small, captions).save(draft)
    texts = (_page(audit, _colours(bank), large, captions), audit.to_json(), audit.to_markdown())
    for file, text in zip((files[0], *files[2:]), texts, strict=True):
        with replacing(file) as draft:
            draft.write_text(text, encoding="utf-8")
    return files


def suspicion_line(image: Mapping[str, Any]) -> str:
    """One line about an image of `Audit.images`."""
    return f"suspicion {image['suspicion']:.3f}, agreement {image['agreement']:.0%}; mostly {dispute_line(image)}"


def annotated(bank: MemoryBank, images: SourceImages, source: str) -> tuple[Sample, str]:
    """An annotated image; where it isn't found it is grey, with the bank's own labels, and a remark says so."""
    try:
        return images[source], ""
    except DataError:
        rows = _rows_of(bank, source)
        boxes, annotated = np.asarray(bank.rows.box)[rows], _largest(bank, rows)
        shrunk = max(1.0, float(boxes[:, 2:].max()) / MOST_SIDE)
        size = (int(np.ceil(boxes[:, 3].max() / shrunk)), int(np.ceil(boxes[:, 2].max() / shrunk)))
        grey, mask = np.full((*size, 3), GREY, np.uint8), painted(boxes / shrunk, annotated, size)
        sample = Sample(source, grey, mask, shrunk=shrunk)
        return sample, "the image wasn't found: it is grey, and its annotation is what the bank holds of it"


def suspicious_views(audit: Audit, bank: MemoryBank, sample: Sample, display: Display) -> dict[str, Image.Image]:
    """By title: an image, its annotation, what the other images say, and where that is another class, in red.

    The latter two are painted patch by patch, where the bank holds rows of the image. Classes whose colour is black
    leave the image as it is.
    """
    rows = _rows_of(bank, sample.id)
    boxes = sample.placed(np.asarray(bank.rows.box)[rows])
    found, palette = audit.winners[rows], np.array(bank.info.palette, np.uint8)
    size = (sample.mask.shape[0], sample.mask.shape[1])
    wrong = painted(boxes, np.where(found == _largest(bank, rows), VOID, 0), size)
    return {
        "image": Image.fromarray(display.image),
        "annotation": outlined(display, sample.mask, palette),
        "what the others say": outlined(display, painted(boxes, found, size), palette),
        "where they disagree": overlay(display.image, display.fit(wrong), DISPUTED, MIXED),
    }


def _colours(bank: MemoryBank) -> list[tuple[str, tuple[int, int, int]]]:
    """Names and colours of the classes that are painted."""
    return [pair for pair in zip(bank.info.classes, bank.info.palette, strict=True) if any(pair[1])]


def _rows_of(bank: MemoryBank, source: str) -> np.ndarray:
    return np.flatnonzero(np.asarray(bank.rows.source) == bank.info.sources.index(source))


def _largest(bank: MemoryBank, rows: np.ndarray) -> np.ndarray:
    """`[n]` class of the largest share in each of some rows."""
    return np.asarray(bank.rows.labels.take(rows).dense(len(bank.info.classes)).argmax(1))


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


def suspicious_sheet(shown: dict[str, dict[str, Image.Image]], captions: dict[str, list[str]]) -> Image.Image:
    """The views of each image side by side, one image beneath the other."""
    titles = list(next(iter(shown.values())))
    width = len(titles) * (TILE + GAP) - GAP
    strips = [joined([text_line(title, TILE) for title in titles], across=True)]
    for source, views in shown.items():
        tiles = joined([in_square(view, TILE) for view in views.values()], across=True)
        first, *rest = captions[source]
        lines = [text_line(text, width) for text in (f"{source}   {first}", *rest)]
        strips.append(joined([tiles, *lines], gap=1))
    return ImageOps.expand(joined(strips), GAP, PAPER)


def _page(
    audit: Audit,
    classes: Sequence[tuple[str, tuple[int, int, int]]],
    shown: dict[str, dict[str, Image.Image]],
    captions: dict[str, list[str]],
) -> str:
    text = [
        f"Each of the {len(audit.images)} annotated images of the bank {audit.settings['bank']} was segmented by all "
        f"the others, and what they say is held against its annotation.",
        audit.verdict(),
    ]
    tables = [
        Table(IMAGE_HEADER, audit.image_rows(len(shown)), "Images, the most suspicious first", IMAGE_WORDS),
        Table(CLASS_HEADER, audit.class_rows(), "Classes", [*CLASS_WORDS, *filter(None, [audit.thin_line()])]),
        Table(
            REDUNDANT_HEADER, audit.redundant_rows(), "Images that can go", [*REDUNDANT_WORDS, audit.redundant_line()]
        ),
    ]
    sections = [
        Section(source, "; ".join(captions[source]), [Figure(picture, [title]) for title, picture in views.items()])
        for source, views in shown.items()
    ]
    return html_page("Audit", text, tables, sections, [*classes, ("where they disagree", DISPUTED_COLOUR)])
