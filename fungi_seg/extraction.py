"""Features of labelled images on disk: written in shards, resumed where they stopped, read part by part."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from fungi_seg.backbones import Backbone, BackboneConfig, load_backbone
from fungi_seg.build import LoadConfig
from fungi_seg.config import from_dict
from fungi_seg.datasets import ImageData, ImageSet
from fungi_seg.errors import DataError, FungiSegError, check_choice, listing
from fungi_seg.files import replacing
from fungi_seg.image_features import ImageFeatureConfig, ImageFeatures, Prepared, check_finite
from fungi_seg.progress import prefetch, track

FORMAT, VERSION = "fungi_seg image features", 1
MANIFEST, SUPPORT = "features.json", "support.safetensors"
SPLITS = ("train", "val")
SHARD_IMAGES = 64


@dataclass(frozen=True)
class FeatureStore:
    """Features that `extract` wrote.

    Attributes:
        path: their folder.
        parts: `("embedding", …)`, what a feature is made of.
        classes: names; the index of a name is the label.
        fingerprint: SHA-256 of backbone, recipe and images.
        settings: all that the features depend on.
        ground_truth: of a retrieval benchmark, if the data are one.
        skipped: images that were passed over, and why.
    """

    path: Path
    parts: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str
    settings: dict[str, Any]
    ground_truth: dict[str, Any] | None
    skipped: tuple[str, ...]

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open the features at `path`.

        Raises:
            FungiSegError: there are none, they aren't complete, or a file of theirs is damaged.
        """
        path = Path(path).expanduser()
        manifest = _read_manifest(path)
        skipped = list(manifest["problems"])
        for split in SPLITS:
            for number, ids in enumerate(_shards(manifest["ids"][split])):
                header = _read_header(_shard(path, split, number), manifest["fingerprint"])
                if header is None:
                    raise FungiSegError(
                        f"{path}: the extraction isn't complete ({split}: {number * SHARD_IMAGES} of "
                        f"{len(manifest['ids'][split])} images are there); run fungi-seg extract with the same options "
                        f"again, and it goes on where it stopped"
                    )
                if {*header["ids"], *header["skipped"]} != set(ids):
                    raise FungiSegError(f"{_shard(path, split, number)}: holds other images than {MANIFEST} says")
                skipped += header["skipped"].values()
        return cls(
            path, tuple(manifest["parts"]), tuple(manifest["classes"]), manifest["fingerprint"], manifest["settings"],
            manifest["ground_truth"], tuple(skipped),
        )  # fmt: skip

    def features(self, split: str, parts: Sequence[str] | None = None) -> np.ndarray:
        """Rows of all images of a split, `[n, D]` float32: the parts named (all by default), each of length 1."""
        parts = self.parts if parts is None else parts
        for part in parts:
            check_choice("parts", part, self.parts)
        return np.concatenate([self._read(split, part).astype(np.float32) for part in parts], axis=1)

    def labels(self, split: str) -> np.ndarray:
        """Class indices `[n]` int64; −1 where the data have none."""
        return self._read(split, "labels")

    def ids(self, split: str) -> tuple[str, ...]:
        """The images' ids, in the order of the rows."""
        headers = (_read_header(file, self.fingerprint) for file in self._files(split))
        return tuple(i for header in headers if header for i in header["ids"])

    def image_features(self, backbone: Backbone | None = None, **where: Any) -> ImageFeatures:
        """What made these features, for new images.

        Args:
            backbone: loaded already, or none.
            where: `weights`, `device` and `dtype` of the backbone to load.

        Raises:
            FungiSegError: the backbone is another one, or the objectives were the user's own.
        """
        if backbone is None:
            recorded = from_dict(BackboneConfig, self.settings["backbone"], "backbone")
            backbone = load_backbone(**asdict(recorded) | where)
        config = from_dict(ImageFeatureConfig, self.settings["recipe"]["features"], "features")
        features = ImageFeatures(backbone, config, support=_read_support(self.path))
        _check_recipe(self.path, self.settings["recipe"], _recipe(features))
        return features

    def _files(self, split: str) -> list[Path]:
        check_choice("split", split, SPLITS)
        return sorted(self.path.glob(f"{split}-*.safetensors"))

    def _read(self, split: str, name: str) -> np.ndarray:
        arrays = []
        for file in self._files(split):
            with safe_open(file, "pt") as opened:
                arrays.append(opened.get_tensor(name))
        return torch.cat(arrays).numpy()


def extract(
    data: ImageData,
    features: ImageFeatures,
    out: str | Path,
    load: LoadConfig | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    progress: bool = False,
    record: dict[str, Any] | None = None,
) -> FeatureStore:
    """Write the features of all images of `data` to `out`; what is there already isn't computed again.

    Args:
        data: training and validation images.
        features: what to compute; a support set, if one is wanted, is taken from the training images.
        out: folder of the features.
        load: batch size and reading threads.
        overwrite: replace features of something else that are at `out`.
        skip_bad: pass over images that can't be used, and list them.
        progress: report on standard error.
        record: further entries for the settings.

    Raises:
        DataError: an image can't be used.
        FungiSegError: `out` holds features of another backbone, recipe or other images; features that aren't finite,
            with the image's name.
    """
    out, load = Path(out).expanduser(), load or LoadConfig()
    if skip_bad and data.ground_truth is not None:
        raise FungiSegError(
            "skip_bad is true, but the ground truth of a retrieval benchmark names images by their number, so that "
            "none may be left out; repair the images, and leave --skip-bad out"
        )
    manifest = _describe(data, features, record or {})
    if (out / MANIFEST).exists():
        there = _read_manifest(out)
        if overwrite and there["fingerprint"] != manifest["fingerprint"]:
            _remove(out)
        else:
            _check_recipe(out, there["settings"]["recipe"], manifest["settings"]["recipe"])
            _check_images(out, there, manifest)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FungiSegError(f"--out {out}: there is something else already; features need a new or empty folder")
    if not (out / MANIFEST).exists():
        with replacing(out / MANIFEST) as draft:
            draft.write_text(json.dumps(manifest, indent=1, ensure_ascii=False), encoding="utf-8")
    _provide_support(features, data.train, out, skip_bad, progress)
    for split, images in zip(SPLITS, (data.train, data.val), strict=True):
        _extract_split(images, split, features, out, manifest["fingerprint"], load, skip_bad, progress)
    return FeatureStore.open(out)


def _extract_split(
    images: ImageSet,
    split: str,
    features: ImageFeatures,
    out: Path,
    fingerprint: str,
    load: LoadConfig,
    skip_bad: bool,
    progress: bool,
) -> None:
    missing = [
        number
        for number, _ in enumerate(_shards(images.ids))
        if not _read_header(_shard(out, split, number), fingerprint)
    ]
    wanted = [range(len(images))[n * SHARD_IMAGES : (n + 1) * SHARD_IMAGES] for n in missing]

    def prepare(index: int) -> tuple[int, int, Prepared | DataError]:
        try:
            sample = images[index]
            return index, sample.label, features.prepare(sample.image)
        except DataError as error:
            return index, -1, error

    indices = [index for part in wanted for index in part]
    prepared = track(prefetch(prepare, indices, load.workers), len(indices), f"features, {split}", show=progress)
    for number, part in zip(missing, wanted, strict=True):
        rows: list[dict[str, Tensor]] = []
        header: dict[str, Any] = {"fingerprint": fingerprint, "ids": [], "skipped": {}}
        batch: list[tuple[int, Prepared]] = []
        labels = []
        for position, (index, label, views) in zip(range(len(part)), prepared, strict=False):
            if isinstance(views, DataError):
                if not skip_bad:
                    raise DataError(f"{views}\n(--skip-bad passes over such images)") from views
                header["skipped"][images.ids[index]] = str(views)
            else:
                batch.append((index, views))
                labels.append(label)
            if batch and (len(batch) == load.batch_size or position == len(part) - 1):
                names = [images.ids[i] for i, _ in batch]
                rows.append(_compute(features, [views for _, views in batch], names))
                header["ids"] += names
                batch = []
        _save_shard(_shard(out, split, number), rows, labels, header, features)


def _compute(features: ImageFeatures, prepared: list[Prepared], names: list[str]) -> dict[str, Tensor]:
    parts = features.from_views(prepared)
    check_finite(parts, names)
    return {part: values.to("cpu", torch.float16) for part, values in parts.items()}


def _save_shard(
    path: Path, rows: list[dict[str, Tensor]], labels: list[int], header: dict[str, Any], features: ImageFeatures
) -> None:
    empty = {part: torch.empty(0, features.widths[part], dtype=torch.float16) for part in features.parts}
    arrays = {part: torch.cat([empty[part], *(batch[part] for batch in rows)]) for part in features.parts}
    arrays["labels"] = torch.tensor(labels, dtype=torch.int64)
    _save(path, arrays, {"header": json.dumps(header, ensure_ascii=False)})


def _save(path: Path, arrays: dict[str, Tensor], metadata: dict[str, str]) -> None:
    with replacing(path) as draft:
        try:
            save_file(arrays, draft, metadata)
        except SafetensorError as error:  # how the library reports a failed write
            raise OSError(str(error)) from error


def _provide_support(features: ImageFeatures, train: ImageSet, out: Path, skip_bad: bool, progress: bool) -> None:
    """The support set that `out` holds, or that the features have, or a new one; `out` holds it afterwards."""
    if (out / SUPPORT).exists():
        features.use_support(_read_support(out))
        return
    if features.needs_support:
        features.fit(_Pictures(train), skip_bad, progress)
    if features.support:
        _save(out / SUPPORT, features.support, {})


@dataclass(frozen=True)
class _Pictures(Sequence[np.ndarray]):
    """The images of a set without their labels."""

    images: ImageSet

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> np.ndarray:  # type: ignore[override]
        return self.images[index].image


def _describe(data: ImageData, features: ImageFeatures, record: dict[str, Any]) -> dict[str, Any]:
    recipe, ids = _recipe(features), {"train": list(data.train.ids), "val": list(data.val.ids)}
    settings = record | {
        "seed": features.config.seed,
        "recipe": recipe,
        "backbone": asdict(features.backbone.config),
        "dtype": str(features.backbone.dtype).removeprefix("torch."),
        "software": {"python": platform.python_version()} | {n: version(n) for n in ("fungi-seg", "torch", "timm")},
    }
    return {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": _digest([recipe, ids, data.train.classes]),
        "parts": features.parts,
        "classes": data.train.classes,
        "settings": settings,
        "ids": ids,
        "ground_truth": data.ground_truth,
        "problems": [*data.train.problems, *data.val.problems],
    }


def _recipe(features: ImageFeatures) -> dict[str, Any]:
    """What the features of an image depend on besides the image."""
    return {
        "backbone": features.backbone.fingerprint,
        "features": json.loads(json.dumps(asdict(features.config))),
        "objectives": [f"{type(o).__module__}.{type(o).__qualname__}" for o in features.objectives],
    }


def _check_recipe(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    if there == here:
        return
    if there["backbone"] != here["backbone"]:
        found = f"backbone: its fingerprint is {there['backbone'][:12]}…, that of this one {here['backbone'][:12]}…"
    else:
        flat = [{**r["features"], "objectives of": r["objectives"]} for r in (there, here)]
        changed = ", ".join(f"{k} {flat[0].get(k)} (here {v})" for k, v in flat[1].items() if flat[0].get(k) != v)
        found = f"recipe, fingerprint {_digest(there)[:12]}… (here {_digest(here)[:12]}…): {changed}"
    raise FungiSegError(
        f"{path}: the features there come from another {found}. Name another folder, or replace them with --overwrite"
    )


def _check_images(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    for split in SPLITS:
        old, new = there["ids"][split], here["ids"][split]
        if old != new or there["classes"] != list(here["classes"]):
            apart = sorted(set(old) ^ set(new))
            raise FungiSegError(
                f"{path}: the features there are of other images ({split}: {len(old)}, here {len(new)}; "
                f"classes: {len(there['classes'])}, here {len(here['classes'])})"
                + (f":\n{listing(apart, 5)}\n" if apart else ". ")
                + "Name another folder, or replace them with --overwrite"
            )


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _shards(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), SHARD_IMAGES):
        yield ids[start : start + SHARD_IMAGES]


def _shard(path: Path, split: str, number: int) -> Path:
    return path / f"{split}-{number:05d}.safetensors"


def _read_header(path: Path, fingerprint: str) -> dict[str, Any] | None:
    """Ids and skipped images of a shard; nothing if it isn't there.

    Raises:
        FungiSegError: it is damaged, or of something else.
    """
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as opened:
            header = json.loads(opened.metadata()["header"])
    except (OSError, SafetensorError, TypeError, KeyError, ValueError) as error:
        raise FungiSegError(f"{path}: can't be read ({error}); delete it, and extract again") from error
    if header["fingerprint"] != fingerprint:
        raise FungiSegError(
            f"{path}: the fingerprint of the shard is {header['fingerprint'][:12]}…, of {MANIFEST} "
            f"{fingerprint[:12]}…; it comes from another backbone, recipe or data set; delete it, and extract again"
        )
    return header


def _read_support(path: Path) -> dict[str, Tensor]:
    if not (path / SUPPORT).exists():
        return {}
    try:
        return load_file(path / SUPPORT)
    except (OSError, SafetensorError) as error:
        raise FungiSegError(f"{path / SUPPORT}: can't be read ({error}); delete it, and extract again") from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FungiSegError(f"{path}: no features there (no {MANIFEST}); make them with fungi-seg extract") from error
    except (OSError, ValueError) as error:
        raise FungiSegError(f"{path / MANIFEST}: can't be read ({error}); extract again") from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise FungiSegError(f"{path / MANIFEST}: not the manifest of image features of this release; extract again")
    return manifest


def _remove(out: Path) -> None:
    for file in [out / MANIFEST, out / SUPPORT, *(f for split in SPLITS for f in out.glob(f"{split}-*.safetensors"))]:
        file.unlink(missing_ok=True)
