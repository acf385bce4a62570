"""Videos: frames by their number, decoded in order, and as they are displayed."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.errors import DataError, MissingExtra, reason
from fungi_seg.files import stamp
from fungi_seg.rasters.containers import bytes_missing
from fungi_seg.rasters.planes import checked_plane
from fungi_seg.rasters.raster import RasterInfo, Window
from fungi_seg.rasters.reading import checked_window, damage_named

VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg")
KEPT_BYTES, LEAST_KEPT = 2**25, 2  # of the frames decoded last: reading threads ask for them in another order
CLIPS = 4  # that are open at the same time
UPRIGHT = (1, 0, 0, 1)
AGAIN = "copy it again, or write it anew: ffmpeg -i FILE NEW.mkv"


def is_video(path: Path) -> bool:
    """Whether a file is read as a video, by its suffix."""
    return path.suffix.lower() in VIDEO_SUFFIXES


def opened_clip(path: Path) -> Clip:
    """A video that is ready to be read, the same for all who ask while it stays as it is.

    Raises:
        DataError: missing, cut off, or no video. The message names the file.
        MissingExtra: PyAV isn't installed.
    """
    return _clip(path, tuple(stamp(path)))


@lru_cache(CLIPS)
def _clip(path: Path, _: tuple[int, ...]) -> Clip:
    return Clip(path)


class Clip:
    """A video. Frames are numbered as they are shown, from 0, however long each of them is.

    Frames that are asked for in order are decoded once; for others the nearest frame before that stands for itself is
    looked up. Threads may share one.

    Args:
        path: of the file.

    Attributes:
        path: of the file.
        times: when each frame is shown, in seconds from the first one.
        size: `(height, width)` as displayed.
        channels: names.
        dtype: of samples.

    Raises:
        DataError: as of `opened_clip`.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.RLock()
        self._container: Any = None
        self._frames: Iterator[Any] | None = None
        self._next = 0  # number of the frame that the decoder gives next
        self._kept: OrderedDict[int, Any] = OrderedDict()
        with self._lock:
            self._check_whole()
            self._pts, self._keys, unit = self._scanned()
            self._number = {pts: number for number, pts in enumerate(self._pts)}
            first = self._decoded(0)
            self.times = tuple((pts - self._pts[0]) * unit for pts in self._pts)
        grey = first.format.name.startswith("gray")
        self._deep = grey and first.format.components[0].bits > 8
        self._format = ("gray16le" if self._deep else "gray") if grey else "rgb24"
        self._matrix = _orientation(first, path)
        self._stored = (first.height, first.width)
        turned = self._matrix[0] == 0
        self.size = (first.width, first.height) if turned else (first.height, first.width)
        self.channels = ("1",) if grey else ("red", "green", "blue")
        self.dtype = "uint16" if self._deep else "uint8"

    def __len__(self) -> int:
        return len(self._pts)

    @property
    def rate(self) -> float:
        """Frames a second, on average; 25 of a single one."""
        return (len(self) - 1) / self.times[-1] if len(self) > 1 and self.times[-1] > 0 else 25.0

    def read(self, number: int) -> np.ndarray:
        """A frame as displayed, `[H, W, channels]`.

        Raises:
            DataError: damaged there. The message names the file and the frame.
        """
        with self._lock:  # converting too: threads that convert frames of one decoder wait for each other for ever
            frame = self._decoded(number)
            if (frame.height, frame.width) != self._stored:
                raise DataError(
                    f"{self._named(number)}: is {frame.height}×{frame.width} (height×width), the video's first frame "
                    f"{self._stored[0]}×{self._stored[1]}; cut the video where its size changes"
                )
            samples = frame.to_ndarray(format=self._format)
        return _upright(samples.reshape(*self._stored, -1), self._matrix)

    def _named(self, number: int) -> str:
        return f"{self.path}[t={number}]"

    def _check_whole(self) -> None:
        try:
            missing = bytes_missing(self.path)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such video file") from error
        except OSError as error:
            raise DataError(
                f"{self.path}: can't be read ({reason(error)}); replace the file or leave it out"
            ) from error
        if missing:
            raise DataError(f"{self.path}: is cut off, {missing} of its bytes are missing; {AGAIN}")

    def _open(self) -> Any:
        """The stream of pictures, from its start."""
        try:
            import av
        except ImportError as error:
            raise MissingExtra("video", error) from error
        if self._container is not None:
            self._container.close()
        try:
            self._container = av.open(str(self.path))
        except Exception as error:
            raise DataError(f"{self.path}: can't be read as a video ({reason(error)}); {AGAIN}") from error
        if not self._container.streams.video:
            raise DataError(f"{self.path}: holds no pictures, only {len(self._container.streams)} other streams")
        stream = self._container.streams.video[0]
        if stream.codec_context is None:
            raise DataError(f"{self.path}: its frames are coded in a way that isn't read; {AGAIN}")
        stream.codec_context.options = {"err_detect": "explode"}  # damaged frames are an error, not filled up
        return stream

    def _scanned(self) -> tuple[list[int], list[int], float]:
        """Times of all frames in order, those of frames that stand for themselves, and seconds a unit."""
        stream = self._open()
        unit, wanted = float(stream.time_base or 1), stream.frames
        try:
            packets = [packet for packet in self._container.demux(stream) if packet.size]
            shown = [packet for packet in packets if not packet.is_discard]
            pts = sorted(packet.pts for packet in shown if packet.pts is not None)
            if len(pts) == len(shown) and all(one < other for one, other in pairwise(pts)):
                keys = sorted(packet.pts for packet in shown if packet.is_keyframe)
            else:  # only the decoder knows
                pts, keys = [frame.pts for frame in self._container_decoded()], []
        except Exception as error:  # decoders raise anything of a damaged file
            raise DataError(f"{self.path}: is damaged ({reason(error)}); {AGAIN}") from error
        if None in pts:
            raise DataError(f"{self.path}: doesn't say when its frames are shown; {AGAIN}")
        if not pts:
            raise DataError(f"{self.path}: holds no frame; {AGAIN}")
        if len(packets) < wanted:
            raise DataError(f"{self.path}: is cut off, it holds {len(packets)} of {wanted} frames; {AGAIN}")
        return pts, [bisect_right(pts, key) - 1 for key in keys], unit

    def _container_decoded(self) -> Iterator[Any]:
        stream = self._open()
        yield from self._container.decode(stream)

    def _decoded(self, number: int) -> Any:
        """A frame, of those decoded last or decoded now."""
        if number in self._kept:
            return self._kept[number]
        if self._frames is None or number < self._next or self._key_before(number) > self._next:
            self._go_to(self._key_before(number))
        for attempt in (1, 2):
            found = self._decode_to(number)
            if found is not None:
                return found
            if attempt == 1:  # the container led to a place behind the frame: all from the start
                self._go_to(0)
        raise DataError(f"{self._named(number)}: can't be decoded; the video is damaged there: {AGAIN}")

    def _key_before(self, number: int) -> int:
        place = bisect_right(self._keys, number)
        return self._keys[place - 1] if place else 0

    def _go_to(self, key: int) -> None:
        stream = self._open()
        if key:
            with suppress(Exception):  # a container without an index: from the start
                self._container.seek(self._pts[key], stream=stream)
        self._frames, self._next = self._container.decode(stream), key

    def _decode_to(self, number: int) -> Any:
        """The frame, or nothing where the decoder has passed its place without it."""
        assert self._frames is not None
        try:
            for frame in self._frames:
                place = self._number.get(frame.pts)
                if place is None:
                    continue
                if frame.is_corrupt:
                    raise OSError(f"frame {place} is damaged")
                self._keep(place, frame)
                if place >= number:
                    return frame if place == number else None
        except Exception as error:  # decoders raise anything of a damaged file
            self._frames = None
            raise DataError(
                f"{self._named(number)}: can't be decoded ({reason(error)}); the video is damaged at this frame or "
                f"just before it: {AGAIN}"
            ) from error
        self._frames = None
        return None

    def _keep(self, place: int, frame: Any) -> None:
        self._next = place + 1
        self._kept[place] = frame
        most = max(LEAST_KEPT, KEPT_BYTES // (frame.height * frame.width * 3))
        while len(self._kept) > most:
            self._kept.popitem(last=False)


def video_axes(path: Path) -> dict[str, int]:
    """How many frames a video has, as its axis t.

    Raises:
        DataError: as of `opened_clip`.
    """
    return {"t": len(opened_clip(path))}


class VideoFrame:
    """A frame of a video, as a `Raster`.

    Args:
        path: of the file.
        plane: the frame's number as `t`; nothing where there is one.
        name: what errors call it.
    """

    def __init__(self, path: Path, plane: dict[str, int], name: str):
        self.name = name
        with damage_named(name, "an image"):
            self._clip = clip = opened_clip(path)
            self._number = checked_plane(plane, video_axes(path))["t"]
        self.info = RasterInfo("video", clip.size, clip.channels, clip.dtype, (clip.size,))

    def read(self, window: Window, level: int = 0, channels: Sequence[int] | None = None) -> np.ndarray:
        """See `Raster.read`."""
        checked_window(self, window, level)
        rows = slice(window.top, window.top + window.height)
        part = self._clip.read(self._number)[rows, window.left : window.left + window.width]
        return part if channels is None else part[..., list(channels)]

    def valid(self, window: Window, level: int = 0) -> np.ndarray | None:
        """All of a frame's pixels hold something."""
        return None

    def __enter__(self) -> VideoFrame:
        return self

    def __exit__(self, *error: object) -> None:
        """The video stays open for the next frame."""


def _orientation(frame: Any, path: Path) -> tuple[int, ...]:
    """`(a, b, c, d)`, each −1, 0 or 1: column and row of a pixel become `a·x + c·y` and `b·x + d·y`."""
    from av.sidedata.sidedata import Type

    written = frame.side_data.get(Type.DISPLAYMATRIX)
    if written is None:
        return UPRIGHT
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(written), np.int32)[:5])
    found = tuple(int(np.sign(value)) for value in (a, b, c, d))
    a, b, c, d = found
    if (a and d and not b and not c) or (b and c and not a and not d):
        return found
    raise DataError(f"{path}: is shown turned by {frame.rotation}°, which isn't a quarter of a turn; write it upright")


def _upright(samples: np.ndarray, matrix: tuple[int, ...]) -> np.ndarray:
    """`[H, W, channels]` as displayed."""
    a, b, c, d = matrix
    across, down = (a, d) if a else (c, b)
    turned = samples if a else samples.swapaxes(0, 1)
    return np.ascontiguousarray(turned[:: down or 1, :: across or 1])
