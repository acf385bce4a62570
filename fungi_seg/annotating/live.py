"""Masks by a bank as it would be with what is being painted, so fast that they follow a stroke."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from fungi_seg.bank import ChangedBank, Equations, ImageRows, Lift, MemoryBank, half_weights
from fungi_seg.features import PatchFeatures
from fungi_seg.search import EXACT, EXACT_KINDS, IndexConfig, NeighbourIndex, highest
from fungi_seg.segmentation import (
    Calibration,
    DecoderConfig,
    Ridge,
    class_scores,
    fitted_decoder,
    refined_label_map,
    vote,
)

KEPT = 4  # images whose neighbours among the rows of others are kept
SPARE = 4  # times the neighbours that are asked of lists, where rows of images that changed are left out of them
START = DecoderConfig(temperature=0.05, refine=1.0)  # until a bank is fitted: where rows are few, more of them count

Others = list[tuple[str, ImageRows]]


@dataclass(frozen=True)
class Query:
    """An image to segment.

    Attributes:
        name: of the image.
        features: `[h, w, D]` float16 of its patches.
        covered: patches `(h', w')` that the image spans; the rest was padding.
    """

    name: str
    features: np.ndarray
    covered: tuple[float, float]

    @property
    def rows(self) -> np.ndarray:
        """`[N, D]` float32."""
        return self.features.reshape(-1, self.features.shape[2]).astype(np.float32)


@dataclass(frozen=True)
class Answer:
    """What neighbours say of an image.

    Attributes:
        scores: `[C, h, w]` float32 of each patch.
        doubt: 0..1, how unsure the classes of the image are on average.
        similarities, rows: `[N, K]` of the neighbours; rows as `bank` numbers them.
        bank: that the neighbours are of.
    """

    scores: torch.Tensor
    doubt: float
    similarities: np.ndarray
    rows: np.ndarray
    bank: ChangedBank


class Live:
    """Segments images by a bank and by rows of images that aren't in it yet, or have others in it.

    One thread at a time.

    Args:
        bank: as it is on disk; none where there is none yet.
        features: how features are made.
        classes: how many there are, the bank's first.
    """

    def __init__(self, bank: MemoryBank | None, features: PatchFeatures, classes: int):
        self.bank, self.classes = bank, classes
        record = None if bank is None else bank.manifest.decoder
        self.decoder = START if record is None else fitted_decoder(record, str(bank.path) if bank else "")
        self.calibration: Calibration | None = None
        if bank is not None and record and record.get("confidence"):
            self.calibration = Calibration.of_record(record["confidence"], str(bank.path))
        self._width, self._dim = features.backbone.dim, features.dim
        weight = self.decoder.gradient_weight
        self._scale = None if weight is None else half_weights(weight, self._width, self._dim)
        self._index = None if bank is None else bank.neighbour_index(IndexConfig(device="cpu"), weight)
        self._stored: Equations | None = None
        if bank is not None and self.decoder.ridge != "none":
            self._stored = bank.regression(self.decoder.ridge, self.decoder.ridge_bandwidth, weight)
        self._known: OrderedDict[str, tuple[Others, bool, np.ndarray, np.ndarray]] = OrderedDict()

    def answer(self, query: Query, images: Mapping[str, ImageRows], keep: bool = True) -> Answer | None:
        """What is said of an image; nothing where no bank or image holds two classes.

        Args:
            query: the image.
            images: rows of images that aren't in the bank, or have others in it; the image itself may be among them.
            keep: remember its neighbours in other images, since it will be asked again.
        """
        own, others = images.get(query.name), {name: rows for name, rows in images.items() if name != query.name}
        bank = ChangedBank(self.bank, others if own is None else {**others, query.name: own}, self.classes)
        if bank.classes_there().sum() < 2:
            return None
        queries = query.rows
        similarities, rows = self._among_others(query.name, queries, bank, list(others.items()), own is not None, keep)
        if own is not None and len(own):
            first = bank.base + sum(map(len, others.values()))
            near, places = self._near(own.keys, queries)
            similarities = np.concatenate([similarities, near], axis=1)
            rows = np.concatenate([rows, places + first], axis=1)
            similarities, rows = highest(similarities, rows, self.decoder.k)
        votes = vote(similarities, rows, bank.labels, self.classes, self.decoder.temperature)
        share = bank.class_share() if self.decoder.class_share else np.ones(self.classes)
        scores = class_scores(votes, share, self.decoder, self._regression(bank, queries))
        grid = query.features.shape[:2]
        found = torch.from_numpy(np.ascontiguousarray(scores.T)).view(-1, *grid)
        doubt = self._doubt(scores.max(1).reshape(grid), similarities[:, 0].reshape(grid), query.covered)
        return Answer(found, doubt, similarities, rows, bank)

    def mask(self, answer: Answer, image: np.ndarray, covered: tuple[float, float]) -> np.ndarray:
        """The class of each pixel of `image` `[H, W, 3]` uint8, of any size, `[H, W]` uint8 or uint16."""
        return refined_label_map(answer.scores, image, covered, self.decoder.refine)[0]

    def _doubt(self, best: np.ndarray, nearest: np.ndarray, covered: tuple[float, float]) -> float:
        """From the highest score and the nearest row's similarity of each patch, `[h, w]`.

        Neighbours may all agree on a patch that is like none of them: without a calibration, which knows how alike
        patches are, a score counts by the similarity.
        """
        sure = best * nearest.clip(0, 1)
        if self.calibration is not None:
            sure = np.where(nearest < self.calibration.least_similarity, 0, self.calibration(best))
        return float(1 - sure[: max(1, round(covered[0])), : max(1, round(covered[1]))].mean())

    def _among_others(
        self, name: str, queries: np.ndarray, bank: ChangedBank, others: Others, has_own: bool, keep: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Neighbours among the rows of other images, which a stroke on this one doesn't change."""
        known = self._known.get(name)
        if known and known[1] == has_own and _same(known[0], others):
            self._known.move_to_end(name)
            return known[2:]
        found = [(np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64))]
        if self._index is not None:
            found.append(self._in_bank(queries, bank.left_out))
        if any(len(rows) for _, rows in others):
            near, places = self._near(np.concatenate([rows.keys for _, rows in others]), queries)
            found.append((near, places + bank.base))
        similarities, rows = (np.concatenate(part, axis=1) for part in zip(*found, strict=True))
        similarities, rows = highest(similarities, rows, self.decoder.k)
        if keep:
            self._known[name] = (others, has_own, similarities, rows)
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return similarities, rows

    def _in_bank(self, queries: np.ndarray, left_out: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        assert self._index is not None
        k = min(self.decoder.k, self._index.rows)
        if left_out is None:
            return self._index.search(queries, k)
        if self._index.kind in EXACT_KINDS:
            return self._index.search(queries, k, left_out)
        similarities, rows = self._index.search(queries, min(SPARE * k, self._index.rows))
        return highest(np.where(left_out[rows], -np.inf, similarities), rows, k)

    def _near(self, keys: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index = NeighbourIndex(keys, IndexConfig(EXACT, device="cpu"), scale=self._scale)
        return index.search(queries, min(self.decoder.k, len(keys)))

    def _regression(self, bank: ChangedBank, queries: np.ndarray) -> np.ndarray | None:
        decoder = self.decoder
        if decoder.ridge == "none":
            return None
        lift = self._stored.lift if self._stored else Lift(decoder.ridge, self._width, self._dim)
        equations = bank.equations(bank.base_equations(lift, self._stored))
        return Ridge(lift, equations.solved(decoder.ridge_penalty))(queries)


def _same(one: Others, other: Others) -> bool:
    return len(one) == len(other) and all(a[0] == b[0] and a[1] is b[1] for a, b in zip(one, other, strict=True))
