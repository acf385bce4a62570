"""What a workspace is set up with, and what is exported from it."""

from __future__ import annotations

from dataclasses import dataclass

from fungi_seg.features import BackboneConfig, FeatureConfig
from fungi_seg.images import InputConfig


@dataclass(frozen=True)
class WorkspaceConfig:
    """Where annotations lie, and what a new bank is made with; a bank that is there keeps what it was built with.

    Args:
        backbone: of a new bank; where one is there, only its `weights`, `device` and `dtype` are read.
        features: of a new bank.
        input: of a new bank.
        annotations: folder for masks and drafts; beside the bank, with `.annotations` at the end of its name, where not
            given.
        out: folder for exported results; within that folder where not given.
    """

    backbone: BackboneConfig = BackboneConfig("embedded")
    features: FeatureConfig = FeatureConfig()
    input: InputConfig = InputConfig()
    annotations: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class ExportConfig:
    """What an export writes besides masks and `images.csv`.

    Args:
        masks: `png`, `tiff` or `palette`, see `MaskConfig`.
        objects: count objects: `objects.csv`, label images, GeoJSON and regions for ImageJ.
        coco: COCO results, `coco.json`, and the images and categories that belong to it.
        confidence: the probability that each pixel's class is right, as PNG; the bank must be fitted.
        overlays: `contour`, `fill`, `side_by_side` or `none`, see `OverlayConfig`.
    """

    masks: str = "png"
    objects: bool = False
    coco: bool = False
    confidence: bool = False
    overlays: str = "none"
