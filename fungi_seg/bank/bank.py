"""The memory bank: open it, read it, change it. `memory_banks/README.md` describes how it lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fungi_seg.bank import bundle, edits, regression, shares, stored_index
from fungi_seg.bank.contents import BankContents
from fungi_seg.bank.difference import Difference, difference
from fungi_seg.bank.going_back import committed, state, undone, went_back
from fungi_seg.bank.manifest import Manifest
from fungi_seg.bank.ridge import Equations, Lift
from fungi_seg.bank.row_range import RowRange
from fungi_seg.bank.rows import Rows
from fungi_seg.bank.settings import KEY_DTYPES, PUBLISHED_WEIGHT
from fungi_seg.bank.verification import all_problems
from fungi_seg.bank.writer import BankWriter, changing
from fungi_seg.errors import BankError, FungiSegError, check_choice
from fungi_seg.features import Backbone, PatchFeatures, load_backbone
from fungi_seg.provenance import code_of, feature_code
from fungi_seg.search import RECALL, Choice, IndexConfig, NeighbourIndex, chosen


def half_weights(gradient_weight: float, token_width: int, dim: int) -> np.ndarray | None:
    """`[D]` float32 weights of token and gradient, `1 − a` and `a` in the similarity, as `MemoryBank.query_scale`."""
    if gradient_weight == PUBLISHED_WEIGHT:
        return None
    scale = np.full(dim, 2 * gradient_weight, np.float32)
    scale[:token_width] = 2 * (1 - gradient_weight)
    return scale


def check_unused_by(given: str, weights: str | None, device: str, dtype: str) -> None:
    """Raise if it is said how to load a backbone where one is `given` already."""
    for name, value, default in (("weights", weights, None), ("device", device, "auto"), ("dtype", dtype, "auto")):
        if value != default:
            raise FungiSegError(
                f"{name} is {value!r}, but {given} is given too, whose backbone is loaded already; leave {name} "
                f"out, or load the backbone with it"
            )


class MemoryBank:
    """Labelled patch features: what a new image is compared with.

    An open bank stays as it was when it was opened. What changes a bank returns it newly opened. Images are added by
    `append_images` and `replace_images`.

    Attributes:
        contents: what its folder holds.
        path: where it lies.
        manifest: what its folder holds, by name.
        info: what it says about itself.
        history: what was done with it, the first change first.
    """

    def __init__(self, contents: BankContents):
        self.contents, self.path, self.manifest = contents, contents.path, contents.manifest
        self.info, self.history = contents.info, contents.manifest.history

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
        return cls(BankContents.open(Path(path).expanduser()))

    @property
    def rows(self) -> Rows:
        """Keys, which stay on disk, and labels and origins of the bank's `M` rows."""
        return self.contents.rows

    @property
    def support(self) -> np.ndarray | None:
        """`[S, D]` float32 plain embeddings that the features are contrasted with, if they ask for it."""
        return self.contents.support

    def neighbour_index(
        self, config: IndexConfig | None = None, gradient_weight: float | None = None
    ) -> NeighbourIndex:
        """Search among the bank's rows, by the index that it carries if `config` wants such a one.

        Args:
            config: how to search.
            gradient_weight: see `query_scale`.
        """
        rows = RowRange(self.contents, 0, len(self))
        return rows.neighbour_index(config or IndexConfig(), self.query_scale(gradient_weight))

    def search_choice(self, config: IndexConfig | None = None) -> Choice:
        """How the bank's rows would be searched here, and why."""
        return chosen(len(self), self.info.dim, config or IndexConfig())

    def query_scale(self, gradient_weight: float | None) -> np.ndarray | None:
        """What queries are multiplied by so that similarities become `(1 − a)·cos(token) + a·cos(gradient)`.

        A row holds token and gradient as two halves of one length, so that a = 0.5 is the row as it is.

        Args:
            gradient_weight: a, 0 to 1; none leaves queries as they are.

        Returns:
            `[D]` float32, or none where nothing changes.

        Raises:
            BankError: features without a gradient.
        """
        if gradient_weight is None:
            return None
        width = self.info.token_width
        if width == self.info.dim:
            raise BankError(
                f"{self.path}: decoder.gradient_weight is {gradient_weight}, but the bank's features are plain: "
                f"no gradient could be weighted; leave it out, or build the bank with features.kind fungi"
            )
        return half_weights(gradient_weight, width, self.info.dim)

    def class_share(self) -> np.ndarray:
        """`[C]` float64 share of each class in the annotated images, summing to 1.

        Pixels were counted before rows were chosen; of a bank from before that was done, it is the share of the rows.
        """
        return shares.class_share(self.manifest.class_pixels, self.rows.labels, len(self.info.classes))

    def lift(self, kind: str, bandwidth: float, gradient_weight: float | None = None) -> Lift:
        """What a regression sees of the rows; arguments as for `regression`."""
        return regression.lift_for(self.contents, kind, bandwidth, gradient_weight)

    def regression(self, kind: str, bandwidth: float, gradient_weight: float | None = None) -> Equations:
        """Normal equations of a regression from rows to labels: those that the bank carries, or summed up now.

        Args:
            kind: `token`, `feature` or `fourier`.
            bandwidth: of the Fourier features.
            gradient_weight: of `feature`, as of the vote.
        """
        lift = self.lift(kind, bandwidth, gradient_weight)
        stored = regression.stored_equations(self.contents)
        return stored if stored and stored.lift == lift else regression.fresh_equations(self.contents, lift)

    def keep_decoder(self, record: Mapping[str, Any]) -> MemoryBank:
        """Keep settings of the vote in the bank, with what speaks for them, and the regression that they name.

        Args:
            record: `settings` (those of a `DecoderConfig`) and what else shall be told of them, as JSON can hold it.
        """
        return self._changed(lambda bank, writer: regression.with_decoder(bank, writer, dict(record)))

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
            backbone: one that is loaded already, without any of the others.

        Raises:
            FungiSegError: `backbone`, and how to load one.
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
                    f"--backbone.weights FILE, or weights=FILE"
                ) from error
        else:
            check_unused_by("backbone", weights, device, dtype)
        self._check_backbone(backbone)
        support = None if self.support is None else torch.from_numpy(self.support)
        features = PatchFeatures(backbone, self.info.features, support, self.info.channels)
        self.check_features(features)
        return features

    def check_features(self, features: PatchFeatures) -> None:
        """Raise unless `features` are those the bank was built with.

        Raises:
            BankError: another backbone, other settings, or another width.
        """
        self._check_backbone(features.backbone)
        if features.config.deciding != self.info.features.deciding:
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
        return self._changed(lambda bank, writer: edits.removed(bank, writer, images, classes))

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
        if not (rename or fuse or drop):
            raise BankError("relabel needs rename, fuse or drop")
        names, groups = dict(rename or {}), {name: tuple(parts) for name, parts in (fuse or {}).items()}
        return self._changed(lambda bank, writer: edits.relabelled(bank, writer, names, groups, tuple(drop)))

    def merge(self, *others: MemoryBank | str | Path) -> MemoryBank:
        """Add all rows of other banks of the same features. Classes are matched by name; new ones come last.

        Raises:
            BankError: other features, or an image that both banks have.
        """
        if not others:
            raise BankError("merge needs at least one other bank")
        opened = [other if isinstance(other, MemoryBank) else MemoryBank.open(other) for other in others]
        return self._changed(lambda bank, writer: edits.merged(bank, writer, [other.contents for other in opened]))

    @property
    def revision(self) -> int:
        """Number of this state of the bank: every change raises it by one."""
        return self.manifest.revision

    @property
    def revisions(self) -> tuple[int, ...]:
        """The earlier states that it can go back to, oldest first."""
        return tuple(revision.number for revision in self.manifest.revisions)

    def undo(self) -> MemoryBank:
        """Take back the last change; once more, the one before it.

        That is a change as well: `checkout` of the revision that was left goes forward again.

        Raises:
            BankError: the state before it isn't kept, or is damaged.
        """
        return self._changed(lambda bank, writer: undone(bank))

    def checkout(self, revision: int) -> MemoryBank:
        """Make the bank what it was at an earlier revision, which becomes a new revision of it.

        Args:
            revision: one of `revisions`. Those from before the bank was compacted are gone.

        Raises:
            BankError: it isn't kept, is the present one, or is damaged.
        """
        return self._changed(lambda bank, writer: went_back(bank, revision))

    def diff(self, old: int | None = None, new: int | None = None) -> Difference:
        """What differs between two revisions.

        Args:
            old: a revision; the one before the present one where not given.
            new: another; the present one where not given.

        Raises:
            BankError: one of them isn't kept, or is damaged.
        """
        new = self.revision if new is None else new
        old = self.revision - 1 if old is None else old
        return difference(state(self.contents, old), state(self.contents, new))

    def compact(self, key_dtype: str | None = None) -> MemoryBank:
        """Write all rows anew, in full files and without those that were removed; no earlier revision is kept.

        Args:
            key_dtype: store keys as `float16`, `int8` or `int4` from now on.
        """
        if key_dtype is not None:
            check_choice("key_dtype", key_dtype, KEY_DTYPES)
        return self._changed(lambda bank, writer: edits.compacted(bank, writer, key_dtype))

    def make_index(self, recall: float = RECALL, lists: int | None = None) -> MemoryBank:
        """Keep codes for searching beside the keys, so that a large bank is ready to be searched when it is opened.

        Rows that are added later get codes as well. How much is searched is fitted to images of the bank, each left out
        meanwhile as if it were new (`search.tune`). It is fitted anew when rows are removed; and at every opening where
        another recall is wanted, or where the bank has twice the rows it had: then make the index again.

        Args:
            recall: share of the true neighbours that searches should find, 0..1; what was reached is in the history.
            lists: of the inverted lists; about the square root of the rows where not given.
        """
        if not 0 < recall <= 1:
            raise BankError(f"recall is {recall}; it must be above 0 and at most 1")
        return self._changed(lambda bank, writer: stored_index.indexed(bank, writer, recall, lists))

    def verify(self) -> list[str]:
        """Check everything: checksums, counts, ranges, and that keys are finite and of length 1.

        Of this state and of all that it can go back to.

        Returns:
            What is wrong, a line each; empty if all is well.
        """
        return all_problems(self.contents)

    def export(self, file: str | Path) -> Path:
        """Write the whole bank as one file (an uncompressed tar archive).

        Raises:
            BankError: the file is there already, can't be written, or the bank is damaged.
        """
        self.contents.check_files()
        return bundle.pack(self.manifest, self.contents.files, Path(file).expanduser())

    @classmethod
    def import_file(cls, file: str | Path, path: str | Path) -> MemoryBank:
        """Unpack a bank that `export` wrote into the new folder `path`, and check it.

        Raises:
            BankError: not such a file, damaged, or `path` is taken.
        """
        path = Path(path).expanduser()
        bundle.unpack(Path(file).expanduser(), path, lambda manifest: BankContents(path, manifest).check_files())
        return cls.open(path)

    def _changed(self, change: Callable[[BankContents, BankWriter], Manifest]) -> MemoryBank:
        """The bank after `change`, which is made while no other process can change it."""
        with changing(self.path) as writer:
            current = self.contents.current()
            return MemoryBank(committed(current, change(current, writer), writer))

    def _check_backbone(self, backbone: Backbone) -> None:
        there, here = code_of(self.info.made_by), code_of(feature_code())
        if there != here:
            raise BankError(
                f"{self.path}: the bank was built by version {there} of the feature code, this release computes "
                f"features by version {here}, which can't be compared with them; build the bank again, or use "
                f"the release that built it (fungi-seg {self.info.made_by.get('fungi-seg', 'of that time')})"
            )
        if backbone.fingerprint != self.info.fingerprint:
            raise BankError(
                f"{self.path}: the bank was built with another backbone: {self.info.backbone.name!r}, fingerprint "
                f"{self.info.fingerprint[:12]}…; this one is {backbone.config.name!r}, {backbone.fingerprint[:12]}…. "
                f"Load the bank's own weights, or build a bank with this backbone"
            )
