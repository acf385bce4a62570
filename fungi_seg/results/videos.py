"""Masks of frames as a video that shows them over the frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fungi_seg.datasets import void_value
from fungi_seg.files import replacing
from fungi_seg.images import read_image, read_mask
from fungi_seg.rasters import opened_clip, write_video
from fungi_seg.results.names import VIDEOS
from fungi_seg.results.stacks import Stack
from fungi_seg.segmentation import OverlayConfig, drawn


def write_overlays(stack: Stack, folder: Path, palette: np.ndarray, config: OverlayConfig) -> str:
    """Write a video of a video's frames with their masks, unless it is there and no mask is newer.

    Frames are shown as long as they were; those without a mask are hatched. Sound isn't kept.

    Args:
        stack: a video with the masks of its frames.
        folder: of results.
        palette: `[C, 3]` uint8 RGB.
        config: how masks are drawn; as contours where it says that none are.

    Returns:
        The file, relative to `folder`.

    Raises:
        DataError: a frame or a mask can't be read.
        FungiSegError: the file can't be written.
        MissingExtra: PyAV isn't installed.
    """
    named = f"{VIDEOS}/{stack.name}.mp4"
    path = folder / named
    if path.is_file() and path.stat().st_mtime_ns > stack.newest():
        return named
    config = OverlayConfig() if config.style == "none" else config
    with replacing(path) as draft:
        write_video(draft, _frames(stack, palette, config), opened_clip(stack.file).times)
    return named


def _frames(stack: Stack, palette: np.ndarray, config: OverlayConfig) -> Iterator[np.ndarray]:
    void = void_value(len(palette))
    for plane in stack.planes:
        image, mask = read_image(plane), stack.masks.get(plane)
        values = np.full(image.shape[:2], void) if mask is None else read_mask(mask.file)
        yield np.asarray(drawn(image, values.astype(np.uint16), palette, void, config))
