"""Shared fixtures: a tiny backbone with random weights, and where the real data lie."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from trees import folder_tree, scene

from fungi_seg import (
    Backbone,
    BackboneConfig,
    BankConfig,
    BankRecipe,
    DataConfig,
    Dataset,
    InputConfig,
    MemoryBank,
    RunConfig,
    build_bank,
    load_backbone,
    open_dataset,
)
from fungi_seg.search import choice
from fungi_seg.search.speeds import Speeds

if TYPE_CHECKING:
    from playwright.sync_api import Browser

# of a processor that multiplies 8-bit integers fast; about those of two cores of an AMD EPYC
SPEEDS = Speeds(float32=85e9, bfloat16=190e9, int8=400e9, codes=60e9, reading=10e9)
TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}
HALF = (0.5, 0.5, 0.5)
REFERENCE_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "num_classes": 0}


@pytest.fixture(autouse=True)
def same_search_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Ways of searching are chosen as on one machine, and no profile of this one is read or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(choice, "speeds", lambda: SPEEDS)
    monkeypatch.setattr(choice, "has_int8", lambda: True)
    monkeypatch.setattr(choice, "has_bfloat16", lambda: True)


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of the tiny ViT `TINY` (patch 8, width 24, one CLS token)."""
    torch.manual_seed(7)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(VisionTransformer(**TINY).state_dict(), path)
    return path


@pytest.fixture(scope="session")
def tiny_config(tiny_weights: Path) -> BackboneConfig:
    """How to load it."""
    return BackboneConfig("tiny", str(tiny_weights), TINY, HALF, HALF, "cpu", "float32")


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


@pytest.fixture(scope="session")
def published(reference: dict[str, np.ndarray]) -> dict[str, Tensor]:
    """The reference vectors of features and losses as tensors."""
    return {k: torch.from_numpy(np.asarray(v)) for k, v in reference.items() if not k.startswith("miou/")}


@pytest.fixture(scope="session")
def published_backbone(published: dict[str, Tensor]) -> Backbone:
    """The ViT that the reference vectors were made with."""
    model = VisionTransformer(**REFERENCE_VIT)
    model.load_state_dict({k[len("vit/") :]: v for k, v in published.items() if k.startswith("vit/")})
    config = BackboneConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return Backbone(model, config, torch.device("cpu"), torch.float32)


def assert_same_rows(rows: Tensor, expected: Tensor, relative: float = 1e-4) -> None:
    """Cosine above 0.99999 and relative error below `relative`, of every row."""
    assert rows.shape == expected.shape
    assert F.cosine_similarity(rows, expected, dim=-1).min() > 0.99999
    assert ((rows - expected).norm(dim=-1) / expected.norm(dim=-1)).max() < relative


@pytest.fixture(scope="session")
def bank(tiny_backbone: Backbone, tmp_path_factory: pytest.TempPathFactory) -> MemoryBank:
    """A bank of every labelled patch of the images in `data` beside it."""
    folder = tmp_path_factory.mktemp("banks")
    data = open_dataset(DataConfig(root=str(folder_tree(folder / "data")), split="train"))
    recipe = BankRecipe(input=InputConfig(size=None), bank=BankConfig(size=None))
    return build_bank(data, tiny_backbone, folder / "bank", recipe)


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """An image in a folder of its own."""
    (tmp_path / "in").mkdir()
    Image.fromarray(scene(3)[0]).save(tmp_path / "in" / "photo.png")
    return tmp_path / "in" / "photo.png"


def built(dataset: Dataset, backbone: Backbone, out: Path, **options: Any) -> MemoryBank:
    """`build_bank` with the fields of its recipe and of its run as options of their own."""
    recipe = {f.name: options.pop(f.name) for f in fields(BankRecipe) if f.name in options}
    run = {f.name: options.pop(f.name) for f in fields(RunConfig) if f.name in options}
    return build_bank(dataset, backbone, out, BankRecipe(**recipe), RunConfig(**run), **options)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window; tests that ask for it are marked `browser`."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
    assert program, "no Chromium or Chrome on the search path; install one, such as Debian's package chromium"
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield opened
        opened.close()
