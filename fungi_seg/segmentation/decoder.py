"""Neighbours to class scores per patch, and those to class scores per pixel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fungi_seg.bank import FULL, SparseLabels
from fungi_seg.errors import FungiSegError
from fungi_seg.search import neighbour_weights

STRIP_VALUES = 4_000_000


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

    Raises:
        FungiSegError: a query without a neighbour.
    """
    weights = neighbour_weights(similarities, temperature).ravel()
    owner, entries = labels.entries(rows.ravel())
    cells = (owner // rows.shape[1]) * classes + labels.ids[entries]
    votes = np.bincount(cells, weights[owner] * labels.weights[entries] / FULL, minlength=len(rows) * classes)
    return votes.reshape(len(rows), classes).astype(np.float32)


def upsample(scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None = None) -> Tensor:
    """Bilinear class scores per pixel, pixel centres aligned (`align_corners=False`), borders repeated.

    Args:
        scores: `[C, h, w]` per patch.
        size: `(H, W)` of the result.
        covered: patches `(h', w')` that the image spans, from the top left; the rest was padding. All by default.

    Returns:
        `[C, H, W]`.
    """
    down, across = _interpolations(scores, size, covered)
    return down @ (scores @ across.T)


def label_map(scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None = None) -> np.ndarray:
    """The class with the highest upsampled score at each pixel, `[H, W]` uint8 (uint16 above 256 classes).

    Never holds more than a strip of the upsampled scores, and skips classes that no patch voted for.

    Raises:
        FungiSegError: a patch without any score above 0, which would become class 0.
    """
    silent = int((~(scores.amax(0) > 0)).sum())
    if silent:
        raise FungiSegError(
            f"{silent} of {scores[0].numel()} patches have no class with a score above 0, so none can be named; "
            f"each patch needs at least one vote"
        )
    voted = torch.nonzero(scores.flatten(1).amax(1) > 0).flatten()
    down, across = _interpolations(scores, size, covered)
    wide = scores[voted] @ across.T
    strip = max(1, STRIP_VALUES // (len(voted) * size[1]))
    classes = voted.numpy().astype(np.uint8 if len(scores) <= 256 else np.uint16)
    return np.concatenate([classes[(rows @ wide).argmax(0).numpy()] for rows in down.split(strip)])


def _interpolations(
    scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None
) -> tuple[Tensor, Tensor]:
    """`[H, h]` and `[W, w]` weights that take scores per patch to pixels."""
    height, width = covered or scores.shape[1:]
    return (
        _interpolation(size[0], height, scores.shape[1], scores),
        _interpolation(size[1], width, scores.shape[2], scores),
    )


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
