"""Random copies of an annotated image for a memory bank: colour jitter and random resized crops."""

from __future__ import annotations

import math

import numpy as np
import torch
import torchvision.transforms.v2.functional as TF

JITTER = 0.1
JITTER_PROBABILITY = 0.5
CROP_AREA = (0.5, 2.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10


def jitter(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation and hue, each changed by up to 0.1 with probability 0.5 (Hummingbird)."""
    tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
    for change in (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation):
        if generator.random() < JITTER_PROBABILITY:
            tensor = change(tensor, generator.uniform(1 - JITTER, 1 + JITTER))
    if generator.random() < JITTER_PROBABILITY:
        tensor = TF.adjust_hue(tensor, generator.uniform(-JITTER, JITTER))
    return tensor.permute(1, 2, 0).numpy()


def crop_window(
    height: int, width: int, generator: np.random.Generator, area: tuple[float, float] = CROP_AREA
) -> tuple[int, int, int, int]:
    """`(top, left, height, width)` of a random crop of `area` times the image's, aspect ratio 3/4–4/3.

    As in torchvision's `RandomResizedCrop`, which the published code uses: crops that don't fit into the image are
    drawn again, up to 10 times; then the largest centred one of an allowed aspect ratio is taken.
    """
    for _ in range(CROP_TRIES):
        pixels = height * width * generator.uniform(*area)
        ratio = math.exp(generator.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
        w, h = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w
    w = min(width, round(height * CROP_RATIO[1]))
    h = min(height, round(width / CROP_RATIO[0]))
    return (height - h) // 2, (width - w) // 2, h, w
