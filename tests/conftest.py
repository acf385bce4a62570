"""Shared fixtures: a tiny backbone with random weights, and where the real data lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

from fungi_seg import Backbone, load_backbone

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
HALF = (0.5, 0.5, 0.5)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny ViT `TINY` (patch 8, width 24, one CLS token)."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(VisionTransformer(**TINY).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_backbone(tiny_weights: Path) -> Backbone:
    """The tiny ViT in float32."""
    return load_backbone("tiny", tiny_weights, dtype="float32", device="cpu", model_args=TINY, mean=HALF, std=HALF)


@pytest.fixture(scope="session")
def reference() -> dict[str, np.ndarray]:
    """Inputs, weights and outputs of the published FUNGI and Hummingbird code."""
    with np.load(Path(__file__).parent / "data" / "fungi_reference.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets; without one the test is skipped."""
    folder = os.environ.get("FUNGI_SEG_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FUNGI_SEG_DATA doesn't name a folder with real data sets")
    return Path(folder)
