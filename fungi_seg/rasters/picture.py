"""Pictures of all formats that Pillow reads, decoded at once."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import cv2
import numpy as np
from PIL import Image, ImageFile
from PIL.ImageMode import getmode

from fungi_seg.errors import DataError, reason
from fungi_seg.rasters.colours import strips, upright
from fungi_seg.rasters.limits import check_count, check_pixels
from fungi_seg.rasters.pillow import identified
from fungi_seg.rasters.planes import checked_plane
from fungi_seg.rasters.raster import RasterInfo, Window
from fungi_seg.rasters.reading import checked_window, damage_named, valid_samples

ONE_PICTURE = ("MPO", "PSD")  # their further ones are previews, other views and layers of the first
ORIENTATION = 0x0112
RADIANCE = (b"#?",)  # light as floats, which Pillow doesn't read
GREY = ("1", "L", "LA", "La")


class PictureRaster:
    """A picture, as a `Raster`; all of it is decoded when the first part is read.

    Args:
        path: of the file.
        plane: index by axis; pictures have none.
        name: what errors call it.
    """

    def __init__(self, path: Path, plane: Mapping[str, int], name: str):
        self.name, self._path = name, path
        self._decoding = threading.Lock()
        self._decoded: np.ndarray | None = None
        with damage_named(name, "an image"), path.open("rb") as file:
            checked_plane(plane, {})
            told = _by_header(file, name)
        if told is None:
            values = self._values()
            told = (values.shape[0], values.shape[1]), values.shape[2], str(values.dtype)
        size, count, dtype = told
        channels = ("red", "green", "blue") if count == 3 else tuple(str(number) for number in range(1, count + 1))
        self.info = RasterInfo("picture", size, channels, dtype, (size,))

    def _values(self) -> np.ndarray:
        """`[H, W, channels]`, decoded once."""
        with self._decoding:
            if self._decoded is None:
                with damage_named(self.name, "an image"), self._path.open("rb") as file:
                    values, grey = stored_picture(file, self.name)
                values = values[..., None] if values.ndim == 2 else values
                self._decoded = values[..., :1] if grey else values
            return self._decoded

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """See `Raster.read`."""
        checked_window(self, window, level)
        rows = slice(window.top, window.top + window.height)
        part = self._values()[rows, window.left : window.left + window.width]
        return np.array(part if channels is None else part[..., list(channels)])

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """See `Raster.valid`."""
        return valid_samples(self, window, level)

    def __enter__(self) -> PictureRaster:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def _by_header(file: BinaryIO, name: str) -> tuple[tuple[int, int], int, str] | None:
    """Size as displayed, channels and type of samples; nothing where only the decoded picture tells them."""
    if starts(file, RADIANCE):
        return None
    image = identified(file, name)
    check_picture(image)
    if is_halved(image, file):
        return None
    late = image.format == "PNG" and _tells_late(file)
    turned = picture_orientation(image, decoding=late) in (5, 6, 7, 8)
    size = (image.width, image.height) if turned else (image.height, image.width)
    if is_wide(image):
        return size, 1, str(np.dtype(getmode(image.mode).typestr).newbyteorder("="))
    return size, 1 if image.mode in GREY else 3, "uint8"


def _tells_late(file: BinaryIO) -> bool:
    """Whether a PNG says something in words after its pixels, which may be how it is turned."""
    file.seek(8)
    pixels_seen = False
    while len(head := file.read(8)) == 8:
        kind = head[4:]
        pixels_seen |= kind == b"IDAT"
        if pixels_seen and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        file.seek(int.from_bytes(head[:4], "big") + 4, 1)
    return False


def stored_picture(file: BinaryIO, name: str) -> tuple[np.ndarray, bool]:
    """`[H, W, 3]` uint8 RGB, or `[H, W]` or `[H, W, 3]` of more than 8 bits, as displayed, and whether it is grey.

    Args:
        file: open for reading bytes; no TIFF.
        name: what errors call it.

    Raises:
        DataError: not an image, of several frames, or of pixels too many. The message doesn't name the file.
    """
    if starts(file, RADIANCE) and (deep := _deep(file)) is not None:
        return deep, False
    image = identified(file, name)
    check_picture(image)
    if not is_halved(image, file):
        return pixels(image), image.mode in GREY
    image.load()  # which notices cut off files, that OpenCV fills up
    deep = _deep(file)
    if deep is None:
        raise DataError(f"its colours of more than 8 bits can't be read from {image.format}; save it as a PNG")
    return upright(deep, picture_orientation(image)), False


def starts(file: BinaryIO, starts: tuple[bytes, ...]) -> bool:
    """Whether a file starts so; it's read from its start again."""
    file.seek(0)
    start = file.read(max(map(len, starts)))
    file.seek(0)
    return start.startswith(starts)


def check_picture(image: ImageFile.ImageFile) -> None:
    """Refuse a picture of pixels too many, or of several frames.

    Raises:
        DataError: it is. The message doesn't name the file.
    """
    check_pixels(image.height, image.width)
    if image.format not in ONE_PICTURE and getattr(image, "is_animated", False):
        check_count(image.n_frames, "frames")  # type: ignore[attr-defined]


def pixels(image: Image.Image) -> np.ndarray:
    """As displayed, `[H, W, 3]` uint8 RGB, or `[H, W]` of more than 8 bits."""
    image.load()
    orientation = picture_orientation(image)
    if is_wide(image):
        return upright(np.asarray(image), orientation)
    if "transparency" in image.info:  # which Pillow warns of, and isn't shown
        image = image.copy()
        del image.info["transparency"]
    result = np.empty((image.height, image.width, 3), np.uint8)
    parts = strips(result)
    for rows in parts:
        part = image if len(parts) == 1 else image.crop((0, rows.start, image.width, min(rows.stop, image.height)))
        result[rows] = np.asarray(part if part.mode == "RGB" else part.convert("RGB"))
    return upright(result, orientation)


def picture_orientation(image: Image.Image, decoding: bool = True) -> int:
    """EXIF's, of which this tag alone is read: others are broken in many a sound image.

    Args:
        image: open.
        decoding: decode a PNG for what may stand after its pixels.

    Raises:
        DataError: the data can't be read. The message doesn't name the file.
    """
    try:
        written = (image.getexif() if decoding else Image.Image.getexif(image)).get(ORIENTATION, 1)
    except Exception as error:
        raise DataError(
            f"its EXIF data, which says whether it is turned, can't be read ({reason(error)}); save it without"
        ) from error
    return written if isinstance(written, int) else 1


def is_wide(image: Image.Image) -> bool:
    """Whether Pillow holds more than 8 bits of a sample."""
    return image.mode.startswith(("I", "F"))


def is_halved(image: ImageFile.ImageFile, file: BinaryIO) -> bool:
    """Whether Pillow keeps 8 bits of more, as it does of colours."""
    if is_wide(image):
        return False
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(file) > 8
    written = [tile[3] for tile in image.tile]
    return any(";16" in str(one) for one in written) or highest_of(image) > 255


def highest_of(image: ImageFile.ImageFile) -> int:
    """The value that Pillow stretches to the highest of its mode, which a PPM names; 255 of others."""
    written = image.tile[0][3] if image.tile else None
    return int(written[1]) if image.format == "PPM" and isinstance(written, tuple) and len(written) == 2 else 255


def _bits_of_jpeg2000(file: BinaryIO) -> int:
    """Of the first channel, by its header of marker SIZ."""
    file.seek(0)
    data = file.read()
    return (data[data.index(b"\xff\x4f\xff\x51") + 42] & 127) + 1


def _deep(file: BinaryIO) -> np.ndarray | None:
    """`[H, W, 3]` of more than 8 bits, as stored; nothing where OpenCV finds 8 bits, or doesn't know the format."""
    file.seek(0)
    flags = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(file.read(), np.uint8), flags)
    except cv2.error:
        return None
    return None if image is None or image.dtype == np.uint8 else image[..., ::-1]
