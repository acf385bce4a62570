"""A second opinion on each patch: a regression in closed form from the bank's rows to their labels."""

from __future__ import annotations

import numpy as np
import torch

from fungi_seg.bank import Lift

CHUNK = 8192
LEAST = 1e-9


class Ridge:
    """Class scores by a linear function of what `lift` makes of a feature.

    Args:
        lift: what the regression sees of a feature.
        weights: `[F, C]` float32, from `Equations.solved`.
    """

    def __init__(self, lift: Lift, weights: np.ndarray):
        self._lift, self._weights = lift, torch.from_numpy(weights)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """`[Q, D]` features to `[Q, C]` float32 class scores, each row summing to 1."""
        parts = [
            (torch.from_numpy(self._lift(features[start : start + CHUNK])) @ self._weights).numpy()
            for start in range(0, max(1, len(features)), CHUNK)
        ]
        return as_scores(np.concatenate(parts))


def as_scores(values: np.ndarray) -> np.ndarray:
    """`[Q, C]` values of a regression as scores: what is below 0 is none, and a row sums to 1."""
    positive = np.maximum(values, 0)
    sums = positive.sum(1, keepdims=True)
    return np.where(sums > LEAST, positive / np.maximum(sums, LEAST), np.float32(1 / values.shape[1]))
