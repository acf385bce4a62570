"""Many image files: read ahead, segmented in batches, and given back one by one in their order."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.images import Fitted, LoadConfig, pixel_size_in, read_image
from fungi_seg.progress import prefetch
from fungi_seg.rasters import file_of, plane_of
from fungi_seg.segmentation.result import Segmentation
from fungi_seg.segmentation.segmenter import Segmenter
from fungi_seg.segmentation.sliding import SlidingBank

AHEAD_PIXELS = 2**26  # of images that wait, 3 bytes each: 200 MB
TIME = "t"  # the axis of frames
BATCH_PIXELS = 2**24  # of a batch, whose masks are all made before the first is given back


@dataclass(frozen=True)
class _Read:
    path: Path
    image: np.ndarray
    fitted: Fitted

    @property
    def pixels(self) -> int:
        return self.image.shape[0] * self.image.shape[1]


def segment_files(
    segmenter: Segmenter,
    paths: Sequence[Path],
    load: LoadConfig | None = None,
    unknown: float | None = None,
    memory: int = 0,
) -> Generator[Segmentation | DataError, None, None]:
    """Segment image files; what comes out of each is what `Segmenter.predict` gives or raises.

    The next images are read while one is computed, as long as they hold no more than `AHEAD_PIXELS`; images that enter
    the backbone at one size go through it together.

    Args:
        segmenter: bank, decoder and index.
        paths: of the images.
        load: batch size and reading threads.
        unknown: as for `predict`.
        memory: sure patches of so many frames before join the bank's rows, in videos and in stacks along t, whose
            planes are to come in order.

    Returns:
        For each path in its order: what was found, or why it can't be used.

    Raises:
        FungiSegError: features that aren't finite; `unknown` outside 0..1, or without a calibration.
    """
    load = load or LoadConfig()

    def read(path: Path) -> _Read | DataError:
        try:
            image = read_image(path, segmenter.input)
            return _Read(path, image, segmenter.fit(image, pixel_size_in(path, segmenter.input)))
        except DataError as error:
            return DataError(str(error) if str(path) in str(error) else f"{path}: {error}")

    with closing(prefetch(read, paths, load.workers, _held, AHEAD_PIXELS)) as images:
        clips = _Clips(segmenter, memory)
        for batch in _batches(images, 1 if memory else load.batch_size):
            if isinstance(batch, DataError):
                yield batch
                continue
            for found in _together(segmenter, batch, clips.memory_of(batch[0].path)):
                yield found if unknown is None or isinstance(found, DataError) else found.with_unknown(unknown)


class _Clips:
    """What is remembered of the clip that is worked through: each further axis of its file has its own."""

    def __init__(self, segmenter: Segmenter, frames: int):
        self._segmenter, self._frames = segmenter, frames
        self._file: Path | None = None
        self._memories: dict[tuple[tuple[str, int], ...], SlidingBank] = {}

    def memory_of(self, path: Path) -> SlidingBank | None:
        """The memory of the frames before one; none of what is no frame, or where none is wanted."""
        plane = plane_of(path)
        if not self._frames or TIME not in plane:
            return None
        if file_of(path) != self._file:
            self._file, self._memories = file_of(path), {}
        beside = tuple((axis, index) for axis, index in plane.items() if axis != TIME)
        if beside not in self._memories:
            self._memories[beside] = self._segmenter.memory(self._frames)
        return self._memories[beside]


def _held(read: _Read | DataError) -> int:
    return 0 if isinstance(read, DataError) else read.pixels


def _batches(images: Iterator[_Read | DataError], size: int) -> Iterator[list[_Read] | DataError]:
    """Runs of images of one input size, as soon as they are complete: a large image waits for no other."""
    batch: list[_Read] = []
    for image in images:
        if batch and not (isinstance(image, _Read) and _may_join(image, batch)):
            yield batch
            batch = []
        if isinstance(image, DataError):
            yield image
            continue
        batch.append(image)
        if len(batch) == size or sum(one.pixels for one in batch) >= BATCH_PIXELS:
            yield batch
            batch = []
    if batch:
        yield batch


def _may_join(image: _Read, batch: list[_Read]) -> bool:
    pixels = image.pixels + sum(one.pixels for one in batch)
    return image.fitted.image.shape == batch[0].fitted.image.shape and pixels <= BATCH_PIXELS


def _together(
    segmenter: Segmenter, batch: list[_Read], memory: SlidingBank | None = None
) -> Iterator[Segmentation | DataError]:
    """What is found in a batch; where it fails as a whole, in each image alone."""
    fitted, images, names = [r.fitted for r in batch], [r.image for r in batch], [str(r.path) for r in batch]
    try:
        yield from segmenter.predict_fitted(fitted, images, names, memory=memory)
    except FungiSegError as error:
        if len(batch) > 1:
            for one in batch:
                yield from _together(segmenter, [one])
        elif isinstance(error, DataError):
            yield error
        else:
            raise
