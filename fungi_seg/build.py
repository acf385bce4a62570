"""Build a memory bank from annotated images in one streaming pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fungi_seg import augment, bank_index
from fungi_seg.backbones import Backbone
from fungi_seg.bank import MemoryBank
from fungi_seg.bank_edits import segments_without
from fungi_seg.bank_writer import BankWriter, Shards, changing, check_target
from fungi_seg.datasets import Dataset
from fungi_seg.datasets.common import about
from fungi_seg.draft import Draft, stamp
from fungi_seg.errors import BankError, DataError, FungiSegError, check_choice, listing
from fungi_seg.features import FeatureConfig, PatchFeatures
from fungi_seg.images import VOID, Fitted, InputConfig, fit_image, fit_mask
from fungi_seg.index import INDEXED_FROM
from fungi_seg.keys import KINDS
from fungi_seg.labels import SparseLabels, patch_histograms
from fungi_seg.manifest import BankInfo, Manifest, Segment, deed, software
from fungi_seg.planning import check_fit
from fungi_seg.progress import prefetch, track
from fungi_seg.rows import Rows
from fungi_seg.sampling import AUGMENTATION, SAMPLING, SAMPLINGS, BalancedReservoir, random_stream

T = TypeVar("T")
MOST_EPOCHS = 32_767  # rows store their epoch in 16 bits
INDEX_RECALL = 0.98
LATE = ".\nAn earlier run that was stopped after its end may have added them: fungi-seg inspect shows the history"


@dataclass(frozen=True)
class BankConfig:
    """Which patches a bank holds.

    Args:
        size: rows at most; `null` keeps every labelled patch.
        epochs: passes over the images; more than one needs `augment`.
        augment: take randomly jittered and cropped copies of the images, new ones in each epoch, in place of the
            images themselves.
        void: void pixels `ignore` (left out of the labels; patches without any label are left out of the bank), or
            `background` (counted as class 0, as published evaluation code does).
        sampling: which patches of an image come first: `balanced` (rare classes, as Hummingbird does) or `uniform`.
        keys: how features are stored: `float16`, `int8` (half the disk) or `int4` (a quarter).
    """

    size: int | None = 102_400
    epochs: int = 1
    augment: bool = False
    void: str = "ignore"
    sampling: str = "balanced"
    keys: str = "float16"

    def __post_init__(self) -> None:
        check_choice("bank.void", self.void, ("ignore", "background"))
        check_choice("bank.sampling", self.sampling, SAMPLINGS)
        check_choice("bank.keys", self.keys, KINDS)
        if self.size is not None and self.size < 1:
            raise FungiSegError(f"bank.size is {self.size}; it must be at least 1, or null for every patch")
        if not 1 <= self.epochs <= MOST_EPOCHS:
            raise FungiSegError(f"bank.epochs is {self.epochs}; it must be between 1 and {MOST_EPOCHS}")
        if self.epochs > 1 and not self.augment:
            raise FungiSegError(
                f"bank.epochs is {self.epochs} without augmentation, which would store the same patches again; "
                f"set bank.augment to true, or bank.epochs to 1"
            )


@dataclass(frozen=True)
class LoadConfig:
    """How images are worked through; changes the speed, never the result.

    Args:
        batch_size: images of one size that go through the backbone together.
        workers: threads that read images ahead.
    """

    batch_size: int = 4
    workers: int = 2

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise FungiSegError(
                f"load.batch_size is {self.batch_size}, load.workers {self.workers}; they must be at least 1 and 0"
            )


@dataclass(frozen=True)
class Annotated:
    """One image made ready for the bank."""

    index: int
    epoch: int
    fitted: Fitted
    histograms: np.ndarray
    window: tuple[int, int, int, int]


def build_bank(
    dataset: Dataset,
    backbone: Backbone,
    out: str | Path,
    features: FeatureConfig | None = None,
    input: InputConfig | None = None,
    bank: BankConfig | None = None,
    seed: int = 0,
    load: LoadConfig | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: bool = False,
    record: dict[str, Any] | None = None,
) -> MemoryBank:
    """Build the memory bank of `dataset` and write it to `out`.

    The same seed gives the same rows, whatever `load` says. A build that was stopped goes on where it was when it is
    called again with the same arguments. A bank of 300 000 rows or more carries an index (`MemoryBank.make_index`).

    Args:
        dataset: annotated images.
        backbone: a frozen ViT.
        out: folder of the bank.
        features, input, bank: what a patch feature is, how images enter, which patches are kept.
        seed: of sampling and augmentation.
        load: batch size and reading threads.
        overwrite: replace a bank that is at `out`; it stays whole until the new one is complete.
        skip_bad: pass over images or masks that can't be used, and list them in the bank's record.
        progress: report on standard error.
        record: further entries for the bank's record.

    Raises:
        DataError: an image or mask can't be used, or no patch is labelled.
        BankError: `out` is taken, can't be written, or has no room for the bank; or memory doesn't suffice.
    """
    out = Path(out).expanduser()
    features, input = features or FeatureConfig(), input or InputConfig()
    bank, load, record = bank or BankConfig(), load or LoadConfig(), record or {}
    if seed < 0:
        raise FungiSegError(f"seed is {seed}; it must be 0 or more")
    if bank.void == "background" and dataset.classes[0] != "background":
        raise FungiSegError(
            f"bank.void is 'background', but class 0 of this data set is {dataset.classes[0]!r}; use bank.void ignore"
        )
    check_target(out, overwrite)
    check_fit(dataset, backbone, out, features, input, bank, load)
    stream = _Stream(dataset, dataset.classes, 0, backbone, input, bank, seed, load, skip_bad, progress)
    with changing(out) as writer:
        check_target(out, overwrite)  # once more: another process may have been faster
        with stream.draft(out, features, None) as draft:
            support = None
            if features.needs_support:
                support = draft.support(lambda: stream.support(features))
            extractor = PatchFeatures(backbone, features, None if support is None else torch.from_numpy(support))
            segments = stream.segments(extractor, draft, writer)
            kept = sum(segment.rows for segment in segments)
            info = _describe(extractor, stream, draft, record)
            entry = None if support is None else writer.arrays("support", {"keys": support})
            built = deed("build", kept, images=info.build["images"], **_settings(stream, record))
            manifest = Manifest(info, bank.keys, segments, entry, None, (built,))
            writer.commit(manifest if kept < INDEXED_FROM else _indexed(out, manifest, writer))
    return MemoryBank.open(out)


def _indexed(path: Path, manifest: Manifest, writer: BankWriter) -> Manifest:
    """What is about to become the bank at `path`, with an index."""
    entry, segments, reached = bank_index.make_index(MemoryBank(path, manifest), writer, INDEX_RECALL, None)
    indexed = deed("index", len(manifest), wanted=INDEX_RECALL, reached=round(reached, 4))
    return replace(manifest, index=entry, segments=segments, history=(*manifest.history, indexed))


def append_images(
    bank: MemoryBank,
    dataset: Dataset,
    backbone: Backbone | None = None,
    rows: int | None = None,
    load: LoadConfig | None = None,
    replacing: bool = False,
    skip_bad: bool = False,
    progress: bool = False,
    record: dict[str, Any] | None = None,
) -> MemoryBank:
    """See `MemoryBank.append` and `MemoryBank.replace`."""
    load, record = load or LoadConfig(), record or {}
    with changing(bank.path) as writer:
        bank = MemoryBank.open(bank.path)
        info, manifest = bank.info, bank.manifest
        ids = [item.id for item in dataset.items]
        _check_ids(bank, ids, replacing)
        classes = (*info.classes, *(name for name in dataset.classes if name not in info.classes))
        colours = dict(zip(dataset.classes, dataset.palette.tolist(), strict=True))
        palette = (*info.palette, *(colour(colours[name]) for name in classes[len(info.classes) :]))
        config = _as_built(bank, len(dataset), rows)
        if config.void == "background" and classes[0] != "background":
            raise BankError(
                f"{bank.path}: the bank was built with bank.void background, but its class 0 is {classes[0]!r} by now; "
                f"build a bank of these images with bank.void ignore"
            )
        segments = manifest.segments
        if replacing:
            info, segments = segments_without(bank, writer, set(ids))
        features = bank.patch_features(backbone=backbone)
        stream = _Stream(dataset, classes, len(info.sources), features.backbone, info.input, config,
                         int(info.build.get("seed", 0)), load, skip_bad, progress)  # fmt: skip
        with stream.draft(bank.path, features.config, manifest.seal) as draft:
            added = stream.segments(features, draft, writer)
            info = replace(info, classes=classes, palette=palette, sources=(*info.sources, *ids))
            segments = (*segments, *bank.coded(added, writer))
            counts = {"images": len(ids) - len(stream.bad), "added": sum(segment.rows for segment in added)}
            action = "replace" if replacing else "append"
            return bank.commit(writer, info, segments, action, **counts, **_settings(stream, record))


def _check_ids(bank: MemoryBank, ids: Sequence[str], replacing: bool) -> None:
    known = set(bank.info.sources)
    if replacing:
        missing = [i for i in ids if i not in known]
        if missing:
            raise BankError(f"{bank.path}: no such image in the bank; append it:\n{listing(missing)}")
    else:
        there = [i for i in ids if i in known]
        if there:
            raise BankError(
                f"{bank.path}: {len(there)} of {len(ids)} images have the id of an image in the bank:\n"
                f"{listing(there)}\n"
                f"Give them a new annotation with replace, or leave them out with data.file_list"
                + (LATE if len(there) == len(ids) else "")
            )


def _as_built(bank: MemoryBank, images: int, rows: int | None) -> BankConfig:
    """How the bank was built, for `images` more: as many rows an image as it has, where it doesn't hold all."""
    build = bank.info.build
    if rows is None and build.get("size") is not None and build.get("available_rows", 0) > build["size"]:
        rows = max(1, round(len(bank) / max(1, len(bank.info.sources)) * images))
    kept = {key: build[key] for key in ("epochs", "augment", "void", "sampling") if key in build}
    return BankConfig(size=rows, keys=bank.manifest.keys, **kept)


def _settings(stream: _Stream, record: dict[str, Any]) -> dict[str, Any]:
    """What a deed in the bank's history was done with."""
    return {"data": record.get("data"), "bank": asdict(stream.bank), "seed": stream.seed, "skipped": stream.skipped}


def colour(values: Sequence[int]) -> tuple[int, int, int]:
    """Red, green and blue as plain numbers."""
    red, green, blue = values
    return red, green, blue


def _describe(extractor: PatchFeatures, stream: _Stream, draft: Draft, record: dict[str, Any]) -> BankInfo:
    dataset, backbone = stream.dataset, extractor.backbone
    build = asdict(stream.bank) | {
        "seed": stream.seed,
        "mean": backbone.mean,
        "std": backbone.std,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "images": len(dataset) - len(stream.bad),
        "available_rows": draft.progress.available,
        "skipped": stream.skipped,
    }
    return BankInfo(
        classes=dataset.classes,
        palette=tuple(map(colour, dataset.palette.tolist())),
        sources=tuple(item.id for item in dataset.items),
        backbone=backbone.config,
        fingerprint=backbone.fingerprint,
        features=extractor.config,
        input=stream.input,
        build=build | record,
        dim=extractor.dim,
        created=draft.progress.started,
        made_by=software(),
    )


class _Stream:
    """Annotated images, prepared ahead and in order, as rows of features."""

    def __init__(
        self,
        dataset: Dataset,
        classes: Sequence[str],
        first: int,
        backbone: Backbone,
        input: InputConfig,
        bank: BankConfig,
        seed: int,
        load: LoadConfig,
        skip_bad: bool,
        progress: bool,
    ):
        self.dataset, self.classes, self.first, self.backbone = dataset, classes, first, backbone
        self.patch, self.input, self.bank, self.seed = backbone.patch_size, input, bank, seed
        self.load, self.skip_bad, self.progress = load, skip_bad, progress
        self.bad: dict[int, str] = {}
        self._places = np.array([*map(list(classes).index, dataset.classes), VOID], np.int16)
        self._reservoir = BalancedReservoir(bank.size, bank.sampling)

    @property
    def skipped(self) -> list[str]:
        """What was passed over, and why."""
        return [*self.dataset.problems, *self.bad.values()]

    def draft(self, out: Path, features: FeatureConfig, base: str | None) -> Draft:
        """Where the rows are kept until they are a bank; `base` is the seal of the bank that they are added to."""
        backbone = self.backbone
        purpose = {
            "items": [[item.id, *map(stamp, (item.image, item.mask))] for item in self.dataset.items],
            "classes": self.classes,
            "data": [self.dataset.void, self.dataset.first],
            "backbone": [backbone.fingerprint, str(backbone.dtype), str(backbone.device), backbone.mean, backbone.std],
            "settings": [asdict(features), asdict(self.input), asdict(self.bank), self.seed, self.load.batch_size],
            "base": base,
        }
        sources = self.first + len(self.dataset)
        draft = Draft(out, purpose, self._reservoir, self.bank.keys, len(self.classes), sources)
        if draft.progress.bad and not self.skip_bad:
            raise DataError(
                f"the run that is to go on passed over {len(draft.progress.bad)} images:\n"
                f"{listing(draft.progress.bad.values())}\n"
                f"(--skip-bad passes over such images; remove {draft.folder} to begin anew)"
            )
        return draft

    def support(self, features: FeatureConfig) -> np.ndarray:
        """Plain embeddings that features are contrasted with, `[S, D]` float16."""
        plain = PatchFeatures(self.backbone, FeatureConfig(kind="plain"))
        reservoir, parts = BalancedReservoir(features.support_size), []
        for batch in self._batches(plain, reservoir, 0, "support set"):
            for rows, priorities in batch:
                reservoir.add(priorities)
                parts.append((rows.keys, priorities))
        limit = reservoir.limit()
        self._check_found(parts)
        return np.concatenate([keys[priorities <= limit] for keys, priorities in parts])

    def segments(self, extractor: PatchFeatures, draft: Draft, writer: BankWriter) -> tuple[Segment, ...]:
        """All epochs into `draft`, from where it stopped; then the rows that stay into the bank's files."""
        self.bad |= draft.progress.bad
        for batch in self._batches(extractor, self._reservoir, draft.progress.passes, "memory bank"):
            for rows, priorities in batch:
                draft.add(rows, priorities)
            draft.reached(self._passes, self.bad)
        shards = Shards(writer)
        for keys, table in draft.kept():
            shards.add(keys, table)
        segments = shards.finish()
        self._check_found(segments)
        return segments

    def _check_found(self, found: Sequence[Any]) -> None:
        if not found:
            raise DataError(
                f"no labelled patch in {len(self.dataset)} images"
                + (f"; passed over:\n{listing(self.bad.values())}" if self.bad else ": every pixel is void")
                + "\nCheck data.void and the masks"
            )

    def _batches(
        self, extractor: PatchFeatures, reservoir: BalancedReservoir, done: int, what: str
    ) -> Iterator[list[tuple[Rows, np.ndarray]]]:
        """Batch by batch, the rows of each image that can still be kept, and their priorities."""
        passes = [(epoch, i) for epoch in range(self.bank.epochs) for i in range(len(self.dataset))][done:]
        prepared = track(prefetch(self._prepare, passes, self.load.workers), len(passes), what, show=self.progress)
        for batch in same_size_batches(self._good(prepared), self.load.batch_size, lambda a: a.fitted):
            try:
                found = extractor(torch.stack([annotated.fitted.image for annotated in batch]).float() / 255)
            except FungiSegError as error:
                names = ", ".join(self.dataset.items[annotated.index].id for annotated in batch)
                raise FungiSegError(f"{names}: {error}") from error
            results = []
            for annotated, image_features in zip(batch, found, strict=True):
                generator = self._generator(annotated.epoch, annotated.index, SAMPLING)
                chosen, priorities = reservoir.choose(annotated.histograms, generator)
                keys = image_features[torch.from_numpy(chosen).to(found.device)]
                results.append((self._as_rows(annotated, chosen, keys), priorities))
            self._passes = batch[-1].epoch * len(self.dataset) + batch[-1].index + 1
            yield results

    def _prepare(self, epoch_and_index: tuple[int, int]) -> Annotated | tuple[int, DataError]:
        epoch, index = epoch_and_index
        try:
            sample = self.dataset[index]
            image, mask = sample.image, sample.mask
            mask = self._places[mask]
            if self.bank.void == "background":
                mask = np.where(mask == VOID, 0, mask).astype(mask.dtype)
            window = (0, 0, *mask.shape)
            if self.bank.augment:
                generator = self._generator(epoch, index, AUGMENTATION)
                top, left, height, width = window = augment.crop_window(mask.shape[0], mask.shape[1], generator)
                image = augment.jitter(image[top : top + height, left : left + width], generator)
                mask = mask[top : top + height, left : left + width]
            fitted = fit_image(image, self.input, self.patch)
            histograms = patch_histograms(fit_mask(mask, self.input, self.patch), self.patch, len(self.classes))
            return Annotated(index, epoch, fitted, histograms, window)
        except DataError as error:
            return index, about(self.dataset.items[index], error)

    def _good(self, prepared: Iterable[Annotated | tuple[int, DataError]]) -> Iterator[Annotated]:
        for result in prepared:
            if isinstance(result, Annotated):
                yield result
            elif self.skip_bad:
                self.bad[result[0]] = str(result[1])
            else:
                raise DataError(f"{result[1]}\n(--skip-bad passes over such images)") from result[1]

    def _as_rows(self, annotated: Annotated, chosen: np.ndarray, keys: torch.Tensor) -> Rows:
        top, left, height, width = annotated.window
        scale_y, scale_x = height / annotated.fitted.content[0], width / annotated.fitted.content[1]
        across = annotated.fitted.image.shape[2] // self.patch[1]
        y, x = chosen // across * self.patch[0], chosen % across * self.patch[1]
        box = np.stack(
            [
                left + x * scale_x,
                top + y * scale_y,
                left + np.minimum((x + self.patch[1]) * scale_x, width),
                top + np.minimum((y + self.patch[0]) * scale_y, height),
            ],
            axis=1,
        )
        return Rows(
            keys.to("cpu", torch.float16).numpy(),
            SparseLabels.from_histograms(annotated.histograms[chosen]),
            np.full(len(chosen), self.first + annotated.index, np.int32),
            np.full(len(chosen), annotated.epoch, np.int16),
            box.astype(np.float32),
        )

    def _generator(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        return random_stream(self.seed, epoch, self.first + index, stream)


def same_size_batches(items: Iterable[T], size: int, fitted: Callable[[T], Fitted]) -> Iterator[list[T]]:
    """Runs of consecutive items whose images have one size, at most `size` long."""
    batch: list[T] = []
    for item in items:
        if batch and (len(batch) == size or fitted(item).image.shape != fitted(batch[0]).image.shape):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch
