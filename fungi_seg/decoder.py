"""Neighbours to class scores per patch, and those to class scores per pixel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fungi_seg.errors import FungiSegError
from fungi_seg.labels import FULL, SparseLabels

STRIP_VALUES = 4_000_000


@dataclass(frozen=True)
class DecoderConfig:
    """How neighbours vote.

    Args:
        k: neighbours a patch.
        temperature: of the softmax over their cosine similarities; lower follows the nearest more.
    """

    k: int = 30
    temperature: float = 0.02

    def __post_init__(self) -> None:
        if self.k < 1:
            raise FungiSegError(f"decoder.k is {self.k}; it must be at least 1")
        if not self.temperature > 0:
            raise FungiSegError(f"decoder.temperature is {self.temperature}; it must be above 0")


def neighbour_weights(similarities: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(similarity / temperature)` over the neighbours, `[Q, K]` (Hummingbird, section 3.2)."""
    scaled = (similarities - similarities.max(1, keepdims=True)) / temperature
    weights = np.exp(scaled)
    return weights / weights.sum(1, keepdims=True)


def vote(
    similarities: np.ndarray, rows: np.ndarray, labels: SparseLabels, classes: int, temperature: float
) -> np.ndarray:
    """Class scores of each query: its neighbours' label distributions, weighted by `neighbour_weights`.

    Args:
        similarities: `[Q, K]` cosines.
        rows: `[Q, K]` rows of `labels`.
        labels: class distributions of the bank.
        classes: `C`.
        temperature: of the softmax.

    Returns:
        `[Q, C]` float32, each row summing to 1.
    """
    weights = neighbour_weights(similarities, temperature).ravel()
    owner, entries = labels.entries(rows.ravel())
    cells = (owner // rows.shape[1]) * classes + labels.ids[entries]
    votes = np.bincount(cells, weights[owner] * labels.weights[entries] / FULL, minlength=len(rows) * classes)
    return votes.reshape(len(rows), classes).astype(np.float32)


def upsample(
    scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None = None, rows: slice | None = None
) -> Tensor:
    """Bilinear class scores per pixel, pixel centres aligned (`align_corners=False`), borders repeated.

    Args:
        scores: `[C, h, w]` per patch.
        size: `(H, W)` of the result.
        covered: patches `(h', w')` that the image spans, from the top left; the rest was padding. All by default.
        rows: which rows of the result to compute; all by default.

    Returns:
        `[C, H, W]`, or those rows of it.
    """
    height, width = covered or scores.shape[1:]
    down = _interpolation(size[0], height, scores.shape[1], scores)[rows or slice(None)]
    across = _interpolation(size[1], width, scores.shape[2], scores)
    return down @ (scores @ across.T)


def label_map(scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None = None) -> np.ndarray:
    """The class with the highest upsampled score at each pixel, `[H, W]` uint8 (uint16 above 256 classes).

    Never holds more than a strip of the upsampled scores, and skips classes that no patch voted for.
    """
    voted = torch.nonzero(scores.flatten(1).amax(1) > 0).flatten()
    present = scores[voted]
    strip = max(1, STRIP_VALUES // max(1, len(voted) * size[1]))
    parts = []
    for top in range(0, size[0], strip):
        parts.append(upsample(present, size, covered, slice(top, top + strip)).argmax(0))
    return voted[torch.cat(parts)].numpy().astype(np.uint8 if len(scores) <= 256 else np.uint16)


def _interpolation(out: int, covered: float, patches: int, like: Tensor) -> Tensor:
    """`[out, patches]` weights of linear interpolation between patch centres."""
    position = ((torch.arange(out, dtype=torch.float64) + 0.5) * covered / out - 0.5).clamp(0, patches - 1)
    low = position.floor().long()
    share = position - low
    weights = torch.zeros(out, patches, dtype=torch.float64)
    index = torch.arange(out)
    weights[index, low] = 1 - share
    weights[index, (low + 1).clamp(max=patches - 1)] += share
    return weights.to(like)
