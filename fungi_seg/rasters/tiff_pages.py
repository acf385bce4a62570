"""Single pages of TIFF files: what of them is read, and what is refused by name."""

from __future__ import annotations

import logging
import math
import struct

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage

from fungi_seg.errors import DataError
from fungi_seg.rasters.colours import palette_colours

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # what such files begin with
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
CHANNELS = {  # those of a picture, by PhotometricInterpretation
    WHITE_IS_ZERO: (1, 3),
    BLACK_IS_ZERO: (1, 3),
    RGB: (3, 4),
    PALETTE: (1,),
    CMYK: (4,),
    YCBCR: (3,),
}
UNCLEAR_BITS = 24  # whose bytes some put in the file's order, and others always the highest first
NODATA, ORIENTATION, PHOTOMETRIC, INKS = 42113, 274, 262, 332  # tags

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it would print is checked for here


def whole_pages(tiff: TiffFile, what: str) -> list[TiffPage]:
    """The pages but for smaller copies and transparency.

    Args:
        tiff: an open file.
        what: they are to be, with its article.

    Raises:
        DataError: none is, or the list of pages is cut off. The message doesn't name the file.
    """
    pages = [page.aspage() for page in tiff.pages]
    whole = [page for page in pages if not page.subfiletype & (REDUCED | STENCILS)]
    if not whole:
        raise DataError(f"holds smaller copies or masks of {what}, not {what} itself; {AGAIN}")
    check_end(tiff, pages[-1])
    return whole


def check_end(tiff: TiffFile, last: TiffPage | TiffFrame) -> None:
    """Refuse a list of pages that is cut off.

    Args:
        tiff: the file it is in.
        last: page of the list.

    Raises:
        DataError: it is. The message doesn't name the file.
    """
    if page_layout(tiff, last)[1]:
        raise DataError("is cut off or damaged: a further page is to be where there is none; copy it again")


def check_page(tiff: TiffFile, page: TiffPage, sparse: bool = False) -> None:
    """Refuse a page that is damaged, cut off, or of a type that isn't read.

    Args:
        tiff: the file it is in.
        page: of it.
        sparse: strips and tiles may hold nothing.

    Raises:
        DataError: it is. The message doesn't name the file.
    """
    lost = DECISIVE.intersection(page_layout(tiff, page)[0]).difference(page.tags.keys())
    if lost:
        raise DataError(f"is cut off or damaged: its tags {sorted(lost)} can't be read; copy it again")
    check_type(page)
    check_segments(page, tiff.filehandle.size, sparse)


def page_layout(tiff: TiffFile, page: TiffPage | TiffFrame) -> tuple[set[int], int]:
    """Numbers of the page's tags, and where the next page is to be, 0 after the last: damaged ones too."""
    form, file = tiff.tiff, tiff.filehandle
    file.seek(page.offset)
    (count,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
    entries = file.read(count * form.tagsize)
    numbers = {n for (n,) in struct.iter_unpack(f"{form.byteorder}H{form.tagsize - 2}x", entries)}
    (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
    return numbers, int(offset)


def check_type(page: TiffPage) -> None:
    if page.compression not in LOSSLESS and page.compression not in LOSSY:
        raise DataError(f"its compression {named(page.compression)} isn't read; {AGAIN}")
    bits_vary = isinstance(page.bitspersample, tuple)
    if page.dtype is None or page.dtype.kind not in "buif" or bits_vary or page.bitspersample == UNCLEAR_BITS:
        raise DataError(
            f"samples of {page.bitspersample} bits and format {named(page.sampleformat)} aren't read; {AGAIN}"
        )


def check_segments(page: TiffPage | TiffFrame, size: int, sparse: bool = False) -> None:
    """Refuse what decoders would fill with zeros or grey without a word.

    Args:
        page: of a file.
        size: the file's, in bytes.
        sparse: strips and tiles may hold nothing.

    Raises:
        DataError: it is to be refused. The message doesn't name the file.
    """
    offsets, counts = page.dataoffsets, page.databytecounts
    wanted = math.prod(page.chunked)
    there = sum(1 for offset, count in zip(offsets, counts, strict=False) if offset and count)
    if there < wanted and not sparse:
        raise DataError(
            f"{wanted - there} of its {wanted} strips or tiles hold nothing: it was written in part, or sparsely; "
            f"write it again (gdal_translate without SPARSE_OK fills it)"
        )
    end = max((offset + count for offset, count in zip(offsets, counts, strict=False)), default=0)
    if end > size:
        raise DataError(f"is cut off: it has {size} bytes of {end}; copy it again")


def keyframe(page: TiffPage | TiffFrame) -> TiffPage:
    """The page whose tags hold for a page of a series.

    Raises:
        DataError: there is none. The message doesn't name the file.
    """
    if page.keyframe is None:
        raise DataError("is damaged: a page of it isn't described; copy it again")
    return page.keyframe


def sample_type(page: TiffPage) -> np.dtype:
    """Of the samples of a page, in the machine's byte order.

    Raises:
        DataError: it isn't read. The message doesn't name the file.
    """
    check_type(page)
    return np.dtype(page.dtype)


def check_kind(page: TiffPage) -> None:
    """Refuse what isn't grey, RGB, palette, CMYK, or YCbCr in a JPEG, of any number of channels."""
    kind = page.photometric
    if PHOTOMETRIC not in page.tags:
        raise DataError(f"doesn't say whether its zero is black or white (PhotometricInterpretation); {AGAIN}")
    known = kind in CHANNELS
    if kind == YCBCR:
        known = page.compression == JPEG and page.planarconfig != SEPARATE and page.samplesperpixel == 3
    if kind == CMYK:
        known = page.tags.valueof(INKS, 1) == 1 and page.dtype in (np.uint8, np.uint16) and page.bitspersample % 8 == 0
    if not known:
        raise DataError(
            f"colours of {named(kind)}, of {page.bitspersample} bits, aren't read from "
            f"{named(page.compression)} TIFFs; convert it to RGB"
        )


def check_colours(page: TiffPage) -> None:
    """Refuse what isn't a picture to be looked at: `check_kind`, and channels that aren't grey or colours."""
    check_kind(page)
    if colour_channels(page) not in CHANNELS[page.photometric]:
        raise DataError(
            f"has {page.samplesperpixel} channels; an image has one (grey) or three (red, green, blue), and may have "
            f"transparency besides: name those to use by --input.channels, or save them as a file of their own"
        )


def colour_channels(page: TiffPage) -> int:
    """Samples of a pixel, but for transparency at the end."""
    last = page.extrasamples[-1] if page.samplesperpixel > 1 and page.extrasamples else None
    return page.samplesperpixel - (last in ALPHA)


def colours_of(page: TiffPage) -> np.ndarray:
    """`[colours, 3]` uint8 of a palette page.

    Raises:
        DataError: it has none.
    """
    if page.colormap is None:
        raise DataError(f"is a palette image without a palette; {AGAIN}")
    return palette_colours(page.colormap)


def nodata_of(page: TiffPage) -> float | None:
    """GDAL's value of pixels that hold nothing, where one is named."""
    written = str(page.tags.valueof(NODATA, "")).strip()
    try:
        return int(written) if written.lstrip("-").isdecimal() else float(written)
    except ValueError:
        return None


def orientation_of(page: TiffPage) -> int:
    written = page.tags.valueof(ORIENTATION)
    return written if isinstance(written, int) else 1


def named(number: object) -> str:
    """The name of a number of one of TIFF's lists."""
    return str(getattr(number, "name", number))
