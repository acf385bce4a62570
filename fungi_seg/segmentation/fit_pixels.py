"""What settings make of a bank's own images, pixel by pixel: edges, and how scores become areas, show only there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch

from fungi_seg.bank import MemoryBank, SourceImages
from fungi_seg.errors import DataError
from fungi_seg.features import PatchFeatures
from fungi_seg.images import viewable
from fungi_seg.progress import pausing, track
from fungi_seg.segmentation.decoder import class_scores, refined_label_map, vote
from fungi_seg.segmentation.neighbours import foreign_neighbours
from fungi_seg.segmentation.settings import DecoderConfig

MOST_IMAGES = 24
MOST_PRODUCTS = 1.2e12  # of numbers, of patches with rows: some seconds

Weight = float | None
Regression = Callable[[DecoderConfig, np.ndarray, np.ndarray], np.ndarray]


class Pixels:
    """Some images of a bank, segmented by rows of other groups of images.

    Args:
        bank: an open bank.
        images: finds its images and their masks.
        features: of its backbone.
        groups: `[M]` of each row; the rows of an image are of one group.
        k: as many neighbours as will be asked for.
        weights: those of the gradient that will be asked for.
        regression: by settings that name one, of features `[Q, D]` and the group `[Q]` of each, gives `[Q, C]` scores
            without rows of that group.
        progress: report on standard error.

    Attributes:
        count: images that were found.
    """

    def __init__(
        self,
        bank: MemoryBank,
        images: SourceImages,
        features: PatchFeatures,
        groups: np.ndarray,
        k: int,
        weights: Sequence[Weight],
        regression: Regression,
        progress: bool = False,
    ):
        self._share, self._classes = bank.class_share(), len(bank.info.classes)
        self._patch = features.backbone.patch_size
        self._images: list[tuple[np.ndarray, np.ndarray, tuple[int, int]]] = []
        asked: list[np.ndarray] = []
        own: list[np.ndarray] = []
        source = np.asarray(bank.rows.source)
        for number in track(*self._picked(bank, source), "images to fit on", show=progress):
            try:
                sample = images[bank.info.sources[number]]
                if sample.shrunk != 1:
                    continue
                fitted = features.fit_image(sample.image, bank.info.input.at(sample.pixel_size))
            except DataError:
                continue
            height, width = fitted.content
            mask = cv2.resize(sample.mask, (width, height), interpolation=cv2.INTER_NEAREST)
            picture = viewable(fitted.image[:, :height, :width].permute(1, 2, 0).contiguous().numpy())
            grid = fitted.image.shape[1] // self._patch[0], fitted.image.shape[2] // self._patch[1]
            asked.append(features.of([fitted])[0].cpu().numpy())
            own.append(np.full(len(asked[-1]), groups[np.flatnonzero(source == number)[0]]))
            self._images.append((picture, mask, grid))
        self.count = len(self._images)
        if not self.count:
            return
        queries, group = np.concatenate(asked), np.concatenate(own)
        self._asked, self._regression = (queries, group), regression
        self._labels = bank.rows.labels
        self._neighbours = foreign_neighbours(bank, queries, group, groups, weights, min(k, len(bank)), progress)
        self._voted: dict[tuple[Weight, int, float], np.ndarray] = {}
        self._said: dict[tuple[object, ...], np.ndarray] = {}

    def score(self, settings: DecoderConfig) -> np.ndarray:
        """`[images, 3, C]` float64 pixels of each class: right, of the truth, of the prediction."""
        scores = class_scores(self._vote(settings), self._share, settings, self._opinion(settings))
        found, start = np.empty((self.count, 3, self._classes)), 0
        for counts, (image, mask, grid) in pausing(zip(found, self._images, strict=True)):
            part = scores[start : start + grid[0] * grid[1]].astype(np.float32).reshape(*grid, -1)
            start += grid[0] * grid[1]
            levels, size = torch.from_numpy(part).permute(2, 0, 1).contiguous(), (image.shape[0], image.shape[1])
            covered = size[0] / self._patch[0], size[1] / self._patch[1]
            predicted = refined_label_map(levels, image, covered, settings.refine)[0]
            labelled = mask >= 0
            truth, said = mask[labelled], predicted[labelled]
            for row, values in zip(counts, (truth[truth == said], truth, said), strict=True):
                row[:] = np.bincount(values, minlength=self._classes)
        return found

    def _opinion(self, settings: DecoderConfig) -> np.ndarray | None:
        """`[Q, C]` float32 scores of the regression that the settings name, if any."""
        if settings.ridge == "none":
            return None
        weight = settings.gradient_weight if settings.ridge == "feature" else None
        key = settings.ridge, settings.ridge_bandwidth, settings.ridge_penalty, weight
        if key not in self._said:
            self._said[key] = self._regression(settings, *self._asked)
        return self._said[key]

    def _vote(self, settings: DecoderConfig) -> np.ndarray:
        """`[Q, C]` float32 votes as the neighbours cast them."""
        key = settings.gradient_weight, settings.k, settings.temperature
        if key not in self._voted:
            similarities, found = (part[:, : settings.k] for part in self._neighbours[settings.gradient_weight])
            self._voted[key] = vote(similarities, found, self._labels, self._classes, settings.temperature)
        return self._voted[key]

    def weighed(self, settings: DecoderConfig) -> np.ndarray:
        """As `score`, each image counting for a class by the root of its pixels: a few crowded ones decide too much."""
        counts = self.score(settings)
        truth = counts[:, 1]
        usual = truth.sum(0) / np.maximum((truth > 0).sum(0), 1)
        weighed: np.ndarray = counts / np.sqrt(np.maximum(np.where(truth > 0, truth, usual), 1))[:, None]
        return weighed

    def _picked(self, bank: MemoryBank, source: np.ndarray) -> tuple[np.ndarray, int]:
        """Numbers of the images to look at, at even distances, and how many those are."""
        there = np.unique(source)
        patches = max(1.0, bank.info.build.get("available_rows", len(bank)) / len(there))
        affordable = int(MOST_PRODUCTS / (patches * len(bank) * bank.info.dim))
        count = min(len(there), MOST_IMAGES, max(affordable, 1))
        places = ((np.arange(count) + 0.5) * len(there) / count).astype(int)
        return there[places], count
