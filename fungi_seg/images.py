"""Read images and masks, and fit them to the backbone's input."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from PIL import Image, ImageOps
from torch import Tensor

from fungi_seg.errors import DataError, FungiSegError, check_choice

VOID = -1
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
BRIGHTEST = 99.9


@dataclass(frozen=True)
class InputConfig:
    """How an image becomes the backbone's input.

    Args:
        size: target size in pixels: one number, `[height, width]`, or `null` for the image's own size.
        keep_aspect: with one number: it is the shorter side and the aspect ratio stays; if false, the image becomes
            a square.
        fit: what makes both sides multiples of the patch: `resize` stretches to the nearest multiple, `pad` repeats
            the border to the right and below (padding is never voted for, nor stored).
    """

    size: int | tuple[int, int] | None = 512
    keep_aspect: bool = True
    fit: str = "resize"

    def __post_init__(self) -> None:
        check_choice("input.fit", self.fit, ("resize", "pad"))
        pair = isinstance(self.size, tuple | list)
        sides = self.size if isinstance(self.size, tuple | list) else () if self.size is None else (self.size,)
        if (pair and len(sides) != 2) or any(side is None or side < 1 for side in sides):
            raise FungiSegError(f"input.size is {self.size}; it must be a positive number, [height, width] or null")


@dataclass(frozen=True)
class Fitted:
    """An image at the backbone's input size.

    Attributes:
        image: `[3, H', W']` uint8 RGB, sides multiples of the patch.
        content: `(height, width)` of it that is image; the rest, right and below, is padding.
    """

    image: Tensor
    content: tuple[int, int]


def read_image(path: str | Path) -> np.ndarray:
    """An image file as `[H, W, 3]` uint8 RGB.

    Grey, palette, CMYK and alpha images are converted (alpha is dropped), EXIF orientation is applied. 16-bit and float
    images are scaled so that their 99.9th percentile becomes 255, since cameras fill 16 bits rarely.

    Raises:
        DataError: missing, truncated, or not an image.
    """
    try:
        with Image.open(path) as opened:
            # of colour in 16 bits Pillow keeps the upper 8
            halved = not _is_wide(opened) and any(";16" in str(tile[3]) for tile in opened.tile)
            deep = _read_deep(path) if halved else None
            return _from_pil(opened) if deep is None else deep
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such image file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        deep = _read_deep(path)
        if deep is not None:
            return deep
        raise DataError(f"{path}: can't be read as an image ({error}); replace the file or leave it out") from error


def read_mask(path: str | Path) -> np.ndarray:
    """A mask file as `[H, W]` integers, the values as they stand in the file (palette images give their indices).

    Raises:
        DataError: missing, truncated, or a colour image.
    """
    try:
        with Image.open(path) as mask:
            if mask.mode not in ("P", "L", "1") and not mask.mode.startswith("I"):
                raise DataError(
                    f"{path}: the mask is a {mask.mode} image; an index mask is expected, of one channel whose "
                    f"values are class ids (8-bit grey, palette, or 16-bit PNG). Convert the colours to ids first"
                )
            return np.asarray(mask).astype(np.int32)
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such mask file") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: can't be read as a mask ({error}); replace the file or leave it out") from error


def to_array(image: Any) -> np.ndarray:
    """A path, PIL image, array or tensor as `[H, W, 3]` uint8 RGB.

    Arrays: `[H, W]` or `[H, W, 3]` (or 1 or 4 channels); tensors: `[3, H, W]`. Values are uint8 0..255, uint16, or
    float in 0..1.
    """
    if isinstance(image, str | Path):
        return read_image(image)
    if isinstance(image, Image.Image):
        return _from_pil(image)
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3:
            raise FungiSegError(f"image is a tensor of shape {list(image.shape)}; a tensor must be [3, H, W]")
        image = (
            image.detach().cpu().permute(1, 2, 0).float().numpy()
            if image.is_floating_point()
            else image.cpu().permute(1, 2, 0).numpy()
        )
    if not isinstance(image, np.ndarray):
        raise FungiSegError(f"image is a {type(image).__name__}; it must be a path, PIL image, numpy array or tensor")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or not image.size:
        raise FungiSegError(f"image is an array of shape {image.shape}; an array must be [H, W], or [H, W, 1, 3 or 4]")
    if image.dtype == np.uint8:
        return _three_channels(image)
    if np.issubdtype(image.dtype, np.floating):
        if not np.isfinite(image).all() or image.min() < 0 or image.max() > 1:
            raise FungiSegError(
                f"image has float values from {image.min()} to {image.max()}; floats must be in 0..1 (not normalised: "
                f"the backbone's own mean and deviation are applied later)"
            )
        return _three_channels((image * 255).round().astype(np.uint8))
    if image.dtype == np.uint16:
        return _eight_bit(image)
    if not np.issubdtype(image.dtype, np.integer) or image.min() < 0 or image.max() > 255:
        raise FungiSegError(
            f"image is an array of {image.dtype}; values must be uint8, uint16, integers in 0..255, or float in 0..1"
        )
    return _three_channels(image.astype(np.uint8))


def input_size(
    size: tuple[int, int], config: InputConfig, patch: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Content size and padded size for an image of `size`; every size is `(height, width)` in pixels.

    Raises:
        DataError: the result would be smaller than a patch.
    """
    height, width = size
    target: tuple[float, float] = (height, width)
    if isinstance(config.size, tuple | list):
        target = (config.size[0], config.size[1])
    elif config.size is not None and config.keep_aspect:
        target = (height * config.size / min(size), width * config.size / min(size))
    elif config.size is not None:
        target = (config.size, config.size)
    if config.fit == "pad":
        content = (max(1, round(target[0])), max(1, round(target[1])))
        return content, (math.ceil(content[0] / patch[0]) * patch[0], math.ceil(content[1] / patch[1]) * patch[1])
    if target[0] < patch[0] or target[1] < patch[1]:
        raise DataError(
            f"the image is {height}×{width} (height×width) and would enter as {target[0]:.0f}×{target[1]:.0f}, smaller "
            f"than a patch of {patch[0]}×{patch[1]}: give a larger input.size, or input.fit pad"
        )
    content = (round(target[0] / patch[0]) * patch[0], round(target[1] / patch[1]) * patch[1])
    return content, content


def fit_image(image: np.ndarray, config: InputConfig, patch: tuple[int, int]) -> Fitted:
    """Bring `[H, W, 3]` uint8 to the input size: bilinear with antialiasing, then padding."""
    content, padded = input_size((image.shape[0], image.shape[1]), config, patch)
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if content != image.shape[:2]:
        tensor = TF.resize(tensor, list(content), antialias=True)
    if padded != content:
        pad = (0, padded[1] - content[1], 0, padded[0] - content[0])
        tensor = F.pad(tensor.float().unsqueeze(0), pad, mode="replicate")[0].to(torch.uint8)
    return Fitted(tensor, content)


def fit_mask(mask: np.ndarray, config: InputConfig, patch: tuple[int, int]) -> np.ndarray:
    """Bring a `[H, W]` class mask (int16, void −1) to the input size: nearest pixel; padding is void."""
    content, padded = input_size((mask.shape[0], mask.shape[1]), config, patch)
    resized = cv2.resize(mask, content[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    below, right = padded[0] - content[0], padded[1] - content[1]
    return np.pad(resized, ((0, below), (0, right)), constant_values=VOID)


def _is_wide(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _from_pil(image: Image.Image) -> np.ndarray:
    """As displayed, `[H, W, 3]` uint8 RGB."""
    image = ImageOps.exif_transpose(image)
    return _eight_bit(np.asarray(image)) if _is_wide(image) else np.array(image.convert("RGB"))


def _three_channels(image: np.ndarray) -> np.ndarray:
    if image.ndim == 2:
        image = image[..., None]
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else np.ascontiguousarray(image[..., :3])


def _eight_bit(image: np.ndarray) -> np.ndarray:
    image = np.nan_to_num(image)
    brightest = max(float(np.percentile(image, BRIGHTEST)), 1e-12)
    return _three_channels((image / brightest * 255).clip(0, 255).round().astype(np.uint8))


def _read_deep(path: str | Path) -> np.ndarray | None:
    """Formats that PIL doesn't know, such as colour TIFFs of 16 bits; nothing if OpenCV doesn't know them either."""
    try:
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_ANYDEPTH | cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        return None
    if image is None or image.dtype == np.uint8:
        return None
    if image.ndim == 3:
        image = image[..., 2::-1]
    return _eight_bit(image)
