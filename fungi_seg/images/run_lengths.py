"""Masks as the run lengths of COCO: pixels off and on in turn, column by column."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pycocotools import mask as coco_mask

LONGEST = 7  # characters of a packed number: 35 bits


def label_runs(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Each label above 0 of `[H, W]` integers and its run lengths, int64; one pass, however many labels there are."""
    flat = labels.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=-1))
    ends = np.append(starts[1:], flat.size)
    order = np.argsort(flat[starts], kind="stable")
    values = flat[starts][order]
    for group in np.split(order, np.flatnonzero(np.diff(values)) + 1):
        label = int(flat[starts[group[0]]])
        if label > 0:
            edges = np.stack([starts[group], ends[group]], axis=1).ravel()
            after = [flat.size] if edges[-1] < flat.size else []
            yield label, np.diff(edges, prepend=0, append=after)


def pack(counts: np.ndarray, size: tuple[int, int]) -> str:
    """Run lengths of an image of `size` `(height, width)` as COCO's compressed text."""
    packed = coco_mask.frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)
    return str(packed["counts"], "ascii")


def unpack(text: str | bytes) -> np.ndarray:
    """COCO's compressed text as run lengths, int64.

    A number is written in characters of 5 bits, the lowest ones first, 32 added where another one follows; from the
    fourth number on it is the difference to the last but one. pycocotools writes beyond its memory where a text isn't
    like that.

    Raises:
        ValueError: no such text.
    """
    raw = text if isinstance(text, bytes) else text.encode()
    codes = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(codes & 32 == 0)
    if not len(codes) or codes.min() < 0 or codes.max() > 63 or codes[-1] & 32:
        raise ValueError("the run lengths aren't compressed as COCO does, or are cut off")
    starts = np.append(0, ends[:-1] + 1)
    lengths = ends - starts + 1
    if lengths.max() > LONGEST:
        raise ValueError("the run lengths aren't compressed as COCO does: a number is too long")
    places = np.arange(len(codes)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((codes & 31) << (5 * places), starts)
    numbers -= np.where(codes[ends] & 16, np.left_shift(1, 5 * lengths), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
