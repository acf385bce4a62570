"""Build a memory bank from annotated images in one streaming pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from fungi_seg.bank import stored_index as bank_index
from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.draft import Draft
from fungi_seg.bank.edits import segments_without
from fungi_seg.bank.manifest import BankInfo, Manifest, deed, software
from fungi_seg.bank.room import check_fit
from fungi_seg.bank.settings import BankConfig
from fungi_seg.bank.stream import AnnotatedStream
from fungi_seg.bank.writer import BankWriter, changing, check_target
from fungi_seg.datasets import Dataset
from fungi_seg.errors import BankError, FungiSegError, listing
from fungi_seg.features.backbones import Backbone
from fungi_seg.features.patches import PatchFeatures
from fungi_seg.features.settings import FeatureConfig
from fungi_seg.images.settings import InputConfig, LoadConfig
from fungi_seg.search.index import INDEXED_FROM
from fungi_seg.search.settings import RECALL

LATE = ".\nAn earlier run that was stopped after its end may have added them: fungi-seg bank history tells"


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
    stream = AnnotatedStream(dataset, dataset.classes, 0, backbone, input, bank, seed, load, skip_bad, progress)
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
    entry, segments, reached = bank_index.make_index(MemoryBank(path, manifest), writer, RECALL, None)
    indexed = deed("index", len(manifest), wanted=RECALL, reached=round(reached, 4))
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
        stream = AnnotatedStream(dataset, classes, len(info.sources), features.backbone, info.input, config,
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


def _settings(stream: AnnotatedStream, record: dict[str, Any]) -> dict[str, Any]:
    """What a deed in the bank's history was done with."""
    return {"data": record.get("data"), "bank": asdict(stream.bank), "seed": stream.seed, "skipped": stream.skipped}


def colour(values: Sequence[int]) -> tuple[int, int, int]:
    """Red, green and blue as plain numbers."""
    red, green, blue = values
    return red, green, blue


def _describe(extractor: PatchFeatures, stream: AnnotatedStream, draft: Draft, record: dict[str, Any]) -> BankInfo:
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
