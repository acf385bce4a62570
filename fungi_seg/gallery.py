"""Pictures of what was found and why: a contact sheet and an HTML page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fungi_seg.segmenter import Neighbour, Segmentation, overlay

TILE = 176
ABREAST = 2
GAP = 8
CAPTION = 18
SHOWN = 6
AROUND = 11
INK, PAPER, MARK = (30, 30, 30), (255, 255, 255), (0, 230, 255)


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
        strip.paste(_square(picture, TILE), (column * (TILE + GAP), 0))
    for place, vote in enumerate(panel.votes[:SHOWN]):
        row, column = divmod(place, columns)
        at = (3 * (TILE + GAP) + column * (small + GAP), row * (small + GAP))
        strip.paste(_crop(vote).resize((small, small)), at)
    text = f"{panel.name}   {panel.caption}"
    ImageDraw.Draw(strip).text((0, TILE + 2), text, INK, ImageFont.load_default(12))
    return strip


def page(title: str, text: Sequence[str], tables: Sequence[str], panels: Sequence[Panel]) -> str:
    """One HTML file with all its pictures inside.

    Args:
        title: heading.
        text: paragraphs, plain text.
        tables: made by `table`.
        panels: a section each.
    """
    body = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(paragraph)}</p>" for paragraph in text), *tables]
    for panel in panels:
        body.append(f"<h2>{html.escape(panel.name)}</h2><p>{html.escape(panel.caption)}</p><div class=views>")
        for what, picture in zip(("image", "truth", "prediction"), _views(panel), strict=True):
            body.append(f"<figure>{_inline(picture)}<figcaption>{what}</figcaption></figure>")
        body.append("</div><div class=votes>")
        names = panel.found.classes
        for vote in panel.votes:
            neighbour = vote.neighbour
            shares = ", ".join(f"{names[i]} {neighbour.labels[i]:.0%}" for i in np.flatnonzero(neighbour.labels))
            told = f"{neighbour.weight:.0%} of the vote, cosine {neighbour.similarity:.2f}<br>{html.escape(shares)}"
            told += f"<br><small>{html.escape(neighbour.source)}</small>"
            body.append(
                f"<figure>{_inline(_crop(vote).resize((TILE // 2, TILE // 2)))}<figcaption>{told}</figcaption></figure>"
            )
        body.append("</div>")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title>{STYLE}{''.join(body)}\n"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table of plain text."""
    lines = [("th", header), *(("td", row) for row in rows)]
    cells = ("".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row) for tag, row in lines)
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in cells) + "</table>"


STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse } td, th { padding: .2rem .8rem; border-bottom: 1px solid #ddd; text-align: right }
td:first-child, th:first-child { text-align: left }
.views, .votes { display: flex; flex-wrap: wrap; gap: .6rem } figure { margin: 0 }
.votes figure { width: 7.5rem } .views img { height: 18rem } figcaption { font-size: .75rem; color: #555 }
</style>"""


def _views(panel: Panel) -> tuple[Image.Image, Image.Image, Image.Image]:
    """The image with the patch marked, its truth, its prediction."""
    found = panel.found
    marked = Image.fromarray(found.image)
    x, y = panel.pixel
    _frame(marked, (x - panel.patch / 2, y - panel.patch / 2, x + panel.patch / 2, y + panel.patch / 2))
    return marked, overlay(found.image, panel.truth, found.palette), found.overlay()


def _crop(vote: Vote) -> Image.Image:
    """The surroundings of a neighbour's patch, some patches wide, the patch framed."""
    left, top, right, bottom = vote.neighbour.box
    side = min(AROUND * max(right - left, bottom - top), *vote.source.shape[:2])
    x = np.clip((left + right - side) / 2, 0, vote.source.shape[1] - side)
    y = np.clip((top + bottom - side) / 2, 0, vote.source.shape[0] - side)
    window = (round(x), round(y), round(x + side), round(y + side))
    crop = Image.fromarray(vote.source).crop(window).resize((TILE, TILE))
    scale = TILE / side
    _frame(crop, ((left - x) * scale, (top - y) * scale, (right - x) * scale, (bottom - y) * scale))
    return crop


def _frame(image: Image.Image, box: tuple[float, float, float, float]) -> None:
    width = max(1, round(max(image.size) / 100))
    ImageDraw.Draw(image).rectangle((box[0] - width, box[1] - width, box[2] + width, box[3] + width), None, MARK, width)


def _square(image: Image.Image, side: int) -> Image.Image:
    """`image` scaled to fit into a square, centred on paper."""
    scale = side / max(image.size)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(scaled, ((side - scaled.width) // 2, (side - scaled.height) // 2))
    return square


def _inline(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f'<img src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}" alt="">'
