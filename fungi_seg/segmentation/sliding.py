"""A bank that moves along: sure patches of the last frames vote for the next one beside the bank's rows."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
import torch

from fungi_seg.bank import SparseLabels
from fungi_seg.search import neighbour_weights
from fungi_seg.segmentation.decoder import vote

SURE = 0.9  # from which confidence on patches are kept
MOST = 256  # patches of a frame that are kept


@dataclass(frozen=True)
class Neighbours:
    """Rows of the bank that are nearest to some patches, `Q` of them.

    Attributes:
        similarities: `[Q, K]`, highest first.
        rows: `[Q, K]` their numbers.
    """

    similarities: np.ndarray
    rows: np.ndarray


class SlidingBank:
    """Patches of the last frames of one clip, and the classes that were found in them.

    Of a frame those patches are kept that are at least `SURE` and not unlike everything in the bank; of more than
    `MOST` as many at even distances, so that classes keep their shares. Frames are to come in order.

    Args:
        frames: how many of the last ones are kept.
        scale: `[D]` that queries are multiplied by before they are compared, as with the bank's rows; none for 1.
    """

    def __init__(self, frames: int, scale: np.ndarray | None = None):
        self._kept: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=frames)
        self._last: tuple[np.ndarray, np.ndarray] | None = None
        self._scale = scale

    def __len__(self) -> int:
        return sum(len(features) for features, _ in self._kept)

    def votes(
        self, queries: np.ndarray, near: Neighbours, labels: SparseLabels, classes: int, temperature: float
    ) -> np.ndarray:
        """Class scores of patches by the `K` nearest of the bank's rows and the kept patches together.

        Args:
            queries: `[Q, D]` features.
            near: the bank's nearest rows.
            labels: class distributions of the bank.
            classes: `C`.
            temperature: of the softmax over similarities.

        Returns:
            `[Q, C]` float32, each row summing to 1.
        """
        if len(self):
            votes = self._together(queries, near, labels, classes, temperature)
        else:
            votes = vote(near.similarities, near.rows, labels, classes, temperature)
        self._last = queries, votes
        return votes

    def keep(self, sure: np.ndarray) -> None:
        """Take in the frame that was voted on last.

        Args:
            sure: `[Q]` how sure the class of each patch is, 0..1.
        """
        assert self._last is not None
        features, votes = self._last
        places = np.flatnonzero(sure >= SURE)
        if len(places) > MOST:
            places = places[np.linspace(0, len(places) - 1, MOST).round().astype(int)]
        self._kept.append((features[places].astype(np.float32), votes[places].astype(np.float32)))
        self._last = None

    def _together(
        self, queries: np.ndarray, near: Neighbours, labels: SparseLabels, classes: int, temperature: float
    ) -> np.ndarray:
        features = np.concatenate([kept for kept, _ in self._kept])
        found = np.concatenate([scores for _, scores in self._kept])
        asked = queries if self._scale is None else queries * self._scale
        k = near.similarities.shape[1]
        every = torch.cat(
            [torch.from_numpy(near.similarities), torch.from_numpy(asked) @ torch.from_numpy(features).T], 1
        )
        best, chosen = (part.numpy() for part in every.topk(k, 1))
        weights, in_bank = neighbour_weights(best, temperature), chosen < k
        of_bank = np.full_like(near.similarities, -np.inf)
        query, place = np.nonzero(in_bank)
        of_bank[query, chosen[query, place]] = best[query, place]
        nobody = ~in_bank.any(1)  # whose votes then weigh nothing
        votes = vote(np.where(nobody[:, None], 0, of_bank), near.rows, labels, classes, temperature)
        own = np.where(in_bank, 0, weights)[:, None] @ found[np.where(in_bank, 0, chosen - k)]
        together: np.ndarray = np.where(in_bank, weights, 0).sum(1, keepdims=True) * votes + own[:, 0]
        return together.astype(np.float32)
