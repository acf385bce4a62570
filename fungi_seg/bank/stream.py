"""Annotated images, one after another, as rows of features: what `build.py` fills a bank with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fungi_seg.bank.boxes import patch_boxes
from fungi_seg.bank.draft import Draft
from fungi_seg.bank.labels import SparseLabels, patch_histograms
from fungi_seg.bank.manifest import Segment
from fungi_seg.bank.pieces import Piece, Pieces
from fungi_seg.bank.rows import Rows
from fungi_seg.bank.sampling import AUGMENTATION, SAMPLING, BalancedReservoir, random_generator
from fungi_seg.bank.settings import BankRecipe
from fungi_seg.bank.writer import BankWriter, Shards
from fungi_seg.datasets import Dataset, about
from fungi_seg.errors import DataError, listing
from fungi_seg.features import Backbone, FeatureConfig, PatchFeatures
from fungi_seg.images import VOID, Fitted, RunConfig, crop_window, fit_mask, jitter, same_size_batches
from fungi_seg.progress import prefetch, track
from fungi_seg.provenance import feature_code
from fungi_seg.rasters import stamp_of


def no_label(name: str) -> str:
    """What is said of an image that holds nothing but void."""
    return f"{name}: no labelled patch, every pixel is void"


@dataclass(frozen=True)
class Pass:
    """What is worked through at once.

    Attributes:
        epoch: number of the pass over all images.
        index: of the image.
        piece: of a large image; none of one that enters as a whole.
    """

    epoch: int
    index: int
    piece: Piece | None = None


@dataclass(frozen=True)
class Annotated:
    """One image made ready for the bank, or a piece of a large one.

    Attributes:
        number: of the piece among all passes over all images.
        place: which image, in which pass, and which piece of it.
        fitted: it, at the input size.
        histograms: `[N, C]` pixels of each class in each patch.
        window: of it in the image: top, left, height and width in pixels.
    """

    number: int
    place: Pass
    fitted: Fitted
    histograms: np.ndarray
    window: tuple[float, float, float, float]


class AnnotatedStream:
    """Annotated images, prepared ahead and in order, as rows of features.

    Images go through the backbone together with those of their own run of `load.batch_size` only, so that it doesn't
    matter to their features where a stream begins and ends.

    Args:
        dataset: annotated images.
        classes: of the bank.
        first: number of the first image.
        backbone: a frozen ViT.
        recipe: how the bank is made.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped.
        limit: the highest priority of a candidate, where others are known not to stay.
    """

    def __init__(
        self,
        dataset: Dataset,
        classes: Sequence[str],
        first: int,
        backbone: Backbone,
        recipe: BankRecipe,
        run: RunConfig,
        limit: float | None = None,
    ):
        self.dataset, self.classes, self.first, self.backbone = dataset, classes, first, backbone
        self.patch, self.recipe, self.run = backbone.patch_size, recipe, run
        self.unusable: dict[int, str] = {}
        self.labelled: set[int] = set()
        self.pixels = np.zeros(len(classes), np.int64)
        self._places = np.array([*map(list(classes).index, dataset.classes), VOID], np.int16)
        self._reservoir = BalancedReservoir(recipe.bank.size, recipe.bank.sampling, limit)
        self._pieces = Pieces(dataset, recipe, self.patch)

    @property
    def skipped(self) -> list[str]:
        """What was skipped, and why."""
        return [*self.dataset.problems, *self.unusable.values(), *map(no_label, self.unlabelled)]

    @property
    def unlabelled(self) -> list[str]:
        """Ids of the images that can be used, but hold nothing but void."""
        without = set(range(len(self.dataset))) - self.labelled - self.unusable.keys()
        return [self.dataset.items[number].id for number in sorted(without)]

    @property
    def used(self) -> list[str]:
        """Ids of the images that rows could come from."""
        return [self.dataset.items[number].id for number in sorted(self.labelled)]

    def draft(self, out: Path, base: str | None = None) -> Draft:
        """Where the rows are kept until they are a bank; `base` is the seal of the bank that they are added to."""
        backbone, recipe = self.backbone, self.recipe
        parts = [asdict(part) for part in (recipe.features, recipe.input, recipe.bank)]
        purpose = {
            "items": [[item.id, *map(stamp_of, (item.image, item.mask))] for item in self.dataset.items],
            "first": self.first,
            "limit": self._reservoir.limit(),
            "classes": self.classes,
            "data": self.dataset.reading,
            "backbone": [backbone.fingerprint, str(backbone.dtype), str(backbone.device), backbone.mean, backbone.std],
            "settings": [*parts, recipe.seed, self.run.load.batch_size],
            "base": base,
            "code": feature_code(),
            "pixels": "counted",
        }
        sources = self.first + len(self.dataset)
        draft = Draft(out, purpose, self._reservoir, recipe.bank.key_dtype, len(self.classes), sources)
        if draft.progress.unusable and not self.run.skip_bad:
            raise DataError(
                f"the run that is to go on skipped {len(draft.progress.unusable)} images:\n"
                f"{listing(draft.progress.unusable.values())}\n"
                f"(--skip-bad skips such images; remove {draft.folder} to begin anew)"
            )
        return draft

    def support(self) -> np.ndarray:
        """Plain embeddings that features are contrasted with, `[S, D]` float16."""
        plain = PatchFeatures(self.backbone, FeatureConfig(kind="plain"))
        reservoir, parts = BalancedReservoir(self.recipe.features.support_size), []
        for _, batch in self._batches(plain, reservoir, 0, "support set"):
            for rows, priorities in batch:
                reservoir.add(priorities)
                parts.append((rows.keys, priorities))
        limit = reservoir.limit()
        self._check_found(parts)
        return np.concatenate([keys[priorities <= limit] for keys, priorities in parts])

    def fill(self, extractor: PatchFeatures, draft: Draft) -> None:
        """All epochs into `draft`, from where it stopped."""
        self.unusable |= draft.progress.unusable
        self.labelled |= set(draft.progress.labelled)
        self.pixels = np.array(draft.progress.pixels or [0] * len(self.classes), np.int64)
        for passes, batch in self._batches(extractor, self._reservoir, draft.progress.passes, "memory bank"):
            for rows, priorities in batch:
                draft.add(rows, priorities)
            draft.reached(passes, self.pixels, self.unusable, self.labelled)

    def segments(self, draft: Draft, writer: BankWriter, first: int, candidates: bool = False) -> tuple[Segment, ...]:
        """The rows of `draft` that stay, in the bank's files; the images used are numbered from `first` on.

        As `candidates` they keep their priorities, and each epoch has segments of its own; there may be none.
        """
        numbers = np.full(self.first + len(self.dataset), -1, np.int32)
        numbers[self.first + np.array(sorted(self.labelled), np.int64)] = first + np.arange(len(self.labelled))
        shards = Shards(writer)
        for keys, table, priorities in draft.kept():
            table = replace(table, source=numbers[table.source])
            if not candidates:
                shards.add(keys, table)
                continue
            for epoch in np.unique(table.epoch):
                rows = np.flatnonzero(table.epoch == epoch)
                shards.add(keys[rows], table.take(rows), priorities[rows])
        segments = shards.finish()
        if not candidates:
            self._check_found(segments)
        return segments

    def _check_found(self, found: Sequence[Any]) -> None:
        if not found:
            raise DataError(
                f"no labelled patch in {len(self.dataset)} images"
                + (f"; skipped:\n{listing(self.unusable.values())}" if self.unusable else ": every pixel is void")
                + "\nCheck data.void, data.values and the masks"
            )

    def _batches(
        self, extractor: PatchFeatures, reservoir: BalancedReservoir, done: int, what: str
    ) -> Iterator[tuple[int, list[tuple[Rows, np.ndarray]]]]:
        """Batch by batch, images done so far, and the rows of each that can still be kept with their priorities."""
        passes = list(enumerate(self._passes()))[done:]
        prepare = partial(self._prepare, extractor)
        unit = "images" if all(one.piece is None for _, one in passes) else "pieces"
        read = prefetch(prepare, passes, self.run.load.workers)
        prepared = track(read, len(passes), what, unit, show=self.run.progress)
        for batch in self._together(self._good(prepared)):
            names = [self.dataset.items[annotated.place.index].id for annotated in batch]
            found = extractor.of([annotated.fitted for annotated in batch], names)
            results = []
            for annotated, image_features in zip(batch, found, strict=True):
                if annotated.histograms.any():
                    self.labelled.add(annotated.place.index)
                generator = self._generator(annotated.place, SAMPLING)
                chosen, priorities = reservoir.choose(annotated.histograms, generator)
                keys = image_features[torch.from_numpy(chosen).to(found.device)]
                self.pixels = self.pixels + annotated.histograms.sum(0)
                results.append((self._as_rows(annotated, chosen, keys), priorities))
            yield batch[-1].number + 1, results

    def _together(self, images: Iterable[Annotated]) -> Iterator[list[Annotated]]:
        size = self.run.load.batch_size
        for _, some in groupby(images, lambda one: (one.place.epoch, one.place.index // size)):
            yield from same_size_batches(some, size, lambda one: one.fitted)

    def _passes(self) -> Iterator[Pass]:
        pieces = [self._pieces.of(index) for index in range(len(self.dataset))]
        for epoch in range(self.recipe.bank.epochs):
            for index, found in enumerate(pieces):
                yield from (Pass(epoch, index, piece) for piece in found or (None,))

    def _prepare(self, extractor: PatchFeatures, numbered: tuple[int, Pass]) -> Annotated | tuple[int, DataError]:
        number, place = numbered
        index = place.index
        try:
            if place.piece:
                fitted, mask, window = self._pieces.read(index, place.piece)
                return Annotated(number, place, fitted, self._histograms(self._own(mask)), window)
            sample = self.dataset[index]
            image, mask = sample.image, sample.mask
            mask = self._own(mask)
            window = (0, 0, *mask.shape)
            if self.recipe.bank.augment:
                generator = self._generator(place, AUGMENTATION)
                top, left, height, width = window = crop_window(mask.shape[0], mask.shape[1], generator)
                image = jitter(image[top : top + height, left : left + width], generator)
                mask = mask[top : top + height, left : left + width]
            fitted = extractor.fit_image(image, self.recipe.input.at(sample.pixel_size))
            histograms = self._histograms(fit_mask(mask, fitted.input, self.patch))
            return Annotated(number, place, fitted, histograms, window)
        except DataError as error:
            return index, about(self.dataset.items[index], error)

    def _own(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the data set's class indices as one of the bank's."""
        own: np.ndarray = self._places[mask]
        return np.where(own == VOID, 0, own).astype(own.dtype) if self.recipe.bank.void == "background" else own

    def _histograms(self, mask: np.ndarray) -> np.ndarray:
        return patch_histograms(mask, self.patch, len(self.classes))

    def _good(self, prepared: Iterable[Annotated | tuple[int, DataError]]) -> Iterator[Annotated]:
        for result in prepared:
            if isinstance(result, Annotated):
                yield result
            elif self.run.skip_bad:
                self.unusable[result[0]] = str(result[1])
            else:
                raise DataError(f"{result[1]}\n(--skip-bad skips such images)") from result[1]

    def _as_rows(self, annotated: Annotated, chosen: np.ndarray, keys: torch.Tensor) -> Rows:
        return Rows(
            keys.to("cpu", torch.float16).numpy(),
            SparseLabels.from_histograms(annotated.histograms[chosen]),
            np.full(len(chosen), self.first + annotated.place.index, np.int32),
            np.full(len(chosen), annotated.place.epoch, np.int16),
            patch_boxes(chosen, annotated.fitted, self.patch, annotated.window),
        )

    def _generator(self, place: Pass, stream: int) -> np.random.Generator:
        piece = place.piece.number if place.piece else 0
        return random_generator(self.recipe.seed, place.epoch, self.first + place.index, stream, piece)
