"""Read images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from fungi_seg.errors import DataError, FungiSegError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif")
BRIGHTEST = 99.9


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
