"""Pictures of what was found and why: a contact sheet and an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from fungi_seg.bank import SourceImages
from fungi_seg.datasets import Sample
from fungi_seg.errors import DataError
from fungi_seg.images import (
    CAPTION,
    GAP,
    INK,
    MARK,
    PAPER,
    TILE,
    Box,
    Figure,
    Section,
    Table,
    cut,
    frame,
    framed,
    grey_tile,
    html_page,
    in_square,
    joined,
    overlay,
    text_line,
)
from fungi_seg.segmentation.explanation import Explanation, Neighbour, SourceShare
from fungi_seg.segmentation.result import Segmentation

ABREAST = 2
SHOWN = 6
AROUND = 11
ACROSS = 4
WIDE = 2 * TILE + GAP
BAR = 7
SHOWN_PATCHES, SHOWN_SOURCES, SHOWN_BOXES, SHOWN_CLASSES = 12, 4, 30, 10
FAINT = 0.22


@dataclass(frozen=True)
class Vote:
    """A neighbour and the image it comes from, `[H, W, 3]` uint8 RGB."""

    neighbour: Neighbour
    source: np.ndarray


@dataclass(frozen=True)
class Panel:
    """One segmented image with its truth, and who voted for one of its patches.

    Attributes:
        name: its id.
        truth: `[H, W]` class indices, void −1.
        found: the segmentation.
        pixel: `(x, y)` whose patch is explained.
        patch: side of a patch in pixels of the image.
        votes: for that patch, the heaviest first.
        caption: a line beneath.
    """

    name: str
    truth: np.ndarray
    found: Segmentation
    pixel: tuple[int, int]
    patch: float
    votes: Sequence[Vote]
    caption: str


def contact_sheet(panels: Sequence[Panel]) -> Image.Image:
    """For each panel: image, truth, prediction, and the neighbours that voted for the patch marked; two abreast."""
    strips = [_strip(panel) for panel in panels]
    width, height = strips[0].size
    rows = -(-len(strips) // ABREAST)
    sheet = Image.new("RGB", (min(ABREAST, len(strips)) * width + GAP, CAPTION + rows * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, strip in enumerate(strips):
        row, column = divmod(number, ABREAST)
        sheet.paste(strip, (GAP + column * width, CAPTION + row * height))
        for place, title in enumerate(("image", "truth", "prediction", "annotated patches that voted")):
            draw.text((GAP + column * width + place * (TILE + GAP), 2), title, INK, font)
    return sheet


def _strip(panel: Panel) -> Image.Image:
    small = (TILE - GAP) // 2
    columns = -(-SHOWN // 2)
    strip = Image.new("RGB", (3 * (TILE + GAP) + columns * (small + GAP) + GAP, TILE + CAPTION + GAP), PAPER)
    for column, picture in enumerate(_views(panel)):
        strip.paste(in_square(picture, TILE), (column * (TILE + GAP), 0))
    for place, vote in enumerate(panel.votes[:SHOWN]):
        row, column = divmod(place, columns)
        at = (3 * (TILE + GAP) + column * (small + GAP), row * (small + GAP))
        strip.paste(_crop(vote).resize((small, small)), at)
    text = f"{panel.name}   {_caption(panel)}"
    ImageDraw.Draw(strip).text((0, TILE + 2), text, INK, ImageFont.load_default(12))
    return strip


def explanation_sheet(explanation: Explanation, images: SourceImages | Mapping[str, Sample]) -> Image.Image:
    """A place of an image, large, with its class scores; beside it the annotated patches that voted, with their labels.

    For a region, the annotated images with the largest shares come first, their patches that voted framed.

    Args:
        explanation: what is shown.
        images: the annotated images by id; a grey tile says of which there is none.
    """
    fetched = {source: _fetch(images, source) for source in shown_sources(explanation)}
    sections = []
    if explanation.at is None:
        sections.append(
            text_line(f"annotated images by share of the vote ({len(explanation.sources)} voted)", WIDE * 2)
        )
        sections.append(_grid([_source_tile(explanation, s, fetched[s.source]) for s in _first_sources(explanation)]))
    shown = explanation.neighbours[:SHOWN_PATCHES]
    sections.append(text_line(f"annotated patches by weight ({len(shown)} of {len(explanation.neighbours)})", WIDE * 2))
    sections.append(
        _grid([_patch_tile(explanation, rank, n, fetched[n.source]) for rank, n in enumerate(shown, start=1)])
    )
    parts = joined([_query(explanation), joined(sections)], across=True, gap=2 * GAP)
    title = f"{explanation.what}: {explanation.classes[explanation.predicted]} {explanation.score:.0%}"
    return ImageOps.expand(joined([text_line(title, parts.width, 15), parts]), GAP, PAPER)


def shown_sources(explanation: Explanation) -> list[str]:
    """Ids of the annotated images that the sheet of an explanation shows."""
    voters: list[Neighbour | SourceShare] = [*explanation.neighbours[:SHOWN_PATCHES], *_first_sources(explanation)]
    return list(dict.fromkeys(voter.source for voter in voters))


def _first_sources(explanation: Explanation) -> Sequence[SourceShare]:
    return explanation.sources[:SHOWN_SOURCES] if explanation.at is None else ()


def _fetch(images: SourceImages | Mapping[str, Sample], source: str) -> Sample | str:
    """The annotated image, or why there is none."""
    try:
        return images[source]
    except KeyError:
        return f"no image {source!r}"
    except DataError as error:
        return str(error)


def _query(explanation: Explanation) -> Image.Image:
    """What is explained: in the whole image, from near, and its class scores."""
    height, width = explanation.image.shape[:2]
    if explanation.at:
        near = _window((height, width), explanation.boxes[0])
    else:
        left, top, right, bottom = explanation.bounds
        grow = max(right - left, bottom - top) // 4 + 1
        near = (max(0, left - grow), max(0, top - grow), min(width, right + grow), min(height, bottom + grow))
    order = np.argsort(-explanation.scores, kind="stable")[:SHOWN_CLASSES]
    scores = [_score(explanation, int(i)) for i in order if explanation.scores[i] > 0]
    views = [_marked(explanation, (0, 0, width, height)), _marked(explanation, near)]
    return joined([text_line("image", WIDE), *views, joined(scores, gap=0)])


def _marked(explanation: Explanation, window: tuple[int, int, int, int]) -> Image.Image:
    """A window of the image, scaled to the column's width; the patch framed, or the region outlined."""
    view = Image.fromarray(cut(explanation.image, window))
    scale = WIDE / max(view.size)
    size = (max(1, round(view.width * scale)), max(1, round(view.height * scale)))
    picture = view.resize(size)
    if explanation.at:
        return framed(picture, explanation.boxes, window)
    inside = cv2.resize(cut(explanation.region, window).astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return Image.fromarray(cv2.drawContours(np.array(picture), outlines, -1, MARK, 2))


def _score(explanation: Explanation, index: int) -> Image.Image:
    """A class's name, a bar in its colour, and its score."""
    names = WIDE // 3
    share, colour = float(explanation.scores[index]), _colour(explanation, index)
    line = text_line(explanation.classes[index], names).crop((0, 0, WIDE, CAPTION))
    draw, end = ImageDraw.Draw(line), names + share * (WIDE - names - 50)
    draw.rectangle((names, 0, WIDE, CAPTION), PAPER)
    draw.rectangle((names, 3, end, CAPTION - 4), colour)
    draw.text((end + 6, 1), f"{share:.1%}", INK, ImageFont.load_default(12))
    return line


def _patch_tile(explanation: Explanation, rank: int, neighbour: Neighbour, sample: Sample | str) -> Image.Image:
    caption = f"{rank}.  {neighbour.weight:.1%}   cosine {neighbour.similarity:.3f}"
    if isinstance(sample, str):
        return _tile(explanation, grey_tile(sample), neighbour, caption)
    window = _window(sample.image.shape, neighbour.box)
    near = overlay(cut(sample.image, window), cut(sample.mask, window), explanation.palette, FAINT)
    return _tile(explanation, framed(near.resize((TILE, TILE)), [neighbour.box], window), neighbour, caption)


def _source_tile(explanation: Explanation, source: SourceShare, sample: Sample | str) -> Image.Image:
    caption = f"{source.share:.1%}   {source.votes} votes"
    if isinstance(sample, str):
        return _tile(explanation, grey_tile(sample), source, caption)
    height, width = sample.image.shape[:2]
    whole = framed(
        overlay(sample.image, sample.mask, explanation.palette, FAINT),
        source.boxes[:SHOWN_BOXES],
        (0, 0, width, height),
    )
    return _tile(explanation, in_square(whole, TILE), source, caption)


def _tile(explanation: Explanation, picture: Image.Image, voter: Neighbour | SourceShare, caption: str) -> Image.Image:
    """A picture above a bar of the classes it votes for, and three lines: the caption, the classes, the image's id."""
    bar, start = Image.new("RGB", (TILE, BAR), PAPER), 0.0
    for index in np.flatnonzero(voter.labels):
        end = start + float(voter.labels[index]) * TILE
        ImageDraw.Draw(bar).rectangle((start, 0, end, BAR), _colour(explanation, int(index)))
        start = end
    classes = ", ".join(f"{name} {share:.0%}" for name, share in explanation.named(voter.labels).items())
    return joined([picture, bar, *(text_line(text, TILE) for text in (caption, classes, voter.source))], gap=1)


def _colour(explanation: Explanation, index: int) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in explanation.palette[index])
    return red, green, blue


def _grid(tiles: Sequence[Image.Image]) -> Image.Image:
    rows = [tiles[start : start + ACROSS] for start in range(0, len(tiles), ACROSS)]
    return joined([joined(row, across=True) for row in rows])


def page(title: str, text: Sequence[str], tables: Sequence[Table], panels: Sequence[Panel]) -> str:
    """One HTML file with all its pictures inside.

    Args:
        title: heading.
        text: paragraphs, plain text.
        tables: above the panels.
        panels: a section each.
    """
    return html_page(title, text, tables, [_section(panel) for panel in panels])


def _section(panel: Panel) -> Section:
    titles = ("image", "truth", "prediction")
    views = [Figure(picture, [title]) for title, picture in zip(titles, _views(panel), strict=True)]
    return Section(panel.name, _caption(panel), views, [_voter(vote, panel.found.classes) for vote in panel.votes])


def _caption(panel: Panel) -> str:
    unknown = panel.found.unknown_share
    return f"{panel.caption}; {unknown:.0%} unknown (hatched)" if unknown else panel.caption


def _voter(vote: Vote, classes: Sequence[str]) -> Figure:
    neighbour = vote.neighbour
    shares = ", ".join(f"{classes[int(i)]} {neighbour.labels[i]:.0%}" for i in np.flatnonzero(neighbour.labels))
    weight = f"{neighbour.weight:.0%} of the vote, cosine {neighbour.similarity:.2f}"
    return Figure(_crop(vote).resize((TILE // 2, TILE // 2)), [weight, shares, neighbour.source])


def _views(panel: Panel) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The image with the patch marked, its truth, its prediction."""
    found = panel.found
    marked = Image.fromarray(found.image)
    x, y = panel.pixel
    frame(marked, (x - panel.patch / 2, y - panel.patch / 2, x + panel.patch / 2, y + panel.patch / 2))
    return marked, overlay(found.image, panel.truth, found.palette), found.overlay()


def _crop(vote: Vote) -> Image.Image:
    """The surroundings of a neighbour's patch, the patch framed."""
    window = _window(vote.source.shape, vote.neighbour.box)
    return framed(Image.fromarray(cut(vote.source, window)).resize((TILE, TILE)), [vote.neighbour.box], window)


def _window(shape: Sequence[int], box: Box) -> tuple[int, int, int, int]:
    """A square some patches wide about the patch `box`, within an image of `shape`."""
    left, top, right, bottom = box
    side = max(1, round(min(AROUND * max(right - left, bottom - top), *shape[:2])))
    x = round(np.clip((left + right - side) / 2, 0, shape[1] - side))
    y = round(np.clip((top + bottom - side) / 2, 0, shape[0] - side))
    return x, y, x + side, y + side
