"""What is being painted: label maps, their rows, and the masks that follow from them."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fungi_seg.annotating.faults import Conflict
from fungi_seg.annotating.kept_images import Kept, KeptImages, Whole
from fungi_seg.annotating.live import Answer, Live
from fungi_seg.annotating.runs import as_json, from_runs
from fungi_seg.annotating.store import AnnotationStore
from fungi_seg.bank import ImageRows, MemoryBank, rows_of_image
from fungi_seg.errors import DataError, FungiSegError
from fungi_seg.features import PatchFeatures
from fungi_seg.images import VOID

MAPS = 4  # label maps that are kept in memory


@dataclass(frozen=True)
class Shown:
    """An image's mask, `[H, W]` class indices, what it follows from, and the seconds that it took."""

    mask: np.ndarray
    answer: Answer
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "mask": as_json(self.mask),
            "doubt": round(self.answer.doubt, 4),
            "seconds": round(self.seconds, 3),
        }


class Painting:
    """Strokes on images, and masks by them and the bank. One thread at a time.

    Args:
        store: where annotations lie.
        kept: the images and their features.
        features: how features are made.
        bank: as it is on disk, if there is one.

    Attributes:
        live: segments images.
        rows: of images with strokes that aren't in the bank.
        version: rises with every change.
        problems: why strokes on an image don't count.
    """

    def __init__(
        self,
        store: AnnotationStore,
        kept: KeptImages,
        features: PatchFeatures,
        bank: MemoryBank | None,
    ):
        self._store, self._kept, self._features = store, kept, features
        self.rows: dict[str, ImageRows] = {}
        self._maps: OrderedDict[str, tuple[np.ndarray, int]] = OrderedDict()
        self.version, self.problems = 0, dict[str, str]()
        self.use(bank)

    def use(self, bank: MemoryBank | None) -> None:
        """Segment by another state of the bank, or with other classes, from now on."""
        self.live = Live(bank, self._features, len(self._store.classes))
        self.version += 1
        self.problems = {}
        for name in sorted(self._store.drafts):
            known = self.rows.get(name)
            if known is not None and len(known.pixels) == len(self._store.classes):
                continue
            try:
                self._set_rows(name, self._kept.whole(name))
            except DataError as error:
                self.problems[name] = f"the strokes on it don't count, for {error}"

    def labels(self, name: str, size: tuple[int, int]) -> tuple[np.ndarray, int]:
        """The label map of an image, `[H, W]` int16, and its version; see `AnnotationStore.read`."""
        if name not in self._maps or self._maps[name][0].shape != size:
            self._maps[name] = self._store.read(name, size)
        self._maps.move_to_end(name)
        while len(self._maps) > MAPS:
            self._maps.popitem(last=False)
        return self._maps[name]

    def edit(self, name: str, version: int, box: Sequence[int], runs: Sequence[int]) -> int:
        """Give a rectangle of an image other labels; they are on disk when this returns. The new version.

        Args:
            name: of the image.
            version: of the label map that was edited.
            box: `(left, top, right, bottom)` in pixels, right and bottom exclusive.
            runs: its labels, as `from_runs` takes them.

        Raises:
            Conflict: the label map is another one by now.
            FungiSegError: a box that isn't in the image, or runs that don't fill it.
        """
        whole = self._kept.whole(name)
        size = whole.kept.size
        labels = self.checked(name, size, version)
        left, top, right, bottom = box
        if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
            raise FungiSegError(
                f"box is {list(box)}; it must be [left, top, right, bottom] within {size[1]}×{size[0]} (width×height)"
            )
        part = from_runs(runs, (bottom - top, right - left), len(self._store.classes))
        return self._changed(name, whole, labels, (slice(top, bottom), slice(left, right)), part)

    def accept(self, name: str, version: int) -> int:
        """Give what isn't labelled in an image the classes of its mask. The new version.

        Raises:
            Conflict: the label map is another one by now, or there is no mask yet.
        """
        whole = self._kept.whole(name)
        labels = self.checked(name, whole.kept.size, version)
        shown = self.show(name)
        filled = np.where(labels == VOID, shown.mask.astype(np.int16), labels)
        return self._changed(name, whole, labels, (slice(None), slice(None)), filled)

    def show(self, name: str) -> Shown:
        """The mask of an image as things are.

        Raises:
            Conflict: there are no two classes to tell apart yet.
        """
        started = time.perf_counter()
        whole = self._kept.whole(name)
        answer = self.live.answer(whole.kept.query, self.rows)
        if answer is None:
            raise Conflict("paint a stroke of two classes at least; then masks follow", "early")
        mask = self.live.mask(answer, whole.image, whole.kept.query.covered)
        return Shown(mask, answer, time.perf_counter() - started)

    def glance(self, kept: Kept) -> tuple[np.ndarray, Answer] | None:
        """The mask of an image made smaller; nothing where there are no two classes to tell apart yet."""
        answer = self.live.answer(kept.query, self.rows, keep=False)
        return None if answer is None else (self.live.mask(answer, kept.small, kept.query.covered), answer)

    def saved(self, name: str, version: int, size: tuple[int, int]) -> int:
        """An image of a size is in the bank as its label map of a version was; the version now."""
        labels, now = self.labels(name, size)
        if now != version:  # it was painted on meanwhile
            return now
        version = self._store.forget(name)
        self.rows.pop(name, None)
        self._maps[name] = labels, version
        return version

    def checked(self, name: str, size: tuple[int, int], version: int) -> np.ndarray:
        """The label map of an image.

        Raises:
            Conflict: it isn't of this version any more.
        """
        labels, known = self.labels(name, size)
        if version != known:
            raise Conflict("another tab or program has changed this annotation; load it again", "version")
        return labels

    def _changed(
        self, name: str, whole: Whole, labels: np.ndarray, place: tuple[slice, slice], part: np.ndarray
    ) -> int:
        before = labels[place].copy()
        labels[place] = part
        try:
            version = self._store.write_draft(name, labels)
        except BaseException:
            labels[place] = before
            raise
        bank = self.live.bank
        if (
            not (labels != VOID).any()
            and name not in self._store.saved
            and (bank is None or name not in bank.info.sources)
        ):
            version = self._store.discard(name)  # as it was before the first stroke
            self.rows.pop(name, None)
        else:
            self._set_rows(name, whole)
        self._maps[name] = labels, version
        self.version += 1
        return version

    def _set_rows(self, name: str, whole: Whole) -> None:
        labels = self.labels(name, whole.kept.size)[0]
        features = whole.kept.query.features
        flat = features.reshape(-1, features.shape[2])
        patch, classes = self._features.backbone.patch_size, len(self._store.classes)
        self.rows[name] = rows_of_image(labels, whole.fitted, flat, patch, classes)
