"""Frames to a video, each shown as long as in the one it is made of."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from fungi_seg.errors import FungiSegError, MissingExtra, reason

ENCODERS = {  # the first that PyAV has: H.264, that every program plays, or MPEG-4 where it was built without
    "libx264": {"crf": "18"},
    "libopenh264": {},
    "mpeg4": {"qmin": "2", "qmax": "4"},
}
TICKS = 60_000  # a second: MPEG-4 counts no more than 65535


def video_encoder() -> str:
    """The name of the encoder that videos are written with.

    Raises:
        MissingExtra: PyAV isn't installed.
        FungiSegError: it has none.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtra("video", error) from error
    known = [name for name in ENCODERS if name in av.codecs_available]
    if not known:
        raise FungiSegError(
            f"this PyAV has none of the encoders {', '.join(ENCODERS)}, so that no video can be written; install one "
            f"of its wheels (pip install av), or leave videos out (--video.output masks)"
        )
    return known[0]


def write_video(path: Path, frames: Iterable[np.ndarray], times: Sequence[float]) -> None:
    """Write an MP4. A side of an odd number of pixels gets one more, which repeats the last row or column.

    Args:
        path: of the file.
        frames: `[H, W, 3]` uint8 RGB, all of one size.
        times: when each is shown, in seconds, rising.

    Raises:
        FungiSegError: it can't be encoded.
    """
    encoder = video_encoder()
    import av

    try:
        with av.open(str(path), "w") as container:
            stream = None
            for number, (frame, time) in enumerate(zip(frames, times, strict=True)):
                if stream is None:
                    stream = _stream(container, encoder, frame, times)
                given = av.VideoFrame.from_ndarray(_even(frame), format="rgb24")
                given.pts, given.time_base = round(time * TICKS), Fraction(1, TICKS)
                given.duration = round((_next(times, number) - time) * TICKS)
                container.mux(stream.encode(given))
            if stream is not None:
                container.mux(stream.encode())
    except (OSError, ValueError) as error:
        raise FungiSegError(f"{path}: the video can't be written with {encoder} ({reason(error)})") from error


def _stream(container: Any, encoder: str, frame: np.ndarray, times: Sequence[float]) -> Any:
    stream = container.add_stream(encoder, rate=_rate(times), options=dict(ENCODERS[encoder]))
    height, width = _even(frame).shape[:2]
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    stream.time_base = stream.codec_context.time_base = Fraction(1, TICKS)
    return stream


def _rate(times: Sequence[float]) -> Fraction:
    """Frames a second, on average."""
    seconds = times[-1] - times[0]
    return Fraction((len(times) - 1) / seconds).limit_denominator(1001) if seconds > 0 else Fraction(25)


def _next(times: Sequence[float], number: int) -> float:
    """When the frame after one is shown; the last is shown as long as one is on average."""
    return times[number + 1] if number + 1 < len(times) else times[number] + float(1 / _rate(times))


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), "edge") if height % 2 or width % 2 else frame
