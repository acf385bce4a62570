"""Read images and masks."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile
from tifffile import TiffFile

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.images.channels import image_limits, picture, read_part, viewable
from fungi_seg.images.depth import eight_bit
from fungi_seg.images.planes import plane_mask
from fungi_seg.images.settings import InputConfig
from fungi_seg.images.spread import spread_windows
from fungi_seg.rasters import (
    GREY,
    MOST_PIXELS,
    RADIANCE,
    TIFF,
    RasterInfo,
    Window,
    check_picture,
    check_pixels,
    damage_named,
    highest_of,
    identified,
    is_halved,
    is_raster,
    is_wide,
    names_other_files,
    open_raster,
    picture_orientation,
    pixels,
    starts,
    stored_picture,
)

CHANGING = ("JPEG", "MPO", "JPEG2000", "WEBP", "AVIF")  # formats that keep values nearly, or may
PART = {"L;2": 3, "L;4": 15}  # grey of less than 8 bits, which Pillow stretches to 255: the highest value
JPEG = (b"\xff\xd8\xff",)

MOST_SAMPLES = 3 * MOST_PIXELS

Source = str | Path | bytes | bytearray | memoryview | BinaryIO


def read_image(path: Source, input: InputConfig | None = None) -> np.ndarray:
    """An image file, or the bytes of one, as `[H, W, 3]` uint8 RGB, as displayed; `[H, W, n]` of joined channels.

    Grey, palette, CMYK and alpha images are converted (alpha is dropped), EXIF orientation is applied. Images of more
    than 8 bits, signed or float ones become 8 bits so that their 99.9th percentile is 255, since cameras fill 16 bits
    rarely, and zero, or of negative values the 0.1th percentile, is 0; infinite, missing and nodata values become 0.

    Args:
        path: of the file, or its bytes, or the file open for reading bytes, of which all is read; or the address of a
            plane, an OME-Zarr, or a whole slide.
        input: which channels are used, and how they are scaled, where it isn't as above.

    Raises:
        DataError: missing, truncated, not an image, of several pages or frames, or of channels or pixels too many.
        MissingExtra: a package for its kind isn't installed.
    """
    input = InputConfig() if input is None else input
    if isinstance(path, str | Path) and (input.by_samples or is_raster(Path(path))):
        return _by_samples(Path(path), input)
    if input.by_samples:
        return _bytes_by_samples(path, input)
    with _read(path, "an image") as file:
        if starts(file, TIFF):
            from fungi_seg.images.tiff import tiff_image

            return _three_channels(tiff_image(file))
        return _three_channels(_to_eight_bits(stored_picture(file, _name(path))[0]))


def measured(source: Source) -> tuple[str, int, int]:
    """Format, height and width of an image file by its header alone; nothing is decoded.

    Raises:
        DataError: missing, cut off, or not an image of one page.
    """
    if isinstance(source, str | Path) and is_raster(Path(source)):
        with open_raster(Path(source)) as raster:
            return (raster.info.kind, *raster.info.size)
    with _read(source, "an image") as file:
        if starts(file, TIFF):
            from fungi_seg.images.tiff import tiff_size

            return ("TIFF", *tiff_size(file))
        image = identified(file, _name(source))
        return str(image.format), image.height, image.width


def read_reduced(path: str | Path, side: int, input: InputConfig | None = None) -> np.ndarray:
    """An image file as by `read_image`, to be shown small: it may be made smaller, and is `[h, w, 3]` in any case.

    A JPEG is decoded at a half, a quarter or an eighth of its size, as long as its longer side keeps `side` pixels:
    that takes a part of the time, and of the memory. Of files that hold smaller copies, one that is large enough is
    read.

    Raises:
        DataError: as of `read_image`.
    """
    input = InputConfig() if input is None else input
    if input.by_samples or is_raster(Path(path)):
        return viewable(_by_samples(Path(path), input, side))
    with _read(path, "an image") as file:
        if starts(file, JPEG):
            image = identified(file, str(path))
            check_picture(image)
            height, width = image.height, image.width
            share = side / max(height, width)
            image.draft(None, (max(1, math.ceil(width * share)), max(1, math.ceil(height * share))))
            return _three_channels(_to_eight_bits(pixels(image)))
    return read_image(path)


def read_mask(path: str | Path) -> np.ndarray:
    """A mask file as `[H, W]` int32, the values as they stand in the file (palette images give their indices).

    Raises:
        DataError: missing, truncated, a colour image, of several pages or frames, or of a format that changes values.
    """
    if is_raster(Path(path)):
        return plane_mask(Path(path))
    with _read(path, "a mask") as file:
        if starts(file, TIFF):
            from fungi_seg.images.tiff import tiff_mask

            return tiff_mask(file)
        mask = identified(file, str(path))
        check_picture(mask)
        if mask.format in CHANGING:
            raise DataError(
                f"can't be read as a mask: whatever its name, it is {mask.format} inside, which changes class ids; "
                f"save it as a PNG, from what it was made of"
            )
        if mask.mode not in ("P", "L", "1") and not mask.mode.startswith("I"):
            raise DataError(
                f"the mask is a {mask.mode} image; an index mask is expected, of one channel whose "
                f"values are class ids (8-bit grey, palette, or 16-bit PNG). Convert the colours to ids first"
            )
        return _stored(mask)


def read_mask_part(path: Path, window: Window) -> tuple[np.ndarray, tuple[int, int]]:
    """A window of what `read_mask` gives, cut at the mask's border, and the size of the whole mask.

    Of a TIFF no more is read, so that it may be of any size. Others are read as a whole.

    Raises:
        DataError: as of `read_mask`.
    """
    if not is_raster(path) and _is_tiff(path):
        from fungi_seg.images.tiff import tiff_mask_part

        with damage_named(str(path), "a mask"):
            return tiff_mask_part(path, window)
    whole = read_mask(path)
    rows, columns = slice(window.top, window.top + window.height), slice(window.left, window.left + window.width)
    return whole[rows, columns], (whole.shape[0], whole.shape[1])


def _is_tiff(path: Path) -> bool:
    with _read(path, "a mask") as file:
        return starts(file, TIFF)


def is_deep(path: str | Path, input: InputConfig | None = None) -> bool:
    """Whether an image file has more than 8 bits a channel.

    Args:
        path: of the file, or the address of a plane.
        input: how it enters.

    Raises:
        DataError: as of `read_image`.
    """
    input = InputConfig() if input is None else input
    if input.by_samples or is_raster(Path(path)):
        with open_raster(Path(path), input.projection) as raster:
            return raster.info.dtype != "uint8"
    with _read(path, "an image") as file:
        if starts(file, TIFF):
            from fungi_seg.images.tiff import tiff_bits

            return tiff_bits(file) > 8
        if starts(file, RADIANCE):
            return True
        image = identified(file, str(path))
        return is_wide(image) or is_halved(image, file)


def to_array(image: Any, input: InputConfig | None = None) -> np.ndarray:
    """A path, the bytes of a file, an open file, PIL image, array or tensor as `[H, W, 3]` uint8 RGB, which shares no
    memory with what was given; `[H, W, n]` of joined channels.

    Arrays: `[H, W]` or `[H, W, 3]` (or 1 or 4 channels); tensors: `[3, H, W]`. Values are uint8 0..255, uint16, or
    float in 0..1. Where `input` names channels or limits, arrays and tensors may have any number of channels, and
    values of any range.
    """
    input = InputConfig() if input is None else input
    if isinstance(image, str | Path | bytes | bytearray | memoryview) or hasattr(image, "read"):
        return read_image(image, input)
    if isinstance(image, Image.Image):
        values = pixels(image)
        if not input.chooses:
            return _three_channels(_to_eight_bits(values))
        image = values[..., :1] if image.mode in GREY else values
    if _is_tensor(image):
        if image.ndim != 3 or (image.shape[0] != 3 and not input.chooses):
            raise FungiSegError(f"image is a tensor of shape {list(image.shape)}; a tensor must be [3, H, W]")
        image = (
            image.detach().cpu().permute(1, 2, 0).float().numpy()
            if image.is_floating_point()
            else image.cpu().permute(1, 2, 0).numpy()
        )
    if not isinstance(image, np.ndarray):
        raise FungiSegError(
            f"image is a {type(image).__name__}; it must be a path, the bytes of a file, an open file, "
            f"PIL image, numpy array or tensor"
        )
    if input.chooses:
        return _array_by_samples(image, input)
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or not image.size:
        raise FungiSegError(f"image is an array of shape {image.shape}; an array must be [H, W], or [H, W, 1, 3 or 4]")
    if image.dtype == np.uint8:
        return np.array(_three_channels(image))
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise FungiSegError(
                f"image has float values from {image.min()} to {image.max()}; floats must be in 0..1 (not normalised: "
                f"the backbone's own mean and deviation are applied later)"
            )
        return _three_channels((image * 255).round().astype(np.uint8))
    if image.dtype == np.uint16:
        return _three_channels(eight_bit(image))
    if not np.issubdtype(image.dtype, np.integer) or image.min() < 0 or image.max() > 255:
        raise FungiSegError(
            f"image is an array of {image.dtype}; values must be uint8, uint16, integers in 0..255, or float in 0..1"
        )
    return _three_channels(image.astype(np.uint8))


def _by_samples(path: Path, input: InputConfig, side: int | None = None) -> np.ndarray:
    """`[H, W, 3]`, or `[H, W, n]` of joined channels, read by its stored samples; of the smallest copy of that side."""
    with open_raster(path, input.projection) as raster:
        sizes = raster.info.levels
        level = max((n for n, size in enumerate(sizes) if max(size) >= (side or max(sizes[0]))), default=0)
        height, width = sizes[level]
        try:
            check_pixels(height, width)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        count = len(raster.info.channels) if input.joined else 3
        if height * width * count > MOST_SAMPLES:
            raise DataError(
                f"{path}: has {count} channels of {height}×{width} pixels (height×width); at most {MOST_SAMPLES} "
                f"samples are read: cut it into parts, or make it smaller"
            )
        limits = image_limits(raster, input)
        result = np.empty((height, width, count), np.uint8)
        for window in spread_windows((height, width), sys.maxsize):
            rows, columns = (window.top, window.top + window.height), (window.left, window.left + window.width)
            result[slice(*rows), slice(*columns)] = read_part(raster, window, input, level, limits)
        return result


def _bytes_by_samples(source: Source, input: InputConfig) -> np.ndarray:
    """As `_by_samples`, of bytes: they are put into a file for a while."""
    with _read(source, "an image") as file, TemporaryDirectory() as folder:
        _check_alone(file)
        path = Path(folder) / "image"
        path.write_bytes(file.read())
        try:
            return _by_samples(path, input)
        except DataError as error:
            raise DataError(str(error).removeprefix(f"{path}: ")) from error


def _check_alone(file: BinaryIO) -> None:
    """Refuse bytes that name other files, of which nobody says that they may be read."""
    if starts(file, TIFF):
        with TiffFile(file) as tiff:
            if names_other_files(tiff):
                raise DataError(
                    "says that parts of it are in other files; give the path of the file, in a folder with all"
                )
        file.seek(0)


def _array_by_samples(image: np.ndarray, input: InputConfig) -> np.ndarray:
    """An array of any number of channels, by channels and limits."""
    if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in "buif":
        raise FungiSegError(
            f"image is an array of shape {image.shape} of {image.dtype}; an array must be [H, W] or [H, W, channels] "
            f"of numbers"
        )
    samples = image[..., None] if image.ndim == 2 else image
    samples = samples.astype(np.uint8) if samples.dtype.kind == "b" else samples
    size, count = (samples.shape[0], samples.shape[1]), samples.shape[2]
    names = tuple(str(number) for number in range(1, count + 1))
    return np.array(picture(samples, RasterInfo("picture", size, names, str(samples.dtype), (size,)), input))


def _is_tensor(image: Any) -> bool:
    """Without importing torch, which takes seconds: who made a tensor has imported it."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _name(source: Source) -> str:
    """What errors call an image."""
    if isinstance(source, str | Path):
        return str(source)
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else "the image that was given"


@contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    if isinstance(source, str | Path):
        with open(source, "rb") as file:
            yield file
        return
    data = source if isinstance(source, bytes | bytearray | memoryview) else source.read()
    if not isinstance(data, bytes | bytearray | memoryview):
        raise DataError("it reads as text; open the file for bytes: open(path, 'rb')")
    yield BytesIO(data)


@contextmanager
def _read(source: Source, what: str) -> Iterator[BinaryIO]:
    """The open file, whose name all errors get; whatever a decoder raises is an error of the file's."""
    with damage_named(_name(source), what), _opened(source) as file:
        yield file


def _to_eight_bits(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.uint8 else eight_bit(values)


def _three_channels(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3])


def _stored(mask: ImageFile.ImageFile) -> np.ndarray:
    """`[H, W]` int32 values of the file, which Pillow changes in some formats."""
    written = mask.tile[0][3] if mask.tile else None
    if written == "1;I":
        raise DataError("of 1 bit, in which 0 is white: some read white as 0, others as 1; save the mask as a PNG")
    highest = PART.get(written, 255) if isinstance(written, str) else highest_of(mask)
    mask.load()
    if picture_orientation(mask) != 1:
        raise DataError(
            f"the mask's EXIF data says it is turned (orientation {picture_orientation(mask)}), which some programs "
            f"follow and others don't; save it again upright, without EXIF data"
        )
    values = np.asarray(mask).astype(np.int32)
    if highest == 255:
        return values
    stretched = 65535 if is_wide(mask) else 255
    return np.rint(values * (highest / stretched)).astype(np.int32)
