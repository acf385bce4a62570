"""Which patches enter a memory bank of bounded size, as a stream: Hummingbird's balanced sampling, or a uniform one."""

from __future__ import annotations

import numpy as np

SLACK = 1.25
SAMPLING, AUGMENTATION = 0, 1  # streams of random numbers


def random_generator(seed: int, epoch: int, source: int, stream: int, piece: int = 0) -> np.random.Generator:
    """Random numbers for one image in one epoch, the same whatever else is done: for `SAMPLING` or `AUGMENTATION`.

    Pieces of a large image have their own, from the second one on.
    """
    return np.random.default_rng([seed, epoch, source, stream, *([piece] if piece else [])])


def patch_order(histograms: np.ndarray, generator: np.random.Generator, sampling: str = "balanced") -> np.ndarray:
    """Patches of one image that hold labelled pixels, those to keep first.

    `balanced`: a patch's score is the sum, over its classes, of how many patches of the image hold that class, times
    U(0, 1); the smallest win, so rare classes are kept (Hummingbird, Balažević et al. 2023, appendix on memory
    sampling). `uniform`: any order is as likely as any other.

    Args:
        histograms: `[N, C]` pixel counts.
        generator: source of the uniform numbers, one drawn for every patch.
        sampling: `balanced` or `uniform`.

    Returns:
        `[n]` patch indices, n ≤ N, by rising score.
    """
    holds = np.greater(histograms, 0)
    scores = generator.random(len(holds))
    if sampling == "balanced":
        scores *= (holds * holds.sum(0)).sum(1)
    order = np.argsort(scores, kind="stable")
    return order[holds.any(1)[order]]


class BalancedReservoir:
    """Keeps at most `size` rows of a stream of images, the same number of each as far as it has that many.

    A patch's priority is its rank within its own image plus a random fraction; the `size` smallest priorities over all
    images stay. That fills exactly `min(size, available)` rows in one pass, whatever the number of images, and gives
    what images with few labelled patches leave over to the others.

    Args:
        size: of the bank; none keeps all.
        sampling: `balanced` or `uniform`.
        limit: the highest priority of a row, where others are known not to stay.
    """

    def __init__(self, size: int | None, sampling: str = "balanced", limit: float | None = None):
        self.size, self.sampling = size, sampling
        self.available = 0
        self._limit = np.inf if limit is None else limit
        self._priorities: list[np.ndarray] = []
        self._count = 0

    def choose(self, histograms: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Patches of an image that can still be kept, and their priorities, to `add` once they are stored."""
        order = patch_order(histograms, generator, self.sampling)
        priorities = np.arange(len(order)) + generator.random(len(order))
        self.available += len(order)
        kept = priorities <= self._limit
        return order[kept], priorities[kept]

    def add(self, priorities: np.ndarray) -> None:
        """Take note of rows that were chosen."""
        self._priorities.append(priorities)
        self._count += len(priorities)
        if self.size is not None and self._count > max(self.size * SLACK, self.size + 4096):
            self._limit = self.limit()
            found = np.concatenate(self._priorities)
            self._priorities, self._count = [found[found <= self._limit]], self.size

    def limit(self) -> float:
        """The highest priority among the `size` smallest: rows above it are too many."""
        if self.size is None or self._count <= self.size:
            return float(self._limit)
        return float(np.partition(np.concatenate(self._priorities), self.size - 1)[self.size - 1])
