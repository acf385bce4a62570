"""Features of labelled images to disk, in shards; resumed where it stopped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fungi_seg.datasets import ImageData, ImageSet, LabelledImage
from fungi_seg.errors import DataError, FungiSegError, listing
from fungi_seg.features import Backbone, ImageFeatureConfig, ImageFeatures, Objective, Prepared, check_finite, checksum
from fungi_seg.files import digest, replacing, save_arrays
from fungi_seg.images import RunConfig
from fungi_seg.progress import prefetch, track
from fungi_seg.provenance import software
from fungi_seg.whole_images.store import (
    FORMAT,
    MANIFEST,
    SPLITS,
    SUPPORT,
    VERSION,
    FeatureStore,
    check_recipe,
    read_header,
    read_manifest,
    read_support,
    recipe_of,
    shard_file,
    shards,
)

SKIP_HINT = "(--skip-bad skips such images)"


def extract(
    data: ImageData,
    backbone: Backbone,
    out: str | Path,
    features: ImageFeatureConfig | None = None,
    objectives: Sequence[Objective] | None = None,
    run: RunConfig | None = None,
    overwrite: bool = False,
    record: dict[str, Any] | None = None,
) -> FeatureStore:
    """Write the features of all images of `data` to `out`; what is there already isn't computed again.

    A support set, where an objective needs one, is taken from the training images and kept in `out`.

    Args:
        data: training and validation images.
        backbone: the frozen ViT.
        out: folder of the features.
        features: what to compute.
        objectives: objectives of one's own, which take the place of those that `features` names.
        run: batch size, reading threads, progress, and whether images that can't be used are skipped and listed;
            otherwise images that were skipped before are tried again.
        overwrite: start anew, in place of the features that are at `out`.
        record: further entries for the settings.

    Raises:
        DataError: an image can't be used, or isn't the one it was when its features were made.
        FungiSegError: `out` holds features of another backbone, recipe or other images; features that aren't finite,
            with the image's name.
    """
    out, run = Path(out).expanduser(), run or RunConfig()
    if run.skip_bad and data.ground_truth is not None:
        raise FungiSegError(
            "skip_bad is true, but the ground truth of a retrieval benchmark names images by their number, so that "
            "none may be left out; repair the images, and leave --skip-bad out"
        )
    maker = ImageFeatures(backbone, features, objectives)
    manifest = _describe(data, maker, record or {})
    _make_room(out, manifest, overwrite)
    _provide_support(maker, data.train, out, run)
    for split, images in zip(SPLITS, (data.train, data.val), strict=True):
        _extract_split(images, split, maker, out, manifest["fingerprint"], run)
    return FeatureStore.open(out)


def _make_room(out: Path, manifest: dict[str, Any], overwrite: bool) -> None:
    """Raise if `out` holds something that can't be gone on with; afterwards it holds the manifest."""
    if (out / MANIFEST).exists():
        if overwrite:
            _remove(out)
        elif _files(out):
            there = read_manifest(out)
            check_recipe(out, there["settings"]["recipe"], manifest["settings"]["recipe"])
            _check_images(out, there, manifest)
            return
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FungiSegError(f"--out {out}: there is something else already; features need a new or empty folder")
    with replacing(out / MANIFEST) as draft:
        draft.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")


def _extract_split(
    images: ImageSet,
    split: str,
    features: ImageFeatures,
    out: Path,
    fingerprint: str,
    run: RunConfig,
) -> None:
    missing = _missing(images, split, out, fingerprint, run.skip_bad)

    def prepare(index: int) -> tuple[_Row, Prepared] | DataError:
        try:
            sample = images[index]
            return _Row(sample.id, sample.label, checksum(sample.image)), features.prepare(sample.image)
        except DataError as error:
            return error

    indices = [index for _, part in missing for index in part]
    prepared = track(
        prefetch(prepare, indices, run.load.workers), len(indices), f"features, {split}", show=run.progress
    )
    for number, part in missing:
        rows: list[_Row] = []
        skipped: dict[str, str] = {}
        batch: list[Prepared] = []
        found = [{name: torch.empty(0, width, dtype=torch.float16) for name, width in features.widths.items()}]
        for index, ready in zip(part, prepared, strict=False):
            if not isinstance(ready, DataError):
                rows.append(ready[0])
                batch.append(ready[1])
            elif run.skip_bad:
                skipped[images.ids[index]] = str(ready)
            else:
                raise DataError(f"{ready}\n{SKIP_HINT}") from ready
            if batch and (len(batch) == run.load.batch_size or index == part[-1]):
                found.append(_compute(features, batch, [row.id for row in rows[-len(batch) :]]))
                batch = []
        arrays = {name: torch.cat([part[name] for part in found]) for name in features.parts}
        _save_shard(shard_file(out, split, number), arrays, rows, skipped, fingerprint)


def _missing(images: ImageSet, split: str, out: Path, fingerprint: str, skip_bad: bool) -> list[tuple[int, range]]:
    """Numbers of the shards that are missing, or have images to be tried again, and their images."""
    missing = []
    for number, part in enumerate(shards(len(images))):
        header = read_header(shard_file(out, split, number), fingerprint)
        if header is None or (header["skipped"] and not skip_bad):
            missing.append((number, part))
        elif header["ids"]:
            _check_unchanged(images[images.ids.index(header["ids"][0], part.start)], header, out)
    return missing


def _check_unchanged(sample: LabelledImage, header: dict[str, Any], out: Path) -> None:
    """Look at the first image of a shard, so that other images of the same names aren't taken for done."""
    if checksum(sample.image) != header["checksums"][0]:
        raise DataError(
            f"{sample.id}: the image isn't the one whose features are in {out}; name another folder, or start anew "
            f"with --overwrite"
        )


@dataclass(frozen=True)
class _Row:
    """An image of a shard."""

    id: str
    label: int
    checksum: int


def _compute(features: ImageFeatures, batch: list[Prepared], names: list[str]) -> dict[str, Tensor]:
    parts = features.from_views(batch)
    check_finite(parts, names)
    return {part: values.to("cpu", torch.float16) for part, values in parts.items()}


def _save_shard(
    path: Path, arrays: dict[str, Tensor], rows: list[_Row], skipped: dict[str, str], fingerprint: str
) -> None:
    labels = torch.tensor([row.label for row in rows], dtype=torch.int64)
    header = {
        "fingerprint": fingerprint,
        "ids": [row.id for row in rows],
        "checksums": [row.checksum for row in rows],
        "skipped": skipped,
    }
    columns = {name: column.numpy() for name, column in (arrays | {"labels": labels}).items()}
    save_arrays(path, columns, {"header": json.dumps(header, ensure_ascii=False)})


def _provide_support(features: ImageFeatures, train: ImageSet, out: Path, run: RunConfig) -> None:
    """Take the support set that `out` holds, or a new one that it holds afterwards, where one is needed."""
    if not features.needs_support:
        return
    if (out / SUPPORT).exists():
        features.use_support(read_support(out))
        return
    try:
        features.fit(_Pictures(train), run.skip_bad, run.progress)
    except DataError as error:
        raise error if run.skip_bad else DataError(f"{error}\n{SKIP_HINT}") from error
    save_arrays(out / SUPPORT, {name: rows.numpy() for name, rows in features.support.items()})


@dataclass(frozen=True)
class _Pictures(Sequence[np.ndarray]):
    """The images of a set without their labels."""

    images: ImageSet

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self.images[index].image


def _describe(data: ImageData, features: ImageFeatures, record: dict[str, Any]) -> dict[str, Any]:
    recipe, ids = recipe_of(features), {"train": list(data.train.ids), "val": list(data.val.ids)}
    settings = record | {
        "seed": features.config.seed,
        "recipe": recipe,
        "backbone": asdict(features.backbone.config),
        "software": software(),
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": digest([recipe, ids, data.train.classes]),
        "parts": features.parts,
        "classes": data.train.classes,
        "settings": settings,
        "ids": ids,
        "ground_truth": data.ground_truth,
        "problems": [*data.train.problems, *data.val.problems],
    }


def _check_images(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    for split in SPLITS:
        old, new = there["ids"][split], here["ids"][split]
        if old != new or there["classes"] != list(here["classes"]):
            apart = sorted(set(old) ^ set(new))
            raise FungiSegError(
                f"{path}: the features there are of other images ({split}: {len(old)}, here {len(new)}; "
                f"classes: {len(there['classes'])}, here {len(here['classes'])})"
                + (f":\n{listing(apart, 5)}\n" if apart else ". ")
                + "Name another folder, or start anew with --overwrite"
            )


def _files(out: Path) -> list[Path]:
    """What is there besides the manifest: shards and support set."""
    return [file for name in (*(f"{split}-*.safetensors" for split in SPLITS), SUPPORT) for file in out.glob(name)]


def _remove(out: Path) -> None:
    """The manifest last, by which a folder is known to hold features."""
    for file in [*_files(out), out / MANIFEST]:
        file.unlink()
