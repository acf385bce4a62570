"""Bank, backbone and images at work: what a workspace has once its backbone is loaded."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fungi_seg.annotating.background import Background
from fungi_seg.annotating.bank_classes import MOST_CLASSES, check_paintable, take_classes
from fungi_seg.annotating.faults import Conflict, NotThere
from fungi_seg.annotating.folder import Record, Seen
from fungi_seg.annotating.gate import Gate
from fungi_seg.annotating.kept_images import Kept, KeptImages
from fungi_seg.annotating.live import START
from fungi_seg.annotating.next_image import suggest
from fungi_seg.annotating.painting import Painting
from fungi_seg.annotating.runs import as_json
from fungi_seg.annotating.settings import WorkspaceConfig
from fungi_seg.annotating.store import AnnotationStore, Colour
from fungi_seg.annotating.thumbnails import crop
from fungi_seg.bank import (
    MANIFEST,
    BankConfig,
    BankRecipe,
    MemoryBank,
    SourceImages,
    append_images,
    build_bank,
    replace_images,
)
from fungi_seg.datasets import check_once
from fungi_seg.errors import BankError, DataError, FungiSegError, reason
from fungi_seg.features import PatchFeatures, load_backbone
from fungi_seg.files import stamp
from fungi_seg.images import (
    VOID,
    InputConfig,
    LoadConfig,
    RunConfig,
    channel_count,
    data_limits,
    read_image,
    stretch_of,
    viewable,
)
from fungi_seg.segmentation import patches_under, region_mask, votes_of

CALM = 1.5  # seconds without a change after which the folder is segmented again
CACHE, RESULTS = "cache", "results"
VOTERS = 12
ELSEWHERE = (
    "This image is in the bank, annotated elsewhere. What you paint here takes the place of that annotation, in what "
    "you see at once, and in the bank when you save."
)
NOTE = "a warm vote that follows edges, which suits a few strokes; fit the bank once it holds five images"

log = logging.getLogger(__name__)


class Engine:
    """Segments images of a folder while they are being annotated. Threads may share one.

    Args:
        store: where annotations lie.
        records: the images.
        bank_path: folder of the bank.
        config: what a new bank is made with.
        gate: closed to work in the background while a request is answered.

    Attributes:
        lock: held while `painting` is used.
        bank: as it is on disk, if there is one.

    Raises:
        FungiSegError: a bank or a backbone that can't be used.
    """

    bank: MemoryBank | None
    bank_names: frozenset[str]
    _stamp: list[int]

    def __init__(
        self, store: AnnotationStore, records: list[Record], bank_path: Path, config: WorkspaceConfig, gate: Gate
    ):
        self.store, self.records, self._gate, self._path = store, records, gate, bank_path
        self.lock, self._saving = threading.RLock(), threading.Lock()
        self._open()
        if self.bank is None:
            self.input = _entering([record.path for record in records], config.input)
            channels = channel_count(records[0].path, self.input) if self.input.joined and records else None
            self.features = PatchFeatures(load_backbone(**vars(config.backbone)), config.features, None, channels)
            self._recipe = BankRecipe(config.features, self.input, BankConfig(None))
        else:
            check_paintable(self.bank)
            placed, own = config.backbone, self.bank.info.backbone.name
            if placed.name not in (WorkspaceConfig.backbone.name, own):
                raise BankError(
                    f"{bank_path}: is a bank of the backbone {own!r}, so backbone.name {placed.name!r} can't be used "
                    f"with it; leave it out, or name another bank"
                )
            self.features = self.bank.patch_features(placed.weights, placed.device, placed.dtype)
            self.input = self.bank.info.input
            self._recipe = BankRecipe(self.features.config, self.input, BankConfig(None))
            take_classes(store, self.bank)
        self._files = {record.name: record.path for record in records}
        self.kept = KeptImages(self._files, self.features, self.input, store.folder / CACHE)
        self.painting = Painting(store, self.kept, self.features, self.bank)
        self._changed_at, self._undecided = 0.0, -1  # the version that doesn't tell two classes apart
        self._stirred, self._closed = threading.Event(), False
        self._means: dict[str, np.ndarray] = {}  # [D] float16 mean feature of each image that was looked at
        self.work = Background(self, gate, Path(config.out).expanduser() if config.out else store.folder / RESULTS)
        self._thread = threading.Thread(target=self._survey, name="survey", daemon=True)
        self._thread.start()

    def opened(self, record: Record) -> dict[str, Any]:
        """The annotation of an image, and what its viewer should know.

        Raises:
            DataError: it can't be read, or is too small.
        """
        try:
            whole = self.kept.whole(record.name)
        except DataError as error:
            record.problem = str(error)
            raise
        record.size, record.problem = whole.kept.size, None
        with self.lock:
            labels, version = self.painting.labels(record.name, whole.kept.size)
            annotation = as_json(labels)
        elsewhere = record.name in self.bank_names - self.store.saved
        stretched = stretch_of(whole.kept.small) is not None
        note = ELSEWHERE if elsewhere else ""
        return {"annotation": annotation, "version": version, "note": note, "stretched": stretched}

    def shown(self, record: Record) -> dict[str, Any]:
        """The mask of an image by the annotations as they are.

        Raises:
            Conflict: there are no two classes to tell apart yet.
            DataError: the image can't be read, or is too small.
        """
        with self.lock:
            return {**self.painting.show(record.name).as_json(), "version": self.painting.version}

    def edit(
        self, record: Record, version: int, box: Sequence[int], runs: Sequence[int]
    ) -> tuple[int, dict[str, Any] | None]:
        """Give a rectangle of an image other labels, see `Painting.edit`: the new version, and the mask by it."""
        with self.lock:
            version = self.painting.edit(record.name, version, box, runs)
            record.edits += 1
            try:
                shown: dict[str, Any] | None = self.painting.show(record.name).as_json()
            except Conflict:
                shown = None
        self.stir()
        return version, shown

    def accept(self, record: Record, version: int) -> dict[str, Any]:
        """Give what isn't labelled the classes of the mask, see `Painting.accept`."""
        with self.lock:
            version = self.painting.accept(record.name, version)
            labels, _ = self.painting.labels(record.name, self.kept.whole(record.name).kept.size)
            record.edits += 1
        self.stir()
        return {"version": version, "annotation": as_json(labels)}

    def set_classes(self, names: Sequence[str], colours: Sequence[Colour]) -> None:
        """Name the classes; see `Workspace.set_classes`."""
        fixed = self.bank.info.classes if self.bank else ()
        check_once(names, "the list of classes", "classes")
        empty = [i for i, name in enumerate(names) if not name or not name.isprintable()]
        if empty or not 2 <= len(names) <= MOST_CLASSES:
            raise FungiSegError(
                f"class {empty[0] + 1} has no name that can be printed; name each"
                if empty
                else f"{len(names)} classes; there must be 2 to {MOST_CLASSES}"
            )
        if tuple(names[: len(fixed)]) != fixed or len(names) < len(self.store.classes):
            raise FungiSegError(
                "classes that are in the bank keep name and place, and none can be taken away here; to change them: "
                "fungi-seg bank relabel"
            )
        with self.lock:
            self.store.set_classes(names, colours)
            self.painting.use(self.bank)
        self.stir()

    def explain(self, record: Record, x: int, y: int) -> dict[str, Any]:
        """Which annotated patches voted for the patch at a pixel, the heaviest first.

        Raises:
            FungiSegError: the pixel isn't in the image.
            Conflict: there are no two classes to tell apart yet.
        """
        with self.lock:
            whole = self.kept.whole(record.name)
            region = region_mask(whole.kept.size, (x, y), None)
            numbers, shares = patches_under(region, whole.fitted, self.features.backbone.patch_size)
            answer = self.painting.show(record.name).answer
            temperature = self.painting.live.decoder.temperature
            votes = votes_of(answer.similarities[numbers], answer.rows[numbers], shares, temperature)
            scores = answer.scores.flatten(1)[:, numbers[0]].numpy()
            labels = answer.bank.labels.take(votes.rows).dense(answer.bank.classes)
            order = np.argsort(-votes.weights, kind="stable")[:VOTERS]
            voters = []
            for place in order:
                name, box = answer.bank.origin(int(votes.rows[place]))
                voters.append(
                    {
                        "name": name,
                        "box": [round(float(value), 1) for value in box],
                        "weight": round(float(votes.weights[place]), 4),
                        "classes": shares_of(labels[place]),
                    }
                )
        return {"class": int(scores.argmax()), "scores": shares_of(scores), "voters": voters}

    def crop(self, name: str, box: tuple[float, float, float, float]) -> bytes:
        """A patch with what is around it, as JPEG.

        Raises:
            NotThere: the image isn't in the folder, and isn't found as one of the bank's.
            FungiSegError: a box that ends before it begins.
        """
        if box[0] > box[2] or box[1] > box[3]:
            raise FungiSegError(f"box is {box}; it must be (left, top, right, bottom)")
        if name in self._files:
            return crop(viewable(read_image(self._files[name], self.input)), box)
        try:
            if self.bank is None or name not in self.bank_names:
                raise NotThere(f"there is no image {name!r}")
            sample = SourceImages(self.bank)[name]
            left, top, right, bottom = sample.placed(np.array(box)).tolist()
            return crop(viewable(sample.image), (left, top, right, bottom))
        except DataError as error:
            raise NotThere(str(error)) from error

    def next_image(self) -> dict[str, Any]:
        """The image that is worth annotating next, and why; `id` is none where there is no such."""
        known = [one for one in self.records if one.problem is None and one.name in self._means]
        if not known:
            return {"id": None, "why": "the images are still being looked at"}
        annotated = self.store.saved | self.store.drafts | self.bank_names
        found = suggest(
            np.array([np.nan if one.seen is None else one.seen.doubt for one in known]),
            np.stack([self._means[one.name] for one in known]).astype(np.float32),
            np.array([one.name in annotated for one in known]),
        )
        if found is None:
            return {"id": None, "why": "every image is annotated"}
        return {"id": known[found.index].number, "why": found.why}

    def problems(self) -> list[str]:
        """Why strokes on images don't count, a line each."""
        return [f"{name}: {why}" for name, why in self.painting.problems.items()]

    def close(self) -> None:
        """End the work in the background."""
        self.work.close()
        self._closed = True
        self._stirred.set()
        self._thread.join()

    def stir(self) -> None:
        """Something changed: the folder is segmented again once it is calm."""
        self._changed_at = time.monotonic()
        self._stirred.set()

    def refresh(self) -> None:
        """Use the bank as another program has changed it, if one did."""
        if stamp(self._path / MANIFEST) == self._stamp or not self._saving.acquire(blocking=False):
            return
        try:
            with self.lock:
                self._use_bank()
        finally:
            self._saving.release()
        self.stir()

    def save(self, record: Record, version: int) -> int:
        """Write the annotation of an image as a mask, and put it into the bank. The version of the mask.

        Raises:
            Conflict: another annotation by now, or nothing is painted.
            BankError, DataError: it can't be put into the bank, which stays as it was; the strokes stay a draft.
        """
        name = record.name
        with self._saving:
            with self.lock:
                if stamp(self._path / MANIFEST) != self._stamp:
                    self._use_bank()
                size = self.kept.whole(name).kept.size
                labels = self.painting.checked(name, size, version)
                if not (labels != VOID).any():
                    raise Conflict(
                        "nothing is painted on this image, so there is nothing to save; to take an image out of the "
                        "bank: fungi-seg bank remove",
                        "early",
                    )
                self.store.publish(name, labels)
            self._with_image(name)
            with self.lock:
                version = self.painting.saved(name, version, size)
                self._use_bank()
        self.stir()
        return version

    def _with_image(self, name: str) -> None:
        """Put the image into the bank as it is saved now."""
        record, run = {"data": asdict(self.store.data)}, RunConfig(LoadConfig(workers=0))
        backbone = self.features.backbone
        if self.bank is None:
            dataset = self.store.dataset(sorted(self.store.saved))
            build_bank(dataset, backbone, self._path, self._recipe, run, False, record, self.features)
            settings = {"settings": asdict(START), "choices": [], "notes": [NOTE], "facts": {}, "confidence": None}
            MemoryBank.open(self._path).keep_decoder(settings)
            return
        change = replace_images if name in self.bank.info.sources else append_images
        change(self.bank, self.store.dataset([name]), backbone, None, run, record)

    def _use_bank(self) -> None:
        """Segment by the bank as it is on disk now."""
        before = self.bank, self._stamp, self.bank_names
        try:
            self._open()
            if self.bank is not None:
                self.bank.check_features(self.features)
                check_paintable(self.bank)
                take_classes(self.store, self.bank)
            self.painting.use(self.bank)
        except BaseException:
            self.bank, self._stamp, self.bank_names = before
            raise

    def _open(self) -> None:
        now = stamp(self._path / MANIFEST)  # before it is read, so that a change meanwhile is seen later
        self.bank = MemoryBank.open(self._path) if now else None
        self._stamp = now
        self.bank_names = frozenset(self.bank.info.sources if self.bank else ())

    @property
    def surveyed(self) -> int:
        """Images that were segmented by the annotations as they are."""
        version = self.painting.version
        return sum(one.seen is not None and one.seen.version == version for one in self.records)

    def _survey(self) -> None:
        """Segment the folder's images, again and again as annotations change."""
        while not self._closed:
            record = self._next()
            if record is None:
                self._stirred.clear()
                self._stirred.wait(CALM)
                continue
            self._gate.wait()
            try:
                kept = self.kept.get(record.name)
                record.size = kept.size
                self._means[record.name] = kept.mean.astype(np.float16)
                with self.lock:
                    seen = self._seen(kept)
                record.problem = None
                if seen is None:
                    self._undecided = self.painting.version
                    continue
                record.seen = seen
                if self.surveyed == len(self.records) - sum(one.problem is not None for one in self.records):
                    self._remember()
            except FungiSegError as error:
                record.problem = str(error)
            except Exception as error:  # the other images are none the worse
                log.exception("%r can't be segmented", record.name)
                record.problem = f"can't be segmented ({reason(error)}); see the log"

    def _next(self) -> Record | None:
        """The image to segment next: one that wasn't yet, or else one that was by other annotations."""
        open_ = [one for one in self.records if one.problem is None]
        with self.lock:
            version, bank = self.painting.version, self.painting.live.bank
        ready = (bank is not None or self.painting.rows) and version != self._undecided
        for one in open_:
            if one.seen is None and (ready or one.name not in self._means):
                return one
        if time.monotonic() - self._changed_at < CALM:
            return None
        return next((one for one in open_ if one.seen is not None and one.seen.version != version), None)

    def _seen(self, kept: Kept) -> Seen | None:
        found = self.painting.glance(kept)
        if found is None:
            return None
        mask, answer = found
        counts = np.bincount(mask.ravel())
        areas = {int(index): float(counts[index] / mask.size) for index in np.flatnonzero(counts)}
        coded = cv2.imencode(".png", mask)[1].tobytes()
        return Seen(self.painting.version, answer.doubt, areas, coded)

    def _remember(self) -> None:
        """Keep how doubtful the folder is with as many annotated images."""
        doubts = [one.seen.doubt for one in self.records if one.seen is not None]
        now: dict[str, Any] = {"annotated": len(self.store.saved | self.store.drafts), "images": len(doubts)}
        now["doubt"] = round(float(np.mean(doubts)), 4)
        history = [one for one in self.store.state["doubt"] if one["annotated"] != now["annotated"]]
        self.store.keep(doubt=[*history, now])


def shares_of(values: np.ndarray) -> dict[str, float]:
    """Shares of classes by index, those that matter."""
    return {str(index): round(float(values[index]), 4) for index in np.flatnonzero(values > 0.001)}


def _entering(paths: list[Path], input: InputConfig) -> InputConfig:
    """How images enter, with limits where those of all images are to be found."""
    if input.scaling != "data" or input.limits:
        return input
    return replace(input, limits=data_limits(paths, input, skip_bad=True))
