"""Patch features that are computed once for each image and kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fungi_seg.features.backbones import Backbone
from fungi_seg.features.patches import PatchFeatures
from fungi_seg.features.settings import FeatureConfig
from fungi_seg.files import replacing, save_npy


class KeptFeatures(PatchFeatures):
    """Plain features that are kept: an image that was seen before, pixel by pixel, isn't computed again.

    Args:
        backbone: the frozen ViT.
        folder: for the files, a float32 `[N, D]` for each image; for these features alone.
    """

    def __init__(self, backbone: Backbone, folder: Path):
        super().__init__(backbone, FeatureConfig(kind="plain"))
        self._folder = folder

    def __call__(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """As `PatchFeatures` gives them, on the CPU where all were kept."""
        files = [self._folder / f"{_checksum(image)}.npy" for image in images]
        if not all(file.is_file() for file in files):
            found = super().__call__(images, names)
            for file, features in zip(files, found, strict=True):
                with replacing(file) as draft:
                    save_npy(draft, features.cpu().numpy())
            return found
        return torch.from_numpy(np.stack([np.load(file) for file in files]))


def _checksum(image: Tensor) -> str:
    found = hashlib.sha256(str((image.dtype, tuple(image.shape))).encode())
    found.update(image.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()
