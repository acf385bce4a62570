"""The run lengths of Label Studio's brush: packed bits, made of images with four values a pixel."""

from __future__ import annotations

import numpy as np

from fungi_seg.errors import DataError

CHANNELS = 4  # red, green, blue, alpha; what was brushed has alpha
HEADER = 32 + 5 + 4 * 4
WINDOW = 64  # bits; a run's flag, choice, length and value are 1 + 2 + 16 + 32 at most, and begin within a byte
WIDTHS, VALUE, LONGEST = (3, 4, 8, 16), 8, 1 << 16  # in bits, of the lengths and the value that are written; of a run


def brushed(data: bytes, size: tuple[int, int]) -> np.ndarray:
    """Which pixels were brushed: `[H, W]` bool.

    32 bits say how many values there are, 5 their width − 1, four times 4 a width − 1 of run lengths. Each run: a bit
    that is 1 where one value is repeated, 2 bits that choose the width of its length, the length − 1, and the value, or
    as many values as the run is long.

    Args:
        data: the `rle` of a region, a byte each.
        size: `(height, width)` of the image.

    Raises:
        DataError: cut off, or of an image of another size.
    """
    total, width = _number(data, 0, 32), _number(data, 32, 5) + 1
    widths = [_number(data, 37 + 4 * i, 4) + 1 for i in range(4)]
    if total != size[0] * size[1] * CHANNELS:
        raise DataError(
            f"its run lengths are of {total} values, but an image of {size[0]}×{size[1]} (height×width) has "
            f"{size[0] * size[1] * CHANNELS}"
        )
    values = np.zeros(total, bool)
    at, bit, end = 0, HEADER, 8 * len(data)
    while at < total and bit < end:
        window, room = int.from_bytes(data[bit >> 3 : (bit >> 3) + 8].ljust(8, b"\0"), "big"), WINDOW - (bit & 7)
        chosen = widths[window >> (room - 3) & 3]
        room -= 3 + chosen
        length = (window >> room & (1 << chosen) - 1) + 1
        bit += 3 + chosen
        if window >> (room + chosen + 2) & 1 or length == 1:
            values[at : at + length] = window >> (room - width) & (1 << width) - 1
            bit += width
        else:
            values[at : at + length] = _each(data, bit, length, width)[: total - at]
            bit += length * width
        at += length
    if at != total or bit > end:
        raise DataError("its run lengths are cut off; export them again")
    return values.reshape(*size, CHANNELS)[..., -1]


def _number(data: bytes, bit: int, width: int) -> int:
    window = int.from_bytes(data[bit >> 3 : (bit >> 3) + 8].ljust(8, b"\0"), "big")
    return window >> (WINDOW - (bit & 7) - width) & (1 << width) - 1


def _each(data: bytes, bit: int, count: int, width: int) -> np.ndarray:
    """Which of `count` numbers of `width` bits aren't 0: `[count]` bool; those beyond the end are."""
    bits = np.unpackbits(np.frombuffer(data[bit >> 3 : (bit + count * width + 7) >> 3], np.uint8))[bit & 7 :]
    found = np.zeros(count * width, bool)
    found[: len(bits)] = bits[: len(found)]
    return np.logical_or.reduce(found.reshape(count, width), axis=1)


def brush_runs(mask: np.ndarray) -> bytes:
    """A mask `[H, W]` bool as `brushed` reads it: brushed pixels have all four channels at 255."""
    flat = mask.ravel()
    edges = np.flatnonzero(np.diff(flat.astype(np.int8), prepend=2, append=2))
    values = flat[edges[:-1]]
    lengths = np.diff(edges) * CHANNELS
    pieces = -(-lengths // LONGEST)
    value = np.repeat(values, pieces).astype(np.uint64) * 255
    length = np.full(len(value), LONGEST, np.uint64)
    length[np.cumsum(pieces) - 1] = lengths - (pieces - 1) * LONGEST
    choice = np.searchsorted([1 << width for width in WIDTHS], length).astype(np.uint64)
    width = np.array(WIDTHS, np.uint64)[choice]
    code = (((np.uint64(4) + choice) << width | (length - np.uint64(1))) << np.uint64(VALUE)) | value
    bits = (np.uint64(3 + VALUE) + width).astype(np.int64)
    head = [(mask.size * CHANNELS, 32), (VALUE - 1, 5), *((width - 1, 4) for width in WIDTHS)]
    start = "".join(f"{number:0{width}b}" for number, width in head)
    spread = (code[:, None] >> np.arange(WINDOW // 2 - 1, -1, -1, dtype=np.uint64)) & np.uint64(1)
    kept = spread.astype(np.uint8)[np.arange(WINDOW // 2) >= WINDOW // 2 - bits[:, None]]
    return np.packbits(np.concatenate([np.array(list(start), np.uint8), kept])).tobytes()
