"""A bank built in parts, each by a process of its own that knows nothing of the others."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from fungi_seg.bank.build import described, features_of, prepared
from fungi_seg.bank.manifest import SHARD
from fungi_seg.bank.room import check_fit
from fungi_seg.bank.settings import MANIFEST, SPARE, BankRecipe, Share
from fungi_seg.bank.stream import AnnotatedStream
from fungi_seg.bank.writer import SHARDS, changing
from fungi_seg.datasets import Dataset
from fungi_seg.errors import FungiSegError
from fungi_seg.features import Backbone, PatchFeatures
from fungi_seg.files import digest, replacing, save_npy
from fungi_seg.images import RunConfig
from fungi_seg.provenance import feature_code

PURPOSE_LETTERS = 12
RANKS = 2  # of each image that are candidates at least
SUPPORT, SUPPORT_LOCK, ATTEMPT = "support.npy", ".support.lock", ".attempt-"


class ShardedBuild:
    """A build in parts, which `join_shards` makes one bank of: the same rows as `build_bank` gives, bit for bit.

    A part is a bank of its own in `OUT/shards/PURPOSE/0003-of-0064`, whose rows are the candidates of its images, with
    their priorities. What decides the rows gives the purpose its name, so that parts of several builds never mix.

    Args:
        dataset: annotated images, all of them.
        backbone: a frozen ViT.
        out: folder of the bank that is to be.
        count: of parts.
        recipe, run, record: as for `build_bank`.
        spare: candidates that are kept of an image, in times of the rows that the bank has for each; none keeps as many
            as the bank may have. `join_shards` says so where that was too few.

    Attributes:
        folder: where the parts lie.

    Raises:
        DataError: void seems to be a class (`void_doubt`).
    """

    def __init__(
        self,
        dataset: Dataset,
        backbone: Backbone,
        out: str | Path,
        count: int,
        recipe: BankRecipe | None = None,
        run: RunConfig | None = None,
        record: dict[str, Any] | None = None,
        spare: float | None = SPARE,
    ):
        if spare is not None and not spare >= 1:
            raise FungiSegError(f"spare is {spare}; it must be at least 1, or null for all candidates")
        self.run, self.record, self.count, self.backbone = run or RunConfig(), record or {}, count, backbone
        self.dataset, self.recipe = prepared(dataset, recipe or BankRecipe(), self.run)
        self._limit = self._highest(spare)
        self._purpose = digest(self._decides())
        self.folder = Path(out).expanduser() / SHARDS / self._purpose[:PURPOSE_LETTERS]

    def is_done(self, number: int) -> bool:
        """Whether a part is complete."""
        return (self.folder / Share(number, self.count).folder / MANIFEST).is_file()

    def images(self, number: int) -> range:
        """Which images a part is of, by index."""
        return Share(number, self.count).images(len(self.dataset), self.run.load.batch_size)

    def write(self, number: int) -> Path:
        """Build a part, unless it is complete; one that was stopped goes on where it was. Gives its folder.

        Raises:
            DataError: an image or mask can't be used.
            BankError: it is being built by another process, can't be written, or there is no room for it.
        """
        return self.part(number).write(self._features)

    def part(self, number: int) -> ShardJob:
        """A part as a piece of work that can be given to another process; the support set, if any, is made first."""
        if self.recipe.features.needs_support:
            self._make_support()
        images = self.images(number)
        items = self.dataset.items[images.start : images.stop]
        told = {
            "number": number,
            "count": self.count,
            "purpose": self._purpose,
            "limit": self._limit,
            "problems": list(self.dataset.problems),
        }
        dataset = replace(self.dataset, items=items, problems=())
        return ShardJob(self.folder, dataset, images.start, self.recipe, self.run, self.record | {SHARD: told})

    @cached_property
    def _features(self) -> PatchFeatures:
        return self.part(1).features(self.backbone)

    def _make_support(self) -> None:
        """Write the support set, made of all images by the first process that needs it."""
        file = self.folder / SUPPORT
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / SUPPORT_LOCK):
            if not file.exists():
                whole = AnnotatedStream(self.dataset, self.dataset.classes, 0, self.backbone, self.recipe, self.run)
                with replacing(file) as draft:
                    save_npy(draft, whole.support())

    def _highest(self, spare: float | None) -> float | None:
        """The highest priority of a candidate: its rank among the patches of its image; none where all are candidates.

        Ranks grow with the rows of an image, so that of many images with many patches only few are candidates.
        """
        bank = self.recipe.bank
        if spare is None or bank.size is None:
            return None
        return spare * bank.size / (bank.epochs * len(self.dataset)) + RANKS

    def _decides(self) -> dict[str, Any]:
        """All that the rows depend on, beside what is in the files, and where each part begins and ends."""
        backbone, recipe, dataset = self.backbone, self.recipe, self.dataset
        return {
            "count": self.count,
            "limit": self._limit,
            "images": digest([item.id for item in dataset.items]),
            "data": dataset.reading,
            "colours": dataset.palette.tolist(),
            "backbone": [backbone.fingerprint, str(backbone.dtype), backbone.device.type, backbone.mean, backbone.std],
            "recipe": asdict(recipe),
            "batch": self.run.load.batch_size,
            "code": feature_code(),
        }


@dataclass(frozen=True)
class ShardJob:
    """A part of a build, with the images that it is of and no others.

    Attributes:
        parent: where all parts lie.
        dataset: its images.
        first: number of the first one among those of all parts.
        recipe, run: as for `build_bank`.
        record: for the manifest; what joining needs to know of the part is among it.
    """

    parent: Path
    dataset: Dataset
    first: int
    recipe: BankRecipe
    run: RunConfig
    record: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where it is written."""
        told = self.record[SHARD]
        return self.parent / Share(told["number"], told["count"]).folder

    def features(self, backbone: Backbone) -> PatchFeatures:
        """Those of the recipe, the same for all parts."""
        support = np.load(self.parent / SUPPORT) if self.recipe.features.needs_support else None
        return features_of(backbone, self.recipe, self.dataset, support)

    def write(self, features: PatchFeatures) -> Path:
        """See `ShardedBuild.write`."""
        if not (self.folder / MANIFEST).is_file():
            self._write(self.folder, features)
        return self.folder

    def attempt(self, features: PatchFeatures) -> Path:
        """As `write`, where others may be at the same part without this one's knowing; whoever is first has made it."""
        if (self.folder / MANIFEST).is_file():
            return self.folder
        own = self.parent / f"{ATTEMPT}{uuid.uuid4().hex}"
        try:
            self._write(own, features)
            with suppress(OSError):  # it is there already
                os.rename(own, self.folder)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        return self.folder

    def _write(self, folder: Path, features: PatchFeatures) -> None:
        dataset, backbone, told = self.dataset, features.backbone, self.record[SHARD]
        if len(dataset):
            check_fit(dataset, backbone, folder, self.recipe, self.run.load)
        stream = AnnotatedStream(
            dataset, dataset.classes, self.first, backbone, self.recipe, self.run, limit=told["limit"]
        )
        with changing(folder) as writer, stream.draft(folder) as draft:
            stream.fill(features, draft)
            segments = stream.segments(draft, writer, 0, candidates=True)
            found = {"unusable": list(stream.unusable.values()), "unlabelled": stream.unlabelled}
            manifest = described(features, stream, draft, self.record | {SHARD: told | found}, segments)
            if features.config.needs_support:
                keys = np.load(self.parent / SUPPORT)
                manifest = replace(manifest, support=writer.arrays("support", {"keys": keys}))
            writer.commit(manifest)
