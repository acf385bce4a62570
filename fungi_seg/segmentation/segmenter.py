"""The facade: a bank and an image in, a mask out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fungi_seg.bank import MemoryBank, check_unused_by, patch_boxes
from fungi_seg.errors import BankError, DataError, FungiSegError
from fungi_seg.features import PatchFeatures
from fungi_seg.images import Fitted, InputConfig, InputOptions, is_large, opened_view, pixel_size_in, to_array, viewable
from fungi_seg.progress import Stopwatch
from fungi_seg.search import EXACT, IndexConfig, neighbour_weights
from fungi_seg.segmentation.confidence import Calibration, why_uncalibrated
from fungi_seg.segmentation.decoder import class_scores, refined_label_map, vote
from fungi_seg.segmentation.explanation import (
    Explanation,
    Neighbour,
    by_source,
    heaviest,
    patches_under,
    region_box,
    region_mask,
    votes_of,
)
from fungi_seg.segmentation.nearby import Nearby, nearby
from fungi_seg.segmentation.refine import guide_of
from fungi_seg.segmentation.result import Segmentation
from fungi_seg.segmentation.ridge import Ridge
from fungi_seg.segmentation.scored import Scored
from fungi_seg.segmentation.searching import searcher_for
from fungi_seg.segmentation.settings import DecoderConfig, check_unknown, fitted_decoder
from fungi_seg.segmentation.sliding import Neighbours, SlidingBank

VOTERS = 5
SCALE_ROWS = 1000


class Segmenter:
    """Segments images by retrieval from a memory bank, without training.

    Threads may use one at the same time, and so may several that share a backbone.

    Args:
        bank: an open bank, or the folder of one.
        features: patch features of the bank's backbone; loaded as the bank says where not given.
        decoder: how neighbours vote; as fitted on the bank where not given, or as published if nothing was.
        index: how neighbours are searched.
        weights, device, dtype: for loading the backbone, see `MemoryBank.patch_features`; not with `features`.
        calibration: how sure classes are with settings other than the fitted ones, from `calibrate`.

    Attributes:
        input: how images enter; as those of the bank did, see `entering`.
        calibration: how sure classes are with the settings in use; none where that isn't known.
        index_config: how neighbours are searched, as it was asked for.
        seconds: time spent so far by stage, of all threads: index, features, search, decoding.

    Raises:
        BankError: no or a damaged bank, or features of another backbone.
        FungiSegError: more neighbours asked for than the bank has rows.
    """

    def __init__(
        self,
        bank: MemoryBank | str | Path,
        features: PatchFeatures | None = None,
        decoder: DecoderConfig | None = None,
        index: IndexConfig | None = None,
        weights: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        calibration: Calibration | None = None,
    ):
        self.bank = bank if isinstance(bank, MemoryBank) else MemoryBank.open(bank)
        self.decoder = decoder or fitted_decoder(self.bank.manifest.decoder, str(self.bank.path))
        record = self.bank.manifest.decoder
        self._uncalibrated = None if calibration else why_uncalibrated(record, self.decoder, str(self.bank.path))
        if not calibration and not self._uncalibrated:
            calibration = Calibration.of_record((record or {})["confidence"], str(self.bank.path))
        self.calibration = calibration
        if self.decoder.k > len(self.bank):
            raise FungiSegError(
                f"decoder.k is {self.decoder.k}, but the bank {self.bank.path} has only {len(self.bank)} rows; "
                f"lower decoder.k, or build a larger bank"
            )
        if features is not None:
            check_unused_by("features", weights, device, dtype)
            self.bank.check_features(features)
        self.features = features or self.bank.patch_features(weights, device, dtype)
        self.input = self.bank.info.input
        self.palette = np.array(self.bank.info.palette, np.uint8)
        self._timed = Stopwatch()
        self.seconds = self._timed.seconds
        index = index or IndexConfig()
        if index.device == "auto" and self.features.backbone.device.type == "cpu":
            index = replace(index, device="cpu")
        self.index_config = index
        with self._timed("index"):
            self.index = searcher_for(self.bank, index, self.decoder.gradient_weight)
            self._share = self.bank.class_share()
            self._ridge = self._regression()

    def entering(self, input: InputConfig | InputOptions) -> Segmenter:
        """The same for images that enter otherwise: at another scale, or by other channels.

        Args:
            input: how, or where it differs from how the bank's images did.
        """
        other = copy(self)
        other.input = input.over(self.bank.info.input) if isinstance(input, InputOptions) else input
        return other

    def predict(self, image: Any, unknown: float | None = None) -> Segmentation:
        """Segment one image.

        Args:
            image: a path, the bytes of a file, a file open for bytes, PIL image, array `[H, W, 3]` or `[H, W]`, or
                tensor `[3, H, W]`; uint8, uint16, or float in 0..1.
            unknown: confidence, 0 to 1, below which pixels get no class but the mask's `void`, as do patches unlike
                anything in the bank; every pixel gets a class by default.

        Raises:
            DataError: unreadable, smaller than a patch, or too large for the memory.
            FungiSegError: features that aren't finite; `unknown` outside 0..1, or without a calibration.
        """
        if unknown is not None:
            check_unknown(unknown)
            self.check_calibrated()
        array, fitted, names = self._read(image)
        found = self.predict_fitted([fitted], [array], names)[0]
        return found if unknown is None else found.with_unknown(unknown)

    def predict_batch(
        self, images: Sequence[Any], unknown: float | None = None, batch_size: int = 8
    ) -> list[Segmentation]:
        """Segment images of any sizes; those of one input size go through the backbone together.

        Args:
            images: each as for `predict`.
            unknown: as for `predict`.
            batch_size: images that go through the backbone together, at most.

        Returns:
            What `predict` gives, in the order of the images.

        Raises:
            DataError, FungiSegError: as `predict` does; or a `batch_size` below 1.
        """
        if batch_size < 1:
            raise FungiSegError(f"batch_size is {batch_size}; it must be at least 1")
        if unknown is not None:
            check_unknown(unknown)
            self.check_calibrated()
        read = [self._read(image) for image in images]
        by_size: dict[tuple[int, ...], list[int]] = {}
        for number, (_, fitted, _) in enumerate(read):
            by_size.setdefault(tuple(fitted.image.shape), []).append(number)
        found: dict[int, Segmentation] = {}
        for numbers in by_size.values():
            for start in range(0, len(numbers), batch_size):
                some = numbers[start : start + batch_size]
                arrays, inputs, names = zip(*(read[n] for n in some), strict=True)
                called = [name[0] if name else f"image {n}" for n, name in zip(some, names, strict=True)]
                found.update(zip(some, self.predict_fitted(inputs, arrays, called), strict=True))
        ordered = [found[number] for number in range(len(read))]
        return ordered if unknown is None else [one.with_unknown(unknown) for one in ordered]

    @property
    def patch_size(self) -> tuple[int, int]:
        """`(height, width)` of a patch, in pixels of the input."""
        return self.features.backbone.patch_size

    def bank_scale(self) -> float:
        """Pixels of the input to a pixel of the bank's images, the median over some of its rows."""
        rows = np.linspace(0, len(self.bank) - 1, min(len(self.bank), SCALE_ROWS)).astype(int)
        box = np.asarray(self.bank.rows.box[rows], np.float64)
        return float(self.patch_size[1] / np.median(box[:, 2] - box[:, 0]))

    def check_calibrated(self) -> None:
        """Raise unless it is known how sure classes are with the settings in use.

        Raises:
            BankError: it isn't; why, and what to do.
        """
        if self._uncalibrated:
            raise BankError(self._uncalibrated)

    def fit(self, image: np.ndarray, pixel_size: float | None = None) -> Fitted:
        """`[H, W, 3]` uint8 at the input size.

        Args:
            image: as `to_array` gives it.
            pixel_size: width of its pixels, where images enter at a resolution.

        Raises:
            DataError: smaller than a patch, or its features would need more memory than is free.
        """
        return self.features.fit_image(image, self.input.at(pixel_size))

    def predict_fitted(
        self,
        fitted: Sequence[Fitted],
        images: Sequence[np.ndarray],
        names: Sequence[str] | None = None,
        clock: Stopwatch | None = None,
        memory: SlidingBank | None = None,
    ) -> list[Segmentation]:
        """Segment images that were brought to the input size already, all to the same one.

        Args:
            fitted: from `fit`.
            images: `[H, W, 3]` uint8 each; they give the size of the masks, and the ground of overlays.
            names: what errors call the images.
            clock: gets the time spent by stage, as `seconds` is.
            memory: of the frames before, where one frame of a clip is given; it takes in this one.
        """
        ph, pw = self.features.backbone.patch_size
        height, width = fitted[0].image.shape[1:]
        images = [viewable(image) for image in images]
        with self._timed("features", clock):
            queries = self.features.of(fitted, names).cpu()
        found = self.scored(queries.flatten(0, 1).numpy(), clock, memory)
        if memory is not None:
            memory.keep(self._sure(found, fitted[0]))
        with self._timed("decoding", clock):
            classes, results, calibration = self.bank.info.classes, [], self.calibration
            grids = torch.from_numpy(found.scores).view(len(fitted), height // ph, width // pw, -1).permute(0, 3, 1, 2)
            strange = found.unlike.reshape(len(fitted), height // ph, width // pw)
            voters = [self.named(votes) for votes in found.votes(len(fitted))]
            for one, image, scores, odd, by in zip(fitted, images, grids.contiguous(), strange, voters, strict=True):
                covered = (one.content[0] / ph, one.content[1] / pw)
                strength, guide = self.decoder.refine, _guide(one, scores)
                mask, levels = refined_label_map(scores, image, covered, strength, guide)
                made = Segmentation(mask, scores, covered, classes, self.palette, image, strength, calibration, odd, by)
                results.append(replace(made, guide=guide).knowing(levels))
        return results

    def neighbours(self, image: Any, x: int, y: int) -> list[Neighbour]:
        """The rows that vote for the patch at one pixel, the heaviest vote first.

        Args:
            image: as for `predict`.
            x, y: column and row of the pixel, from the top left.

        Raises:
            FungiSegError: the pixel isn't in the image, or features aren't finite.
            DataError: as for `predict`.
        """
        return list(self.explain(image, at=(x, y)).neighbours)

    def explain(
        self,
        image: Any,
        at: tuple[int, int] | None = None,
        region: tuple[int, int, int, int] | np.ndarray | None = None,
    ) -> Explanation:
        """Who votes for the patch at a pixel, or for the patches of a region, each counting by its pixels there.

        Args:
            image: as for `predict`.
            at: column and row `(x, y)` of a pixel, from the top left.
            region: `(left, top, right, bottom)` in pixels, right and bottom exclusive, or `[H, W]` bool.

        Raises:
            FungiSegError: not one of `at` and `region`, or it isn't in the image, or empty; or features aren't finite.
            DataError: as for `predict`.
        """
        near, mask = self._near(image, at, region)
        size, patch = (mask.shape[0], mask.shape[1]), self.features.backbone.patch_size
        numbers, shares = patches_under(mask, near.fitted, patch)
        features = near.features[numbers]
        similarities, found = self.index.search(features, self.decoder.k)
        info, rows = self.bank.info, self.bank.rows
        votes = votes_of(similarities, found, shares, self.decoder.temperature)
        scores, regression = self._scores(features, similarities, found)
        return Explanation(
            image=viewable(near.image),
            at=None if at is None else (int(at[0]) - near.origin[0], int(at[1]) - near.origin[1]),
            region=mask,
            boxes=patch_boxes(numbers, near.fitted, patch, (0, 0, *size)),
            classes=info.classes,
            palette=self.palette,
            scores=(shares @ scores).astype(np.float32),
            neighbours=heaviest(votes, rows, info.sources, len(info.classes), self.decoder.k),
            sources=by_source(votes, rows, info.sources, len(info.classes)),
            regression=None if regression is None else (shares @ regression).astype(np.float32),
            regression_share=self.decoder.ridge_share,
            origin=near.origin,
        )

    def _near(self, image: Any, at: Any, region: Any) -> tuple[Nearby, np.ndarray]:
        """An image, or of a large one the part about what is asked for; and `[H, W]` bool, what is asked for in it."""
        if not isinstance(image, str | Path) or not is_large(Path(image), self.input):
            array, fitted, names = self._read(image)
            near = Nearby(array, fitted, self.features.of([fitted], names)[0].cpu().numpy())
            return near, region_mask((array.shape[0], array.shape[1]), at, region)
        with opened_view(Path(image), self.input, self.features.backbone.patch_size) as view:
            left, top, right, bottom = region_box(view.size, at, region)
            near = nearby(self.features, view, (left, top, right, bottom))
        x, y = near.origin
        return near, region_mask(near.image.shape[:2], None, (left - x, top - y, right - x, bottom - y))

    def memory(self, frames: int) -> SlidingBank:
        """An empty bank of sure patches of the last `frames` frames of a clip, for `predict_fitted`."""
        return SlidingBank(frames, self.bank.query_scale(self.decoder.gradient_weight))

    def _sure(self, found: Scored, fitted: Fitted) -> np.ndarray:
        """`[Q]` how sure the class of each patch of one image is, 0 where it is unlike the bank or lies in padding."""
        best = found.scores.max(1)
        sure = best if self.calibration is None else self.calibration(best)
        (ph, pw), (height, width) = self.features.backbone.patch_size, fitted.image.shape[1:]
        down, across = np.arange(height // ph) * ph < fitted.content[0], np.arange(width // pw) * pw < fitted.content[1]
        return np.where(found.unlike | ~np.logical_and.outer(down, across).ravel(), 0, sure)

    def scored(self, features: np.ndarray, clock: Stopwatch | None = None, memory: SlidingBank | None = None) -> Scored:
        """What the bank says of patches.

        Args:
            features: `[Q, D]` float32.
            clock: gets the time spent by stage, as `seconds` is.
            memory: of the frames before, which vote too.
        """
        with self._timed("search", clock):
            similarities, rows = self.index.search(features, self.decoder.k)
        with self._timed("decoding", clock):
            scores = self._scores(features, similarities, rows, memory)[0]
            calibration = self.calibration
            unlike = np.zeros(len(rows), bool) if calibration is None else calibration.unlike(similarities)
            weights = neighbour_weights(similarities, self.decoder.temperature)
            return Scored(scores, unlike, weights, np.asarray(self.bank.rows.source)[rows], len(self.bank.info.sources))

    def named(self, votes: np.ndarray) -> tuple[tuple[str, float], ...]:
        """The annotated images with the largest of `votes` `[S]`, and their shares of all."""
        there = np.flatnonzero(votes)
        first = there[np.argsort(-votes[there], kind="stable")[:VOTERS]]
        return tuple((self.bank.info.sources[i], float(votes[i] / votes.sum())) for i in first)

    def _regression(self) -> Ridge | None:
        if self.decoder.ridge == "none":
            return None
        decoder = self.decoder
        equations = self.bank.regression(decoder.ridge, decoder.ridge_bandwidth, decoder.gradient_weight)
        return Ridge(equations.lift, equations.solved(decoder.ridge_penalty))

    def _scores(
        self, features: np.ndarray, similarities: np.ndarray, rows: np.ndarray, memory: SlidingBank | None = None
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """`[Q, C]` float32 class scores of features `[Q, D]`, and those of the regression alone if there is one."""
        decoder = self.decoder
        of_rows = self.bank.rows.labels, len(self.bank.info.classes), decoder.temperature
        if memory is None:
            votes = vote(similarities, rows, *of_rows)
        else:
            votes = memory.votes(features, Neighbours(similarities, rows), *of_rows)
        said = None if self._ridge is None else self._ridge(features)
        return class_scores(votes, self._share, decoder, said), said

    def recall(self, image: np.ndarray) -> float:
        """Share of the exact nearest rows that the index finds for the patches of `image` (`[H, W, 3]` uint8)."""
        if self.index.kind == EXACT:
            return 1.0
        queries = self.features.of([self.fit(image)])[0].cpu().numpy()
        return self.index.recall(self.bank.rows.keys, queries, self.decoder.k)

    def _read(self, image: Any) -> tuple[np.ndarray, Fitted, list[str] | None]:
        """An image as it is, at the input size, and what errors call it: its path, if it is one."""
        array = to_array(image, self.input)
        if not isinstance(image, str | Path):
            return array, self.fit(array), None
        try:
            return array, self.fit(array, pixel_size_in(image, self.input)), [str(image)]
        except DataError as error:
            raise DataError(f"{image}: {error}") from error


def _guide(fitted: Fitted, scores: torch.Tensor) -> np.ndarray | None:
    """The cells of an image that entered at a scale; those of others are made of the image itself."""
    if fitted.tiles is None:
        return None
    return guide_of(viewable(fitted.image.permute(1, 2, 0).numpy()), (scores.shape[1], scores.shape[2]))
