"""The memory bank: open it, read it, change it. `memory_banks/README.md` describes how it lies on disk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fungi_seg.bank import bundle
from fungi_seg.bank import edits as bank_edits
from fungi_seg.bank import stored_index as bank_index
from fungi_seg.bank.keys import Keys, Part, is_stored_as
from fungi_seg.bank.manifest import BankInfo, Manifest, Segment, StoredFile, deed, read_manifest
from fungi_seg.bank.rows import Rows, Table, from_arrays
from fungi_seg.bank.settings import KEY_KINDS
from fungi_seg.bank.writer import BankWriter, changing
from fungi_seg.errors import BankError, FungiSegError, check_choice
from fungi_seg.features.backbones import Backbone, load_backbone
from fungi_seg.features.patches import PatchFeatures
from fungi_seg.search.index import LISTS, NeighbourIndex, chosen_kind
from fungi_seg.search.settings import RECALL, IndexConfig

if TYPE_CHECKING:
    from fungi_seg.datasets import Dataset
    from fungi_seg.images.settings import LoadConfig

CHECK_AT_OPEN = 1 << 29
OPENINGS = 5


class MemoryBank:
    """Labelled patch features: what a new image is compared with.

    An open bank stays as it was when it was opened. What changes a bank returns it newly opened.

    Attributes:
        path: where it lies.
        manifest: what its folder holds.
        info: what it says about itself.
        history: what was done with it, the first deed first.
        files: those that the manifest names, by name.
    """

    def __init__(self, path: Path, manifest: Manifest):
        self.path, self.manifest = path, manifest
        self.info, self.history = manifest.info, manifest.history
        self.files = {entry.file: StoredFile(path, entry) for entry in manifest.entries()}

    def __len__(self) -> int:
        return len(self.manifest)

    @classmethod
    def open(cls, path: str | Path) -> MemoryBank:
        """Open a bank: check its manifest, and that all files are there and have the size they should.

        Up to half a gigabyte, all contents are checked as well. Of a larger bank, files are mapped and checked when
        they are first read as a whole; `verify` checks everything at any time.

        Raises:
            BankError: no bank there, another format, or a damaged or incomplete file.
        """
        path = Path(path).expanduser()
        for attempt in range(OPENINGS):
            manifest = read_manifest(path)
            try:
                bank = cls(path, manifest)
                break
            except BankError:
                if attempt == OPENINGS - 1 or read_manifest(path).seal == manifest.seal:
                    raise  # otherwise it was changed while it was being opened
        if sum(entry.bytes for entry in manifest.entries()) <= CHECK_AT_OPEN:
            bank._check_files()
        return bank

    @cached_property
    def rows(self) -> Rows:
        """Keys, which stay on disk, and labels and origins of the bank's `M` rows."""
        return Rows.of(*self._contents)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Stored keys, segment by segment, and which of them count."""
        return self._contents[0].parts

    def tables(self) -> Iterator[Table]:
        """What is known of the rows beside their keys, segment by segment."""
        first = 0
        for segment in self.manifest.segments:
            yield self._contents[1].take(np.arange(first, first + segment.rows))
            first += segment.rows

    @cached_property
    def support(self) -> np.ndarray | None:
        """`[S, D]` float32 plain embeddings that the features are contrasted with, if they ask for it."""
        if self.manifest.support is None:
            return None
        keys = self.files[self.manifest.support.file].arrays().get("keys")
        if keys is None or keys.ndim != 2 or keys.dtype.kind != "f":
            raise BankError(f"{self.path}: the support set isn't [S, D] numbers; build the bank again")
        return keys.astype(np.float32)

    def neighbour_index(self, config: IndexConfig | None = None) -> NeighbourIndex:
        """Search among the bank's rows, by the index that it carries if `config` wants such a one."""
        config, stored = config or IndexConfig(), None
        if self.manifest.index and chosen_kind(len(self), config) == LISTS:
            stored = bank_index.read_index(self, self.manifest.index, config.recall)
        if stored is None or stored.effort is None:
            for part in self.parts:
                part.check()  # all keys are read now
        return NeighbourIndex(self.rows.keys, config, stored)

    def class_rows(self) -> np.ndarray:
        """`[C]` number of rows that hold each class."""
        return np.bincount(self.rows.labels.ids, minlength=len(self.info.classes))

    def patch_features(
        self, weights: str | None = None, device: str = "auto", dtype: str = "auto", backbone: Backbone | None = None
    ) -> PatchFeatures:
        """The features this bank was built with, ready for new images.

        Args:
            weights: local weights file, where it isn't where it was when the bank was built.
            device, dtype: where and in which arithmetic.
            backbone: one that is loaded already.

        Raises:
            BankError: the backbone's weights aren't those of the bank, or its features have another width.
        """
        if backbone is None:
            recorded = self.info.backbone
            config = replace(recorded, weights=weights or recorded.weights, device=device, dtype=dtype)
            try:
                backbone = load_backbone(**vars(config))
            except FungiSegError as error:
                raise BankError(
                    f"{self.path}: the bank's backbone can't be loaded. {error}\nWhere its weights lie elsewhere now: "
                    f"--weights FILE, or weights=FILE"
                ) from error
        self._check_backbone(backbone)
        support = None if self.support is None else torch.from_numpy(self.support)
        features = PatchFeatures(backbone, self.info.features, support)
        self.check_features(features)
        return features

    def check_features(self, features: PatchFeatures) -> None:
        """Raise unless `features` are those the bank was built with.

        Raises:
            BankError: another backbone, other settings, or another width.
        """
        self._check_backbone(features.backbone)
        if features.config != self.info.features:
            raise BankError(
                f"{self.path}: the bank was built with {self.info.features}, these features are {features.config}; "
                f"use bank.patch_features()"
            )
        if features.dim != self.info.dim:
            raise BankError(f"{self.path}: the bank's keys are {self.info.dim} wide, the features {features.dim}")
        if (
            self.support is not None
            and features.config.needs_support
            and not np.array_equal(features.support.cpu().numpy(), self.support)
        ):
            raise BankError(
                f"{self.path}: the features have another support set than the bank; use bank.patch_features()"
            )

    def append(
        self,
        dataset: Dataset,
        backbone: Backbone | None = None,
        rows: int | None = None,
        load: LoadConfig | None = None,
        skip_bad: bool = False,
        progress: bool = False,
        record: dict[str, Any] | None = None,
    ) -> MemoryBank:
        """Add images. Their classes are matched by name; new ones come last.

        Stopped half-way, the same call goes on where it was.

        Args:
            dataset: annotated images whose ids the bank doesn't have.
            backbone: the bank's, if it is loaded already.
            rows: to add at most; by default as many an image as the bank has, or all if it has all.
            load: batch size and reading threads.
            skip_bad: pass over images or masks that can't be used, and list them in the history.
            progress: report on standard error.
            record: `data` and further settings for the history.

        Raises:
            BankError: the bank has images of these ids, or is being changed by another process.
            DataError: an image or mask can't be used.
        """
        return self._add_images(dataset, backbone, rows, load, False, skip_bad, progress, record)

    def replace(
        self,
        dataset: Dataset,
        backbone: Backbone | None = None,
        rows: int | None = None,
        load: LoadConfig | None = None,
        skip_bad: bool = False,
        progress: bool = False,
        record: dict[str, Any] | None = None,
    ) -> MemoryBank:
        """Give images of the bank the annotation that they have in `dataset`; otherwise as `append`.

        Raises:
            BankError: an image isn't in the bank.
        """
        return self._add_images(dataset, backbone, rows, load, True, skip_bad, progress, record)

    def remove(self, images: Sequence[str] = (), classes: Sequence[str] = ()) -> MemoryBank:
        """Remove images with all their rows, and all rows that hold any of some classes.

        Args:
            images: ids.
            classes: names; they stay in the list of classes.

        Raises:
            BankError: no such image or class, or no row would be left.
        """
        if not images and not classes:
            raise BankError("remove needs images or classes")
        with changing(self.path) as writer:
            bank = MemoryBank.open(self.path)
            info, segments = bank.info, bank.manifest.segments
            if images:
                info, segments = bank_edits.segments_without(bank, writer, set(images))
            if classes:
                after = bank._with(info, segments)
                segments = bank_edits.segments_without_classes(after, writer, set(classes))
            return bank.commit(writer, info, segments, "remove", images=sorted(images), classes=sorted(classes))

    def relabel(
        self,
        rename: Mapping[str, str] | None = None,
        fuse: Mapping[str, Sequence[str]] | None = None,
        drop: Sequence[str] = (),
    ) -> MemoryBank:
        """Change the classes.

        Args:
            rename: new names by old ones.
            fuse: classes that become one, by the name of that one.
            drop: classes that become void; rows that held nothing else go.

        Raises:
            BankError: no such class, one named twice, or two that would have one name without being fused.
        """
        rename, fuse = dict(rename or {}), {name: tuple(parts) for name, parts in (fuse or {}).items()}
        if not (rename or fuse or drop):
            raise BankError("relabel needs rename, fuse or drop")
        with changing(self.path) as writer:
            bank = MemoryBank.open(self.path)
            info, segments = bank_edits.relabelled(bank, writer, rename, fuse, tuple(drop))
            return bank.commit(writer, info, segments, "relabel", rename=rename, fuse=fuse, drop=sorted(drop))

    def merge(self, *others: MemoryBank | str | Path) -> MemoryBank:
        """Add all rows of other banks of the same features. Classes are matched by name; new ones come last.

        Raises:
            BankError: other features, or an image that both banks have.
        """
        if not others:
            raise BankError("merge needs at least one other bank")
        with changing(self.path) as writer:
            bank = MemoryBank.open(self.path)
            info, segments = bank.info, bank.manifest.segments
            opened = [other if isinstance(other, MemoryBank) else MemoryBank.open(other) for other in others]
            for other in opened:
                if other.path.resolve() == self.path.resolve():
                    raise BankError(f"{self.path}: a bank can't be merged with itself; name another one")
                info, added = bank_edits.merged(bank, other, writer, info)
                segments = (*segments, *bank.coded(added, writer))
            origins = [{"path": str(other.path), "rows": len(other), "history": other.history} for other in opened]
            return bank.commit(writer, info, segments, "merge", merged=origins)

    def compact(self, kind: str | None = None) -> MemoryBank:
        """Write all rows anew, in full files and without those that were removed.

        Args:
            kind: store keys as `float16`, `int8` or `int4` from now on.
        """
        if kind is not None:
            check_choice("kind", kind, KEY_KINDS)
        with changing(self.path) as writer:
            bank = MemoryBank.open(self.path)
            segments = bank.coded(bank_edits.compacted(bank, writer, kind), writer)
            kept = MemoryBank(self.path, replace(bank.manifest, keys=kind or bank.manifest.keys))
            return kept.commit(writer, bank.info, segments, "compact", keys=kept.manifest.keys)

    def make_index(self, recall: float = RECALL, lists: int | None = None) -> MemoryBank:
        """Keep codes for searching beside the keys, so that a large bank is ready to be searched when it is opened.

        Rows that are added later get codes as well. How much is searched is fitted to rows of the bank, each searched
        for among all the others; it is fitted anew at every opening where another recall is wanted, or where the bank
        has half or twice the rows it had. Then make the index again.

        Args:
            recall: share of the true neighbours that searches should find, 0..1; what was reached is in the history.
            lists: of the inverted lists; about the square root of the rows where not given.
        """
        if not 0 < recall <= 1:
            raise BankError(f"recall is {recall}; it must be above 0 and at most 1")
        with changing(self.path) as writer:
            bank = MemoryBank.open(self.path)
            entry, segments, reached = bank_index.make_index(bank, writer, recall, lists)
            indexed = MemoryBank(self.path, replace(bank.manifest, index=entry, segments=segments))
            return indexed.commit(writer, bank.info, segments, "index", wanted=recall, reached=round(reached, 4))

    def verify(self) -> list[str]:
        """Check everything: checksums, counts, ranges, and that keys are finite and of length 1.

        Returns:
            What is wrong, a line each; empty if all is well.
        """
        found = []
        for file in self.files.values():
            found += _problem(lambda file=file: file.check(again=True))
        for segment in self.manifest.segments:
            found += _problem(lambda segment=segment: self._table(segment))
            found += _problem(lambda segment=segment: self._check_keys(segment))
        found += _problem(lambda: self.support)
        if (index := self.manifest.index) and not found:
            found += _problem(lambda: bank_index.check_index(self, index))
        return list(dict.fromkeys(found))

    def export(self, file: str | Path) -> Path:
        """Write the whole bank as one file (an uncompressed tar archive).

        Raises:
            BankError: the file is there already, can't be written, or the bank is damaged.
        """
        self._check_files()
        return bundle.pack(self.manifest, self.files, Path(file).expanduser())

    @classmethod
    def import_file(cls, file: str | Path, path: str | Path) -> MemoryBank:
        """Unpack a bank that `export` wrote into the new folder `path`, and check it.

        Raises:
            BankError: not such a file, damaged, or `path` is taken.
        """
        path = Path(path).expanduser()
        bundle.unpack(Path(file).expanduser(), path, lambda manifest: cls(path, manifest)._check_files())
        return cls.open(path)

    def _add_images(
        self,
        dataset: Dataset,
        backbone: Backbone | None,
        rows: int | None,
        load: LoadConfig | None,
        replacing: bool,
        skip_bad: bool,
        progress: bool,
        record: dict[str, Any] | None,
    ) -> MemoryBank:
        from fungi_seg.bank.build import append_images  # which builds on this module

        return append_images(self, dataset, backbone, rows, load, replacing, skip_bad, progress, record)

    def _with(self, info: BankInfo, segments: Sequence[Segment]) -> MemoryBank:
        """As this one, with what was written for a change that isn't complete yet."""
        return MemoryBank(self.path, replace(self.manifest, info=info, segments=tuple(segments)))

    def commit(
        self, writer: BankWriter, info: BankInfo, segments: Sequence[Segment], action: str, **details: Any
    ) -> MemoryBank:
        """Make `segments` the bank, and note `action` in its history."""
        if not segments:
            raise BankError(
                f"{self.path}: no row would be left; a bank needs at least one. To be rid of it, delete the folder"
            )
        history = (*self.history, deed(action, sum(segment.rows for segment in segments), **details))
        writer.commit(replace(self.manifest, info=info, segments=tuple(segments), history=history))
        return MemoryBank.open(self.path)

    def coded(self, segments: Sequence[Segment], writer: BankWriter) -> tuple[Segment, ...]:
        """`segments` that were written for a change, with codes if the bank carries an index."""
        if self.manifest.index is None:
            return tuple(segments)
        return bank_index.coded(self, writer, bank_index.read_coder(self, self.manifest.index), segments)

    @cached_property
    def _contents(self) -> tuple[Keys, Table]:
        parts, tables = [], []
        for segment in self.manifest.segments:
            table, places = self._table(segment)
            parts.append(Part(self._stored(segment), places, self.files[segment.keys.file].check))
            tables.append(table)
        return Keys(parts, self.info.dim), Table.concatenate(tables)

    def _table(self, segment: Segment) -> tuple[Table, np.ndarray | None]:
        file = self.files[segment.table.file]
        info = self.info
        arrays = file.arrays()
        return from_arrays(arrays, segment.rows, segment.stored, len(info.classes), len(info.sources), str(file.path))

    def _stored(self, segment: Segment) -> np.ndarray:
        file = self.files[segment.keys.file]
        stored = file.array()
        if len(stored) != segment.stored or not is_stored_as(stored, self.info.dim):
            raise BankError(
                f"{file.path}: is {list(stored.shape)} {stored.dtype}, which isn't {segment.stored} keys of width "
                f"{self.info.dim}; build the bank again"
            )
        return stored

    def _check_files(self) -> None:
        for file in self.files.values():
            file.check()
        _ = self.rows, self.support

    def _check_keys(self, segment: Segment) -> None:
        keys = Keys([Part(self._stored(segment))], self.info.dim)
        for chunk in keys.chunks():
            lengths = np.linalg.norm(chunk.astype(np.float32), axis=1)
            if not (np.abs(lengths - 1) < 0.01).all():
                raise BankError(f"{self.files[segment.keys.file].path}: a key isn't finite and of length 1")

    def _check_backbone(self, backbone: Backbone) -> None:
        if backbone.fingerprint != self.info.fingerprint:
            raise BankError(
                f"{self.path}: the bank was built with another backbone: {self.info.backbone.name!r}, fingerprint "
                f"{self.info.fingerprint[:12]}…; this one is {backbone.config.name!r}, {backbone.fingerprint[:12]}…. "
                f"Load the bank's own weights, or build a bank with this backbone"
            )


def _problem(check: Any) -> list[str]:
    try:
        check()
    except BankError as error:
        return [str(error)]
    return []
