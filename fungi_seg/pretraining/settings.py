"""What the embedded backbone is trained on, and how."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fungi_seg.errors import FungiSegError


@dataclass(frozen=True)
class Stage:
    """A stretch of the training: crops of `size` pixels, `batch` pictures a step, `steps` steps."""

    size: int
    batch: int
    steps: int


@dataclass(frozen=True)
class PretrainConfig:
    """What is trained, on what, and for how long.

    Args:
        dim: width of a token.
        depth: number of blocks.
        heads: attention heads.
        patch: side of a patch in pixels.
        stages: sizes of the crops, small ones first.
        scenes: number of generated scenes.
        photo_share: share of each batch taken from the photographs.
        rate: highest learning rate; it rises over the first 5 % and falls along a cosine.
        decay: weight decay (AdamW).
        temperature: of both contrasts.
        masked: the largest share of patches masked in the first crop.
        kinds: weight of the loss that asks for the kind of thing.
        looks: weight of the loss that asks for colour and gradient statistics.
        seed: of the scenes, the crops and the weights.
    """

    dim: int = 192
    depth: int = 8
    heads: int = 3
    patch: int = 8
    stages: Sequence[Stage] = (Stage(64, 96, 2000), Stage(96, 48, 2000), Stage(160, 16, 500))
    scenes: int = 6000
    photo_share: float = 0.1
    rate: float = 1e-3
    decay: float = 0.05
    temperature: float = 0.15
    masked: float = 0.4
    kinds: float = 1.0
    looks: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        odd = [s for s in self.stages if s.size % self.patch or s.size < 4 * self.patch or s.batch < 2 or s.steps < 1]
        if odd or not self.stages:
            raise FungiSegError(
                f"recipe.stages has {odd or 'no stage'}; a stage needs a size that is a multiple of the patch "
                f"({self.patch}) and at least four patches, a batch of at least 2, and a step"
            )
        if not 0 < self.temperature < math.inf:
            raise FungiSegError(f"recipe.temperature is {self.temperature}; it must be a number above 0")
        if self.patch < 2 or self.patch % 2 or self.dim % self.heads:
            raise FungiSegError(
                f"recipe.patch is {self.patch}, recipe.dim {self.dim}, recipe.heads {self.heads}; the patch must be "
                f"even, the width a multiple of the heads"
            )
        if self.scenes < 1 or not 0 <= self.photo_share < 1 or not 0 <= self.masked < 1:
            raise FungiSegError(
                f"recipe.scenes is {self.scenes}, recipe.photo_share {self.photo_share}, recipe.masked {self.masked}; "
                f"there must be a scene, and the shares be in 0..1, below 1"
            )

    @property
    def steps(self) -> int:
        return sum(stage.steps for stage in self.stages)

    @property
    def model_args(self) -> dict[str, Any]:
        """Constructor arguments of `timm.models.VisionTransformer`."""
        return {
            "img_size": 96,
            "patch_size": self.patch,
            "embed_dim": self.dim,
            "depth": self.depth,
            "num_heads": self.heads,
            "num_classes": 0,
            "global_pool": "token",
            "dynamic_img_size": True,
        }
