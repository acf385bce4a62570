"""Why a place of an image got its class: the annotated patches, and images, that voted for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from numbers import Integral
from typing import Any

import numpy as np

from fungi_seg.bank import FULL, Rows
from fungi_seg.errors import FungiSegError
from fungi_seg.images import Box, Fitted
from fungi_seg.search import neighbour_weights


@dataclass(frozen=True)
class Neighbour:
    """A row of the bank that votes for a patch, or for patches.

    Attributes:
        row: its number in the bank.
        source: id of the annotated image that it comes from.
        box: its patch there, `(left, top, right, bottom)` in pixels.
        similarity: cosine of the two features; with several patches, the highest.
        weight: its share of the vote.
        labels: `[C]` float32 share of each class in its patch.
    """

    row: int
    source: str
    box: Box
    similarity: float
    weight: float
    labels: np.ndarray


@dataclass(frozen=True)
class SourceShare:
    """What one annotated image contributes to a vote.

    Attributes:
        source: its id.
        share: of the whole vote, 0..1.
        votes: how many times one of its patches is among the neighbours of a patch.
        boxes: `[n, 4]` float32 of its patches that voted, in its pixels, the heaviest first.
        labels: `[C]` float32 share of each class in what it contributes, summing to 1 (all 0 if that weighs nothing).
    """

    source: str
    share: float
    votes: int
    boxes: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Explanation:
    """Who voted for a pixel or a region, where each pixel's vote is that of the patch it lies in.

    Attributes:
        image: `[H, W, 3]` uint8 RGB; of a large one the part about what is explained.
        at: the pixel `(x, y)`, if one was asked for.
        region: `[H, W]` bool, what is explained; of a pixel, that one alone.
        boxes: `[P, 4]` float32 `left, top, right, bottom` of the patches it touches, in pixels of the image.
        classes: names.
        palette: `[C, 3]` uint8 RGB.
        scores: `[C]` float32 class scores, summing to 1: the mean over the region's pixels.
        neighbours: the rows that voted, the heaviest first; for a region the `decoder.k` heaviest of them.
        sources: the annotated images that voted, the heaviest first; their shares sum to 1.
        regression: `[C]` float32 what the regression alone says, if the decoder has one.
        regression_share: its share of `scores`; the rest is the neighbours'.
        origin: column and row of the first pixel of `image` in the whole one; what is told counts from there.
    """

    image: np.ndarray
    at: tuple[int, int] | None
    region: np.ndarray
    boxes: np.ndarray
    classes: tuple[str, ...]
    palette: np.ndarray
    scores: np.ndarray
    neighbours: tuple[Neighbour, ...]
    sources: tuple[SourceShare, ...]
    regression: np.ndarray | None = None
    regression_share: float = 0.0
    origin: tuple[int, int] = (0, 0)

    @property
    def predicted(self) -> int:
        """Index of the class with the highest score."""
        return int(self.scores.argmax())

    @property
    def score(self) -> float:
        """Of the predicted class, 0..1."""
        return float(self.scores[self.predicted])

    @property
    def bounds(self) -> tuple[int, int, int, int]:
        """`(left, top, right, bottom)` of the region in pixels of the whole image, right and bottom exclusive."""
        (ys, xs), (x, y) = (np.flatnonzero(self.region.any(axis)) for axis in (1, 0)), self.origin
        return int(xs[0]) + x, int(ys[0]) + y, int(xs[-1]) + 1 + x, int(ys[-1]) + 1 + y

    @property
    def what(self) -> str:
        """What is explained, in words."""
        if self.at:
            return f"pixel ({self.at[0] + self.origin[0]}, {self.at[1] + self.origin[1]})"
        left, top, right, bottom = self.bounds
        return f"region of {int(self.region.sum())} pixels within ({left}, {top}, {right}, {bottom})"

    def named(self, labels: np.ndarray) -> dict[str, float]:
        """`[C]` shares of classes by name, the largest first, those above 0."""
        order = [int(i) for i in np.argsort(-labels, kind="stable") if labels[i] > 0]
        return {self.classes[i]: float(labels[i]) for i in order}

    def to_json(self) -> str:
        """Everything but the pictures; shares of classes by name, boxes and bounds in pixels."""
        values = {
            "at": self.at and (self.at[0] + self.origin[0], self.at[1] + self.origin[1]),
            "bounds": self.bounds,
            "pixels": int(self.region.sum()),
            "boxes": (self.boxes + np.array(self.origin * 2, np.float32)).tolist(),
            "class": self.classes[self.predicted],
            "score": self.score,
            "scores": self.named(self.scores),
            "neighbours": [asdict(n) | {"labels": self.named(n.labels)} for n in self.neighbours],
            "sources": [
                {"source": s.source, "share": s.share, "votes": s.votes, "labels": self.named(s.labels)}
                for s in self.sources
            ],
        }
        if self.regression is not None:
            values["regression"] = {"share": self.regression_share, "scores": self.named(self.regression)}
        return json.dumps(values, indent=1, ensure_ascii=False)


@dataclass(frozen=True)
class Votes:
    """Single votes, `V` of them: rows of the bank, their cosines, and their shares of the whole vote."""

    rows: np.ndarray
    similarities: np.ndarray
    weights: np.ndarray


def region_mask(size: tuple[int, int], at: Any, region: Any) -> np.ndarray:
    """What is to be explained as `[H, W]` bool.

    Args:
        size: `(H, W)` of the image.
        at: a pixel `(x, y)`, or nothing.
        region: a rectangle `(left, top, right, bottom)`, right and bottom exclusive, a `[H, W]` bool array, or nothing.

    Raises:
        FungiSegError: both or neither, not within the image, or empty.
    """
    if (at is None) == (region is None):
        given = "neither" if at is None else "both"
        raise FungiSegError(f"{given} of at and region given; name a pixel at=(x, y), or a region, but not both")
    if at is None and np.ndim(region) == 2:
        return _checked_mask(np.asarray(region), size)
    left, top, right, bottom = region_box(size, at, region)
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask


def region_box(size: tuple[int, int], at: Any, region: Any) -> tuple[int, int, int, int]:
    """What is to be explained as `(left, top, right, bottom)` in pixels, of a pixel or a rectangle.

    Raises:
        FungiSegError: as of `region_mask`.
    """
    if at is not None:
        x, y = _whole_pixels(at, "at", "(x, y)", 2)
        return _within((x, y, x + 1, y + 1), size, f"the pixel ({x}, {y})")
    form = "(left, top, right, bottom)"
    left, top, right, bottom = box = _whole_pixels(region, "region", form, 4, ", or a [H, W] bool array")
    if left >= right or top >= bottom:
        raise FungiSegError(f"region is {box}, which is empty; in {form} left must be below right, top below bottom")
    return _within((left, top, right, bottom), size, f"the region {box}")


def _whole_pixels(values: Any, name: str, form: str, count: int, also: str = "") -> tuple[int, ...]:
    if np.ndim(values) != 1 or len(values) != count or not all(isinstance(value, Integral) for value in values):
        raise FungiSegError(f"{name} is {values!r}; it must be {form} in whole pixels{also}")
    return tuple(int(value) for value in values)


def _within(box: tuple[int, int, int, int], size: tuple[int, int], name: str) -> tuple[int, int, int, int]:
    left, top, right, bottom = box
    if min(left, top) < 0 or right > size[1] or bottom > size[0]:
        raise FungiSegError(f"{name} isn't in the image, which is {size[1]}×{size[0]} (width×height)")
    return box


def _checked_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if mask.dtype != bool or mask.shape != size:
        raise FungiSegError(
            f"region is an array of {mask.dtype}, {mask.shape[0]}×{mask.shape[1]} (height×width); it must be bool and "
            f"of the image's size, {size[0]}×{size[1]}"
        )
    if not mask.any():
        raise FungiSegError("region has no pixel that is true; mark what is to be explained")
    return mask


def patches_under(region: np.ndarray, fitted: Fitted, patch: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Numbers `[P]` of the patches that a `[H, W]` region touches, row-major, and the share of its pixels in each."""
    down, across = (
        ((np.arange(own) + 0.5) * content / own // side).astype(np.int64)
        for own, content, side in zip(region.shape, fitted.content, patch, strict=True)
    )
    ys, xs = np.nonzero(region)
    numbers, counts = np.unique(down[ys] * (fitted.image.shape[2] // patch[1]) + across[xs], return_counts=True)
    return numbers, counts / counts.sum()


def votes_of(similarities: np.ndarray, rows: np.ndarray, shares: np.ndarray, temperature: float) -> Votes:
    """The votes of `P` patches' neighbours `[P, K]`, each patch having its share `[P]` of the whole.

    Neighbours that weren't found (−inf) cast none.
    """
    weights = neighbour_weights(similarities.astype(np.float64), temperature) * shares[:, None]
    found = np.isfinite(similarities)
    return Votes(rows[found], similarities[found], weights[found])


def without_duplicates(votes: Votes) -> Votes:
    """One vote a row, the heaviest first, with the sum of the row's weights and its highest cosine."""
    rows, place = np.unique(votes.rows, return_inverse=True)
    weights = np.bincount(place, votes.weights)
    similarities = np.full(len(rows), -np.inf)
    np.maximum.at(similarities, place, votes.similarities)
    order = np.lexsort((-similarities, -weights))
    return Votes(rows[order], similarities[order], weights[order])


def heaviest(votes: Votes, rows: Rows, sources: tuple[str, ...], classes: int, limit: int) -> tuple[Neighbour, ...]:
    """The rows with the largest weights, at most `limit`, of images named `sources`."""
    votes = without_duplicates(votes)
    found = []
    for row, similarity, weight in zip(votes.rows[:limit], votes.similarities, votes.weights, strict=False):
        left, top, right, bottom = (float(side) for side in rows.box[row])
        labels = rows.labels.take(row[None]).dense(classes)[0]
        source = sources[rows.source[row]]
        found.append(Neighbour(int(row), source, (left, top, right, bottom), float(similarity), float(weight), labels))
    return tuple(found)


def by_source(votes: Votes, rows: Rows, sources: tuple[str, ...], classes: int) -> tuple[SourceShare, ...]:
    """The images, named `sources`, that the votes come from, the largest share first."""
    which, place, counts = np.unique(rows.source[votes.rows], return_inverse=True, return_counts=True)
    shares = np.bincount(place, votes.weights)
    owner, entries = rows.labels.entries(votes.rows)
    cells = place[owner] * classes + rows.labels.ids[entries]
    cast_for = np.bincount(cells, votes.weights[owner] * rows.labels.weights[entries] / FULL, len(which) * classes)
    labels = cast_for.reshape(-1, classes) / np.maximum(shares, np.finfo(float).tiny)[:, None]
    distinct = without_duplicates(votes).rows
    return tuple(
        SourceShare(
            source=sources[which[i]],
            share=float(shares[i]),
            votes=int(counts[i]),
            boxes=rows.box[distinct[rows.source[distinct] == which[i]]],
            labels=labels[i].astype(np.float32),
        )
        for i in np.argsort(-shares, kind="stable")
    )
