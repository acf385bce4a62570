"""Features of whole images as a scikit-learn transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from fungi_seg.features import Backbone, ImageFeatureConfig, ImageFeatures, load_backbone
from fungi_seg.whole_images.classification import Pca, fit_pca


class FungiTransformer(TransformerMixin, BaseEstimator):
    """Images to features of whole images, for scikit-learn pipelines.

    `X` is a sequence of images: paths, PIL images, arrays `[H, W, 3]` or tensors `[3, H, W]`, of any sizes.

    Args:
        backbone: a loaded backbone, or the name of one (see `load_backbone`).
        objectives: whose gradients follow the embedding; `()` is the embedding alone.
        side: of the square the backbone sees, in pixels; none is what it was made for.
        fast: fewer views (see `ImageFeatureConfig`).
        pca: reduce features to so many components, fitted to the training images.
        seed: fixes crops, heads, projection, support set and PCA.
        batch_size: images worked through at once.

    Attributes:
        features_: the `ImageFeatures`, after `fit`.
        pca_: the `Pca` fitted, or none.
    """

    pca_: Pca | None

    def __init__(
        self,
        backbone: str | Backbone = "embedded",
        objectives: Sequence[str] = ImageFeatureConfig.objectives,
        side: int | None = None,
        fast: bool = False,
        pca: int | None = None,
        seed: int = 0,
        batch_size: int = 4,
    ):
        self.backbone, self.objectives, self.side, self.fast = backbone, objectives, side, fast
        self.pca, self.seed, self.batch_size = pca, seed, batch_size

    def fit(self, X: Sequence[Any], y: Any = None) -> FungiTransformer:
        """Take the support set, and the PCA if one is wanted, from training images; labels aren't used.

        Raises:
            FungiSegError: settings that can't be used, or fewer images than PCA components.
        """
        self._begin(list(X))
        if self.pca is not None:
            self.pca_ = fit_pca(self._rows(X), self.pca, self.seed)
        return self

    def transform(self, X: Sequence[Any]) -> np.ndarray:
        """`n` images to `[n, D]` float32."""
        check_is_fitted(self, "features_")
        rows = self._rows(X)
        return self.pca_(rows) if self.pca_ is not None else rows

    def fit_transform(self, X: Sequence[Any], y: Any = None, **_: Any) -> np.ndarray:
        """Both, with the features computed once."""
        self._begin(list(X))
        rows = self._rows(X)
        if self.pca is None:
            return rows
        self.pca_ = fit_pca(rows, self.pca, self.seed)
        return self.pca_(rows)

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """`embedding0`, `embedding1`, …, `kl0`, …, or `pca0`, …, `[D]`."""
        check_is_fitted(self, "features_")
        widths = self.features_.widths if self.pca_ is None else {"pca": len(self.pca_.components)}
        return np.array([f"{part}{i}" for part, width in widths.items() for i in range(width)], dtype=object)

    def _begin(self, images: list[Any]) -> None:
        backbone = load_backbone(self.backbone) if isinstance(self.backbone, str) else self.backbone
        config = ImageFeatureConfig(tuple(self.objectives), self.side, self.fast, seed=self.seed)
        self.features_ = ImageFeatures(backbone, config).fit(images)
        self.pca_ = None

    def _rows(self, X: Sequence[Any]) -> np.ndarray:
        return self.features_(list(X), self.batch_size).cpu().numpy()
