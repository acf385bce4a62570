"""How long the file of a video says it is: what is cut off would else be a shorter video."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

SEGMENT = b"\x18\x53\x80\x67"  # of Matroska and WebM
EBML = b"\x1a\x45\xdf\xa3"
BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")  # that an MP4 or MOV begins with


def bytes_missing(path: Path) -> int:
    """How many bytes of a video file aren't there by what it says of itself; 0 where it doesn't say.

    Raises:
        OSError: missing, or can't be read.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(12)
        if start[:4] == b"RIFF":
            return max(0, 8 + int.from_bytes(start[4:8], "little") - size)
        if start[:4] == EBML:
            return max(0, _matroska_end(file) - size)
        if start[4:8] in BOXES:
            return max(0, _boxes_end(file, size) - size)
    return 0


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 ends."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        elif length == 0:  # up to the end of the file
            return size
        if length < 8 or not head[4:8].isalnum():  # what others have appended
            return size
        end += length
    return end


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment ends, 0 where it doesn't say."""
    file.seek(4)
    length = _number(file)
    if length is None:
        return 0
    file.seek(length, os.SEEK_CUR)
    if file.read(4) != SEGMENT:
        return 0
    length = _number(file)
    return 0 if length is None else file.tell() + length


def _number(file: BinaryIO) -> int | None:
    """A length of EBML; none where it is unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    more = 8 - first[0].bit_length()
    data = bytes([first[0] & (0x7F >> more)]) + file.read(more)
    value = int.from_bytes(data, "big")
    return None if value == (1 << 7 * (more + 1)) - 1 else value
