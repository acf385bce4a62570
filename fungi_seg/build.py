"""Build a memory bank from annotated images in one streaming pass."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fungi_seg import augment
from fungi_seg.backbones import Backbone
from fungi_seg.bank import BankInfo, MemoryBank, writing
from fungi_seg.datasets import Dataset
from fungi_seg.datasets.common import about
from fungi_seg.errors import DataError, FungiSegError, check_choice, listing
from fungi_seg.features import FeatureConfig, PatchFeatures
from fungi_seg.images import VOID, Fitted, InputConfig, fit_image, fit_mask
from fungi_seg.labels import SparseLabels, patch_histograms
from fungi_seg.progress import prefetch, track
from fungi_seg.sampling import BalancedReservoir, Rows

T = TypeVar("T")
SAMPLING, AUGMENTATION = 0, 1  # streams of random numbers
MOST_EPOCHS = 32_767  # rows store their epoch in 16 bits


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
    """

    size: int | None = 102_400
    epochs: int = 1
    augment: bool = False
    void: str = "ignore"

    def __post_init__(self) -> None:
        check_choice("bank.void", self.void, ("ignore", "background"))
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

    source: int
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

    The same seed gives the same rows, whatever `load` says.

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
        BankError: `out` is taken, can't be written, or the disk is full.
    """
    out = Path(out).expanduser()
    features, input = features or FeatureConfig(), input or InputConfig()
    bank, load = bank or BankConfig(), load or LoadConfig()
    if seed < 0:
        raise FungiSegError(f"seed is {seed}; it must be 0 or more")
    if bank.void == "background" and dataset.classes[0] != "background":
        raise FungiSegError(
            f"bank.void is 'background', but class 0 of this data set is {dataset.classes[0]!r}; use bank.void ignore"
        )
    stream = _Stream(dataset, backbone.patch_size, input, bank, seed, load, skip_bad, progress)
    with writing(out, overwrite) as writer:
        support = None
        if features.needs_support:
            plain = PatchFeatures(backbone, FeatureConfig(kind="plain"))
            support = stream.rows(plain, BalancedReservoir(features.support_size), "support set").keys
        extractor = PatchFeatures(backbone, features, None if support is None else torch.from_numpy(support))
        reservoir = BalancedReservoir(bank.size)
        rows = stream.rows(extractor, reservoir, "memory bank")
        info = _describe(extractor, stream, reservoir.available, record or {})
        writer.commit(info, rows, support)
    return MemoryBank(out, info, rows, None if support is None else support.astype(np.float32))


def _describe(extractor: PatchFeatures, stream: _Stream, available: int, record: dict[str, Any]) -> BankInfo:
    dataset, backbone = stream.dataset, extractor.backbone
    build = asdict(stream.bank) | {
        "seed": stream.seed,
        "mean": backbone.mean,
        "std": backbone.std,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "images": len(dataset) - len(stream.bad),
        "available_rows": available,
        "skipped": [*dataset.problems, *stream.bad.values()],
    }
    return BankInfo(
        classes=dataset.classes,
        palette=tuple((int(r), int(g), int(b)) for r, g, b in dataset.palette),
        sources=tuple(item.id for item in dataset.items),
        backbone=backbone.config,
        fingerprint=backbone.fingerprint,
        features=extractor.config,
        input=stream.input,
        build=build | record,
        dim=extractor.dim,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        made_by={"python": platform.python_version()} | {n: version(n) for n in ("fungi-seg", "torch", "timm")},
    )


class _Stream:
    """Annotated images, prepared ahead and in order, as rows of features."""

    def __init__(
        self,
        dataset: Dataset,
        patch: tuple[int, int],
        input: InputConfig,
        bank: BankConfig,
        seed: int,
        load: LoadConfig,
        skip_bad: bool,
        progress: bool,
    ):
        self.dataset, self.patch, self.input, self.bank, self.seed = dataset, patch, input, bank, seed
        self.load, self.skip_bad, self.progress = load, skip_bad, progress
        self.bad: dict[int, str] = {}

    def rows(self, extractor: PatchFeatures, reservoir: BalancedReservoir, what: str) -> Rows:
        """One pass over all epochs into `reservoir`."""
        passes = [(epoch, i) for epoch in range(self.bank.epochs) for i in range(len(self.dataset))]
        prepared = track(prefetch(self._prepare, passes, self.load.workers), len(passes), what, show=self.progress)
        for batch in same_size_batches(self._good(prepared), self.load.batch_size, lambda a: a.fitted):
            try:
                found = extractor(torch.stack([annotated.fitted.image for annotated in batch]).float() / 255)
            except FungiSegError as error:
                names = ", ".join(self.dataset.items[annotated.source].id for annotated in batch)
                raise FungiSegError(f"{names}: {error}") from error
            for annotated, image_features in zip(batch, found, strict=True):
                generator = self._generator(annotated.epoch, annotated.source, SAMPLING)
                chosen, priorities = reservoir.choose(annotated.histograms, generator)
                keys = image_features[torch.from_numpy(chosen).to(found.device)]
                reservoir.add(self._as_rows(annotated, chosen, keys), priorities)
        rows = reservoir.finish()
        if rows is None:
            raise DataError(
                f"no labelled patch in {len(self.dataset)} images"
                + (f"; passed over:\n{listing(self.bad.values())}" if self.bad else ": every pixel is void")
                + "\nCheck data.void and the masks"
            )
        return rows

    def _prepare(self, epoch_and_index: tuple[int, int]) -> Annotated | tuple[int, DataError]:
        epoch, index = epoch_and_index
        try:
            sample = self.dataset[index]
            image, mask = sample.image, sample.mask
            if self.bank.void == "background":
                mask = np.where(mask == VOID, 0, mask).astype(mask.dtype)
            window = (0, 0, *mask.shape)
            if self.bank.augment:
                generator = self._generator(epoch, index, AUGMENTATION)
                top, left, height, width = window = augment.crop_window(mask.shape[0], mask.shape[1], generator)
                image = augment.jitter(image[top : top + height, left : left + width], generator)
                mask = mask[top : top + height, left : left + width]
            fitted = fit_image(image, self.input, self.patch)
            histograms = patch_histograms(fit_mask(mask, self.input, self.patch), self.patch, len(self.dataset.classes))
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
            np.full(len(chosen), annotated.source, np.int32),
            np.full(len(chosen), annotated.epoch, np.int16),
            box.astype(np.float32),
        )

    def _generator(self, epoch: int, index: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, epoch, index, stream])


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
