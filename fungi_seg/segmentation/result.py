"""What was found in one image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fungi_seg.images import overlay
from fungi_seg.segmentation.decoder import upsample
from fungi_seg.segmentation.refine import refined_strips


@dataclass(frozen=True)
class Segmentation:
    """What was found in one image.

    Attributes:
        mask: `[H, W]` class indices, uint8 (uint16 above 256 classes), at the image's own size.
        patch_scores: `[C, h, w]` float32 class scores per patch, summing to 1 over classes.
        covered: patches `(h', w')` that the image spans; less than `h, w` where it was padded.
        classes: names.
        palette: `[C, 3]` uint8 RGB.
        image: `[H, W, 3]` uint8 RGB.
        refine: how far the mask follows its edges, 0 to 1.
    """

    mask: np.ndarray
    patch_scores: Tensor
    covered: tuple[float, float]
    classes: tuple[str, ...]
    palette: np.ndarray
    image: np.ndarray
    refine: float = 0.0

    @property
    def scores(self) -> np.ndarray:
        """`[C, H, W]` float32 class scores per pixel, computed when asked for."""
        if self.refine:
            return torch.cat(list(refined_strips(self.patch_scores, self.image, self.covered, self.refine)), 1).numpy()
        return upsample(self.patch_scores, (self.mask.shape[0], self.mask.shape[1]), self.covered).numpy()

    def palette_image(self) -> Image.Image:
        """The mask as an index image: its values are class indices, its colours the palette's."""
        if self.mask.dtype != np.uint8:
            return Image.fromarray(self.mask)  # 16-bit: PNG palettes end at 256
        image = Image.fromarray(self.mask)
        image.putpalette(self.palette.astype(np.uint8).tobytes())
        return image

    def overlay(self, opacity: float = 0.5) -> Image.Image:
        """The image under its mask in the palette's colours, RGB; classes whose colour is black leave it as it is."""
        return overlay(self.image, self.mask, self.palette, opacity)
