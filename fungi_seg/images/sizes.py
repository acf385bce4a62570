"""How large images are as they enter, and in how many tiles."""

from __future__ import annotations

import math

from fungi_seg.errors import DataError
from fungi_seg.images.settings import InputConfig
from fungi_seg.images.tiles import WHOLE, Tiles


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


def _in_patches(content: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """The smallest multiples of the patch that hold `content`."""
    return math.ceil(content[0] / patch[0]) * patch[0], math.ceil(content[1] / patch[1]) * patch[1]
