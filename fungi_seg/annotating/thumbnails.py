"""What the page shows of images: thumbnails with their masks, surroundings of patches, and images as a whole."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fungi_seg.images import (
    Display,
    InputConfig,
    outlined,
    read_image,
    read_reduced,
    scaled_to,
    stretch_of,
    stretched,
    surroundings,
    viewable,
)

THUMBNAIL, CROP = 256, 96  # pixels of the longer side
QUALITY, WHOLE_QUALITY = 85, 95
MOST_JPEG = 65_500
FAST = 1  # of PNG's 9 levels, of which the highest take many times as long for a few percent


def thumbnail(
    path: Path,
    palette: np.ndarray,
    prediction: np.ndarray | None = None,
    annotation: np.ndarray | None = None,
    side: int = THUMBNAIL,
    input: InputConfig | None = None,
) -> bytes:
    """An image made small as JPEG, with lines about the classes of its mask; stretched if it is dark.

    Args:
        path: of the image.
        palette: `[C, 3]` uint8 RGB.
        prediction, annotation: `[H, W]` class indices, others unknown, of the image's size or made smaller. Where the
            annotation has a class, the prediction isn't looked at.
        side: the longer one has so many pixels at most.
        input: which of its channels are used, and how they are scaled.

    Raises:
        DataError: the image can't be read.
    """
    image = read_reduced(path, side, input)
    small = stretched(scaled_to(image, side), stretch_of(image))
    shown, found = Display(small, (small.shape[0], small.shape[1]), None), np.full(small.shape[:2], -1, np.int32)
    for mask in (prediction, annotation):
        if mask is not None:
            near = Display(small, (mask.shape[0], mask.shape[1]), None).fit(mask).astype(np.int32)
            found = np.where((near >= 0) & (near < len(palette)), near, found)
    return _jpeg(outlined(shown, found, palette), QUALITY)


def crop(image: np.ndarray, box: tuple[float, float, float, float], side: int = CROP) -> bytes:
    """The surroundings of a patch as JPEG, the patch framed.

    Args:
        image: `[H, W, 3]` uint8 RGB.
        box: `(left, top, right, bottom)` in its pixels.
        side: of the square, in pixels.
    """
    return _jpeg(surroundings(image, box, side), QUALITY)


def picture(path: Path, stretch: bool = False, input: InputConfig | None = None) -> tuple[bytes, str]:
    """An image at its own size as the page shows it, and its media type.

    JPEGs become JPEGs, others PNGs, whose pixels are those of `read_image`.

    Args:
        path: of the image.
        stretch: make dark and flat images brighter, see `images.stretch_of`.
        input: which of its channels are used, and how they are scaled.

    Raises:
        DataError: the image can't be read.
    """
    image = viewable(read_image(path, input))
    shown = Image.fromarray(stretched(image, stretch_of(image)) if stretch else image)
    if path.is_file() and _is_jpeg(path) and max(shown.size) <= MOST_JPEG:
        return _jpeg(shown, WHOLE_QUALITY), "image/jpeg"
    written = BytesIO()
    shown.save(written, "PNG", compress_level=FAST)
    return written.getvalue(), "image/png"


def _is_jpeg(path: Path) -> bool:
    with path.open("rb") as opened:
        return opened.read(3) == b"\xff\xd8\xff"


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    written = BytesIO()
    picture.save(written, "JPEG", quality=quality, subsampling=0)
    return written.getvalue()
