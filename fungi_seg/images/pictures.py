"""Pieces of pictures to look at: overlays, tiles, lines of text, frames, sheets."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fungi_seg.images.depth import strips

Box = tuple[float, float, float, float]

TILE, GAP, CAPTION = 176, 8, 18
INK, PAPER, MARK, ABSENT = (30, 30, 30), (255, 255, 255), (0, 230, 255), (205, 205, 205)
STRIPES, HATCHING = (110, 200), 0.6  # greys, and their opacity
STRIPES_ACROSS = 100  # of an overlay
GREY, BLUE, DARK, DPI = "#9a9a9a", "#7fb2d9", "#1f6fb2", 150  # of charts


def overlay(
    image: np.ndarray, mask: np.ndarray, palette: np.ndarray, opacity: float = 0.5, unknown: int | None = None
) -> Image.Image:
    """An image under a mask in the palette's colours; classes whose colour is black, and void, leave it as it is.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` class indices, void −1.
        palette: `[C, 3]` uint8 RGB.
        opacity: of the colours, 0..1.
        unknown: value of the mask at pixels that are hatched.
    """
    ground, colours = np.arange(256) * (1 - opacity), palette * float(opacity)
    coloured = np.any(palette, axis=1)
    result = Image.new("RGB", (image.shape[1], image.shape[0]))
    stripe = max(2, image.shape[1] // STRIPES_ACROSS)
    for rows in strips(image):
        part, classes = image[rows], mask[rows]
        if unknown is not None and (strange := classes == unknown).any():
            part, classes = hatched(part, strange, stripe, rows.start), np.where(strange, -1, classes.astype(np.int32))
        mixed = (ground[part] + colours[classes]).round().astype(np.uint8)
        shown = (coloured[classes] & (classes >= 0))[..., None]
        result.paste(Image.fromarray(np.where(shown, mixed, part)), (0, rows.start))
    return result


def hatched(image: np.ndarray, where: np.ndarray, stripe: int, top: int = 0) -> np.ndarray:
    """`[H, W, 3]` uint8 with grey diagonal stripes at some of its pixels.

    Args:
        image: rows of a picture.
        where: `[H, W]` bool.
        stripe: width in pixels.
        top: number of the first row within the picture.
    """
    down, across = np.ogrid[top : top + len(image), : image.shape[1]]
    stripes = np.where((down + across) // stripe % 2, *STRIPES)[..., None]
    mixed = image * (1 - HATCHING) + stripes * HATCHING
    return np.where(where[..., None], mixed, image).round().astype(np.uint8)


def in_square(image: Image.Image, side: int) -> Image.Image:
    """`image` scaled to fit into a square, centred on paper."""
    scale = side / max(image.size)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    square = Image.new("RGB", (side, side), PAPER)
    square.paste(scaled, ((side - scaled.width) // 2, (side - scaled.height) // 2))
    return square


def joined(pictures: Sequence[Image.Image], across: bool = False, gap: int = GAP) -> Image.Image:
    """Pictures beneath each other, or side by side, on paper."""
    axis = 0 if across else 1
    lengths = [picture.size[axis] for picture in pictures]
    long = max(1, sum(lengths) + gap * (len(lengths) - 1))
    wide = max([1, *(picture.size[1 - axis] for picture in pictures)])
    sheet = Image.new("RGB", (long, wide) if across else (wide, long), PAPER)
    for number, picture in enumerate(pictures):
        start = sum(lengths[:number]) + number * gap
        sheet.paste(picture, (start, 0) if across else (0, start))
    return sheet


def text_line(text: str, width: int, size: int = 12) -> Image.Image:
    """One line of text, cut where it is wider than `width`."""
    font = ImageFont.load_default(size)
    if font.getlength(text) > width:
        while text and font.getlength(f"{text}…") > width:
            text = text[:-1]
        text = f"{text}…"
    line = Image.new("RGB", (width, size + 6), PAPER)
    ImageDraw.Draw(line).text((0, 1), text, INK, font)
    return line


def grey_tile(why: str) -> Image.Image:
    """A grey tile with the reason why there is no picture."""
    tile = Image.new("RGB", (TILE, TILE), ABSENT)
    text = "\n".join(textwrap.wrap(why, 28)[: TILE // 15])
    ImageDraw.Draw(tile).multiline_text((6, 6), text, INK, ImageFont.load_default(11), spacing=2)
    return tile


def framed(picture: Image.Image, boxes: Iterable[Box], window: tuple[int, int, int, int]) -> Image.Image:
    """A picture of `window`, in which boxes are framed; both in pixels of the image."""
    left, top, right, bottom = window
    across, down = picture.width / (right - left), picture.height / (bottom - top)
    for box in boxes:
        x0, y0, x1, y1 = (float(side) for side in box)
        frame(picture, ((x0 - left) * across, (y0 - top) * down, (x1 - left) * across, (y1 - top) * down))
    return picture


def frame(image: Image.Image, box: Box) -> None:
    width = max(1, round(max(image.size) / 100))
    ImageDraw.Draw(image).rectangle((box[0] - width, box[1] - width, box[2] + width, box[3] + width), None, MARK, width)


def cut(array: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = window
    return array[top:bottom, left:right]
