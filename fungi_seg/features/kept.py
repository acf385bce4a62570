"""Patch features that are computed once for each image, however often they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fungi_seg.features.backbones import Backbone
from fungi_seg.features.patches import PatchFeatures
from fungi_seg.features.settings import FeatureConfig
from fungi_seg.files import replacing, save_npy


class Kept(Protocol):
    """Features `[N, D]` by the checksum of their image: a dictionary, or `FeatureFiles`."""

    def __contains__(self, key: object, /) -> bool: ...

    def __getitem__(self, key: str, /) -> Tensor: ...

    def __setitem__(self, key: str, value: Tensor, /) -> None: ...


class FeatureFiles:
    """Features on disk, a float32 npy file for each image; a folder is for features of one kind alone."""

    def __init__(self, folder: Path):
        self._folder = folder

    def __contains__(self, key: object) -> bool:
        return self._file(key).is_file()

    def __getitem__(self, key: str) -> Tensor:
        return torch.from_numpy(np.load(self._file(key)))

    def __setitem__(self, key: str, value: Tensor) -> None:
        with replacing(self._file(key)) as draft:
            save_npy(draft, value.cpu().numpy())

    def _file(self, key: object) -> Path:
        return self._folder / f"{key}.npy"


class KeptFeatures(PatchFeatures):
    """Features that are kept: an image that was seen before, pixel by pixel, isn't computed again.

    Args:
        backbone: the frozen ViT.
        config: what a patch feature is made of.
        kept: where they are kept, for this backbone and `config` alone; in memory where not given.
    """

    def __init__(self, backbone: Backbone, config: FeatureConfig, kept: Kept | None = None):
        super().__init__(backbone, config)
        self._kept: Kept = {} if kept is None else kept

    def __call__(self, images: Tensor, names: Sequence[str] | None = None) -> Tensor:
        """As `PatchFeatures` gives them, where they are kept: on the CPU if that is on disk."""
        sums = [_checksum(image) for image in images]
        new = [i for i, one in enumerate(sums) if one not in self._kept]
        if new:
            found = super().__call__(images[new], None if names is None else [names[i] for i in new])
            for i, features in zip(new, found, strict=True):
                self._kept[sums[i]] = features
        return torch.stack([self._kept[one] for one in sums])


def _checksum(image: Tensor) -> str:
    found = hashlib.sha256(str((image.dtype, tuple(image.shape))).encode())
    found.update(image.contiguous().cpu().numpy().tobytes())
    return found.hexdigest()
