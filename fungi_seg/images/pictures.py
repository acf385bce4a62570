"""Pieces of pictures to look at: overlays, tiles, lines of text, frames, sheets."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fungi_seg.images.channels import viewable
from fungi_seg.images.depth import strips
from fungi_seg.images.display import Display, Stretch, scaled_to, stretch_of, stretched

Box = tuple[float, float, float, float]

TILE, GAP, CAPTION = 176, 8, 18
INK, PAPER, MARK, ABSENT = (30, 30, 30), (255, 255, 255), (0, 230, 255), (205, 205, 205)
STRIPES, HATCHING = (110, 200), 0.6  # greys, and their opacity
STRIPES_ACROSS = 100  # of an overlay
AROUND = 11  # patches, about one of them
LINES_ACROSS = 200  # of a picture that pages make smaller
MISSED, FALSE, PALE = (213, 94, 0), (0, 114, 178), 110  # vermilion and blue, on grey that begins there
CONTOUR, LIGHT = 2, 0.2  # pixels about a class, and the opacity of its colour within
GREY, BLUE, DARK, DPI = "#9a9a9a", "#7fb2d9", "#1f6fb2", 150  # of charts


def overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    opacity: float = 0.5,
    unknown: int | None = None,
    contour: int = 0,
    stretch: Stretch | None = None,
) -> Image.Image:
    """An image under a mask in the palette's colours; classes whose colour is black, and void, leave it as it is.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        mask: `[H, W]` class indices, void −1.
        palette: `[C, 3]` uint8 RGB.
        opacity: of the colours, 0..1.
        unknown: value of the mask at pixels that are hatched.
        contour: pixels of a class that have another one so near, or nearer, get its full colour.
        stretch: values of the image that are shown as black and as white, see `stretch_of`.
    """
    result = Image.new("RGB", (image.shape[1], image.shape[0]))
    for rows, _, painted in _painted(image, mask, palette, opacity, unknown, contour, stretch):
        result.paste(Image.fromarray(painted), (0, rows.start))
    return result


def beside_overlay(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    opacity: float = 0.5,
    unknown: int | None = None,
    stretch: Stretch | None = None,
) -> Image.Image:
    """An image, and beside it the same under a mask as in `overlay`."""
    width = image.shape[1]
    result = Image.new("RGB", (2 * width + GAP, image.shape[0]), PAPER)
    for rows, plain, painted in _painted(image, mask, palette, opacity, unknown, 0, stretch):
        result.paste(Image.fromarray(plain), (0, rows.start))
        result.paste(Image.fromarray(painted), (width + GAP, rows.start))
    return result


def _painted(
    image: np.ndarray,
    mask: np.ndarray,
    palette: np.ndarray,
    opacity: float,
    unknown: int | None,
    contour: int,
    stretch: Stretch | None,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, the image there as it is shown, and the same under the mask; see `overlay`."""
    ground, colours = np.arange(256) * (1 - opacity), palette * float(opacity)
    coloured, full = np.any(palette, axis=1), palette.astype(np.uint8)
    stripe = max(2, image.shape[1] // STRIPES_ACROSS)
    for rows in strips(image):
        plain, classes = stretched(image[rows], stretch), mask[rows]
        part = plain
        if unknown is not None and (strange := classes == unknown).any():
            part, classes = hatched(part, strange, stripe, rows.start), np.where(strange, -1, classes.astype(np.int32))
        mixed = (ground[part] + colours[classes]).round().astype(np.uint8)
        if contour:
            mixed = np.where(_near_others(mask, rows, contour)[..., None], full[classes], mixed)
        shown = (coloured[classes] & (classes >= 0))[..., None]
        yield rows, plain, np.where(shown, mixed, part)


def _near_others(mask: np.ndarray, rows: slice, reach: int) -> np.ndarray:
    """`[h, W]` bool of some rows: pixels with another value within `reach`; beyond the mask's border lies none."""
    top = max(0, rows.start - reach)
    part = mask[top : rows.stop + reach]
    part = part if part.dtype in (np.uint8, np.uint16, np.int16) else part.astype(np.float32)
    across = np.arange(-reach, reach + 1)
    disc = (across[:, None] ** 2 + across**2 <= reach**2).astype(np.uint8)
    differs = cv2.erode(part, disc) != cv2.dilate(part, disc)
    return np.asarray(differs[rows.start - top :][: rows.stop - rows.start])


def outlined(display: Display, mask: np.ndarray, palette: np.ndarray, unknown: int | None = None) -> Image.Image:
    """An image as it is shown under a mask of its own size: a line about each class and a light fill; see `overlay`."""
    line = max(CONTOUR, max(display.image.shape) // LINES_ACROSS)
    return overlay(display.image, display.fit(mask), palette, LIGHT, unknown, line)


def error_map(display: Display, truth: np.ndarray, found: np.ndarray, index: int) -> Image.Image:
    """Where a class was missed, and where it was found although it isn't there, on a pale grey image.

    Args:
        display: the image as it is shown.
        truth: `[H, W]` class indices, void −1; where it is void nothing is wrong.
        found: `[H, W]` class indices.
        index: of the class.
    """
    here, there = truth == index, found == index
    errors = np.where(here & ~there, 1, np.where(there & ~here & (truth >= 0), 2, 0)).astype(np.uint8)
    return on_pale(display, errors, np.array([(0, 0, 0), MISSED, FALSE], np.uint8))


def on_pale(display: Display, kinds: np.ndarray, palette: np.ndarray) -> Image.Image:
    """Kinds of pixels in strong colours on a pale grey image.

    Args:
        display: the image as it is shown.
        kinds: `[H, W]` indices into `palette`; black leaves the image as it is.
        palette: `[K, 3]` uint8 RGB.
    """
    grey = cv2.cvtColor(display.image, cv2.COLOR_RGB2GRAY)
    pale = np.repeat((PALE + grey * (1 - PALE / 255)).astype(np.uint8)[..., None], 3, 2)
    return overlay(pale, display.fit(kinds), palette, 0.9)


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
    """`image` within a square, centred on paper: made smaller to fit, or larger by a whole factor."""
    scaled = image if max(image.size) == side else Image.fromarray(scaled_to(np.asarray(image), side))
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


def surroundings(image: np.ndarray, box: Box, side: int) -> Image.Image:
    """What is about a patch of an image, as a square of `side` pixels, the patch framed.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        box: `(left, top, right, bottom)` in its pixels.
        side: in pixels.
    """
    image, window = viewable(image), window_about(image.shape, box)
    near = stretched(cut(image, window), stretch_of(image))
    return framed(Image.fromarray(filling(near, side)), [box], window)


def window_about(shape: Sequence[int], box: Box) -> tuple[int, int, int, int]:
    """A square some patches wide about the patch `box`, within an image of `shape`."""
    left, top, right, bottom = box
    side = max(1, round(min(AROUND * max(right - left, bottom - top), *shape[:2])))
    x = round(np.clip((left + right - side) / 2, 0, shape[1] - side))
    y = round(np.clip((top + bottom - side) / 2, 0, shape[0] - side))
    return x, y, x + side, y + side


def filling(view: np.ndarray, side: int) -> np.ndarray:
    """`[H, W, 3]` scaled so that its longer side is `side`."""
    scale = side / max(view.shape)
    size = (max(1, round(view.shape[1] * scale)), max(1, round(view.shape[0] * scale)))
    return np.asarray(Image.fromarray(view).resize(size))


def cut(array: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    left, top, right, bottom = window
    return array[top:bottom, left:right]
