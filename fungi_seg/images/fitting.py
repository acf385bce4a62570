"""Fit images and masks to the backbone's input."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import cv2
import numpy as np
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor

from fungi_seg.errors import DataError
from fungi_seg.images.resampling import Resampling, resampled
from fungi_seg.images.settings import VOID, InputConfig
from fungi_seg.images.tiles import WHOLE, Tiles

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


def input_size(
    size: tuple[int, int], config: InputConfig, patch: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Content size and padded size for an image of `size`; every size is `(height, width)` in pixels.

    Raises:
        DataError: the result would be smaller than a patch.
    """
    height, width = size
    if config.scaled:
        content = content_size(size, config)
        if content[0] < patch[0] or content[1] < patch[1]:
            raise DataError(
                f"the image is {height}×{width} (height×width) and would enter as {content[0]}×{content[1]}, smaller "
                f"than a patch of {patch[0]}×{patch[1]}: give a larger input.scale (or a smaller input.resolution)"
            )
        return content, _in_patches(content, patch)
    target: tuple[float, float] = (height, width)
    if isinstance(config.size, tuple | list):
        target = (config.size[0], config.size[1])
    elif config.size is not None and config.keep_aspect:
        target = (height * config.size / min(size), width * config.size / min(size))
    elif config.size is not None:
        target = (config.size, config.size)
    if config.fit == "pad":
        content = (max(1, round(target[0])), max(1, round(target[1])))
        return content, _in_patches(content, patch)
    if target[0] < patch[0] or target[1] < patch[1]:
        raise DataError(
            f"the image is {height}×{width} (height×width) and would enter as {target[0]:.0f}×{target[1]:.0f}, smaller "
            f"than a patch of {patch[0]}×{patch[1]}: give a larger input.size, or input.fit pad"
        )
    content = (round(target[0] / patch[0]) * patch[0], round(target[1] / patch[1]) * patch[1])
    return content, content


def content_size(size: tuple[int, int], config: InputConfig) -> tuple[int, int]:
    """`(height, width)` in pixels of the input that an image of `size` enters at, at the scale of `config`.

    Raises:
        DataError: a resolution is asked for, and how wide the image's pixels are isn't known.
    """
    if config.scale is None:
        raise DataError(
            f"input.resolution is {config.resolution}, but nothing says how wide the image's pixels are; give "
            f"input.scale in its place, or images whose files say so"
        )
    height, width = (max(1, round(side * config.scale)) for side in size)
    return height, width


def tiles_for(padded: tuple[int, int], config: InputConfig, patch: tuple[int, int]) -> Tiles:
    """The tiles that an input of `padded` `(height, width)` pixels goes through the backbone in.

    Raises:
        DataError: tiles smaller than a patch.
    """
    if config.tile < max(patch):
        raise DataError(
            f"input.tile is {config.tile}, smaller than a patch of {patch[0]}×{patch[1]}; give a larger one"
        )
    return Tiles(
        (padded[0] // patch[0], padded[1] // patch[1]), (round(config.tile / patch[0]), round(config.tile / patch[1]))
    )


def most_at_once(padded: tuple[int, int], config: InputConfig, patch: tuple[int, int]) -> int:
    """Patches of an input of `padded` `(height, width)` pixels that go through the backbone together."""
    patches = padded[0] // patch[0] * (padded[1] // patch[1])
    return min(patches, WHOLE * math.prod(tiles_for(padded, config, patch).side)) if config.scaled else patches


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


def _in_patches(content: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """The smallest multiples of the patch that hold `content`."""
    return math.ceil(content[0] / patch[0]) * patch[0], math.ceil(content[1] / patch[1]) * patch[1]


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
