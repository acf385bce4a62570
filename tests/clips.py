"""Writes small videos whose frames say their number."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

STEP = 8  # of grey from one frame to the next


def grey_frames(count: int, height: int = 32, width: int = 48) -> list[np.ndarray]:
    """Frames `[H, W, 3]` of one grey each, `STEP` brighter from one to the next, with a white upper left corner."""
    frames = [np.full((height, width, 3), STEP * number, np.uint8) for number in range(count)]
    for frame in frames:
        frame[: height // 4, : width // 4] = 255
    return frames


def number_of(frame: np.ndarray) -> int:
    """The number of a frame of `grey_frames`, by its lower right corner."""
    return round(float(frame[-4:, -4:].mean()) / STEP)


def write_clip(
    path: Path,
    frames: Sequence[np.ndarray],
    codec: str = "ffv1",
    pix_fmt: str = "bgr0",
    turned: float | None = None,
    times: Sequence[int] | None = None,
    **options: Any,
) -> Path:
    """Write a video of 10 frames a second, or with a time of each in tenths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.bit_rate = pix_fmt, 8_000_000  # lossy ones stay near what they were
        stream.options = {name: str(value) for name, value in options.items()}
        if turned is not None:
            stream.set_display_rotation(turned)
        for number, frame in enumerate(frames):
            kind = "gray16le" if frame.dtype == np.uint16 else "gray" if frame.ndim == 2 else "rgb24"
            given = av.VideoFrame.from_ndarray(frame, format=kind)
            given.pts, given.time_base = (times or range(len(frames)))[number], Fraction(1, 10)
            container.mux(stream.encode(given))
        container.mux(stream.encode())
    return path
