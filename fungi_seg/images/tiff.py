"""TIFF files of any type of samples, read as they stand or refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tifffile import TiffFile, TiffPage

from fungi_seg.errors import DataError
from fungi_seg.images.depth import eight_bit, full_range, in_strips
from fungi_seg.rasters import (
    CMYK,
    LOSSY,
    PALETTE,
    PHOTOMETRIC,
    RGB,
    SEPARATE,
    STENCIL,
    WHITE_IS_ZERO,
    IndexRaster,
    Window,
    check_colours,
    check_count,
    check_page,
    check_pixels,
    colours_of,
    named,
    nodata_of,
    orientation_of,
    printed,
    upright,
    which_page,
    whole_pages,
)


def tiff_image(file: BinaryIO) -> np.ndarray:
    """The only page of a TIFF as displayed, `[H, W]` or `[H, W, 3]` uint8 grey or RGB.

    Unsigned samples of 1 to 8 bits keep their brightness, others become 8 bits as in `eight_bit`. Of grey, palette
    and RGB images one further channel is dropped, if it is transparency; RGB images may have any fourth channel.

    Raises:
        DataError: of several pages, cut off, or of a kind that isn't read. The message doesn't name the file.
    """
    with _only_page(file, "an image") as page:
        shown = _shown(page)
        return upright(shown, orientation_of(page))


def tiff_mask(file: BinaryIO) -> np.ndarray:
    """The only page of a TIFF as `[H, W]` int32, the stored values, turned upright; of palettes the indices.

    Raises:
        DataError: as of `tiff_image`; or colours, fractions, values beyond int32, or lossy compression.
    """
    with _only_page(file, "a mask") as page:
        _check_mask(page)
        return upright(_class_ids(_samples(page)[..., 0]), orientation_of(page))


def tiff_mask_part(path: Path, window: Window) -> tuple[np.ndarray, tuple[int, int]]:
    """A window of what `tiff_mask` gives, cut at its border, and the size of the whole, which may be of any.

    Raises:
        DataError: as of `tiff_mask`.
    """
    with TiffFile(path) as tiff:
        _check_mask(whole_pages(tiff, "a mask")[0])
    with IndexRaster(path, {}, str(path)) as raster:
        height, width = raster.info.size
        within = min(window.height, height - window.top), min(window.width, width - window.left)
        if min(within) < 1:
            return np.empty((0, 0), np.int32), raster.info.size
        values = raster.read(Window(window.top, window.left, *within))
        return _class_ids(values[..., 0]), raster.info.size


def _check_mask(page: TiffPage) -> None:
    """Refuse a page whose values can't be class ids as they are stored."""
    if page.samplesperpixel != 1 or page.photometric > STENCIL or page.photometric == RGB:
        raise DataError(
            f"the mask is a {named(page.photometric)} image of {page.samplesperpixel} channels; an "
            f"index mask is expected, of one channel whose values are class ids. Convert the colours to ids first"
        )
    if page.compression in LOSSY:
        raise DataError(f"its values are changed by {LOSSY[page.compression]} compression; save the mask as a PNG")
    if page.photometric == WHITE_IS_ZERO and page.bitspersample == 1 and PHOTOMETRIC in page.tags:
        raise DataError("of 1 bit, in which 0 is white: some read white as 0, others as 1; save the mask as a PNG")


def _class_ids(values: np.ndarray) -> np.ndarray:
    """As int32."""
    if values.dtype.kind not in "bui":
        raise DataError(f"the mask holds {values.dtype} values; class ids are whole numbers: save it as a PNG")
    for value in (values.min(), values.max()):
        if not -(2**31) <= value < 2**31:
            raise DataError(f"the mask holds the value {value}; class ids must fit 32 bits (below {2**31})")
    return values.astype(np.int32)


def tiff_bits(file: BinaryIO) -> int:
    """Of a sample of the only page.

    Raises:
        DataError: as of `tiff_image`.
    """
    with _only_page(file, "an image") as page:
        return page.bitspersample


def tiff_size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of the first page, as stored; pages may be channels.

    Raises:
        DataError: cut off, or of a kind that isn't read. The message doesn't name the file.
    """
    with TiffFile(file) as tiff:
        page = whole_pages(tiff, "an image")[0]
        check_page(tiff, page)
        return page.imagelength, page.imagewidth


@contextmanager
def _only_page(file: BinaryIO, what: str) -> Iterator[TiffPage]:
    """The page, where there is one besides smaller copies and transparency, and where all of it is in the file."""
    with TiffFile(file) as tiff:
        whole = whole_pages(tiff, what)
        page = whole[0]
        count = max(len(whole), _planes(tiff, page))
        check_count(count, "pages", which_page(tiff) if count > 1 else "")
        check_pixels(page.imagelength, page.imagewidth)
        check_page(tiff, page)
        yield page


def _planes(tiff: TiffFile, page: TiffPage) -> int:
    """Images that one page stands for, as ImageJ and others write large stacks."""
    alone = len(tiff.pages) == 1 and not tiff.is_ome  # OME may name other files
    return max(page.imagedepth, tiff.series[0].size // page.size if alone and page.size else 1)


def _samples(page: TiffPage) -> np.ndarray:
    """`[H, W, channels]` as stored."""
    values = page.asarray(squeeze=False)[:, 0]
    return np.moveaxis(values[..., 0], 0, -1) if page.planarconfig == SEPARATE else values[0]


def _shown(page: TiffPage) -> np.ndarray:
    """`[H, W]` or `[H, W, 3]` uint8, not yet turned."""
    check_colours(page)
    values = _samples(page)
    if page.photometric == PALETTE:
        return _coloured(values[..., 0], page)
    if page.photometric == CMYK:
        return in_strips(values[..., :4], printed)
    values = values[..., 0] if values.shape[2] < 3 else values[..., :3]
    white_is_zero = page.photometric == WHITE_IS_ZERO
    if page.dtype is not None and page.dtype.kind in "bu" and page.bitspersample <= 8:
        return full_range(values, page.bitspersample, white_is_zero)
    return eight_bit(values, nodata_of(page), white_is_zero)


def _coloured(indices: np.ndarray, page: TiffPage) -> np.ndarray:
    """The palette's colours."""
    colours = colours_of(page)
    return in_strips(indices, lambda part: colours[part.astype(np.uint16, copy=False)])
