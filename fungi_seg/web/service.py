"""A bank that is served: loaded in the background, and loaded again when it was changed on disk."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from fungi_seg.bank import MANIFEST
from fungi_seg.errors import BankError, FungiSegError
from fungi_seg.features import PlacementConfig
from fungi_seg.files import stamp
from fungi_seg.web.faults import Unready
from fungi_seg.web.limits import Turns, check_image
from fungi_seg.web.settings import LimitConfig

if TYPE_CHECKING:
    from fungi_seg.bank import MemoryBank
    from fungi_seg.features import PatchFeatures
    from fungi_seg.segmentation import Segmenter


Found = TypeVar("Found")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A segmenter, and how its bank lay on disk when it was opened."""

    segmenter: Segmenter
    stamp: tuple[int, ...]


class Service:
    """The segmenter of a bank on disk, for many requests at once.

    Args:
        bank: its folder, in which there may be no bank yet; none where none is served.
        limits: what a request may take.
        opened: opens the bank, given its folder and the segmenter that served until now; by default one that loads the
            backbone when it must.

    Attributes:
        turns: the queue for the model.
        problem: why no bank is loaded, or why a changed one can't be; none where all is well.
    """

    def __init__(
        self,
        bank: Path | None,
        limits: LimitConfig = LimitConfig(),
        opened: Callable[[Path, Segmenter | None], Segmenter] | None = None,
    ):
        self.path, self.limits, self.turns = bank, limits, Turns(limits)
        self.problem: str | None = None
        self._opened = opened or reopened
        self._loaded: Loaded | None = None
        self._failed: tuple[int, ...] | None = None
        self._lock = threading.Lock()
        self._loading: threading.Thread | None = None

    def start(self) -> None:
        """Take work, and begin to load the bank, if there is one; returns at once."""
        self.turns.open()
        self._refresh()

    def _refresh(self) -> None:
        """Begin to load the bank if it isn't loaded as it lies there."""
        here = self._stamp()
        if here is None or (self._loaded and self._loaded.stamp == here) or self._failed == here:
            return
        with self._lock:
            if self._loading is None or not self._loading.is_alive():
                self._loading = threading.Thread(target=self._load, name="bank", daemon=True)
                self._loading.start()

    def wait(self) -> None:
        """Return when nothing is being loaded."""
        loading = self._loading
        if loading is not None:
            loading.join()

    @property
    def loaded(self) -> Segmenter | None:
        """The segmenter that serves now, if any."""
        return self._loaded.segmenter if self._loaded else None

    def segmenter(self) -> Segmenter:
        """The segmenter that serves now; a bank that was changed takes its place once it is loaded.

        Raises:
            Unready: none is loaded; why.
        """
        self._refresh()
        found = self._loaded
        if found is None:
            raise Unready(self.problem or self._missing())
        return found.segmenter

    async def on_image(self, image: BinaryIO, work: Callable[[Segmenter, BinaryIO], Found]) -> Found:
        """What `work` gives of an image in an open file, when its turn for the model comes.

        Raises:
            FungiSegError: as `work` does, or the image is too large or of a format that isn't taken.
            ComeAgain: no bank is loaded, or the queue is full, or it took too long.
        """
        segmenter = self.segmenter()

        def checked() -> Found:
            check_image(image, self.limits.pixels)
            return work(segmenter, image)

        return await self.turns.take(checked)

    def close(self) -> None:
        """Take no further work, until it is started again."""
        self.turns.close()

    def _stamp(self) -> tuple[int, ...] | None:
        """Of the bank as it lies on disk: a change replaces its manifest. None where there is no bank."""
        if self.path is None:
            return None
        return tuple(stamp(self.path / MANIFEST)) or None

    def _missing(self) -> str:
        if self.path is None:
            return "no bank is served; start the server with --bank"
        if self._stamp() is None:
            return f"there is no bank at {self.path} yet; annotate an image, or build one there"
        return "the bank is being loaded; come again"

    def _load(self) -> None:
        here = self._stamp()
        while here is not None and self.path is not None:
            try:
                segmenter = self._opened(self.path, self.loaded)
            except FungiSegError as error:
                self.problem, self._failed = str(error), here
                log.warning("the bank can't be served as it is now: %s", error)
            except Exception:
                self.problem, self._failed = "the bank can't be loaded; the server's log says more", here
                log.exception("the bank at %s can't be loaded", self.path)
            else:
                self._loaded, self.problem, self._failed = Loaded(segmenter, here), None, None
                log.info("serving %s, revision %d", self.path, segmenter.bank.revision)
            before, here = here, self._stamp()
            if here == before:  # otherwise it was changed meanwhile
                return


def reopened(
    path: Path,
    before: Segmenter | None,
    backbone: PlacementConfig = PlacementConfig(),
    shared: Callable[[], PatchFeatures] | None = None,
) -> Segmenter:
    """A segmenter of the bank at `path`; a backbone is loaded only if none is there that is the bank's.

    Args:
        path: folder of the bank.
        before: the segmenter that served until now.
        backbone: where one runs that must be loaded.
        shared: gives features that others in this process use.
    """
    from fungi_seg.bank import MemoryBank  # which imports torch, as the next does
    from fungi_seg.segmentation import Segmenter

    bank = MemoryBank.open(path)
    if before is not None and _are_of(bank, before.features):
        return Segmenter(bank, before.features)
    if shared is not None:
        with suppress(FungiSegError):  # others can't load theirs, which they tell
            features = shared()
            if _are_of(bank, features):
                return Segmenter(bank, features)
    return Segmenter(bank, None, **vars(backbone))


def _are_of(bank: MemoryBank, features: PatchFeatures) -> bool:
    try:
        bank.check_features(features)
    except BankError:
        return False
    return True
