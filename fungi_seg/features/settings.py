"""What features are made of, and by which backbone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from fungi_seg.errors import FungiSegError, check_choice, check_unused

PROJECTIONS = ("factored", "dense")
DTYPES = ("auto", "bfloat16", "float32")
OBJECTIVES = ("kl", "dino", "simclr", "deepcluster")
OF_GRADIENTS = ("projection", "projection_dim", "head_dim", "temperature", "negatives")
OF_NEGATIVES = ("keep_negatives", "support_size")


@dataclass(frozen=True)
class BackboneConfig:
    """Which frozen backbone, and how it runs.

    Args:
        name: a timm model name (`timm.list_models("vit_*", pretrained=True)`); `"embedded"`, the small ViT that comes
            with the package; `"descriptor"`, 24 hand-made numbers a patch, the baseline that every backbone has to
            beat (plain features only); or any label if `model_args` is given.
        weights: a local `.safetensors` / `.pth` file; `null` takes timm's pretrained weights from the hub, or the
            embedded ones; `"random"` takes none (seed 0), the other baseline.
        model_args: constructor arguments of `timm.models.VisionTransformer`, for a model that timm has no name for.
        mean: per-channel mean of the training images, RGB in 0..1; `null` takes the model's own.
        std: per-channel standard deviation, likewise.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        dtype: `bfloat16` or `float32` arithmetic; `auto` is bfloat16 where the hardware has it.
    """

    name: str = "vit_small_patch16_224.dino"
    weights: str | None = None
    model_args: dict[str, Any] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_choice("backbone.dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class PlacementConfig:
    """Where the backbone of a bank runs; which one it is stands in the bank.

    Args:
        weights: a local weights file, where it isn't where it was when the bank was built.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, …
        dtype: `bfloat16` or `float32` arithmetic; `auto` is bfloat16 where the hardware has it.
    """

    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        check_choice("backbone.dtype", self.dtype, DTYPES)


@dataclass(frozen=True)
class FeatureConfig:
    """What a patch feature is made of.

    Args:
        kind: `fungi` (token and projected gradient) or `plain` (token alone).
        projection: `factored`, or `dense` as in the paper (slow; for parity).
        projection_dim: length of the projected gradient; `null` takes the token's.
        head_dim: width of the random linear head in front of the loss.
        temperature: τ of the patch SimCLR objective.
        negatives: nearest support embeddings a token is contrasted with; 0 needs no support set, 2 is the paper's.
        keep_negatives: share of an image's negatives that is kept, drawn at random for each image.
        support_size: patches in the support set, where there are negatives.
        seed: fixes head, projection and the negatives kept.
    """

    kind: str = "fungi"
    projection: str = "factored"
    projection_dim: int | None = None
    head_dim: int = 96
    temperature: float = 0.07
    negatives: int = 0
    keep_negatives: float = 0.5
    support_size: int = 10240
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("features.kind", self.kind, ("fungi", "plain"))
        check_choice("features.projection", self.projection, PROJECTIONS)
        for name in ("head_dim", "projection_dim", "temperature", "support_size"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise FungiSegError(f"features.{name} is {value}; it must be a number above 0")
        if self.negatives < 0:
            raise FungiSegError(f"features.negatives is {self.negatives}; it must be 0 (none) or more")
        if not 0 < self.keep_negatives <= 1:
            raise FungiSegError(f"features.keep_negatives is {self.keep_negatives}; it must be in (0, 1]")
        if self.kind == "plain":
            why = "features.kind plain takes no gradient"
            check_unused(self, "features.", (*OF_GRADIENTS, *OF_NEGATIVES), why, "leave it out, or use kind fungi")
        if not self.negatives:
            why = "features.negatives is 0"
            check_unused(self, "features.", OF_NEGATIVES, why, "leave it out, or set features.negatives to 2")

    @property
    def deciding(self) -> FeatureConfig:
        """The same without what leaves features as they are: the seed of plain ones, the support set's size."""
        return (
            FeatureConfig("plain") if self.kind == "plain" else replace(self, support_size=FeatureConfig.support_size)
        )

    @property
    def needs_support(self) -> bool:
        """Whether features of this kind are made against a support set."""
        return self.kind == "fungi" and self.negatives > 0


@dataclass(frozen=True)
class ImageFeatureConfig:
    """What a feature of a whole image is made of.

    Args:
        objectives: of kl, dino, simclr and deepcluster, those whose gradients follow the embedding; `[]` is the
            embedding alone.
        side: of the square the backbone sees, in pixels, a multiple of the patch; `null` is what it was made for.
        fast: simclr contrasts the 12 crops of dino, which are then seen once for both, in place of 49 sliding patches.
        projection: `factored`, or `dense` as in the paper (slow; for parity).
        projection_dim: length of each projected gradient; `null` takes the embedding's.
        support: training images, at most, that simclr takes its negatives from and deepcluster its clusters.
        clusters: of deepcluster.
        seed: fixes crops, heads, projection and the choice of the support images.
    """

    objectives: tuple[str, ...] = ("kl", "dino", "simclr")
    side: int | None = None
    fast: bool = False
    projection: str = "factored"
    projection_dim: int | None = None
    support: int = 256
    clusters: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in self.objectives:
            check_choice("features.objectives", name, OBJECTIVES)
        if len(set(self.objectives)) < len(self.objectives):
            raise FungiSegError(f"features.objectives names one twice: {', '.join(self.objectives)}")
        check_choice("features.projection", self.projection, PROJECTIONS)
        for name in ("side", "projection_dim", "support"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise FungiSegError(f"features.{name} is {value}; it must be at least 1")
        if self.clusters < 2:
            raise FungiSegError(f"features.clusters is {self.clusters}; it must be at least 2")
        if self.seed < 0:
            raise FungiSegError(f"features.seed is {self.seed}; it must be 0 or more")
        self._check_unused()

    def _check_unused(self) -> None:
        """Raise if the objectives make nothing of an option."""
        named = set(self.objectives)
        why = f"features.objectives is [{', '.join(self.objectives)}]"
        for name, asking in {
            "fast": {"simclr"},
            "support": {"simclr", "deepcluster"},
            "clusters": {"deepcluster"},
            "projection": set(OBJECTIVES),
            "projection_dim": set(OBJECTIVES),
        }.items():
            if not named & asking:
                check_unused(self, "features.", (name,), why, f"leave it out, or add {' or '.join(sorted(asking))}")
