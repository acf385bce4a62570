"""A bank built in parts, each by a process of its own that knows nothing of the others."""

from __future__ import annotations

import os
import re
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
from fungi_seg.bank.settings import MANIFEST, BankRecipe
from fungi_seg.bank.stream import AnnotatedStream
from fungi_seg.bank.writer import SHARDS, changing
from fungi_seg.datasets import Dataset
from fungi_seg.errors import FungiSegError
from fungi_seg.features import Backbone, PatchFeatures
from fungi_seg.files import digest, replacing, save_npy
from fungi_seg.images import RunConfig
from fungi_seg.provenance import feature_code

PURPOSE_LETTERS = 12
SUPPORT, SUPPORT_LOCK, ATTEMPT = "support.npy", ".support.lock", ".attempt-"


@dataclass(frozen=True)
class Share:
    """One part of so many: `number` of 1..`count`."""

    number: int
    count: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.count:
            raise FungiSegError(f"shard is {self}; the first number must be between 1 and the second, such as 3/64")

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @classmethod
    def of(cls, text: str) -> Share:
        """`3/64` as a share.

        Raises:
            FungiSegError: not two such numbers.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise FungiSegError(f"shard is {text!r}; it must be which part of how many, such as 3/64")
        return cls(int(found[1]), int(found[2]))

    @property
    def folder(self) -> str:
        """Name of the folder that the part lies in."""
        return f"{self.number:04d}-of-{self.count:04d}"

    def images(self, total: int, batch: int) -> range:
        """Which of `total` images are in it: whole runs of `batch` that go through the backbone together; maybe none.

        Features may depend on what goes through a backbone at the same time, in the last bits.
        """
        runs = -(-total // batch)
        first, last = ((runs * part // self.count) * batch for part in (self.number - 1, self.number))
        return range(min(first, total), min(last, total))


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
    ):
        self.run, self.record, self.count, self.backbone = run or RunConfig(), record or {}, count, backbone
        self.dataset, self.recipe = prepared(dataset, recipe or BankRecipe(), self.run)
        self._purpose = digest(self._decides())
        self.folder = Path(out).expanduser() / SHARDS / self._purpose[:PURPOSE_LETTERS]

    def place(self, number: int) -> Path:
        """The folder of a part."""
        return self.folder / Share(number, self.count).folder

    def is_done(self, number: int) -> bool:
        """Whether a part is complete."""
        return (self.place(number) / MANIFEST).is_file()

    def images(self, number: int) -> range:
        """Which images a part is of, by index."""
        return Share(number, self.count).images(len(self.dataset), self.run.load.batch_size)

    def write(self, number: int) -> Path:
        """Build a part, unless it is complete; one that was stopped goes on where it was. Gives its folder.

        Raises:
            DataError: an image or mask can't be used.
            BankError: it is being built by another process, can't be written, or there is no room for it.
        """
        folder = self.place(number)
        if not self.is_done(number):
            self._write(folder, number)
        return folder

    def attempt(self, number: int) -> Path:
        """As `write`, where others may be at the same part without this one's knowing; whoever is first has made it."""
        folder = self.place(number)
        if self.is_done(number):
            return folder
        own = self.folder / f"{ATTEMPT}{uuid.uuid4().hex}"
        try:
            self._write(own, number)
            with suppress(OSError):  # it is there already
                os.rename(own, folder)
        finally:
            shutil.rmtree(own, ignore_errors=True)
        return folder

    def clear(self) -> None:
        """Remove what is left of attempts whose processes were lost; when all parts are complete."""
        for left in self.folder.glob(f"{ATTEMPT}*"):
            shutil.rmtree(left, ignore_errors=True)

    @cached_property
    def features(self) -> PatchFeatures:
        """Those of the recipe; a support set is made of all images by the first process that needs it."""
        whole = self._stream(None)
        return features_of(whole, self._support(whole) if self.recipe.features.needs_support else None)

    def _support(self, whole: AnnotatedStream) -> np.ndarray:
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / SUPPORT
        with FileLock(self.folder / SUPPORT_LOCK):
            if not file.exists():
                with replacing(file) as draft:
                    save_npy(draft, whole.support())
        keys: np.ndarray = np.load(file)
        return keys

    def _write(self, folder: Path, number: int) -> None:
        images, features = self.images(number), self.features
        part = replace(self.dataset, items=self.dataset.items[images.start : images.stop])
        if len(part):
            check_fit(part, self.backbone, folder, self.recipe, self.run.load)
        stream = self._stream(images)
        with changing(folder) as writer, stream.draft(folder) as draft:
            stream.fill(features, draft)
            segments = stream.segments(draft, writer, 0, candidates=True)
            manifest = described(features, stream, draft, self.record | {SHARD: self._told(number, stream)}, segments)
            if self.recipe.features.needs_support:
                keys = np.load(self.folder / SUPPORT)
                manifest = replace(manifest, support=writer.arrays("support", {"keys": keys}))
            writer.commit(manifest)

    def _stream(self, images: range | None) -> AnnotatedStream:
        return AnnotatedStream(self.dataset, self.dataset.classes, 0, self.backbone, self.recipe, self.run, images)

    def _told(self, number: int, stream: AnnotatedStream) -> dict[str, Any]:
        """What joining needs to know of a part beside its rows."""
        return {
            "number": number,
            "count": self.count,
            "purpose": self._purpose,
            "problems": list(self.dataset.problems),
            "unusable": list(stream.unusable.values()),
            "unlabelled": stream.unlabelled,
        }

    def _decides(self) -> dict[str, Any]:
        """All that the rows depend on, beside what is in the files, and where each part begins and ends."""
        backbone, recipe, dataset = self.backbone, self.recipe, self.dataset
        return {
            "count": self.count,
            "images": digest([item.id for item in dataset.items]),
            "data": dataset.reading,
            "colours": dataset.palette.tolist(),
            "backbone": [backbone.fingerprint, str(backbone.dtype), backbone.device.type, backbone.mean, backbone.std],
            "recipe": asdict(recipe),
            "batch": self.run.load.batch_size,
            "code": feature_code(),
        }
