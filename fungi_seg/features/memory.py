"""How much memory computing features takes, known before anything is computed."""

from __future__ import annotations

import torch

from fungi_seg.features.backbones import Backbone
from fungi_seg.features.contrast import CHUNK_VALUES
from fungi_seg.features.settings import FeatureConfig
from fungi_seg.hardware import free_memory, size_text

# bytes a token takes on its way, for each number of its width, in float32 and in bfloat16 arithmetic
TOKEN, TOKEN_BFLOAT16 = 100, 65
FUNGI_TOKEN, FUNGI_TOKEN_BFLOAT16 = 115, 95
NEGATIVE = 8  # bytes a negative takes for each number of a token's width


def patch_memory(backbone: Backbone, config: FeatureConfig, patches: int, images: int = 1) -> int:
    """Bytes that patch features of a batch take beyond the backbone; none on a GPU, which has its own memory.

    Args:
        backbone, config: what makes the features.
        patches: of an image.
        images: of the batch.
    """
    if backbone.device.type != "cpu":
        return 0
    tokens = images * patches * backbone.dim
    if config.kind == "plain":
        return tokens * _token(backbone)
    negatives = config.negatives * config.keep_negatives  # of each patch
    similarities = images * min(CHUNK_VALUES, patches**2) * (1 + negatives)
    own = FUNGI_TOKEN_BFLOAT16 if backbone.dtype == torch.bfloat16 else FUNGI_TOKEN
    return round(tokens * (own + NEGATIVE * negatives) + 4 * similarities)


def image_memory(backbone: Backbone, patches: int, at_once: int, views: int, images: int) -> int:
    """Bytes that features of whole images take beyond the backbone; none on a GPU, which has its own memory.

    Args:
        backbone: what makes the features.
        patches: of a view.
        at_once: views that go through the backbone together.
        views: of an image, whose pooled tokens then go through its last layers together.
        images: of the batch.
    """
    if backbone.device.type != "cpu":
        return 0
    pooled = 1 if backbone.pooled.stop == 1 else patches
    return (at_once * patches + images * views * pooled) * backbone.dim * _token(backbone)


def _token(backbone: Backbone) -> int:
    return TOKEN_BFLOAT16 if backbone.dtype == torch.bfloat16 else TOKEN


def shortage(needed: int) -> str:
    """How much memory is missing, in words; nothing if none is, or the system doesn't say."""
    free = free_memory()
    if free is None or needed <= free:
        return ""
    return f"{size_text(needed)} of memory, and {size_text(free)} are free"
