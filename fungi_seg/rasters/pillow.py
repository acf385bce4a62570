"""Open image files with Pillow, up to our own limit of pixels."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageFile, UnidentifiedImageError

from fungi_seg.rasters.limits import check_pixels

FIRST_BYTES = 16  # as many as Pillow needs to know its formats
NOT_THIS_FORMAT = (SyntaxError, IndexError, TypeError, struct.error)  # what Pillow's formats raise of others' files


@contextmanager
def opened(path: str | Path) -> Iterator[ImageFile.ImageFile]:
    """The image at `path`, not decoded yet.

    `Image.open` warns of images of 89 million pixels, and refuses those of 179 million. Its limit is one for all of a
    program's threads and libraries, so it's left alone, and Pillow's formats are asked here.

    Raises:
        DataError: beyond `MOST_PIXELS`. The message doesn't name the file.
        OSError and others: missing, not an image, or damaged.
    """
    with open(path, "rb") as file:
        image = identified(file, str(path))
        check_pixels(image.height, image.width)
        yield image


def identified(file: BinaryIO, name: str) -> ImageFile.ImageFile:
    """The image that a file holds, by the first of Pillow's formats that knows it.

    Raises:
        UnidentifiedImageError: none does.
    """
    file.seek(0)
    start = file.read(FIRST_BYTES)
    asked: set[str] = set()
    for known in (Image.preinit, Image.init):  # a few formats load fast, and are most images'
        known()
        for kind in [kind for kind in Image.ID if kind not in asked]:
            asked.add(kind)
            factory, accepts = Image.OPEN[kind]
            try:
                answer = accepts(start) if accepts else True
                if answer and not isinstance(answer, str):  # text tells why not
                    file.seek(0)
                    return factory(file, name)
            except NOT_THIS_FORMAT:
                continue
    raise UnidentifiedImageError("no format that is read; convert it to JPEG or PNG")
