"""An image at another scale, any part of it at a time: what the parts are changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

ROUND_UP = 1.02  # how much a pixel of the result may fall short of a whole number of pixels that are averaged
CHANNELS = 3  # that OpenCV takes at once


class Resampling:
    """From an image to the size that it enters at: means of whole blocks of pixels, then linear interpolation.

    Args:
        size: `(H, W)` of the image.
        content: `(height, width)` of the result.
    """

    def __init__(self, size: tuple[int, int], content: tuple[int, int]):
        self.size, self.content = size, content
        self._down, self._across = (_Axis(n, m) for n, m in zip(size, content, strict=True))

    def source(self, rows: range, columns: range) -> tuple[range, range]:
        """Rows and columns of the image that a part of the result is made of."""
        return self._down.source(rows), self._across.source(columns)

    def apply(self, part: np.ndarray, rows: range, columns: range) -> np.ndarray:
        """`[len(rows), len(columns), c]` uint8 of the result.

        Args:
            part: `[…, …, c]` uint8, what `source` names of the image.
            rows, columns: of the result.
        """
        blocks = _means(part, self._down.block, self._across.block)
        tall = self._down.between(blocks, rows, 0)
        found: np.ndarray = self._across.between(tall, columns, 1)
        return found if found.dtype == np.uint8 else np.rint(found).astype(np.uint8)

    def nearest(self, rows: range, columns: range) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the image at the centre of each pixel of a part of the result."""
        return self._down.nearest(rows), self._across.nearest(columns)


def resampled(image: np.ndarray, content: tuple[int, int]) -> np.ndarray:
    """`[H, W, c]` uint8 at the size `content`, strip by strip."""
    whole = Resampling((image.shape[0], image.shape[1]), content)
    columns = range(content[1])
    parts = []
    for rows in chunks(range(content[0]), 256):
        source, _ = whole.source(rows, columns)
        parts.append(whole.apply(image[source.start : source.stop], rows, columns))
    return np.concatenate(parts)


def chunks(whole: range, length: int) -> Iterator[range]:
    """Parts of a range, one after another."""
    return (range(start, min(start + length, whole.stop)) for start in range(whole.start, whole.stop, length))


class _Axis:
    """One axis: `size` pixels become blocks of `block`, and these `content` pixels."""

    def __init__(self, size: int, content: int):
        self.size, self.content = size, content
        self.block = max(1, int(size / content * ROUND_UP))
        self._blocks = -(-size // self.block)

    def source(self, wanted: range) -> range:
        low, high, _ = self._places(wanted)
        return range(int(low[0]) * self.block, min((int(high[-1]) + 1) * self.block, self.size))

    def between(self, blocks: np.ndarray, wanted: range, axis: int) -> np.ndarray:
        low, high, share = self._places(wanted)
        start = int(low[0])
        if not share.any() and np.array_equal(low - start, np.arange(blocks.shape[axis])):
            return blocks
        shape = [1, 1, 1]
        shape[axis] = -1
        below = blocks.take(low - start, axis).astype(np.float32)
        above = blocks.take(high - start, axis).astype(np.float32)
        above -= below
        above *= share.reshape(shape)
        above += below
        return above

    def nearest(self, wanted: range) -> np.ndarray:
        centres = (np.arange(wanted.start, wanted.stop) + 0.5) * self.size / self.content
        return np.minimum(centres.astype(np.int64), self.size - 1)

    def _places(self, wanted: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The blocks on both sides of each pixel's centre, and how far it lies towards the second."""
        centres = (np.arange(wanted.start, wanted.stop) + 0.5) * self.size / self.content
        position = (centres / self.block - 0.5).clip(0, self._blocks - 1)
        low = position.astype(np.int64)
        return low, np.minimum(low + 1, self._blocks - 1), (position - low).astype(np.float32)


def _means(part: np.ndarray, down: int, across: int) -> np.ndarray:
    """Means of blocks of pixels; the last ones may be cut off, and their border is repeated."""
    if down == across == 1:
        return part
    below, right = -part.shape[0] % down, -part.shape[1] % across
    if below or right:
        part = cv2.copyMakeBorder(part, 0, below, 0, right, cv2.BORDER_REPLICATE)
    size = part.shape[1] // across, part.shape[0] // down
    planes = [part[..., start : start + CHANNELS] for start in range(0, part.shape[2], CHANNELS)]
    small = [cv2.resize(np.ascontiguousarray(p), size, interpolation=cv2.INTER_AREA) for p in planes]
    return np.concatenate([one.reshape(size[1], size[0], -1) for one in small], axis=2)
