"""Pictures of what was found and why: a contact sheet and an HTML page."""

from __future__ import annotations

from collections import Counter, defaultdict
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
    FALSE,
    GAP,
    INK,
    MARK,
    MISSED,
    PAGE_SIDE,
    PAPER,
    TILE,
    Display,
    Figure,
    Section,
    Table,
    cut,
    displayed,
    error_map,
    filling,
    framed,
    grey_tile,
    html_page,
    in_square,
    joined,
    outlined,
    scaled_to,
    stretch_of,
    stretched,
    surroundings,
    text_line,
    viewable,
    window_about,
)
from fungi_seg.segmentation.explanation import Explanation, Neighbour, SourceShare
from fungi_seg.segmentation.result import Segmentation

ABREAST = 2
SHOWN = 6
ACROSS = 4
WIDE = 2 * TILE + GAP
BAR = 7
SHOWN_PATCHES, SHOWN_SOURCES, SHOWN_BOXES, SHOWN_CLASSES = 12, 4, 30, 10
MOST_OF_ONE = 3  # patches of one image


@dataclass(frozen=True)
class Vote:
    """A neighbour and the image it comes from, `[H, W, 3]` uint8 RGB."""

    neighbour: Neighbour
    source: np.ndarray


@dataclass(frozen=True)
class Panel:
    """One segmented image with its truth, and who voted for one of its patches. Its last class is what is looked for.

    Attributes:
        name: its id.
        truth: `[H, W]` class indices, void −1.
        found: the segmentations by what they are called, the last of which is explained.
        pixel: `(x, y)` whose patch is explained.
        patch: side of a patch in pixels of the image.
        votes: for that patch, the heaviest first.
        caption: a line beneath.
    """

    name: str
    truth: np.ndarray
    found: Mapping[str, Segmentation]
    pixel: tuple[int, int]
    patch: float
    votes: Sequence[Vote]
    caption: str

    @property
    def last(self) -> Segmentation:
        """The segmentation that is explained."""
        return list(self.found.values())[-1]


def contact_sheet(panels: Sequence[Panel]) -> Image.Image:
    """For each panel: image, truth, last prediction, and the neighbours that voted for its patch; two abreast."""
    strips = [_strip(panel) for panel in panels]
    width, height = strips[0].size
    rows = -(-len(strips) // ABREAST)
    sheet = Image.new("RGB", (min(ABREAST, len(strips)) * width + GAP, CAPTION + rows * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for number, strip in enumerate(strips):
        row, column = divmod(number, ABREAST)
        sheet.paste(strip, (GAP + column * width, CAPTION + row * height))
        for place, title in enumerate(("image", "truth", "prediction", "annotated patches that voted")):
            if row == 0:
                draw.text((GAP + column * width + place * (TILE + GAP), 2), title, INK, font)
    return sheet


def _strip(panel: Panel) -> Image.Image:
    small = (TILE - GAP) // 2
    columns = -(-SHOWN // 2)
    strip = Image.new("RGB", (3 * (TILE + GAP) + columns * (small + GAP) + GAP, TILE + CAPTION + GAP), PAPER)
    display = displayed(panel.last.image, TILE)
    shown = [*_given(panel, display).values(), _predicted(panel.last, display)]
    for column, picture in enumerate(shown):
        strip.paste(in_square(picture, TILE), (column * (TILE + GAP), 0))
    for place, vote in enumerate(panel.votes[:SHOWN]):
        row, column = divmod(place, columns)
        at = (3 * (TILE + GAP) + column * (small + GAP), row * (small + GAP))
        strip.paste(_crop(vote).resize((small, small)), at)
    text = f"{panel.name}   {_caption(panel, display)}"
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
    shown = first_patches(explanation)
    counts = f"{len(shown)} of {len(explanation.neighbours)}, at most {MOST_OF_ONE} of an image"
    sections.append(text_line(f"annotated patches by weight ({counts})", WIDE * 2))
    sections.append(_grid([_patch_tile(explanation, *place, fetched[place[1].source]) for place in shown]))
    parts = joined([_query(explanation), joined(sections)], across=True, gap=2 * GAP)
    title = f"{explanation.what}: {explanation.classes[explanation.predicted]} {explanation.score:.0%}"
    lines = [text_line(title, parts.width, 15), parts, *_notes(explanation, fetched, parts.width)]
    return ImageOps.expand(joined(lines), GAP, PAPER)


def _notes(explanation: Explanation, fetched: Mapping[str, Sample | str], width: int) -> list[Image.Image]:
    """A line that names the images that were stretched, if any were."""
    dark = ["the image"] if stretch_of(explanation.image) else []
    dark += [name for name, sample in fetched.items() if not isinstance(sample, str) and stretch_of(sample.image)]
    return [text_line(f"stretched for display, being dark or flat: {', '.join(dark)}", width)] if dark else []


def shown_sources(explanation: Explanation) -> list[str]:
    """Ids of the annotated images that the sheet of an explanation shows."""
    patches = [neighbour.source for _, neighbour, _ in first_patches(explanation)]
    return list(dict.fromkeys([*patches, *(source.source for source in _first_sources(explanation))]))


def first_patches(explanation: Explanation) -> list[tuple[int, Neighbour, Sequence[Neighbour]]]:
    """The heaviest patches with their ranks, few of one image; with the last of an image its others, not shown."""
    by_source = defaultdict[str, list[Neighbour]](list)
    shown: list[tuple[int, Neighbour]] = []
    for rank, neighbour in enumerate(explanation.neighbours, start=1):
        by_source[neighbour.source].append(neighbour)
        if len(by_source[neighbour.source]) <= MOST_OF_ONE and len(shown) < SHOWN_PATCHES:
            shown.append((rank, neighbour))
    count = Counter(neighbour.source for _, neighbour in shown)
    last = {neighbour.source: rank for rank, neighbour in shown}
    return [
        (rank, one, by_source[one.source][count[one.source] :] if last[one.source] == rank else ())
        for rank, one in shown
    ]


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
        near = window_about((height, width), explanation.boxes[0])
    else:
        left, top, right, bottom = explanation.bounds
        grow = max(right - left, bottom - top) // 4 + 1
        near = (max(0, left - grow), max(0, top - grow), min(width, right + grow), min(height, bottom + grow))
    order = np.argsort(-explanation.scores, kind="stable")[:SHOWN_CLASSES]
    scores = [_score(explanation, int(i)) for i in order if explanation.scores[i] > 0]
    image = stretched(explanation.image, stretch_of(explanation.image))
    views = [
        _marked(explanation, scaled_to(image, WIDE), (0, 0, width, height)),
        _marked(explanation, filling(cut(image, near), WIDE), near),
    ]
    return joined([text_line("image", WIDE), *views, joined(scores, gap=0)])


def _marked(explanation: Explanation, view: np.ndarray, window: tuple[int, int, int, int]) -> Image.Image:
    """A view of a window of the image, the patch framed, or the region outlined."""
    if explanation.at:
        return framed(Image.fromarray(view), explanation.boxes, window)
    region = cut(explanation.region, window).astype(np.float32)
    inside = cv2.resize(region, (view.shape[1], view.shape[0]), interpolation=cv2.INTER_AREA) > 0
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    return Image.fromarray(cv2.drawContours(view.copy(), outlines, -1, MARK, 2))


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


def _patch_tile(
    explanation: Explanation, rank: int, neighbour: Neighbour, others: Sequence[Neighbour], sample: Sample | str
) -> Image.Image:
    lines = [f"{rank}.  {neighbour.weight:.1%}   cosine {neighbour.similarity:.3f}"]
    if others:
        lines.append(f"{len(others)} more of it: {sum(other.weight for other in others):.1%}")
    if isinstance(sample, str):
        return _tile(explanation, grey_tile(sample), neighbour, lines)
    left, top, right, bottom = sample.placed(np.array(neighbour.box)).tolist()
    window = window_about(sample.image.shape, (left, top, right, bottom))
    image = viewable(sample.image)
    near = stretched(cut(image, window), stretch_of(image))
    display = Display(filling(near, TILE), (near.shape[0], near.shape[1]), None)
    picture = outlined(display, cut(sample.mask, window), explanation.palette)
    return _tile(explanation, framed(picture, [(left, top, right, bottom)], window), neighbour, lines)


def _source_tile(explanation: Explanation, source: SourceShare, sample: Sample | str) -> Image.Image:
    lines = [f"{source.share:.1%}   {source.votes} votes"]
    if isinstance(sample, str):
        return _tile(explanation, grey_tile(sample), source, lines)
    height, width = sample.image.shape[:2]
    picture = outlined(displayed(sample.image, TILE), sample.mask, explanation.palette)
    whole = framed(picture, sample.placed(source.boxes[:SHOWN_BOXES]), (0, 0, width, height))
    return _tile(explanation, in_square(whole, TILE), source, lines)


def _tile(
    explanation: Explanation, picture: Image.Image, voter: Neighbour | SourceShare, lines: Sequence[str]
) -> Image.Image:
    """A picture above a bar of the classes it votes for, and text: what it weighs, the classes, the image's id."""
    bar, start = Image.new("RGB", (TILE, BAR), PAPER), 0.0
    for index in np.flatnonzero(voter.labels):
        end = start + float(voter.labels[index]) * TILE
        ImageDraw.Draw(bar).rectangle((start, 0, end, BAR), _colour(explanation, int(index)))
        start = end
    classes = ", ".join(f"{name} {share:.0%}" for name, share in explanation.named(voter.labels).items())
    written = (lines[0], classes, voter.source, *lines[1:])
    return joined([picture, bar, *(text_line(text, TILE) for text in written)], gap=1)


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
    return html_page(title, text, tables, [_section(panel) for panel in panels], _legend(panels))


def _legend(panels: Sequence[Panel]) -> list[tuple[str, tuple[int, int, int]]]:
    """What the colours of panels mean; all are of the same classes."""
    if not panels:
        return []
    found = panels[0].last
    named = zip(found.classes, found.palette.tolist(), strict=True)
    classes = [(name, (r, g, b)) for name, (r, g, b) in named if (r, g, b) != (0, 0, 0)]
    return [*classes, ("missed", MISSED), ("found where it isn't", FALSE), ("the patch that is explained", MARK)]


def _section(panel: Panel) -> Section:
    """Image and truth, and each prediction with its errors, beneath each other on a wide page."""
    display = displayed(panel.last.image, PAGE_SIDE)
    views = dict(_given(panel, display))
    for name, found in panel.found.items():
        views[name] = _predicted(found, display)
        views[f"errors of {name}"] = error_map(display, panel.truth, found.mask, len(found.classes) - 1)
    votes = [_voter(vote, panel.last.classes) for vote in panel.votes]
    figures = [Figure(picture, [title]) for title, picture in views.items()]
    return Section(panel.name, _caption(panel, display), figures, votes, rows=2)


def _caption(panel: Panel, display: Display) -> str:
    unknown = panel.last.unknown_share
    parts = [panel.caption, f"{unknown:.0%} unknown (hatched)" if unknown else "", display.note]
    return "; ".join(filter(None, parts))


def _voter(vote: Vote, classes: Sequence[str]) -> Figure:
    neighbour = vote.neighbour
    shares = ", ".join(f"{classes[int(i)]} {neighbour.labels[i]:.0%}" for i in np.flatnonzero(neighbour.labels))
    weight = f"{neighbour.weight:.0%} of the vote, cosine {neighbour.similarity:.2f}"
    return Figure(_crop(vote), [weight, shares, neighbour.source])


def _given(panel: Panel, display: Display) -> dict[str, Image.Image]:
    """The image with the patch marked, and its truth."""
    height, width = display.size
    x, y = panel.pixel
    patch = (x - panel.patch / 2, y - panel.patch / 2, x + panel.patch / 2, y + panel.patch / 2)
    marked = framed(Image.fromarray(display.image), [patch], (0, 0, width, height))
    return {"image": marked, "truth": outlined(display, panel.truth, panel.last.palette)}


def _predicted(found: Segmentation, display: Display) -> Image.Image:
    return outlined(display, found.mask, found.palette, found.void)


def _crop(vote: Vote) -> Image.Image:
    """The surroundings of a neighbour's patch, the patch framed."""
    return surroundings(vote.source, vote.neighbour.box, TILE)
