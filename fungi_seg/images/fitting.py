"""Fit images and masks to the backbone's input."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from fungi_seg.images.resampling import Resampling, resampled
from fungi_seg.images.settings import VOID, InputConfig
from fungi_seg.images.sizes import input_size, tiles_for
from fungi_seg.images.tiles import Tiles

T = TypeVar("T")


@dataclass(frozen=True)
class Fitted:
    """An image at the backbone's input size.

    Attributes:
        image: `[3, H', W']` uint8 RGB, sides multiples of the patch.
        content: `(height, width)` of it that is image; the rest, right and below, is padding.
        tiles: that it goes through the backbone in, where it entered at a scale.
        input: how it got this size.
    """

    image: Tensor
    content: tuple[int, int]
    tiles: Tiles | None = None
    input: InputConfig = InputConfig()


def fit_image(image: np.ndarray, config: InputConfig, patch: tuple[int, int]) -> Fitted:
    """Bring `[H, W, 3]` uint8 to the input size: bilinear with antialiasing, then padding.

    At a scale the image is brought there as `Resampling` does, in which parts are as the whole.
    """
    content, padded = input_size((image.shape[0], image.shape[1]), config, patch)
    tiles = tiles_for(padded, config, patch) if config.scaled else None
    if config.scaled:
        tensor = torch.from_numpy(np.array(resampled(image, content))).permute(2, 0, 1)
    elif content == image.shape[:2]:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    else:
        tensor = TF.resize(
            torch.from_numpy(np.require(image, None, ["C", "W"])).permute(2, 0, 1), list(content), antialias=True
        )
    if padded != content:
        rows, columns = (torch.arange(outer).clamp(max=inner - 1) for inner, outer in zip(content, padded, strict=True))
        tensor = tensor[:, rows][:, :, columns]
    return Fitted(tensor, content, tiles, config)


def fit_mask(mask: np.ndarray, config: InputConfig, patch: tuple[int, int]) -> np.ndarray:
    """Bring a `[H, W]` class mask (int16, void −1) to the input size: nearest pixel; padding is void."""
    content, padded = input_size((mask.shape[0], mask.shape[1]), config, patch)
    if config.scaled:
        rows, columns = Resampling((mask.shape[0], mask.shape[1]), content).nearest(*map(range, content))
        resized = mask[rows][:, columns]
    else:
        resized = cv2.resize(mask, content[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    below, right = padded[0] - content[0], padded[1] - content[1]
    return np.pad(resized, ((0, below), (0, right)), constant_values=VOID)


def same_size_batches(items: Iterable[T], size: int, fitted: Callable[[T], Fitted]) -> Iterator[list[T]]:
    """Runs of consecutive items whose images have one size, at most `size` long."""
    batch: list[T] = []
    for item in items:
        if batch and (len(batch) == size or fitted(item).image.shape != fitted(batch[0]).image.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
