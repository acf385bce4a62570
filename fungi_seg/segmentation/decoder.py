"""Neighbours to class scores per patch, and those to class scores per pixel."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from fungi_seg.bank import FULL, SparseLabels
from fungi_seg.errors import FungiSegError
from fungi_seg.search import neighbour_weights
from fungi_seg.segmentation.confidence import LEVELS
from fungi_seg.segmentation.refine import refined_strips
from fungi_seg.segmentation.settings import DecoderConfig

STRIP_VALUES = 4_000_000
LEAST_SHARE = 1e-12
NEAR = 0.25  # of the best class's score in a patch: what has less everywhere wins no pixel by an edge


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


def balanced(votes: np.ndarray, share: np.ndarray, power: float) -> np.ndarray:
    """Votes divided by their class's share to a power, each row summing to 1 again.

    Args:
        votes: `[Q, C]` float32.
        share: `[C]` of each class, summing to 1; classes without any are never voted for.
        power: 0 leaves the votes as they are.
    """
    if not power:
        return votes
    scaled = votes * np.maximum(share, LEAST_SHARE) ** -power
    found: np.ndarray = (scaled / np.maximum(scaled.sum(1, keepdims=True), LEAST_SHARE)).astype(np.float32)
    return found


def class_scores(votes: np.ndarray, share: np.ndarray, decoder: DecoderConfig, said: np.ndarray | None) -> np.ndarray:
    """Votes balanced by class share, and averaged with what a regression said if the settings name one; `[Q, C]`."""
    scores = balanced(votes, share, decoder.class_share)
    if said is None or decoder.ridge == "none":
        return scores
    return (1 - decoder.ridge_share) * scores + decoder.ridge_share * said


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


def refined_label_map(
    scores: Tensor,
    image: np.ndarray,
    covered: tuple[float, float],
    strength: float,
    guide: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The class with the highest score at each pixel once scores follow the image's edges (see `refined_strips`).

    A `strength` of 0 gives what `label_map` does. Otherwise classes that nowhere come near the best one are skipped: of
    many, few are left to be filtered.

    Returns:
        Classes `[H, W]` uint8 (uint16 above 256 classes), and their scores, uint16, 0 to `LEVELS` for 0 to 1.

    Raises:
        FungiSegError: a patch without any score above 0, which would become class 0.
    """
    return _best(*_at_pixels(scores, image, covered, strength, guide), len(scores))


def label_map(scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None = None) -> np.ndarray:
    """The class with the highest upsampled score at each pixel, `[H, W]` uint8 (uint16 above 256 classes).

    Never holds more than a strip of the upsampled scores, and skips classes that no patch voted for.

    Raises:
        FungiSegError: a patch without any score above 0, which would become class 0.
    """
    return _best(*_bilinear(scores, size, covered), len(scores))[0]


def mean_over_pixels(values: Tensor, size: tuple[int, int], covered: tuple[float, float]) -> float:
    """The mean over an image of `[h, w]` values per patch, upsampled."""
    down, across = _interpolations(values[None], size, covered)
    return float(down.mean(0) @ values @ across.mean(0))


def patches_at(
    size: tuple[int, int], covered: tuple[float, float], grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Row `[H]` and column `[W]` of the patch that each row and column of pixels lies in, of `grid` patches."""
    down, across = (
        np.minimum((np.arange(pixels) + 0.5) * side / pixels, patches - 1).astype(int)
        for pixels, side, patches in zip(size, covered, grid, strict=True)
    )
    return down, across


def _at_pixels(
    scores: Tensor, image: np.ndarray, covered: tuple[float, float], strength: float, guide: np.ndarray | None
) -> tuple[Tensor, Iterator[Tensor]]:
    """Classes that may win a pixel, and their scores `[classes, rows, W]` strip by strip."""
    size = (image.shape[0], image.shape[1])
    if not strength:
        return _bilinear(scores, size, covered)
    check_voices(scores)
    near = (scores > 0) & (scores >= NEAR * scores.amax(0))
    found = torch.nonzero(near.flatten(1).any(1)).flatten()
    if len(found) < 2:
        return _bilinear(scores, size, covered)
    return found, refined_strips(scores[found], image, covered, strength, guide)


def _bilinear(
    scores: Tensor, size: tuple[int, int], covered: tuple[float, float] | None
) -> tuple[Tensor, Iterator[Tensor]]:
    """As `_at_pixels`, without a look at the image."""
    check_voices(scores)
    voted = torch.nonzero(scores.flatten(1).amax(1) > 0).flatten()
    down, across = _interpolations(scores, size, covered)
    wide = scores[voted] @ across.T
    strip = max(1, STRIP_VALUES // (len(voted) * size[1]))
    return voted, (rows @ wide for rows in down.split(strip))


def _best(found: Tensor, strips: Iterator[Tensor], classes: int) -> tuple[np.ndarray, np.ndarray]:
    values, masks, levels = _mask_values(found, classes), [], []
    for strip in strips:
        winners, best = highest(strip.numpy())
        masks.append(values[winners])
        levels.append(np.rint(best.clip(0, 1) * np.float32(LEVELS)).astype(np.uint16))
    return np.concatenate(masks), np.concatenate(levels)


def highest(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `scores.argmax(0)` and `scores.max(0)` give, `[C, h, w]` to `[h, w]`, at a tenth of the time for some."""
    best, found = scores[0].copy(), np.zeros(scores.shape[1:], np.uint16 if len(scores) > 256 else np.uint8)
    for number, one in enumerate(scores[1:], 1):
        higher = one > best
        np.maximum(best, one, out=best)
        np.maximum(found, higher * found.dtype.type(number), out=found)  # numbers rise: the last higher one stays
    return found, best


def check_voices(scores: Tensor) -> None:
    """Raise if a patch, of `[C, …]` scores, has none above 0."""
    silent = int((~(scores.amax(0) > 0)).sum())
    if silent:
        raise FungiSegError(
            f"{silent} of {scores[0].numel()} patches have no class with a score above 0, so none can be named; "
            f"each patch needs at least one vote"
        )


def _mask_values(found: Tensor, classes: int) -> np.ndarray:
    """Numbers of the classes that were `found`, in the type that masks of so many classes have."""
    values: np.ndarray = found.numpy().astype(np.uint8 if classes <= 256 else np.uint16)
    return values


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
