"""Writes TIFF files of any kind, also of those that no library at hand writes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

SHORT, LONG, ASCII = 3, 4, 2
Tags = dict[int, Any]


def packed(values: np.ndarray, bits: int, order: str) -> bytes:
    """`[rows, numbers]`, each row's numbers of `bits` bits one after another, the row filled up to whole bytes."""
    if bits in (8, 16, 32, 64):
        kind = "u" if values.dtype.kind == "b" else values.dtype.kind
        return values.astype(f"{order}{kind}{bits // 8}").tobytes()
    places = np.arange(bits - 1, -1, -1, dtype=np.uint64)
    ones = (values.astype(np.uint64)[..., None] >> places & np.uint64(1)).astype(np.uint8)
    return np.packbits(ones.reshape(len(values), -1), axis=1).tobytes()


def page(
    values: np.ndarray,
    bits: int | None = None,
    photometric: int | None = 1,
    separate: bool = False,
    rows: int = 7,
    order: str = "<",
    reversed_bits: bool = False,
    tags: Tags | None = None,
) -> tuple[Tags, list[bytes]]:
    """Tags and strips of one page of `[H, W]` or `[H, W, channels]`."""
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    bits = bits or values.dtype.itemsize * 8
    planes = [values[..., c : c + 1] for c in range(channels)] if separate else [values]
    strips = [
        packed(plane[top : top + rows].reshape(-1, plane.shape[1] * plane.shape[2]), bits, order)
        for plane in planes
        for top in range(0, height, rows)
    ]
    if reversed_bits:
        table = bytes(int(f"{i:08b}"[::-1], 2) for i in range(256))
        strips = [strip.translate(table) for strip in strips]
    kind = {"u": 1, "b": 1, "i": 2, "f": 3, "c": 6}[values.dtype.kind]
    told = {
        256: width,
        257: height,
        258: [bits] * channels,
        259: 1,
        262: photometric,
        266: 2 if reversed_bits else 1,
        277: channels,
        278: rows,
        284: 2 if separate else 1,
        339: [kind] * channels,
    }
    told = {tag: value for tag, value in told.items() if value is not None}
    return told | (tags or {}), strips


def tiff(*pages: tuple[Tags, list[bytes]], order: str = "<") -> bytes:
    """A file of such pages."""
    data = bytearray((b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, 0))
    pointer = 4
    for tags, strips in pages:
        offsets = []
        for strip in strips:
            offsets.append(len(data))
            data += strip + b"\0" * (len(strip) % 2)
        entries = []
        for tag, value in sorted((tags | {273: offsets, 279: [len(strip) for strip in strips]}).items()):
            kind, count, raw = _field(value, tag in (254, 273, 279), order)
            if len(raw) > 4:
                place = len(data)
                data += raw + b"\0" * (len(raw) % 2)
                raw = struct.pack(order + "L", place)
            entries.append(struct.pack(order + "HHL", tag, kind, count) + raw.ljust(4, b"\0"))
        data[pointer : pointer + 4] = struct.pack(order + "L", len(data))
        data += struct.pack(order + "H", len(entries)) + b"".join(entries)
        pointer = len(data)
        data += b"\0" * 4
    return bytes(data)


def _field(value: Any, wide: bool, order: str) -> tuple[int, int, bytes]:
    if isinstance(value, str):
        return ASCII, len(value) + 1, value.encode() + b"\0"
    numbers: Sequence[int] = value if isinstance(value, list) else [value]
    code = "L" if wide or max(numbers) > 65535 else "H"
    kind = LONG if code == "L" else SHORT
    return kind, len(numbers), struct.pack(f"{order}{len(numbers)}{code}", *numbers)
