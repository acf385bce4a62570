"""Features of labelled images on disk, read part by part."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from fungi_seg.config import from_dict
from fungi_seg.errors import FungiSegError, check_choice
from fungi_seg.features import (
    Backbone,
    BackboneConfig,
    ImageFeatureConfig,
    ImageFeatures,
    Objective,
    describe,
    load_backbone,
)
from fungi_seg.files import digest
from fungi_seg.provenance import CODE, code_of, feature_code

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
        fingerprint: SHA-256 of backbone, recipe and the images' ids.
        settings: all that the features depend on.
        ground_truth: of a retrieval benchmark, if the data are one.
        skipped: images that were skipped, and why.
        image_ids: by split, in the order of the rows.
    """

    path: Path
    parts: tuple[str, ...]
    classes: tuple[str, ...]
    fingerprint: str
    settings: dict[str, Any]
    ground_truth: dict[str, Any] | None
    skipped: tuple[str, ...]
    image_ids: dict[str, tuple[str, ...]]

    @classmethod
    def open(cls, path: str | Path) -> FeatureStore:
        """Open the features at `path`.

        Raises:
            FungiSegError: there are none, they aren't complete, or a file of theirs is damaged.
        """
        path = Path(path).expanduser()
        manifest = read_manifest(path)
        skipped, found = list(manifest["problems"]), {}
        for split in SPLITS:
            headers = []
            ids = manifest["ids"][split]
            for number, part in enumerate(shards(len(ids))):
                header = read_header(shard_file(path, split, number), manifest["fingerprint"])
                if header is None:
                    raise FungiSegError(
                        f"{path}: the extraction isn't complete ({split}: {part.start} of {len(ids)} images are "
                        f"there); run fungi-seg extract with the same options "
                        f"again, and it goes on where it stopped"
                    )
                if {*header["ids"], *header["skipped"]} != set(ids[part.start : part.stop]):
                    raise FungiSegError(f"{shard_file(path, split, number)}: holds other images than {MANIFEST} says")
                headers.append(header)
            found[split] = tuple(i for header in headers for i in header["ids"])
            skipped += [line for header in headers for line in header["skipped"].values()]
        parts, classes = tuple(manifest["parts"]), tuple(manifest["classes"])
        fingerprint, settings, truth = (manifest[key] for key in ("fingerprint", "settings", "ground_truth"))
        return cls(path, parts, classes, fingerprint, settings, truth, tuple(skipped), found)

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
        check_choice("split", split, SPLITS)
        return self.image_ids[split]

    def image_features(
        self, backbone: Backbone | None = None, objectives: Sequence[Objective] | None = None, **where: Any
    ) -> ImageFeatures:
        """What made these features, for new images.

        Args:
            backbone: loaded already, or none.
            objectives: those of the user's own that were used, if any were.
            where: `weights`, `device` and `dtype` of the backbone to load.

        Raises:
            FungiSegError: the backbone or the objectives are others.
        """
        if backbone is None:
            recorded = from_dict(BackboneConfig, self.settings["backbone"], "backbone")
            backbone = load_backbone(**asdict(recorded) | where)
        config = from_dict(ImageFeatureConfig, self.settings["recipe"]["features"], "features")
        features = ImageFeatures(backbone, config, objectives)
        here, there = recipe_of(features), self.settings["recipe"]
        code = {**here["code"], CODE: code_of(there.get("code", {}))}  # other libraries give the same but rounding
        check_recipe(self.path, there | {"dtype": here["dtype"], "code": code}, here)
        features.use_support(read_support(self.path))
        return features

    def _read(self, split: str, name: str) -> np.ndarray:
        check_choice("split", split, SPLITS)
        arrays = []
        for file in sorted(self.path.glob(f"{split}-*.safetensors")):
            with safe_open(file, "pt") as opened:
                arrays.append(opened.get_tensor(name))
        return torch.cat(arrays).numpy()


def recipe_of(features: ImageFeatures) -> dict[str, Any]:
    """What the features of an image depend on besides the image."""
    return {
        "backbone": features.backbone.fingerprint,
        "features": json.loads(json.dumps(asdict(features.config))),
        "objectives": [describe(objective) for objective in features.objectives],
        "dtype": str(features.backbone.dtype).removeprefix("torch."),
        "code": feature_code(),
    }


def check_recipe(path: Path, there: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise, with both fingerprints and what differs, unless two `recipe_of` are the same."""
    if there == here:
        return
    if there["backbone"] != here["backbone"]:
        found = f"backbone: its fingerprint is {there['backbone'][:12]}…, that of this one {here['backbone'][:12]}…"
    else:
        old, new = (
            recipe["features"] | {"dtype": recipe["dtype"]} | _versions(recipe.get("code", {}))
            for recipe in (there, here)
        )
        changed = ", ".join(
            f"{key} {old.get(key)} (here {value})" for key, value in new.items() if old.get(key) != value
        )
        changed = changed or f"objectives {there['objectives']} (here {here['objectives']})"
        found = f"recipe, fingerprint {digest(there)[:12]}… (here {digest(here)[:12]}…): {changed}"
    raise FungiSegError(
        f"{path}: the features there come from another {found}. Name another folder, or start anew with --overwrite"
    )


def _versions(code: dict[str, str]) -> dict[str, str]:
    return {f"version of {name}": value for name, value in code.items()}


def shards(images: int) -> list[range]:
    """Which of so many images each shard holds."""
    return [range(images)[start : start + SHARD_IMAGES] for start in range(0, images, SHARD_IMAGES)]


def shard_file(path: Path, split: str, number: int) -> Path:
    """Where a shard lies."""
    return path / f"{split}-{number:05d}.safetensors"


def read_header(path: Path, fingerprint: str) -> dict[str, Any] | None:
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


def read_support(path: Path) -> dict[str, Tensor]:
    """The support set of the features at `path`, by objective; empty if there is none."""
    if not (path / SUPPORT).exists():
        return {}
    try:
        return load_file(path / SUPPORT)
    except (OSError, SafetensorError) as error:
        raise FungiSegError(f"{path / SUPPORT}: can't be read ({error}); delete it, and extract again") from error


def read_manifest(path: Path) -> dict[str, Any]:
    """What `features.json` says.

    Raises:
        FungiSegError: missing, damaged, or of something else.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FungiSegError(f"{path}: no features there (no {MANIFEST}); make them with fungi-seg extract") from error
    except (OSError, ValueError) as error:
        raise FungiSegError(f"{path / MANIFEST}: can't be read ({error}); extract again, --overwrite") from error
    if not isinstance(manifest, dict) or (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION):
        raise FungiSegError(
            f"{path / MANIFEST}: not the manifest of image features of this release; extract again, --overwrite"
        )
    return manifest
