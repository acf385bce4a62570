"""Build a memory bank from annotated images in one streaming pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fungi_seg.bank import shares
from fungi_seg.bank.bank import MemoryBank
from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.draft import Draft
from fungi_seg.bank.edits import after, pixels_left, segments_without
from fungi_seg.bank.going_back import committed
from fungi_seg.bank.manifest import BankInfo, Manifest, Segment, history_entry
from fungi_seg.bank.mirror import local
from fungi_seg.bank.room import check_fit
from fungi_seg.bank.settings import BankConfig, BankRecipe
from fungi_seg.bank.stored_index import indexed, refitted, with_codes
from fungi_seg.bank.stream import AnnotatedStream
from fungi_seg.bank.writer import BankWriter, changing, check_target
from fungi_seg.datasets import Dataset, as_colour, check_void, colours_beside
from fungi_seg.errors import BankError, DataError, FungiSegError, listing
from fungi_seg.features import Backbone, PatchFeatures
from fungi_seg.images import RunConfig
from fungi_seg.provenance import software
from fungi_seg.search import INDEXED_FROM, RECALL

LATE = ".\nAn earlier run that was stopped after its end may have added them: see fungi-seg bank history"


def build_bank(
    dataset: Dataset,
    backbone: Backbone,
    out: str | Path,
    recipe: BankRecipe | None = None,
    run: RunConfig | None = None,
    overwrite: bool = False,
    record: dict[str, Any] | None = None,
    features: PatchFeatures | None = None,
) -> MemoryBank:
    """Build the memory bank of `dataset` and write it to `out`.

    The same recipe gives the same rows, whatever `run` says. A build that was stopped goes on where it was when it is
    called again with the same arguments. A bank of 300 000 rows or more carries an index (`MemoryBank.make_index`).

    Args:
        dataset: annotated images.
        backbone: a frozen ViT.
        out: folder of the bank, or an address such as `s3://bucket/banks/nuclei`.
        recipe: what a patch feature is, how images enter, which patches are kept, and the seed.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped.
        overwrite: replace a bank that is at `out`; it stays whole until the new one is complete.
        record: further entries for the bank's record.
        features: those of `backbone` and `recipe`, if they are at hand.

    Raises:
        DataError: an image or mask can't be used, no patch is labelled, or void seems to be a class (`void_doubt`).
        BankError: `out` is taken, can't be written, or has no room for the bank; or memory doesn't suffice.
    """
    out = local(out)
    recipe, run, record = recipe or BankRecipe(), run or RunConfig(), record or {}
    if features and (features.backbone is not backbone or features.config.deciding != recipe.features.deciding):
        raise FungiSegError(
            f"features are {features.config} of {features.backbone.config.name}, the recipe's {recipe.features} of "
            f"{backbone.config.name}; give those of the recipe, or none"
        )
    check_target(out, overwrite)
    dataset, recipe = prepared(dataset, recipe, run)
    check_fit(dataset, backbone, out, recipe, run.load)
    stream = AnnotatedStream(dataset, dataset.classes, 0, backbone, recipe, run)
    with changing(out) as writer:
        check_target(out, overwrite)  # once more: another process may have been faster
        with stream.draft(out) as draft:
            support = draft.support(stream.support) if recipe.features.needs_support else None
            extractor = features or features_of(stream, support)
            stream.fill(extractor, draft)
            segments = stream.segments(draft, writer, 0)
            manifest = described(extractor, stream, draft, record, segments)
            entry = None if support is None else writer.arrays("support", {"keys": support})
            writer.commit(ready_for_search(out, replace(manifest, support=entry), writer))
    return MemoryBank.open(out)


def prepared(dataset: Dataset, recipe: BankRecipe, run: RunConfig) -> tuple[Dataset, BankRecipe]:
    """Data set and recipe, checked, with all of how images enter settled."""
    if recipe.bank.void == "background" and dataset.classes[0] != "background":
        raise FungiSegError(
            f"bank.void is 'background', but class 0 of this data set is {dataset.classes[0]!r}; use bank.void ignore"
        )
    check_void(dataset, run.load.workers)
    dataset = dataset.entering(recipe.input, run.skip_bad)
    return dataset, replace(recipe, input=dataset.input)


def features_of(stream: AnnotatedStream, support: np.ndarray | None) -> PatchFeatures:
    """The features of a recipe, `[S, D]` plain embeddings being what they are contrasted with, if anything."""
    tensor = None if support is None else torch.from_numpy(support)
    return PatchFeatures(stream.backbone, stream.recipe.features, tensor, stream.dataset.channels)


def described(
    extractor: PatchFeatures,
    stream: AnnotatedStream,
    draft: Draft,
    record: dict[str, Any],
    segments: tuple[Segment, ...],
) -> Manifest:
    """The manifest of a bank that was just filled, as yet without support set and index."""
    info = _describe(extractor, stream, draft, record)
    kept = sum(segment.rows for segment in segments)
    built = history_entry("build", kept, images=info.build["images"], **_settings(stream, record))
    pixels = tuple(stream.pixels.tolist())
    return Manifest(info, stream.recipe.bank.key_dtype, segments, None, None, (built,), pixels)


def ready_for_search(path: Path, manifest: Manifest, writer: BankWriter) -> Manifest:
    """A new bank with an index, if it is so large that making one at each opening would take long."""
    if len(manifest) < INDEXED_FROM:
        return manifest
    return indexed(BankContents(path, manifest), writer, RECALL, None)


def append_images(
    bank: MemoryBank,
    dataset: Dataset,
    backbone: Backbone | None = None,
    rows: int | None = None,
    run: RunConfig | None = None,
    record: dict[str, Any] | None = None,
) -> MemoryBank:
    """Add images to a bank. Their classes are matched by name; new ones come last.

    Stopped half-way, the same call goes on where it was.

    Args:
        bank: the bank as it was opened.
        dataset: annotated images whose ids the bank doesn't have.
        backbone: the bank's, if it is loaded already.
        rows: to add at most; by default as many an image as the bank has, or all if it has all.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped.
        record: further settings for the history.

    Returns:
        The bank, newly opened.

    Raises:
        BankError: the bank has images of these ids, or is being changed by another process.
        DataError: an image or mask can't be used.
    """
    return _with_images(bank, dataset, False, backbone, rows, run or RunConfig(), record or {})


def replace_images(
    bank: MemoryBank,
    dataset: Dataset,
    backbone: Backbone | None = None,
    rows: int | None = None,
    run: RunConfig | None = None,
    record: dict[str, Any] | None = None,
) -> MemoryBank:
    """Give images of a bank the annotation that they have in `dataset`; otherwise as `append_images`.

    Images that are skipped keep their rows.

    Raises:
        BankError: an image isn't in the bank.
        DataError: an image can't be used, or has no labelled patch, and such images aren't skipped.
    """
    return _with_images(bank, dataset, True, backbone, rows, run or RunConfig(), record or {})


def _with_images(
    bank: MemoryBank,
    dataset: Dataset,
    replacing: bool,
    backbone: Backbone | None,
    rows: int | None,
    run: RunConfig,
    record: dict[str, Any],
) -> MemoryBank:
    check_void(dataset, run.load.workers)
    with changing(bank.path) as writer:
        contents = bank.contents.current()
        info, manifest = contents.info, contents.manifest
        ids = [item.id for item in dataset.items]
        _check_ids(contents, ids, replacing)
        classes = (*info.classes, *(name for name in dataset.classes if name not in info.classes))
        colours = dict(zip(dataset.classes, dataset.palette.tolist(), strict=True))
        new = [colours[name] for name in classes[len(info.classes) :]]
        palette = (*info.palette, *colours_beside(new, info.palette))
        recipe = _as_built(contents, len(dataset), rows)
        if recipe.bank.void == "background" and classes[0] != "background":
            raise BankError(
                f"{bank.path}: the bank was built with bank.void background, but its class 0 is {classes[0]!r} by now; "
                f"build a bank of these images with bank.void ignore"
            )
        dataset = dataset.entering(recipe.input)
        features = MemoryBank(contents).patch_features(backbone=backbone)
        first = len(info.sources) - (len(ids) if replacing else 0)
        stream = AnnotatedStream(dataset, classes, first, features.backbone, recipe, run)
        with stream.draft(bank.path, manifest.seal) as draft:
            stream.fill(features, draft)
            segments, pixels = manifest.segments, manifest.class_pixels
            if replacing:
                _check_labelled(stream)
                info, segments = segments_without(contents, writer, set(stream.used))
                pixels = pixels_left(contents, set(stream.used))
            added = stream.segments(draft, writer, len(info.sources))
            info = replace(info, classes=classes, palette=palette, sources=(*info.sources, *stream.used))
            segments = (*segments, *with_codes(contents, added, writer))
            counts = {"images": len(stream.used), "added": sum(segment.rows for segment in added)}
            action = "replace" if replacing else "append"
            changed = after(contents, info, segments, action, **counts, **_settings(stream, record))
            changed = refitted(contents, writer, changed) if replacing else changed
            pixels = shares.added(
                shares.mapped(pixels, range(len(manifest.info.classes)), len(classes)), stream.pixels.tolist()
            )
            return MemoryBank(committed(contents, replace(changed, class_pixels=pixels), writer))


def _check_labelled(stream: AnnotatedStream) -> None:
    """Raise if an image would be replaced by nothing, unless such images are skipped; they keep their rows."""
    if stream.unlabelled and not stream.run.skip_bad:
        raise DataError(
            f"{len(stream.unlabelled)} images have no labelled patch to replace their rows by, every pixel is void:\n"
            f"{listing(stream.unlabelled)}\n"
            f"Take them out of the bank with fungi-seg bank remove (--skip-bad skips such images: they stay)"
        )


def _check_ids(bank: BankContents, ids: Sequence[str], replacing: bool) -> None:
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


def _as_built(bank: BankContents, images: int, rows: int | None) -> BankRecipe:
    """How the bank was built, for `images` more: as many rows an image as it has, where it doesn't hold all."""
    build = bank.info.build
    if rows is None and build.get("size") is not None and build.get("available_rows", 0) > build["size"]:
        rows = max(1, round(len(bank) / max(1, len(bank.info.sources)) * images))
    kept = {key: build[key] for key in ("epochs", "augment", "void", "sampling") if key in build}
    config = BankConfig(size=rows, key_dtype=bank.manifest.keys, **kept)
    return BankRecipe(bank.info.features, bank.info.input, config, int(build.get("seed", 0)))


def _settings(stream: AnnotatedStream, record: dict[str, Any]) -> dict[str, Any]:
    """What a change in the bank's history was made with."""
    recipe = stream.recipe
    return {
        "data": record.get("data"),
        "bank": asdict(recipe.bank),
        "seed": recipe.seed,
        "skipped": stream.skipped,
    }


def _describe(extractor: PatchFeatures, stream: AnnotatedStream, draft: Draft, record: dict[str, Any]) -> BankInfo:
    dataset, backbone = stream.dataset, extractor.backbone
    build = asdict(stream.recipe.bank) | {
        "seed": stream.recipe.seed,
        "mean": backbone.mean,
        "std": backbone.std,
        "dtype": str(backbone.dtype).removeprefix("torch."),
        "images": len(stream.used),
        "available_rows": draft.progress.available,
        "skipped": stream.skipped,
    }
    if extractor.channels is not None:
        build["channels"] = extractor.channels
    return BankInfo(
        classes=dataset.classes,
        palette=tuple(map(as_colour, dataset.palette.tolist())),
        sources=tuple(stream.used),
        backbone=backbone.config,
        fingerprint=backbone.fingerprint,
        features=extractor.config,
        input=stream.recipe.input,
        build=build | record,
        dim=extractor.dim,
        created=draft.progress.started,
        made_by=software(),
    )
