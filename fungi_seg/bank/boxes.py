"""Where patches lie in their image."""

from __future__ import annotations

import numpy as np

from fungi_seg.images import Fitted


def patch_boxes(
    numbers: np.ndarray, fitted: Fitted, patch: tuple[int, int], window: tuple[float, float, float, float]
) -> np.ndarray:
    """`[m, 4]` float32 `left, top, right, bottom` of patches, in pixels of the image.

    Args:
        numbers: `[m]` of the patches, row-major.
        fitted: the image, or a part of it, at the input size.
        patch: `(height, width)` in pixels.
        window: the part, `(top, left, height, width)` in pixels of the image.
    """
    top, left, height, width = window
    scale_y, scale_x = height / fitted.content[0], width / fitted.content[1]
    across = fitted.image.shape[2] // patch[1]
    y, x = numbers // across * patch[0], numbers % across * patch[1]
    box = [
        left + x * scale_x,
        top + y * scale_y,
        left + np.minimum((x + patch[1]) * scale_x, width),
        top + np.minimum((y + patch[0]) * scale_y, height),
    ]
    return np.stack(box, axis=1).astype(np.float32)
