"""The scikit-learn transformer, in scikit-learn's own hands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from trees import class_tree

from fungi_seg import Backbone, FungiSegError
from fungi_seg.features.settings import ImageFeatureConfig
from fungi_seg.features.whole import ImageFeatures
from fungi_seg.whole_images.transformer import FungiTransformer


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[list[Path], np.ndarray]:
    files = sorted((class_tree(tmp_path / "data", train=6) / "train").rglob("*.png"))
    return files, np.array([file.parent.name for file in files])


def test_it_gives_the_features_of_its_settings(
    tiny_backbone: Backbone, pictures: tuple[list[Path], np.ndarray]
) -> None:
    files, _ = pictures
    transformer = FungiTransformer(tiny_backbone, ("kl", "simclr"), fast=True, seed=3, batch_size=5)
    found = transformer.fit(files).transform(files[:7])
    config = ImageFeatureConfig(("kl", "simclr"), fast=True, seed=3)
    expected = ImageFeatures(tiny_backbone, config).fit(files)(files[:7])
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
    assert found.dtype == np.float32
    assert transformer.transform([]).shape == (0, 72)
    names = transformer.get_feature_names_out()
    assert len(names) == 72
    assert (names[0], names[23], names[24], names[71]) == ("embedding0", "embedding23", "kl0", "simclr23")


def test_in_a_pipeline_and_cross_validation(tiny_backbone: Backbone, pictures: tuple[list[Path], np.ndarray]) -> None:
    files, labels = pictures
    pipeline = make_pipeline(FungiTransformer(tiny_backbone, ("kl",)), KNeighborsClassifier(1, metric="cosine"))
    assert pipeline.fit(files, labels).score(files, labels) == 1.0
    assert cross_val_score(pipeline, np.array(files, dtype=object), labels, cv=3).shape == (3,)


def test_pca_is_fitted_to_the_training_images(tiny_backbone: Backbone, pictures: tuple[list[Path], np.ndarray]) -> None:
    files, _ = pictures
    plain = FungiTransformer(tiny_backbone, ()).fit(files)
    reduced = FungiTransformer(tiny_backbone, (), pca=3).fit(files[:8])
    centred = plain.transform(files[:8]).astype(np.float64)
    mean = centred.mean(0)
    axes = np.linalg.svd(centred - mean, full_matrices=False)[2][:3]
    expected = (plain.transform(files) - mean) @ axes.T
    np.testing.assert_allclose(np.abs(reduced.transform(files)), np.abs(expected), atol=1e-4)
    assert reduced.get_feature_names_out().tolist() == ["pca0", "pca1", "pca2"]


@pytest.mark.parametrize("pca", [None, 3])
def test_fit_transform_computes_features_once(
    tiny_backbone: Backbone, pictures: tuple[list[Path], np.ndarray], pca: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, _ = pictures
    expected = FungiTransformer(tiny_backbone, (), pca=pca).fit(files).transform(files)
    seen: list[int] = []
    prepare = ImageFeatures.prepare
    monkeypatch.setattr(ImageFeatures, "prepare", lambda self, image: (seen.append(1), prepare(self, image))[1])
    found = FungiTransformer(tiny_backbone, (), pca=pca).fit_transform(files)
    assert len(seen) == len(files)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_clones_have_the_same_settings_and_are_not_fitted(tiny_backbone: Backbone) -> None:
    transformer = FungiTransformer(tiny_backbone, ("dino",), side=16, pca=2, seed=5)
    copy = clone(transformer, safe=False)
    assert copy.backbone is tiny_backbone
    assert copy.get_params()["objectives"] == ("dino",)
    assert (copy.side, copy.pca, copy.seed) == (16, 2, 5)
    with pytest.raises(NotFittedError):
        copy.transform([])


def test_the_embedded_backbone_by_name(pictures: tuple[list[Path], np.ndarray]) -> None:
    files, _ = pictures
    transformer = FungiTransformer(objectives=(), side=32).fit(files)
    assert transformer.transform(files[:2]).shape == (2, 192)
    assert torch.is_tensor(transformer.features_(files[:1]))


def test_what_it_refuses(tiny_backbone: Backbone, pictures: tuple[list[Path], np.ndarray]) -> None:
    files, _ = pictures
    with pytest.raises(FungiSegError, match="batch_size is 0; it must be at least 1"):
        FungiTransformer(tiny_backbone, (), batch_size=0).fit(files).transform(files)
    with pytest.raises(FungiSegError, match="pca is 13, for 12 training images of 24 dimensions"):
        FungiTransformer(tiny_backbone, (), pca=13).fit(files)
