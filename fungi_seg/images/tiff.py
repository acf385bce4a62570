"""TIFF files of any type of samples, read as they stand or refused by name."""

from __future__ import annotations

import logging
import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
from PIL import Image
from tifffile import TiffFile, TiffPage

from fungi_seg.errors import DataError
from fungi_seg.images.depth import eight_bit, full_range, in_strips, upright
from fungi_seg.images.limits import check_count, check_pixels

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, STENCIL, CMYK, YCBCR = range(7)  # PhotometricInterpretation
REDUCED, STENCILS = 1, 4  # bits of NewSubfileType: a smaller copy of another page, or where that is transparent
SEPARATE = 2  # PlanarConfiguration: plane by plane
ALPHA = (1, 2)  # ExtraSamples
JPEG = 7
LOSSLESS = (1, 2, 3, 4, 5, 8, 32773, 32946, 34887, 34925, 34926, 50000)
LOSSY = {JPEG: "JPEG", 34712: "JPEG 2000", 34927: "WebP", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
AGAIN = "save it as a PNG, or as a TIFF of 8 or 16 bits with LZW or Deflate"
# tags without which values would be read wrong
DECISIVE = {*range(256, 260), 262, 266, 273, 274, *range(277, 280), 284, 317, 320, *range(322, 326), 338, 339, 347, 530}
UNCLEAR_BITS = 24  # whose bytes some put in the file's order, and others always the highest first
NODATA, ORIENTATION, PHOTOMETRIC, INKS = 42113, 274, 262, 332  # tags

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it would print is checked for here


def tiff_image(file: BinaryIO) -> np.ndarray:
    """The only page of a TIFF as displayed, `[H, W]` or `[H, W, 3]` uint8 grey or RGB.

    Unsigned samples of 1 to 8 bits keep their brightness, others become 8 bits as in `eight_bit`. Of grey, palette
    and RGB images one further channel is dropped, if it is transparency; RGB images may have any fourth channel.

    Raises:
        DataError: of several pages, cut off, or of a kind that isn't read. The message doesn't name the file.
    """
    with _only_page(file, "an image") as page:
        shown = _shown(page)
        return upright(shown, _orientation(page))


def tiff_mask(file: BinaryIO) -> np.ndarray:
    """The only page of a TIFF as `[H, W]` int32, the stored values, turned upright; of palettes the indices.

    Raises:
        DataError: as of `tiff_image`; or colours, fractions, values beyond int32, or lossy compression.
    """
    with _only_page(file, "a mask") as page:
        if page.samplesperpixel != 1 or page.photometric > STENCIL or page.photometric == RGB:
            raise DataError(
                f"the mask is a {_named(page.photometric)} image of {page.samplesperpixel} channels; an "
                f"index mask is expected, of one channel whose values are class ids. Convert the colours to ids first"
            )
        if page.compression in LOSSY:
            raise DataError(f"its values are changed by {LOSSY[page.compression]} compression; save the mask as a PNG")
        if page.photometric == WHITE_IS_ZERO and page.bitspersample == 1 and PHOTOMETRIC in page.tags:
            raise DataError("of 1 bit, in which 0 is white: some read white as 0, others as 1; save the mask as a PNG")
        values = _samples(page)[..., 0]
        if values.dtype.kind not in "bui":
            raise DataError(f"the mask holds {values.dtype} values; class ids are whole numbers: save it as a PNG")
        for value in (values.min(), values.max()):
            if not -(2**31) <= value < 2**31:
                raise DataError(f"the mask holds the value {value}; class ids must fit 32 bits (below {2**31})")
        return upright(values.astype(np.int32), _orientation(page))


def tiff_bits(file: BinaryIO) -> int:
    """Of a sample of the only page.

    Raises:
        DataError: as of `tiff_image`.
    """
    with _only_page(file, "an image") as page:
        return page.bitspersample


def tiff_size(file: BinaryIO) -> tuple[int, int]:
    """Height and width of the only page, as stored.

    Raises:
        DataError: as of `tiff_image`.
    """
    with _only_page(file, "an image") as page:
        return page.imagelength, page.imagewidth


@contextmanager
def _only_page(file: BinaryIO, what: str) -> Iterator[TiffPage]:
    """The page, where there is one besides smaller copies and transparency, and where all of it is in the file."""
    with TiffFile(file) as tiff:
        pages = [page.aspage() for page in tiff.pages]
        whole = [page for page in pages if not page.subfiletype & (REDUCED | STENCILS)]
        if not whole:
            raise DataError(f"holds smaller copies or masks of {what}, not {what} itself; {AGAIN}")
        if _layout(tiff, pages[-1])[1]:
            raise DataError("is cut off or damaged: a further page is to be where there is none; copy it again")
        page = whole[0]
        lost = DECISIVE.intersection(_layout(tiff, page)[0]).difference(page.tags.keys())
        if lost:
            raise DataError(f"is cut off or damaged: its tags {sorted(lost)} can't be read; copy it again")
        check_count(max(len(whole), _planes(tiff, page)), "pages")
        check_pixels(page.imagelength, page.imagewidth)
        _check_type(page)
        _check_segments(page, tiff.filehandle.size)
        yield page


def _layout(tiff: TiffFile, page: TiffPage) -> tuple[set[int], int]:
    """Numbers of the page's tags, and where the next page is to be, 0 after the last: damaged ones too."""
    form, file = tiff.tiff, tiff.filehandle
    file.seek(page.offset)
    (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    entries = file.read(count * form.tagsize)
    numbers = {n for (n,) in struct.iter_unpack(f"{form.byteorder}H{form.tagsize - 2}x", entries)}
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return numbers, int(offset)


def _planes(tiff: TiffFile, page: TiffPage) -> int:
    """Images that one page stands for, as ImageJ and others write large stacks."""
    alone = len(tiff.pages) == 1 and not tiff.is_ome  # OME may name other files
    return max(page.imagedepth, tiff.series[0].size // page.size if alone and page.size else 1)


def _check_type(page: TiffPage) -> None:
    if page.compression not in LOSSLESS and page.compression not in LOSSY:
        raise DataError(f"its compression {_named(page.compression)} isn't read; {AGAIN}")
    bits_vary = isinstance(page.bitspersample, tuple)
    if page.dtype is None or page.dtype.kind not in "buif" or bits_vary or page.bitspersample == UNCLEAR_BITS:
        raise DataError(
            f"samples of {page.bitspersample} bits and format {_named(page.sampleformat)} aren't read; {AGAIN}"
        )


def _check_segments(page: TiffPage, size: int) -> None:
    """Refuse what decoders would fill with zeros or grey without a word."""
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted = math.prod(page.chunked)
    there = sum(1 for offset, count in zip(offsets, counts, strict=False) if offset and count)
    if there < wanted:
        raise DataError(
            f"{wanted - there} of its {wanted} strips or tiles hold nothing: it was written in part, or sparsely; "
            f"write it again (gdal_translate without SPARSE_OK fills it)"
        )
    end = max(offset + count for offset, count in zip(offsets, counts, strict=False))
    if end > size:
        raise DataError(f"is cut off: it has {size} bytes of {end}; copy it again")


def _samples(page: TiffPage) -> np.ndarray:
    """`[H, W, channels]` as stored."""
    values = page.asarray(squeeze=False)[:, 0]
    return np.moveaxis(values[..., 0], 0, -1) if page.planarconfig == SEPARATE else values[0]


def _shown(page: TiffPage) -> np.ndarray:
    """`[H, W]` or `[H, W, 3]` uint8, not yet turned."""
    _check_colours(page)
    values = _samples(page)
    if page.photometric == PALETTE:
        return _coloured(values[..., 0], page)
    if page.photometric == CMYK:
        return in_strips(values[..., :4], _printed)
    values = values[..., 0] if values.shape[2] < 3 else values[..., :3]
    white_is_zero = page.photometric == WHITE_IS_ZERO
    if page.dtype is not None and page.dtype.kind in "bu" and page.bitspersample <= 8:
        return full_range(values, page.bitspersample, white_is_zero)
    return eight_bit(values, _nodata(page), white_is_zero)


def _check_colours(page: TiffPage) -> None:
    """Refuse what isn't grey, RGB, palette, CMYK, or YCbCr in a JPEG."""
    kind, channels = page.photometric, page.samplesperpixel
    if PHOTOMETRIC not in page.tags:
        raise DataError(f"doesn't say whether its zero is black or white (PhotometricInterpretation); {AGAIN}")
    if channels > 1 and page.extrasamples and page.extrasamples[-1] in ALPHA:
        channels -= 1
    fitting = {
        WHITE_IS_ZERO: (1, 3),
        BLACK_IS_ZERO: (1, 3),
        RGB: (3, 4),
        PALETTE: (1,),
        CMYK: (4,),
        YCBCR: (3,),
    }
    known = kind in fitting
    if kind == YCBCR:
        known = page.compression == JPEG and page.planarconfig != SEPARATE and page.samplesperpixel == 3
    if kind == CMYK:
        known = page.tags.valueof(INKS, 1) == 1 and page.dtype in (np.uint8, np.uint16) and page.bitspersample % 8 == 0
    if not known:
        raise DataError(
            f"colours of {_named(kind)}, of {page.bitspersample} bits, aren't read from "
            f"{_named(page.compression)} TIFFs; convert it to RGB"
        )
    if channels not in fitting[kind]:
        raise DataError(
            f"has {page.samplesperpixel} channels; an image has one (grey) or three (red, green, blue), and may have "
            f"transparency besides: save the channels to use as a file of their own"
        )


def _coloured(indices: np.ndarray, page: TiffPage) -> np.ndarray:
    """The palette's colours, which are 16-bit, but for writers that put 8-bit ones there."""
    palette = page.colormap
    if palette is None:
        raise DataError(f"is a palette image without a palette; {AGAIN}")
    table = palette if palette.max() < 256 else palette >> 8
    colours = table.T.astype(np.uint8)
    return in_strips(indices, lambda part: colours[part.astype(np.uint16, copy=False)])


def _printed(inks: np.ndarray) -> np.ndarray:
    """`[H, W, 4]` CMYK as RGB."""
    eight = inks if inks.dtype == np.uint8 else (inks >> 8).astype(np.uint8)
    size = (inks.shape[1], inks.shape[0])
    return np.array(Image.frombytes("CMYK", size, np.ascontiguousarray(eight).tobytes()).convert("RGB"))


def _nodata(page: TiffPage) -> float | None:
    """GDAL's value of pixels that hold nothing, where one is named."""
    written = str(page.tags.valueof(NODATA, "")).strip()
    try:
        return int(written) if written.lstrip("-").isdecimal() else float(written)
    except ValueError:
        return None


def _orientation(page: TiffPage) -> int:
    written = page.tags.valueof(ORIENTATION)
    return written if isinstance(written, int) else 1


def _named(number: object) -> str:
    """The name of a number of one of TIFF's lists."""
    return str(getattr(number, "name", number))
