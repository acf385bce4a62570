"""What a bank says of patches, before it becomes a mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scored:
    """What a bank says of `Q` patches.

    Attributes:
        scores: `[Q, C]` float32 class scores, each row summing to 1.
        unlike: `[Q]` bool, unlike anything in the bank.
        weights: `[Q, K]` of the neighbours' votes.
        sources: `[Q, K]` int32, the annotated images that they come from.
        images: how many of those there are.
    """

    scores: np.ndarray
    unlike: np.ndarray
    weights: np.ndarray
    sources: np.ndarray
    images: int

    def votes(self, parts: int = 1) -> np.ndarray:
        """`[parts, S]` float64, the weight of each annotated image's votes in each of so many parts of the patches."""
        split = zip(np.split(self.sources, parts), np.split(self.weights, parts), strict=True)
        return np.stack([np.bincount(by.ravel(), weight.ravel(), self.images) for by, weight in split])
